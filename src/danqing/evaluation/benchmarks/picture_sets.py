"""Pictures drawn for captions of photographs, as sets: CLIPScore, Fréchet distance, CMMD and retrieval.

One encoder says it all: the judge keeps the vectors of a picture and of its captions, and rows are computed
from these. Distances are to the photographs of the very captions that were answered, through the same
encoder: the column of the photographs must be judged too.
"""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from PIL import Image

from danqing.errors import ResourceError
from danqing.evaluation.benchmarks.caption_scores import references_of
from danqing.evaluation.benchmarks.match_scores import match_rows, packed, unpacked
from danqing.evaluation.items import Atom, Item
from danqing.evaluation.results import Answer, Row
from danqing.evaluation.statistics import Interval
from danqing.scoring.clip import CLIP_SCORE_PREFIX, clip_score
from danqing.scoring.frechet import KernelSums, Moments, distance_name, frechet_distance
from danqing.scoring.looking import Matcher
from danqing.scoring.retrieval import Encoder, Likeness, cosine

CAPTIONS: Final = 5
"""Of a picture that are searched: a few have more."""
_GROUPS: Final = 20
_T95: Final = 2.093  # two-sided 95 % of Student's t with 19 degrees of freedom
_PERCENT: Final = 100.0

Left = Callable[[Sequence[int]], float]
"""Gives a measure of some of the groups."""


def set_atoms(picture: Image.Image, item: Item, clip: Matcher) -> tuple[Atom, ...]:
    """Return CLIPScore of the prompt, and the vectors of picture and captions.

    Raises ResourceError for a model that gives likeness alone and no vectors.
    """
    if not isinstance(clip, Encoder):
        raise ResourceError(
            f"expected a CLIP that gives vectors, found {clip.name}; name one with clip=MODEL"
        )
    seen = clip.picture_vector(picture)
    likeness = float(seen @ clip.text_vector(CLIP_SCORE_PREFIX + item.prompt))
    score = Atom(
        name="clip-score",
        value=min(clip_score(likeness), 1.0),
        wanted=item.prompt,
        seen=f"cosine {likeness:.3f}",
        measure=likeness,
    )
    captions = [packed("caption", clip.text_vector(text)) for text in references_of(item)[:CAPTIONS]]
    return (score, packed("picture", seen), *captions)


def encoder_name(clip: Matcher) -> str:
    """Return what a judge with this encoder is called: distances belong to network and resizing."""
    return distance_name("vectors", clip.name, clip.resize) if isinstance(clip, Encoder) else clip.name


def set_rows(name: str, title: str, *, of: str = "") -> tuple[Row, ...]:
    """Return the rows of pictures as sets; CLIPScore and recall at 1 count."""
    items = of or name
    told = "Of CLIP vectors of length 1; smaller is better, and grows when pictures are few."
    return (
        Row(
            name=f"{name}-clip-score",
            of=items,
            title=f"{title}, CLIPScore",
            about=f"2.5 times the cosine of the picture and {CLIP_SCORE_PREFIX!r} with the caption.",
            value=lambda answer: answer.atoms[0].value,
        ),
        Row(
            name=f"{name}-frechet",
            of=items,
            title=f"{title}, Fréchet distance",
            about=f"To the photographs of the same captions. {told}",
            corpus=frechet_interval,
            unit="x100",
            counts=False,
        ),
        Row(
            name=f"{name}-cmmd",
            of=items,
            title=f"{title}, CMMD",
            about=f"To the photographs of the same captions. {told}",
            corpus=cmmd_interval,
            unit="x1000",
            counts=False,
        ),
        *match_rows(name, title, _search, of=items, about="By the cosine of CLIP vectors."),
    )


def frechet_interval(answers: Sequence[Answer], true: Sequence[Answer]) -> Interval | None:
    """Return 100 times the Fréchet distance of answers and true ones of the same items."""
    mine, theirs = _grouped(answers, true)
    if sum(map(len, mine)) < 2:
        return None
    ones, twos = ([Moments.of([some]) for some in groups] for groups in (mine, theirs))

    def distance(chosen: Sequence[int]) -> float:
        one, two = (_merged([some[at] for at in chosen]) for some in (ones, twos))
        return _PERCENT * frechet_distance(one, two)

    return jackknife(distance, len(mine))


def cmmd_interval(answers: Sequence[Answer], true: Sequence[Answer]) -> Interval | None:
    """Return the CMMD of answers and true ones of the same items."""
    mine, theirs = _grouped(answers, true)
    return jackknife(KernelSums(mine, theirs).cmmd, len(mine)) if mine else None


def jackknife(measure: Left, groups: int) -> Interval:
    """Return a measure of all groups with the interval of leaving out one at a time (Quenouille 1956, Tukey).

    It tells how much the prompts that happened to be asked matter, not the bias of too few pictures; with
    fewer groups than that takes it has no width.
    """
    every = list(range(groups))
    whole = measure(every)
    if groups < _GROUPS:
        return Interval(mean=whole, low=whole, high=whole)
    left = np.array([measure([at for at in every if at != out]) for out in every])
    spread = _T95 * float(np.sqrt((groups - 1) / groups * np.square(left - left.mean()).sum()))
    return Interval(mean=whole, low=max(whole - spread, 0.0), high=whole + spread)


def _grouped(answers: Sequence[Answer], true: Sequence[Answer]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return vectors of answers and of the true ones of the same items, in twenty groups or one."""
    if list(answers) == list(true):
        return [], []  # the photographs are no distance from themselves
    known = {one.item.id: one for one in true}
    pairs = [(one, known[one.item.id]) for one in answers if one.item.id in known]
    pairs.sort(key=lambda pair: (pair[0].item.id, pair[0].seed))  # ids are as good as random
    groups = _GROUPS if len(pairs) >= 2 * _GROUPS else 1
    parts = [pairs[start::groups] for start in range(groups)] if pairs else []
    return tuple(  # type: ignore[return-value]
        [np.stack([unpacked(pair[side], "picture")[0] for pair in part]) for part in parts] for side in (0, 1)
    )


def _merged(parts: Sequence[Moments]) -> Moments:
    whole = Moments(len(parts[0].mean))
    for part in parts:
        whole.merge(part)
    return whole


def _search(answers: Sequence[Answer]) -> tuple[Likeness, list[int]]:
    """Return the cosines of pictures and captions of the answers, which are all there."""
    pictures = np.stack([unpacked(one, "picture")[0] for one in answers])
    captions = [unpacked(one, "caption") for one in answers]
    owners = [place for place, several in enumerate(captions) for _ in several]
    return cosine(pictures, np.stack([text for several in captions for text in several])), owners
