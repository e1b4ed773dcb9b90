"""A judge of the drawn world: which concept a picture shows, on which background colour, from pixels alone.

No network and no training: the background is fitted to the border, every sprite of the atlas (and each of its
dyes) is laid over that background, and the one that explains best what differs from the background wins. The
measure is the correlation of the two differences from the background, so contrast does not matter.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Final, Self

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from danqing.data.atlas import Atlas, packaged_atlas
from danqing.data.concepts import core_codes
from danqing.scoring.background import RING, SIDE, Backdrop, fit_background, normalised
from danqing.scoring.looks import look, looks
from danqing.scoring.squares import squares

CONCEPTS: Final = 300
STYLES: Final = ("shaded", "cartoon", "flat", "3D")
"""What the first world held: concepts from the start of the core, in four styles."""
_COARSE: Final = 16
_FINE: Final = 32
_FINALISTS: Final = 48
_FAINT: Final = 0.05  # sum of squares below which a template counts as not there: fp32 errs by a thousandth
_SHADOW: Final = (20.0, 20.0, 28.0)
_OPAQUEST: Final = 0.55  # part of a shadow


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the judge sees in one picture."""

    background: str
    concept: str | None
    """Code of the concept that explains the picture best; None when nothing differs from the background."""
    style: str | None
    """Style word of the sprite that does."""
    score: float
    """Correlation with that sprite, at most 1."""
    runner_up: str | None
    """Code of the second best concept."""
    margin: float
    """How far the second best concept lies behind."""


class Matcher:
    """Knows every sprite of some concepts and styles, and its dyes; about 15 ms a picture on one core."""

    def __init__(self, atlas: Atlas, codes: Sequence[str] | None = None, styles: Sequence[str] | None = None):
        """Learn `codes` and `styles` of the atlas; all of them when None."""
        self._fine, self.labels = _templates(atlas, codes or atlas.codes, styles or atlas.styles)
        self._coarse = Sheets.of(F.avg_pool2d(self._fine / 255, _FINE // _COARSE))

    def judge(self, picture: np.ndarray | Image.Image) -> Verdict:
        """Say what one picture (height, width, 3) uint8 shows."""
        pixels = normalised(picture)
        backdrop = fit_background(pixels)
        boxes = _boxes(pixels, backdrop)
        if not boxes:
            return Verdict(
                background=backdrop.colour, concept=None, style=None, score=0.0, runner_up=None, margin=0.0
            )
        ranked = sorted(self._scores(pixels, backdrop, boxes).items(), key=lambda item: -item[1])
        (concept, style), score = ranked[0]
        rival = next(((code, value) for (code, _), value in ranked if code != concept), (None, 0.0))
        return Verdict(
            background=backdrop.colour,
            concept=concept,
            style=style,
            score=score,
            runner_up=rival[0],
            margin=score - rival[1],
        )

    def _scores(
        self, pixels: np.ndarray, backdrop: Backdrop, boxes: list["Box"]
    ) -> dict[tuple[str, str], float]:
        """Return the best correlation of each finalist, by (concept, style)."""
        seen = np.full_like(pixels[..., :1], 255)
        both = torch.from_numpy(np.concatenate([pixels, backdrop.pixels, seen], -1) / 255).permute(2, 0, 1)
        first = self._coarse.correlate(_cut(both, boxes, _COARSE))  # (templates, boxes)
        best, where = first.max(1)
        finalists = best.topk(min(_FINALISTS, len(best))).indices
        nearby = [near for box in {int(where[i]) for i in finalists[:3]} for near in boxes[box].nearby()]
        second = Sheets.of(self._fine[finalists] / 255).correlate(_cut(both, nearby, _FINE)).amax(1)
        scores: dict[tuple[str, str], float] = {}
        for index, score in zip(finalists.tolist(), second.tolist(), strict=True):
            scores[self.labels[index]] = max(score, scores.get(self.labels[index], -1.0))
        return scores


@cache
def packaged_matcher() -> Matcher:
    """Return the matcher of the first world's sprites in the packaged atlas, built once (two seconds)."""
    return Matcher(packaged_atlas(), first_concepts(), STYLES)


def first_concepts() -> tuple[str, ...]:
    """Return the concepts of the first world, which the gate asks for."""
    return core_codes()[:CONCEPTS]


@dataclass(frozen=True, slots=True)
class Box:
    """A square, in fractions of the picture."""

    x: float
    y: float
    side: float

    def nearby(self) -> list["Box"]:
        """Return this square and those a few percent smaller, larger, or moved."""
        return [
            Box(self.x + dx * self.side, self.y + dy * self.side, self.side * scale)
            for scale in (0.93, 1.0, 1.07)
            for dx in (-0.035, 0.0, 0.035)
            for dy in (-0.035, 0.0, 0.035)
        ]


@dataclass(frozen=True, slots=True)
class Sheets:
    """Templates as rows, ready to be correlated with crops: T = alpha * (colour - background)."""

    premultiplied: Tensor  # (templates, 3 * pixels)
    alpha: Tensor  # (templates, pixels)
    crossed: Tensor  # alpha * premultiplied
    squared: Tensor  # alpha ** 2
    energy: Tensor  # (templates, pixels)

    @classmethod
    def of(cls, templates: Tensor) -> Self:
        """Return the products of templates (count, 4, side, side), colours not premultiplied."""
        colour, alpha = templates[:, :3].flatten(2), templates[:, 3:].flatten(2)
        premultiplied = colour * alpha
        return cls(
            premultiplied.flatten(1),
            alpha.flatten(1),
            (premultiplied * alpha).flatten(1),
            alpha.square().flatten(1),
            premultiplied.square().sum(1),
        )

    def __getitem__(self, index: Tensor) -> Self:
        """Return some of the templates."""
        return type(self)(*(getattr(self, field.name)[index] for field in fields(self)))

    def correlate(self, crops: Tensor) -> Tensor:
        """Return (templates, crops) correlations.

        Crops are (count, 7, side, side): picture, background, and 1 where the crop counts, 0 elsewhere.
        """
        picture, background, seen = crops.flatten(2).split((3, 3, 1), 1)  # (crops, 3 or 1, pixels)
        change, lit = picture - background, background * seen
        dot = self.premultiplied @ (change * seen).flatten(1).T - self.alpha @ (change * lit).sum(1).T
        energy = (
            self.energy @ seen[:, 0].T
            - 2 * self.crossed @ lit.flatten(1).T
            + self.squared @ (lit * background).sum(1).T
        )
        norm = (change.square() * seen).sum((1, 2))
        return dot / (energy.clamp_min(_FAINT) * norm.clamp_min(1e-6)).sqrt()


def _templates(
    atlas: Atlas, codes: Sequence[str], styles: Sequence[str]
) -> tuple[Tensor, list[tuple[str, str]]]:
    """Return all sprites and their dyes, (count, 4, fine, fine) uint8, and the (concept, style) of each."""
    found = list(looks(atlas, codes, styles))
    sprites = np.stack([look(atlas, one, _FINE) for one in found])
    labels = [(one.concept, str(one.style)) for one in found]
    return torch.from_numpy(sprites).permute(0, 3, 1, 2).contiguous(), labels


def _boxes(pixels: np.ndarray, backdrop: Backdrop) -> list[Box]:
    """Return the squares that may hold the thing: around what differs a little, more, or much."""
    change = pixels - backdrop.pixels
    distance = np.abs(change).max(-1)
    noise = np.median(distance[:, :RING])
    masks = [distance > max(level, 5 * noise) for level in (12.0, 26.0, 45.0)]
    # a shadow is the background on its way to black: things are searched with and without it
    if backdrop.kind == "ground":
        shade = np.array(_SHADOW, np.float32) - backdrop.pixels
        amount = (change * shade).sum(-1) / np.square(shade).sum(-1).clip(1)
        off = np.abs(change - amount[..., None] * shade).max(-1)
        shadow = (off < 10) & (amount > 0) & (amount < _OPAQUEST)
        shadow[: round(0.6 * SIDE)] = False  # grounds begin lower
        masks += [mask & ~shadow for mask in masks[:2]]
    boxes = [_around(mask) for mask in masks]
    return list(dict.fromkeys(box for box in boxes if box is not None))


def _around(mask: np.ndarray) -> Box | None:
    """Return the square around a mask, without specks."""
    counts = sum(np.roll(mask, (dy, dx), (0, 1)).astype(np.int8) for dy in (-1, 0, 1) for dx in (-1, 0, 1))
    solid = mask & (counts >= 4)
    ys, xs = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
    if ys.size < 4 or xs.size < 4:
        return None
    top, bottom, left, right = ys[0], ys[-1] + 1, xs[0], xs[-1] + 1
    side = max(bottom - top, right - left)
    return Box(float(left + right) / 2 / SIDE, float(top + bottom) / 2 / SIDE, float(side) / SIDE)


def _cut(image: Tensor, boxes: list[Box], side: int) -> Tensor:
    """Return the boxes of an image (channels, height, width) as (boxes, channels, side, side), smoothed."""
    x, y, wide = torch.tensor([[box.x, box.y, box.side] for box in boxes], dtype=torch.float32).T
    return F.avg_pool2d(squares(image[None], x, y, wide, 2 * side), 2)
