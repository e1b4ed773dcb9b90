"""What a judge reads off a picture of the world, from its pixels alone."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Final, Self

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from danqing.conditioning.images import to_pixels
from danqing.data.atlas import Atlas, packaged_atlas
from danqing.data.colours import COLOURS
from danqing.data.concepts import concepts
from danqing.data.world import BackgroundKind, Relation
from danqing.scoring.background import normalised
from danqing.scoring.detector import (
    BACKGROUNDS,
    CELLS,
    CHANNELS,
    NO_COLOUR,
    Channel,
    Detector,
    Findings,
    cut,
    load_detector,
)
from danqing.scoring.templates import Templates

_THRESHOLD: Final = 0.35  # of the heat at a centre
_SAME_BOX: Final = 0.55  # overlap (intersection over union) from which two boxes are one thing
_MOST: Final = 24  # boxes a picture
_THINGS: Final = ("small", "large")
_GUESSES: Final = 8  # of the namer are looked at again in any case
_TRUST: Final = 0.01  # in the namer, for each unit of a log probability, against the correlation of a sprite
_UNLIKELY: Final = (
    -8.0,
    -6.0,
)  # log probabilities of a concept and of a colour below which it does not matter


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A box in fractions of the picture, by its centre."""

    x: float
    y: float
    width: float
    height: float

    @property
    def area(self) -> float:
        """Width times height."""
        return self.width * self.height

    def lies_in(self, other: "Box") -> bool:
        """Tell whether the centre of this box lies in the other one, which is larger."""
        within = abs(self.x - other.x) < other.width / 2 and abs(self.y - other.y) < other.height / 2
        return within and self.area < other.area

    def covers(self, other: "Box") -> bool:
        """Tell whether a thing here hides part of one in the other box: it lies in it, or reaches lower."""
        if not self.shared(other) or other.lies_in(self):
            return False
        return self.lies_in(other) or self.y + self.height / 2 > other.y + other.height / 2

    def shared(self, other: "Box") -> float:
        """Return the area that two boxes share."""
        across = min(self.x + self.width / 2, other.x + other.width / 2) - max(
            self.x - self.width / 2, other.x - other.width / 2
        )
        down = min(self.y + self.height / 2, other.y + other.height / 2) - max(
            self.y - self.height / 2, other.y - other.height / 2
        )
        return max(across, 0.0) * max(down, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One thing that a judge sees."""

    concept: str
    """Code of the most likely concept."""
    colour: str | None
    """The colour word that fills it; None when no word does."""
    box: Box
    confidence: float
    """Probability of the concept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """All that a judge sees in one picture."""

    things: tuple[Found, ...]
    """From the surest to the least sure box."""
    boards: tuple[Box, ...]
    """Where words seem to stand."""
    faces: tuple[Box, ...]
    background: str
    background_kind: BackgroundKind

    def of(self, concept: str) -> tuple[Found, ...]:
        """Return the things seen of one concept, or of one that a fair judge takes for it."""
        fair = {concept, *concepts()[concept].same}
        return tuple(thing for thing in self.things if thing.concept in fair)


class SceneReader:
    """Looks at pictures; about 20 ms a thing on one core."""

    def __init__(self, detector: Detector, version: str, atlas: Atlas) -> None:
        """`version` tells one detector from another; `atlas` holds the sprites of the second look."""
        self.detector, self.version, self._templates = detector, version, Templates(atlas)
        self._codes = detector.config.concepts
        self._index = {code: at for at, code in enumerate(self._codes)}

    @classmethod
    def load(cls, path: Path | None = None) -> Self:
        """Read a detector file, or the one inside the package."""
        chosen = path or Path(str(resources.files("danqing.scoring") / "detector.safetensors"))
        version = hashlib.sha256(chosen.read_bytes()).hexdigest()[:12]
        return cls(load_detector(chosen), version, packaged_atlas())

    @torch.no_grad()
    def read(self, pictures: Sequence[np.ndarray | Image.Image]) -> list[Reading]:
        """Say what pictures (height, width, 3) uint8 show; each is read as if it were alone."""
        return [self._read(normalised(picture)) for picture in pictures]

    def _read(self, picture: np.ndarray) -> Reading:
        pixels = to_pixels(picture.round().astype(np.uint8)[None]).contiguous(
            memory_format=torch.channels_last
        )
        found = self.detector.finder(pixels)
        centres = find_boxes(found)
        boxes = [box for channel, box, _ in centres if channel in _THINGS]
        return Reading(
            things=self._name(pixels, boxes),
            boards=tuple(box for channel, box, _ in centres if channel == "board"),
            faces=tuple(box for channel, box, _ in centres if channel == "face"),
            background=COLOURS[int(found.background.argmax())],
            background_kind=BACKGROUNDS[int(found.kind.argmax())],
        )

    def _name(self, pixels: Tensor, boxes: Sequence[Box]) -> tuple[Found, ...]:
        if not boxes:
            return ()
        places = torch.tensor([[box.x, box.y, box.width, box.height] for box in boxes])
        names = self.detector.namer(cut(pixels, places, [0] * len(boxes)))
        found = []
        for at, box in enumerate(boxes):
            before = [other.covers(box) for other in boxes]
            found.append(
                self._identify(pixels, box, places[at], places[before], names.concept[at], names.colour[at])
            )
        return tuple(found)

    def _identify(
        self, pixels: Tensor, box: Box, place: Tensor, covers: Tensor, concept: Tensor, colour: Tensor
    ) -> Found:
        """Return what explains a box best, among sprites and what the namer says of concept and colour."""
        concepts_log, colours_log = concept.log_softmax(0), colour.log_softmax(0)
        likely = concepts_log.topk(min(_GUESSES, len(concept)))
        guesses = [self._codes[index] for index in likely.indices.tolist()]
        explained = self._templates.explain(pixels, place, covers, guesses)
        first = int(colours_log.argmax())
        own = None if first == NO_COLOUR else COLOURS[first]
        explained |= {(code, own): 0.0 for code in guesses if code not in self._templates.concepts}

        def total(look: tuple[str, str | None]) -> float:
            code, word = look
            of_concept = concepts_log[self._index[code]].item()
            of_colour = colours_log[NO_COLOUR if word is None else COLOURS.index(word)].item()
            trust = max(of_concept, _UNLIKELY[0]) + max(of_colour, _UNLIKELY[1])
            return explained[look] + _TRUST * trust

        code, word = max(explained, key=total)
        return Found(
            concept=code, colour=word, box=box, confidence=float(concepts_log[self._index[code]].exp())
        )


@cache
def packaged_reader() -> SceneReader:
    """Return the judge inside the package, read once."""
    return SceneReader.load()


def find_boxes(found: Findings) -> list[tuple[Channel, Box, float]]:
    """Return the boxes of one picture, surest first: peaks of the heat, without those that are one thing."""
    heat = found.heat[0].sigmoid()
    peaks = heat * (heat == F.max_pool2d(heat[None], 3, 1, 1)[0])
    values, places = peaks.flatten().topk(_MOST)
    kept: list[tuple[Channel, Box, float]] = []
    for value, place in zip(values.tolist(), places.tolist(), strict=True):
        if value < _THRESHOLD:
            break
        channel, cell = divmod(place, CELLS * CELLS)
        row, column = divmod(cell, CELLS)
        dx, dy, width, height = found.boxes[0, channel, :, row, column].tolist()
        box = Box(
            x=(column + dx) / CELLS,
            y=(row + dy) / CELLS,
            width=float(np.exp(min(width, 0.5))),
            height=float(np.exp(min(height, 0.5))),
        )
        if all(_overlap(box, other) < _SAME_BOX for _, other, _ in kept):
            kept.append((CHANNELS[channel], box, value))
    return kept


def stands(relation: Relation, first: Box, *others: Box) -> bool:
    """Tell whether the first box is in a relation to the second, or between the second and the third.

    Beside and above follow GenEval (Ghosh et al. 2023): the centres must be apart by more than a tenth of the
    boxes' sides, and the direction must be the main one. Inside: the centre lies in the other box, which is
    larger. In front: the boxes overlap, and the first reaches lower.
    """
    second = others[0]
    if relation == "between":
        third = others[1]
        return (
            (stands("left", second, first) and stands("left", first, third))
            or (stands("left", third, first) and stands("left", first, second))
            or (stands("above", second, first) and stands("above", first, third))
            or (stands("above", third, first) and stands("above", first, second))
        )
    dx, dy = first.x - second.x, first.y - second.y
    if relation == "inside":
        return first.lies_in(second)
    if relation == "front":
        return first.shared(second) > 0.1 * first.area and dy + (first.height - second.height) / 2 > 0
    dx = np.sign(dx) * max(abs(dx) - 0.1 * (first.width + second.width), 0)
    dy = np.sign(dy) * max(abs(dy) - 0.1 * (first.height + second.height), 0)
    if relation in ("left", "right"):
        return abs(dx) >= abs(dy) and (dx < 0 if relation == "left" else dx > 0)
    return abs(dy) > abs(dx) and (dy < 0 if relation == "above" else dy > 0)


def _overlap(one: Box, other: Box) -> float:
    shared = one.shared(other)
    return shared / (one.area + other.area - shared)
