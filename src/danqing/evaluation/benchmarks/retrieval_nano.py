"""retrieval-nano: pictures drawn for captions, and which caption each was drawn for, as a judge sees it.

Alike is what has a caption's facts and shows nothing else, by the judge of the drawn world; or whatever a
CLIP says, where one is named as judge. The column of the true pictures is retrieval in the usual sense.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from danqing.errors import DataError
from danqing.evaluation.benchmarks.benchmark import Benchmark, Variant
from danqing.evaluation.benchmarks.captioned_scenes import captioned_scenes, true_renders
from danqing.evaluation.benchmarks.match_scores import match_rows, packed, unpacked
from danqing.evaluation.items import Atom, Item, Judge, Made, System
from danqing.evaluation.results import Answer, Row
from danqing.evaluation.world.asked import clauses
from danqing.evaluation.world.judge import SceneJudge
from danqing.scoring.looking import Looks, Matcher
from danqing.scoring.reading import Reading
from danqing.scoring.retrieval import Likeness

_NAME: Final = "retrieval-nano"
_KEPT: Final = "likeness of all captions"


class FactsMatcher:
    """Likeness of a picture of the world and what an item asks for."""

    name = "facts met"

    def __init__(self, judge: SceneJudge) -> None:
        self._judge = judge
        self.version = f"{judge.version}-1"

    def likeness(self, picture: Image.Image, items: Sequence[Item]) -> list[float]:
        """Return for each item its facts that are met, divided by all its facts and all kinds beside them."""
        reading = self._judge.read(picture)
        return [self._met(reading, picture, item) for item in items]

    def _met(self, reading: Reading, picture: Image.Image, item: Item) -> float:
        facts = self._judge.facts(reading, picture, item)
        wanted = {clause.concept for clause in item.include}
        named = {thing for code in wanted if code for thing in reading.of(code)}
        others = {thing.concept for thing in reading.things if thing not in named}
        return sum(atom.value for atom in facts) / (len(facts) + len(others))


class RetrievalJudge:
    """Compares a picture with the captions of all scenes."""

    def __init__(self, clip: Matcher | None) -> None:
        """Without a `clip`, facts are what counts."""
        self._items, self._clip = _every(), clip
        self._facts = FactsMatcher(SceneJudge()) if clip is None else None
        look = clip if self._facts is None else self._facts
        assert look is not None  # one of the two is there
        self.name, self.version = f"retrieval by {look.name}", f"{look.version} 1"
        self.models = {"likeness": look.name}

    def judge(self, made: Made, item: Item) -> tuple[Atom, ...]:
        """Return the likeness of its caption, and that of all, which is kept for the rows."""
        if isinstance(made, str):
            raise DataError(f"expected a picture for {item.row}, found a text")
        picture = made.convert("RGB")
        if self._clip is not None:
            values = self._clip.similarity(picture, [one.prompt for one in self._items])
        else:
            assert self._facts is not None  # without a clip
            values = self._facts.likeness(picture, self._items)
        own = values[int(item.tags["scene"])]
        best = self._items[int(np.argmax(values))].prompt
        value = min(max(own, 0.0), 1.0)
        return (Atom(name="likeness", value=value, wanted=item.prompt, seen=best), packed(_KEPT, values))


def _search(answers: Sequence[Answer]) -> tuple[Likeness, list[int]]:
    """Return the likeness of pictures and captions of the answers."""
    asked = [int(one.item.tags["scene"]) for one in answers]
    table = np.stack([unpacked(one, _KEPT)[0][asked] for one in answers])
    return lambda rows, columns: table[rows, columns], list(range(len(answers)))


def _every() -> list[Item]:
    return [
        Item(
            row=_NAME,
            prompt=one.captions["en"][0],
            include=clauses(one.scene),
            tags={"scene": str(one.number)},
            cluster=f"captioned scene {one.number}",
        )
        for one in captioned_scenes()
    ]


def _read(folder: Path) -> list[Item]:
    return _every()


def _rows(variant: Variant) -> tuple[Row, ...]:
    return match_rows(
        _NAME, "Retrieval", _search, about="Equal likeness counts as the chance of a hit in random order."
    )


def _judge(looks: Looks, variant: Variant) -> Judge:
    return RetrievalJudge(looks.clip)


def _ceilings(folder: Path) -> Sequence[System]:
    return (true_renders(),)


RETRIEVAL_NANO: Final = Benchmark(
    name=_NAME,
    title="Retrieval in the drawn world",
    licence="Apache-2.0",
    source="made by this package; R-precision of Xu et al. 2018, arXiv 1711.10485",
    protocol="Recall among the captions and pictures that were asked: fewer of them are easier to find.",
    judges={},
    read=_read,
    rows=_rows,
    judge=_judge,
    ceilings=_ceilings,
)
