"""Patterns of backgrounds, read off what things leave of them: stripes, dots, checks, or none."""

from collections.abc import Iterable, Sequence
from functools import cache
from itertools import product
from typing import Final

import numpy as np
from PIL import Image

from danqing.data.world import BackgroundKind
from danqing.data.world.render import blend
from danqing.scoring.background import SIDE, normalised
from danqing.scoring.reading import Box

REPEATS: Final = range(5, 11)
"""How often a pattern repeats along a side."""
LEAST: Final = 0.2
"""Correlation from which a pattern is there; without one it stays below 0.1."""
_ROOM: Final = 1.1  # of a box, that is left out
_COARSE: Final = 4
_FINE: Final = 8
"""Parts of a repeat by which patterns are moved, to find how often they repeat, and then their kind: dots and
checks differ in their outlines alone."""


def find_pattern(picture: np.ndarray | Image.Image, things: Sequence[Box] = ()) -> BackgroundKind | None:
    """Return the pattern that the background follows best, wherever it begins; None where none fits."""
    pixels = normalised(picture)
    free = _outside(things)
    if free.sum() < SIDE:
        return None
    shades = pixels.sum(-1)[free]
    shades -= shades.mean()
    if not shades.any():
        return None
    repeats = max(REPEATS, key=lambda repeats: _fits(repeats, _COARSE, free, shades).max())
    fits = _fits(repeats, _FINE, free, shades)
    best = int(fits.argmax())
    return _patterns(repeats, _FINE)[0][best] if fits[best] > LEAST else None


def _fits(repeats: int, parts: int, free: np.ndarray, shades: np.ndarray) -> np.ndarray:
    """Return the correlation, whatever its sign, of each moved pattern with the shades of free pixels."""
    found = _patterns(repeats, parts)[1][:, free.ravel()]
    found = found - found.mean(1, keepdims=True)
    scale = np.linalg.norm(found, axis=1) * np.linalg.norm(shades)
    fits: np.ndarray = np.abs(found @ shades) / np.maximum(scale, 1e-6)
    return fits


def _outside(things: Sequence[Box]) -> np.ndarray:
    """Return (side, side) bool: what no box covers."""
    axis = (np.arange(SIDE) + 0.5) / SIDE
    free = np.ones((SIDE, SIDE), bool)
    for box in things:
        down = np.abs(axis - box.y) < _ROOM * box.height / 2
        across = np.abs(axis - box.x) < _ROOM * box.width / 2
        free &= ~(down[:, None] & across[None])
    return free


@cache
def _patterns(repeats: int, parts: int) -> tuple[list[BackgroundKind], np.ndarray]:
    """Return kinds, and (patterns, side * side) float32 of how much each has of its second tone.

    Stripes and checks moved by half a repeat change their tones, which a correlation without sign forgives.
    """
    whole, half = range(parts), range(parts // 2)
    moves: dict[BackgroundKind, Iterable[tuple[int, int]]] = {
        "stripes": product((0,), half),
        "checks": product(half, half),
        "dots": product(whole, half),  # half a repeat down and across is the same again
    }
    kinds: list[BackgroundKind] = []
    found = []
    for kind, moved in moves.items():
        drawn, step = blend(kind, 1 / repeats, SIDE), SIDE / repeats / parts
        for down, across in moved:
            kinds.append(kind)
            found.append(np.roll(drawn, (round(down * step), round(across * step)), (0, 1)).ravel())
    return kinds, np.stack(found)
