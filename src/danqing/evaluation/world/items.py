"""The evaluation of the drawn world: which prompts are asked, what a right picture of each shows.

Every item that is worded by the grammar has the scene it was worded from, so its true render is known: the
ceiling of the table. Items are drawn with a fixed seed and do not depend on each other's number: a smaller
profile asks the first items of a larger one.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Final, Literal

import numpy as np

from danqing.data.atlas import Atlas
from danqing.data.concepts import LANGUAGES, core_codes
from danqing.data.language import caption
from danqing.data.world import Scene, SceneKind, sample_scene
from danqing.data.world.split import any_held_out, combinations, is_held_out
from danqing.errors import DataError
from danqing.evaluation.digests import atlas_digest
from danqing.evaluation.items import Clause, Item
from danqing.evaluation.results import Row, mean_fact
from danqing.evaluation.world.asked import COUNTS, SEED, Asked, Profile, clauses, readable, take
from danqing.evaluation.world.edits import EDIT_ROWS, edit_items, edit_rows
from danqing.evaluation.world.prompts import ambiguous, natural
from danqing.evaluation.world.texts import TEXT_ROWS, text_items, text_rows
from danqing.evaluation.world.variety import TrainingPictures, variety_of_pictures, variety_of_readings

SEEDS: Final[Mapping[str, tuple[int, ...]]] = {"readings": tuple(range(8)), "variety": tuple(range(8))}
"""Seeds of the rows that are drawn with several; the others have one."""
_TRIES: Final = 20_000
_TOKEN: Final = re.compile(r"\w+|[^\w\s]")
LENGTHS: Final = (10, 20, 40, 60)
"""Tokens of the prompts whose length is varied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """How the items of one row are drawn."""

    kind: SceneKind
    unseen: str | None = None
    """The axis of which every scene holds a held-out combination; None where nothing is held out."""
    dyed: bool = False
    """Every first thing has a colour that it was dyed with."""


_PARTS: Final[dict[str, _Part]] = {
    "object": _Part(kind="single"),
    "object-unseen": _Part(kind="single", unseen="background"),
    "colour": _Part(kind="single", dyed=True),
    "colour-unseen": _Part(kind="single", dyed=True, unseen="colour"),
    "count": _Part(kind="count"),
    "relation": _Part(kind="pair"),
    "relation-unseen": _Part(kind="pair", unseen="relation"),
    "groups": _Part(kind="group"),
    "words": _Part(kind="words"),
    "words-unseen": _Part(kind="words", unseen="words"),
}
_LANGUAGE_KINDS: Final[dict[SceneKind, float]] = {"single": 0.5, "count": 0.25, "pair": 0.25}


def world_rows(known: TrainingPictures) -> tuple[Row, ...]:
    """Return the rows of the table in their order; pictures are compared with the `known` ones."""
    rows = _drawn_rows()
    rows += [
        Row(
            name=f"language-{language}",
            title=f"Language {language}",
            about="The same scenes in every language; share of facts met.",
            value=mean_fact,
        )
        for language in LANGUAGES
    ]
    rows += [
        Row(
            name=f"natural-{group}",
            title=f"Natural, {group}",
            about="As people type, made by no grammar; share of facts met.",
            value=mean_fact,
        )
        for group in ("en", "zh", "others")
    ]
    rows += [
        Row(name=f"length-{n}", title=f"{n} tokens", about="Share of facts met.", value=mean_fact)
        for n in LENGTHS
    ]
    return (
        *rows,
        *edit_rows(),
        *text_rows(),
        Row(name="ambiguous", title="Ambiguous", about="A valid reading of a prompt that has several."),
        Row(
            name="readings",
            title="Readings over seeds",
            about="Share of the possible readings met over 8 seeds.",
            over_seeds=variety_of_readings,
            counts=False,
        ),
        Row(
            name="variety",
            title="Variety over seeds",
            about="Mean difference of two pictures of one prompt, 0 to 1.",
            over_seeds=variety_of_pictures,
            counts=False,
        ),
        Row(
            name="new",
            title="Not a copy",
            about="Farther from 4,096 training pictures than all but 1 % of fresh ones are.",
            value=lambda answer: float(known.is_new(answer.image)),
            counts=False,
        ),
    )


def _drawn_rows() -> list[Row]:
    """Return the rows of `_PARTS`."""
    return [
        Row(name="object", title="Object", about="One thing before a background; all facts must be met."),
        Row(name="object-unseen", title="Object, unseen", about="The thing never met this background."),
        Row(name="colour", title="Colour", about="One thing in a colour it seldom has."),
        Row(name="colour-unseen", title="Colour, unseen", about="The thing never had this colour."),
        Row(name="count", title="Count", about="Two to nine of one thing, exactly."),
        Row(name="relation", title="Relation", about="Two things, one beside, above, in front of or inside."),
        Row(name="relation-unseen", title="Relation, unseen", about="Two things never so related."),
        Row(name="groups", title="Groups", about="Two or three kinds of things with their numbers."),
        Row(name="words", title="Words", about="A word on a sign, read by OCR."),
        Row(name="words-unseen", title="Words, unseen", about="Words that no training picture carries."),
    ]


def world_items(
    atlas: Atlas, profile: Profile, *, concepts: int | None = None, rows: Collection[str] | None = None
) -> list[Asked]:
    """Return the items of a profile, row by row.

    Args:
        atlas: the sprites of the true renders; prompts depend on which concepts and styles it holds.
        profile: how many.
        concepts: draw from the first so many of the core only: what a checkpoint was taught.
        rows: rows of the items that are wanted; None for all.
    """
    makers = _makers(atlas, taught(atlas, concepts), profile)
    return [one for row, make in makers if rows is None or row in rows for one in make()]


def _makers(
    atlas: Atlas, codes: Sequence[str], profile: Profile
) -> list[tuple[str, Callable[[], list[Asked]]]]:
    """Return what makes the items of each row."""
    counts, sprites = COUNTS[profile], atlas_digest(atlas)

    def objects(row: str, count: int) -> list[Asked]:
        found = take(_row_items("object", _PARTS["object"], atlas, codes), count)
        return [replace(one, item=replace(one.item, row=row)) for one in found]

    def lengths(tokens: int) -> list[Asked]:
        return take(_length_items(tokens, atlas, codes), counts["row"] // 4)

    def languages(language: str) -> list[Asked]:
        return take(_language_items(language, atlas, codes), counts["language"])

    def drawn(row: str) -> list[Asked]:
        return take(_row_items(row, _PARTS[row], atlas, codes), counts["row"])

    def naturals(language: str) -> list[Asked]:
        return _natural_items(language, codes)[: counts["language"]]

    return [
        *((row, partial(drawn, row)) for row in _PARTS),
        *((f"language-{language}", partial(languages, language)) for language in LANGUAGES),
        *((natural_row(language), partial(naturals, language)) for language in LANGUAGES),
        *((f"length-{tokens}", partial(lengths, tokens)) for tokens in LENGTHS),
        ("ambiguous", lambda: _ambiguous_items("ambiguous", codes)[: counts["ambiguous"]]),
        ("readings", lambda: _ambiguous_items("readings", codes)[: counts["variety"]]),
        *((row, partial(edit_items, row, atlas, sprites, codes, profile)) for row in EDIT_ROWS),
        *((row, partial(text_items, row, atlas, sprites, codes, profile)) for row in TEXT_ROWS),
        ("variety", partial(objects, "variety", counts["variety"])),
        ("new", partial(objects, "new", counts["row"])),
    ]


def natural_row(language: str) -> str:
    """Return the row of the natural prompts of a language."""
    return f"natural-{language if language in ('en', 'zh') else 'others'}"


def taught(atlas: Atlas, concepts: int | None = None) -> tuple[str, ...]:
    """Return the first so many codes of the core, or all of it, as far as the atlas holds them."""
    return tuple(code for code in core_codes()[:concepts] if code in set(atlas.codes))


def _row_items(row: str, part: _Part, atlas: Atlas, codes: Sequence[str]) -> Iterator[Asked]:
    rng = np.random.default_rng([SEED, *row.encode()])
    while True:
        scene = sample_scene(
            rng, atlas, "held_out" if part.unseen else "train", shares={part.kind: 1.0}, codes=codes
        )
        if part.unseen is not None and not _unseen(scene, part.unseen):
            continue
        if part.kind == "words" and not readable(scene):
            continue
        if not part.dyed or scene.things[0].colour is not None:
            yield _asked(row, scene, "en", rng)


def _unseen(scene: Scene, axis: str) -> bool:
    """Tell whether a scene is held out by one axis."""
    if axis == "words":
        return scene.words is not None and any_held_out(scene.words.lines)
    return any(part[0] == axis and is_held_out(*part) for part in combinations(scene))


def _language_items(language: str, atlas: Atlas, codes: Sequence[str]) -> Iterator[Asked]:
    scenes, rng = np.random.default_rng([SEED, 1]), np.random.default_rng([SEED, *language.encode()])
    number = 0
    while True:
        scene = sample_scene(scenes, atlas, shares=_LANGUAGE_KINDS, codes=codes)
        yield _asked(f"language-{language}", scene, language, rng, cluster=f"scene {number}")
        number += 1


def _length_items(tokens: int, atlas: Atlas, codes: Sequence[str]) -> Iterator[Asked]:
    """Yield prompts of about so many tokens: more things and longer sentences."""
    rng = np.random.default_rng([SEED, tokens])
    shares: dict[SceneKind, float] = (
        {"single": 0.7, "count": 0.3} if tokens == 10 else {"pair": 0.5, "group": 0.5}
    )
    for _ in range(_TRIES):
        scene = sample_scene(rng, atlas, shares=shares, codes=codes)
        length: Literal["full", "long"] = "long" if tokens >= 40 else "full"
        prompt = caption(scene, "en", rng, length=length)
        if abs(count_tokens(prompt) - tokens) <= 0.2 * tokens:
            include = clauses(scene)
            yield Asked(item=Item(row=f"length-{tokens}", prompt=prompt, include=include), scene=scene)
    raise DataError(f"expected prompts of {tokens} tokens, found too few in {_TRIES} draws")


def _natural_items(language: str, codes: Sequence[str]) -> list[Asked]:
    return [
        Asked(
            item=Item(
                row=natural_row(language),
                prompt=prompt.text,
                language=language,
                include=tuple(Clause(**asdict(clause)) for clause in prompt.include),
                cluster=prompt.scene,
            ),
            scene=None,
        )
        for prompt in natural(language)
        if all(clause.concept in {None, *codes} for clause in prompt.include)
    ]


def _ambiguous_items(row: str, codes: Sequence[str]) -> list[Asked]:
    return [
        Asked(
            item=Item(
                row=row,
                prompt=prompt.text,
                language=prompt.language,
                readings=tuple(tuple(Clause(**asdict(c)) for c in reading) for reading in prompt.readings),
                cluster=prompt.meaning,
            ),
            scene=None,
        )
        for prompt in ambiguous(known=codes)
        if row == "ambiguous" or len(prompt.readings) > 1
    ]


def _asked(row: str, scene: Scene, language: str, rng: np.random.Generator, cluster: str = "") -> Asked:
    prompt = caption(scene, language, rng, length="full")
    item = Item(row=row, prompt=prompt, language=language, include=clauses(scene), cluster=cluster)
    return Asked(item=item, scene=scene)


def count_tokens(text: str) -> int:
    """Return the number of words and marks: about what a tokenizer of a large vocabulary makes."""
    return len(_TOKEN.findall(text))
