"""Stand-ins for a model and a judge: a painter of plain pages, and one who names their colour.

Where words are asked for, the painter says a colour and the judge listens.
"""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageColor

from danqing.errors import RequestError, ResourceError
from danqing.evaluation.items import Atom, Clause, Item, Made

COLOURS = ("red", "green", "blue", "yellow", "black", "white")


def colour_items(count: int, row: str = "background") -> list[Item]:
    """Return items that ask for a plain page, each with a text of its own."""
    wanted = [COLOURS[index % len(COLOURS)] for index in range(count)]
    return [
        Item(row=row, prompt=f"page {index} in {colour}", include=(Clause(background=colour),))
        for index, colour in enumerate(wanted)
    ]


def said_items(count: int, row: str = "said") -> list[Item]:
    """Return items that ask for the colour of a page in words."""
    return [
        Item(
            row=row,
            prompt=f"colour of page {index}?",
            ability="describe",
            source=f"page-{index}",
            answer=COLOURS[index % len(COLOURS)],
        )
        for index in range(count)
    ]


class FakePainter:
    """Paints the page in the colour asked for, except a share of them, chosen by item and seed.

    With `log`, each picture is noted in a file at the moment it is painted; `seconds` is how long one takes.
    Items tagged "refuse" or "fail" are refused or fail.
    """

    def __init__(
        self, name: str = "fake painter", *, wrong: float = 0.0, seconds: float = 0.0, log: Path | None = None
    ) -> None:
        self.name, self.version = name, f"wrong-{wrong}"
        self.settings: Mapping[str, Any] = {"size": [16, 16], "wrong": wrong}
        self._wrong, self._seconds, self._log = wrong, seconds, log
        self.calls: list[list[str]] = []

    def request(self, item: Item, seed: int) -> Mapping[str, Any]:
        return {"prompt": item.prompt, "seed": seed}

    def answer(self, items: Sequence[Item], seed: int) -> list[Made]:
        self.calls.append([item.prompt for item in items])
        for item in items:
            if "refuse" in item.tags:
                raise RequestError("the painter does not paint this")
            if "fail" in item.tags:
                raise ResourceError("the painter is ill")
        return [self._paint(item, seed) for item in items]

    def _paint(self, item: Item, seed: int) -> Made:
        time.sleep(self._seconds)
        if self._log is not None:
            with self._log.open("a") as file:
                file.write(f"{item.prompt}\n")
                file.flush()
                os.fsync(file.fileno())
        rng = np.random.default_rng([seed, int(item.id, 16)])
        wanted = item.answer or item.include[0].background or "white"
        others = [colour for colour in COLOURS if colour != wanted]
        shown = others[rng.integers(len(others))] if rng.random() < self._wrong else wanted
        if item.answer:
            return shown
        pixels = np.array(ImageColor.getrgb(shown)) + rng.integers(-9, 10, (16, 16, 3))
        return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


class FakeJudge:
    """Names the nearest colour of the mean of a picture."""

    name, version = "fake judge", "1"

    def __init__(self) -> None:
        self.calls = 0

    def judge(self, made: Made, item: Item) -> tuple[Atom, ...]:
        self.calls += 1
        if isinstance(made, str):
            return (Atom(name="answer", value=float(made == item.answer), wanted=item.answer, seen=made),)
        mean = np.asarray(made, float).mean((0, 1))
        seen = min(COLOURS, key=lambda colour: float(np.abs(mean - ImageColor.getrgb(colour)).sum()))
        wanted = item.include[0].background or ""
        return (Atom(name="background", value=float(seen == wanted), wanted=wanted, seen=seen),)
