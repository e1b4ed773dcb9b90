"""Pictures of plain rectangles, and models that see in them exactly what is there.

What a rectangle is stands in the last bits of its colour, so a detector, a depth model and answers to
questions need no weights, and a benchmark's score of a picture can be worked out by hand.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageColor, ImageDraw

from danqing.evaluation.items import Item, Made
from danqing.scoring.looking import Detection

SIZE = (160, 120)
KINDS = ("nothing", "cup", "zebra", "lamp", "drum", "person", "traffic light", "owl")
"""A rectangle's kind is the number in the last three bits of its green."""
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")


class Thing(NamedTuple):
    """One rectangle; later ones lie over earlier ones and are nearer."""

    kind: str
    box: tuple[int, int, int, int]
    colour: str = "red"


def draw(things: Sequence[Thing], size: tuple[int, int] = SIZE) -> Image.Image:
    """Return a grey picture of up to seven things."""
    picture = Image.new("RGB", size, (128, 128, 128))
    pen = ImageDraw.Draw(picture)
    for number, thing in enumerate(things, 1):
        red, green, blue = (part & ~7 for part in ImageColor.getrgb(thing.colour)[:3])
        left, top, right, bottom = thing.box
        pen.rectangle(
            (left, top, right - 1, bottom - 1), (red, green | KINDS.index(thing.kind), blue | number)
        )
    return picture


def read(picture: Image.Image) -> list[Thing]:
    """Return the things of a picture, as far as they show, in the order in which they were drawn."""
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    found: dict[int, Thing] = {}
    for value in np.unique(pixels.reshape(-1, 3), axis=0):
        kind, number = KINDS[value[1] & 7], int(value[2] & 7)
        if kind != "nothing" and number:
            rows, columns = np.nonzero((pixels == value).all(-1))
            box = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
            found[number] = Thing(kind, box, _nearest(value))
    return [found[number] for number in sorted(found)]


class Sight:
    """Every role of a judge at once; answers yes to questions that name a colour or a kind that is there."""

    name, version = "sight", "1"

    def __init__(self, *, lines: Sequence[str] = (), sure: Mapping[str, float] | None = None) -> None:
        """`sure` is the detector's score of a kind, by default 0.95."""
        self.asked: list[str] = []
        self._lines, self._sure = tuple(lines), sure or {}

    def detect(self, picture: Image.Image, labels: Sequence[str]) -> list[Detection]:
        """Return the things of a picture that bear a label."""
        return [
            Detection(
                label=thing.kind,
                score=self._sure.get(thing.kind, 0.95),
                box=tuple(map(float, thing.box)),  # type: ignore[arg-type]
                mask=_mask(picture.size, thing.box),
            )
            for thing in read(picture)
            if thing.kind in labels
        ]

    def depth(self, picture: Image.Image) -> np.ndarray:
        """Return a map in which later things are nearer."""
        found = np.zeros(picture.size[::-1], np.float32)
        for number, thing in enumerate(read(picture), 1):
            left, top, right, bottom = thing.box
            found[top:bottom, left:right] = number
        return found

    def similarity(self, picture: Image.Image, texts: Sequence[str]) -> list[float]:
        """Return a tenth for each kind in a picture that a text names."""
        kinds = {thing.kind for thing in read(picture)}
        return [0.1 * sum(kind in text for kind in kinds) for text in texts]

    def class_similarity(self, picture: Image.Image, wordings: Sequence[Sequence[str]]) -> list[float]:
        """Return which class names the colour of the middle of a picture."""
        colour = _nearest(np.asarray(picture.convert("RGB"))[picture.height // 2, picture.width // 2])
        return [float(any(f" {colour}" in text for text in texts)) for texts in wordings]

    def answer_probability(
        self, picture: Image.Image, question: str, answers: tuple[str, str] = ("yes", "no")
    ) -> float:
        """Return 0.9 when a thing of the picture has all that the last line but one names, else 0.2."""
        self.asked.append(question)
        words = question.lower()
        kinds = [kind for kind in KINDS if kind in words]
        colours = [colour for colour in COLOURS if colour in words]
        there = [(thing.kind, thing.colour) for thing in read(picture)]
        held = any(
            all(k == kind for k in kinds) and all(c == colour for c in colours) for kind, colour in there
        )
        return 0.9 if held and (kinds or colours) else 0.2

    def read_lines(self, picture: Image.Image) -> tuple[str, ...]:
        """Return the lines it was told."""
        return self._lines


class Painter:
    """Answers prompts with the things that a table says, by prompt and seed."""

    version = "1"

    def __init__(self, table: Mapping[str, Sequence[Sequence[Thing]]], name: str = "painter") -> None:
        """`table` holds for each prompt the things of its pictures, one after another."""
        self.name, self._table = name, table
        self.settings: Mapping[str, Any] = {}

    def request(self, item: Item, seed: int) -> Mapping[str, Any]:
        """Return what decides the answer."""
        return {"prompt": item.prompt, "seed": seed}

    def answer(self, items: Sequence[Item], seed: int) -> list[Made]:
        """Return the pictures."""
        return [draw(self._table[item.prompt][seed % len(self._table[item.prompt])]) for item in items]


def _mask(size: tuple[int, int], box: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros(size[::-1], bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


def _nearest(value: np.ndarray) -> str:
    far = {name: np.abs(np.array(ImageColor.getrgb(name)[:3]) - value).sum() for name in COLOURS}
    return min(far, key=far.__getitem__)
