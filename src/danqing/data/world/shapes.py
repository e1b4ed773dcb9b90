"""Plain shapes: circles, stars, arrows and the like, drawn here, in any of the eleven colours."""

import math
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from danqing.data.colours import paint_plain
from danqing.data.concepts import Concept, concepts
from danqing.errors import DataError

SIDE: Final = 192
"""Side of a drawn tile in pixels: enough for pictures of 256."""

CONTAINERS: Final = (
    "shape-circle",
    "shape-square",
    "shape-heart",
    "shape-hexagon",
    "shape-diamond",
    "shape-ring",
)
"""Shapes that a thing can be inside of."""

_FINE: Final = 4 * SIDE  # outlines are drawn four times as large
_ROOM: Final = 16  # pixels around a mask while its rim is found
_RIM: Final = 0.8  # how dark the rim is, which keeps a white shape visible before a white wall
_LIGHT: Final = 0.06  # how much lighter the top is, and how much darker the bottom

Points = list[tuple[float, float]]


@cache
def shapes() -> dict[str, Concept]:
    """Return the plain shapes by code, in their fixed order, with their names in twelve languages."""
    return {code: concept for code, concept in concepts().items() if concept.group == "shapes"}


@lru_cache(maxsize=256)
def shape_tile(code: str, colour: str) -> np.ndarray:
    """Return a shape in the middle shade of a colour word, (SIDE, SIDE, 4) uint8 RGBA, a little shaded."""
    mask, rim = _mask(code)
    ramp = np.linspace(1 + _LIGHT, 1 - _LIGHT, SIDE, dtype=np.float32)[:, None]
    shade = (ramp * rim)[..., None] * np.array(paint_plain(colour), np.float32)
    pixels = np.dstack([np.clip(shade, 0, 255), mask]).round().astype(np.uint8)
    pixels.setflags(write=False)
    return pixels


@cache
def shape_extent(code: str) -> tuple[float, float]:
    """Return width and height of a shape as fractions of its tile; the larger one is 1."""
    opaque = _mask(code)[0] > 12
    return float(opaque.any(0).sum() / SIDE), float(opaque.any(1).sum() / SIDE)


@cache
def _mask(code: str) -> tuple[np.ndarray, np.ndarray]:
    """Return where a shape is, 0..255, and how bright its rim leaves it, 0..1; each (SIDE, SIDE) float32."""
    if code not in _OUTLINES:
        raise DataError(f"expected a shape of {sorted(_OUTLINES)}, found {code!r}")
    fine = Image.new("L", (_FINE, _FINE))
    pen = ImageDraw.Draw(fine)
    outline, *holes = (_fitted(points) for points in _OUTLINES[code]())
    pen.polygon(outline, fill=255)
    for hole in holes:
        pen.polygon(hole, fill=0)
    mask = fine.resize((SIDE, SIDE), Image.Resampling.BOX)
    room = ImageOps.expand(mask, _ROOM).filter(ImageFilter.GaussianBlur(SIDE / 64))
    inner = np.asarray(room, np.float32)[_ROOM:-_ROOM, _ROOM:-_ROOM] / 255
    rim = _RIM + (1 - _RIM) * np.clip(2 * inner - 0.95, 0, 1)
    return np.asarray(mask, np.float32), rim


def _fitted(points: Points) -> Points:
    """Scale points of the unit square to the fine drawing."""
    return [(x * (_FINE - 1), y * (_FINE - 1)) for x, y in points]


def _ellipse(width: float = 1.0, height: float = 1.0, x: float = 0.5, y: float = 0.5) -> Points:
    angles = [2 * math.pi * step / 180 for step in range(180)]
    return [(x + width / 2 * math.cos(a), y + height / 2 * math.sin(a)) for a in angles]


def _regular(corners: int, start: float) -> Points:
    angles = [start + 2 * math.pi * step / corners for step in range(corners)]
    return _square([(math.cos(a), math.sin(a)) for a in angles])


def _square(points: Points) -> Points:
    """Move and scale points so that they fill the unit square in one direction and are centred in the
    other."""
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    top, bottom = min(y for _, y in points), max(y for _, y in points)
    side = max(right - left, bottom - top)
    return [((x - (left + right) / 2) / side + 0.5, (y - (top + bottom) / 2) / side + 0.5) for x, y in points]


def _star() -> Points:
    angles = [-math.pi / 2 + math.pi * step / 5 for step in range(10)]
    radii = [1.0, 0.45] * 5
    return _square([(r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, angles, strict=True)])


def _heart() -> Points:
    turns = [2 * math.pi * step / 180 for step in range(180)]
    return _square(
        [
            (
                16 * math.sin(t) ** 3,
                -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)),
            )
            for t in turns
        ]
    )


def _crescent() -> Points:
    """Return the outer arc down the left, then the inner one back up: a moon that opens to the right."""
    tip, inner = math.radians(48), math.radians(80)  # half of what is open, seen from the two centres
    radius = math.sin(tip) / math.sin(inner)
    centre = math.cos(tip) - radius * math.cos(inner)
    steps = [step / 60 for step in range(61)]
    outer = [tip + (2 * math.pi - 2 * tip) * step for step in steps]
    inside = [2 * math.pi - inner - (2 * math.pi - 2 * inner) * step for step in steps]
    return _square(
        [(math.cos(a), math.sin(a)) for a in outer]
        + [(centre + radius * math.cos(a), radius * math.sin(a)) for a in inside]
    )


def _cross(arm: float = 0.34) -> Points:
    low, high = 0.5 - arm / 2, 0.5 + arm / 2
    corners = [(low, 0.0), (high, 0.0), (high, low), (1.0, low), (1.0, high), (high, high)]
    return corners + [(1 - x, 1 - y) for x, y in corners]


def _arrow() -> Points:
    upper = [(0.0, 0.36), (0.56, 0.36), (0.56, 0.16), (1.0, 0.5)]
    return upper + [(x, 1 - y) for x, y in reversed(upper[:-1])]


_OUTLINES: Final[dict[str, Callable[[], list[Points]]]] = {
    "shape-circle": lambda: [_ellipse()],
    "shape-square": lambda: [[(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)]],
    "shape-triangle": lambda: [_regular(3, -math.pi / 2)],
    "shape-star": lambda: [_star()],
    "shape-heart": lambda: [_heart()],
    "shape-diamond": lambda: [[(0.5, 0.0), (0.93, 0.5), (0.5, 1.0), (0.07, 0.5)]],
    "shape-hexagon": lambda: [_regular(6, 0.0)],
    "shape-ring": lambda: [_ellipse(), _ellipse(0.66, 0.66)],
    "shape-cross": lambda: [_cross()],
    "shape-crescent": lambda: [_crescent()],
    "shape-arrow": lambda: [_arrow()],
    "shape-oval": lambda: [_ellipse(1.0, 0.64)],
}
"""Outline of each shape in the unit square, then its holes."""
