"""The reader of the drawn world in the roles that benchmarks ask for: boxes, depth, yes or no, likeness.

It reads a picture once, without knowing what was asked; texts are understood by rule, with the grammar of the
world. So a benchmark's own formulas score pictures of the world with no other model.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from PIL import Image

from danqing.data.world import OPPOSITE, BackgroundKind
from danqing.errors import DataError
from danqing.evaluation.items import Atom, Clause, Item
from danqing.evaluation.world.judge import SceneJudge
from danqing.evaluation.world.said import Said, understand
from danqing.scoring.looking import Box, Detection, Looks
from danqing.scoring.patterns import find_pattern
from danqing.scoring.reading import Box as Place
from danqing.scoring.reading import Reading

SURE: Final = 0.9
"""Score of whatever is read, since the reader gives none that says how often it is right.

Below one, so that two things in the wrong place stay under the cut of T2I-CompBench at one half.
"""
PATTERNS: Final[dict[str, BackgroundKind]] = {
    "striped": "stripes",
    "dotted": "dots",
    "polka-dot": "dots",
    "checked": "checks",
    "checkered": "checks",
}
"""Words for what backgrounds are covered with."""

_TURNED: Final = dict[str, str](OPPOSITE.items())


class WorldLooks:
    """Detector, depth estimator, matcher and answerer in one; English texts."""

    name = "world"

    def __init__(self, judge: SceneJudge | None = None) -> None:
        self._judge = judge if judge is not None else SceneJudge()
        self.version = f"{self._judge.version}-1"
        self._read: tuple[bytes, Reading] | None = None

    @property
    def looks(self) -> Looks:
        """All roles that it plays."""
        return Looks(blip_vqa=self, detector=self, depth=self, clip=self)

    def reading(self, picture: Image.Image) -> Reading:
        """Return what is seen in a picture; the last one is not read again."""
        key = picture.convert("RGB").tobytes()
        if self._read is None or self._read[0] != key:
            self._read = key, self._judge.read(picture)
        return self._read[1]

    def detect(self, picture: Image.Image, labels: Sequence[str]) -> list[Detection]:
        """Return the things of each label, a noun of the world; raises DataError for another word."""
        reading = self.reading(picture)
        return [
            Detection(label=label, score=SURE, box=_pixels(thing.box, picture))
            for label in labels
            for thing in reading.of(_concept(label))
        ]

    def depth(self, picture: Image.Image) -> np.ndarray:
        """Return how many things each box covers, directly or not, and one; 0 is background.

        Of two things that overlap, the one that lies in the other or reaches lower is nearer: so the world
        is drawn. Things apart are equally near.
        """
        boxes = [thing.box for thing in self.reading(picture).things]
        ranks = {index: _rank(index, boxes, frozenset()) for index in range(len(boxes))}
        near = np.zeros((picture.height, picture.width), np.float32)
        for index in sorted(ranks, key=ranks.__getitem__):
            left, top, right, bottom = (max(0, round(side)) for side in _pixels(boxes[index], picture))
            near[top:bottom, left:right] = ranks[index]
        return near

    def answer_probability(
        self, picture: Image.Image, question: str, answers: tuple[str, str] = ("yes", "no")
    ) -> float:
        """Return 1 when all facts of a phrase such as "a red apple?" are met, else 0."""
        return float(all(atom.value for atom in self._facts(picture, question)))

    def similarity(self, picture: Image.Image, texts: Sequence[str]) -> list[float]:
        """Return the share of the facts of each text that are met."""
        facts = [self._facts(picture, text) for text in texts]
        return [sum(atom.value for atom in atoms) / len(atoms) for atoms in facts]

    def class_similarity(self, picture: Image.Image, wordings: Sequence[Sequence[str]]) -> list[float]:
        """Return the mean share of the facts of each class."""
        return [float(np.mean(self.similarity(picture, texts))) for texts in wordings]

    def _facts(self, picture: Image.Image, text: str) -> list[Atom]:
        """Return an atom for each fact of a text; raises DataError where none is understood."""
        reading, include = self.reading(picture), clauses_of(text)
        item = Item(row=self.name, prompt=text, include=include) if include else None
        facts = [] if item is None else list(self._judge.facts(reading, picture, item))
        for word in dict.fromkeys(text.casefold().rstrip("?").split()):
            if kind := PATTERNS.get(word):
                seen = find_pattern(picture.convert("RGB"), [thing.box for thing in reading.things])
                right = float(seen == kind)
                facts.append(Atom(name="texture", value=right, wanted=kind, seen=seen or "no pattern"))
        if not facts:
            raise DataError(f"expected things of the world, found {text!r}")
        return facts


def clauses_of(text: str) -> tuple[Clause, ...]:
    """Return what an English text asks for; "a" asks for one at least, a number for just as many."""
    said = understand(text, "en")
    clauses = [
        Clause(
            concept=mention.concept,
            count=None if mention.count == 1 else mention.count,
            colour=mention.colour,
            position=_position(said, index),
        )
        for index, mention in enumerate(said.mentions)
    ]
    return (*clauses, *(Clause(background=colour) for colour in said.backgrounds))


def _position(said: Said, index: int) -> tuple[str, int] | tuple[str, int, int] | None:
    """Return what a text says of where a thing is; "a left of b" is no news of b."""
    for told in sorted(said.relations):
        if told[1] != index:
            continue
        if len(told) == 4:
            return told[0], told[2], told[3]
        if told[2] > index or (_TURNED.get(told[0]), told[2], index) not in said.relations:
            return told[0], told[2]
    return None


def _concept(label: str) -> str:
    mentions = understand(label, "en").mentions
    if len(mentions) != 1:
        raise DataError(f"expected a noun of the world, found {label!r}")
    return mentions[0].concept


def _rank(index: int, boxes: Sequence[Place], above: frozenset[int]) -> int:
    """Return one more than the longest chain of boxes that lie under one; `above` lie over it."""
    seen = above | {index}
    under = [at for at, box in enumerate(boxes) if at not in seen and boxes[index].covers(box)]
    return 1 + max((_rank(at, boxes, seen) for at in under), default=0)


def _pixels(box: Place, picture: Image.Image) -> Box:
    width, height = picture.size
    left, right = (box.x + way * box.width / 2 for way in (-1, 1))
    top, bottom = (box.y + way * box.height / 2 for way in (-1, 1))
    return left * width, top * height, right * width, bottom * height
