"""The background of a drawn picture, read from its border: colour word, kind, and its course."""

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from PIL import Image

from danqing.data.colours import COLOURS, paint
from danqing.data.world import BackgroundKind
from danqing.errors import DataError

SIDE: Final = 128
"""Pictures are judged at this size."""
RING: Final = 3
"""Pixels at the border that hold nothing but background."""
_SHADES: Final = 96  # drawn of each colour word, to compare with
# What rendering makes of a shade, to undo it: (factor, offset) of a gradient's mean, of a radial's top row.
_GRADIENT: Final = (0.87, 20.4)
_RADIAL: Final = (0.89, 6.9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backdrop:
    """The background of a picture, as its border tells it."""

    colour: str
    """One of the eleven colour words; of the plane when things stand on the ground."""
    kind: BackgroundKind
    pixels: np.ndarray
    """(side, side, 3) float32: the picture without its things."""


def read_background(picture: np.ndarray | Image.Image) -> Backdrop:
    """Read the background of a picture (height, width, 3) uint8 from its border."""
    return fit_background(normalised(picture))


def fit_background(pixels: np.ndarray) -> Backdrop:
    """Read the background of a normalised picture."""
    rows = np.median(np.concatenate([pixels[:, :RING], pixels[:, -RING:]], 1), 1)  # (side, 3)
    course = np.repeat(rows[:, None], SIDE, 1)
    if _find_horizon(rows) is not None:
        return Backdrop(colour=_word(rows[-SIDE // 8 :].mean(0)), kind="ground", pixels=course)
    radial = _radial_course(pixels)
    if _error(course, pixels) > 1.25 * _error(radial, pixels) + 0.5:
        factor, offset = _RADIAL
        return Backdrop(colour=_word((radial[0].mean(0) - offset) / factor), kind="radial", pixels=radial)
    if np.abs(rows[-16:].mean(0) - rows[:16].mean(0)).max() > 5:
        factor, offset = _GRADIENT
        return Backdrop(colour=_word((rows.mean(0) - offset) / factor), kind="gradient", pixels=course)
    return Backdrop(colour=_word(rows.mean(0)), kind="solid", pixels=course)


def normalised(picture: np.ndarray | Image.Image) -> np.ndarray:
    """Return (SIDE, SIDE, 3) float32 in 0..255."""
    array = np.asarray(picture)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise DataError(
            f"expected a picture (height, width, 3) of uint8, found {array.shape} of {array.dtype}"
        )
    if array.shape[:2] != (SIDE, SIDE):
        array = np.asarray(
            Image.fromarray(array).resize((SIDE, SIDE), Image.Resampling.BICUBIC, reducing_gap=3)
        )
    return array.astype(np.float32)


@cache
def _radius() -> np.ndarray:
    """Return (side, side, 2): one, and the distance from the centre as radial backgrounds are drawn."""
    axis = (np.arange(SIDE, dtype=np.float32) + 0.5) / SIDE - 0.5
    ramp = np.clip(np.hypot(axis[:, None], axis[None]) / 0.7, 0, 1)
    return np.stack([np.ones_like(ramp), ramp], -1)


def _error(course: np.ndarray, pixels: np.ndarray) -> float:
    """Return how far a background is from a picture along its top and bottom border."""
    away = np.abs(course - pixels)
    return float((away[:RING].mean() + away[-RING:].mean()) / 2)


def _radial_course(pixels: np.ndarray) -> np.ndarray:
    """Return the background linear in the distance from the centre that fits the border best."""
    design = _radius()
    ring = np.ones((SIDE, SIDE), bool)
    ring[RING:-RING, RING:-RING] = False
    fit = np.linalg.lstsq(design[ring], pixels[ring], rcond=None)[0]
    return (design @ fit).astype(np.float32)


def _find_horizon(rows: np.ndarray) -> int | None:
    """Return the row where a pale wall meets the ground, or None: one step between two smooth courses."""
    low, high = round(0.45 * SIDE), round(0.72 * SIDE)
    step = np.abs(rows[4:] - rows[:-4]).max(-1)  # step[y] spans y .. y+4
    at = low + int(step[low:high].argmax())
    away = np.concatenate([step[: at - 6], step[at + 7 :]])
    wall = rows[: at + 1]
    flat = np.abs(wall - np.median(wall, 0)).mean() < 4
    pale = wall.mean() > 190
    return at if flat and pale and step[at] > max(6.0, 2.5 * np.quantile(away, 0.9)) else None


def _word(colour: np.ndarray) -> str:
    """Return the colour word whose shades come nearest."""
    shades, words = _shades()
    return COLOURS[words[np.square(shades - colour).sum(-1).argmin()]]


@cache
def _shades() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    shades = [[paint(word, rng) for _ in range(_SHADES)] for word in COLOURS]
    return np.array(shades, np.float32).reshape(-1, 3), np.repeat(np.arange(len(COLOURS)), _SHADES)
