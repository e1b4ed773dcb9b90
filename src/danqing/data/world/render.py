"""The renderer: a scene becomes a picture, item by item, from the back to the front.

This is the reference; `compose` draws many scenes at once on any device and agrees within 2 of 255.
"""

from functools import cache, lru_cache
from typing import Final

import numpy as np
from PIL import Image

from danqing.data.atlas import Atlas
from danqing.data.world.scene import TEXTURES, Background, BackgroundKind, Item, Scene
from danqing.data.world.tiles import extent, tile

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels, the last two just outside; may reach over the picture's edge."""

SHADOW: Final = (20, 20, 28)
ROWS: Final[tuple[BackgroundKind, ...]] = ("solid", "gradient", "ground")
"""Backgrounds with one colour a row."""


def render(scene: Scene, atlas: Atlas, size: int = 128) -> np.ndarray:
    """Draw a scene as (size, size, 3) uint8 RGB. The same scene and atlas give the same bytes."""
    canvas = _backdrop(scene, atlas, size)
    for item in scene.items:
        box = item_box(item, size)
        picture = scaled(item, atlas, box)
        canvas.paste(picture, box, picture)
    return np.array(canvas)


def layers(scene: Scene, atlas: Atlas, size: int = 128) -> list[Image.Image]:
    """Return a scene as RGBA layers (size x size), background first; shadows belong to the background.

    Pasting the layers over one another gives `render`.
    """
    pictures = [_backdrop(scene, atlas, size).convert("RGBA")]
    for item in scene.items:
        box = item_box(item, size)
        layer = Image.new("RGBA", (size, size))
        layer.paste(scaled(item, atlas, box), box)
        pictures.append(layer)
    return pictures


def item_box(item: Item, size: int) -> Box:
    """Return the square that an item's tile is scaled to, in a picture of `size` pixels."""
    side = max(2, round(item.size * size))
    left, top = round(item.x * size - side / 2), round(item.y * size - side / 2)
    return left, top, left + side, top + side


def shadow_box(item: Item, atlas: Atlas, size: int) -> Box:
    """Return the box of the shadow that an item casts on the ground: flat, a bit wider, at its feet."""
    across, down = extent(item, atlas)
    span = item.size * across * size
    width, height = max(2, round(1.15 * span)), max(2, round(0.26 * span))
    left = round(item.x * size - width / 2)
    top = round((item.y + item.size * down / 2) * size - 0.62 * height)
    return left, top, left + width, top + height


def scaled(item: Item, atlas: Atlas, box: Box) -> Image.Image:
    """Return an item's picture, RGBA, as large as its box."""
    return Image.fromarray(tile(item, atlas)).resize(_shape(box), Image.Resampling.BICUBIC)


def scaled_shadow(box: Box) -> Image.Image:
    """Return the mask of a shadow, L, as large as its box."""
    return Image.fromarray(shadow_mask()).resize(_shape(box), Image.Resampling.BILINEAR)


@cache
def shadow_mask() -> np.ndarray:
    """Return the opacity of a shadow before it is scaled to its box, (64, 64) uint8."""
    axis = np.linspace(-1, 1, 64)
    distance = np.hypot(axis[:, None], axis[None])
    return (np.clip(1 - distance, 0, 1) ** 1.5 * 140).astype(np.uint8)


def paint_background(background: Background, size: int) -> np.ndarray:
    """Return a background alone, (size, size, 3) uint8."""
    if background.kind in ROWS:
        return np.repeat(paint_rows(background, size)[:, None], size, 1)
    first, second = tones(background)
    return (first + blend(background.kind, background.period, size)[..., None] * (second - first)).astype(
        np.uint8
    )


def paint_rows(background: Background, size: int) -> np.ndarray:
    """Return the colour of each row of a background whose kind is one of `ROWS`, (size, 3) uint8."""
    first, second = tones(background)
    if background.kind == "solid":
        return np.broadcast_to(first.astype(np.uint8), (size, 3))
    axis = np.arange(size, dtype=np.float32)
    if background.kind == "gradient":
        return (first + ((axis + 0.5) / size)[:, None] * (second - first)).astype(np.uint8)
    rows = first + np.clip((axis / size - background.horizon) / 0.45, 0, 1)[:, None] * (second - first)
    rows[: round(background.horizon * size)] = background.pale
    return rows.astype(np.uint8)


def tones(background: Background) -> tuple[np.ndarray, np.ndarray]:
    """Return the two colours that a background mixes, (3,) float32 in 0..255; alike when it is solid."""
    rgb = np.array(background.rgb, np.float32)
    if background.kind == "solid":
        return rgb, rgb
    if background.kind in TEXTURES:
        return rgb, np.array(background.pale, np.float32)
    light = rgb + 0.16 * (255 - rgb)
    return light, rgb if background.kind == "ground" else rgb * 0.9


@lru_cache(maxsize=128)
def blend(kind: BackgroundKind, period: float, size: int) -> np.ndarray:
    """Return how much of the second tone each pixel of a radial or textured background has.

    (size, size) float32 in 0..1; textures are antialiased: the share of a pixel that the second tone covers.
    Do not write to it.
    """
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    y, x = axis[:, None], axis[None]
    if kind == "radial":
        return np.clip(np.hypot(y - 0.5, x - 0.5) / 0.7, 0, 1).astype(np.float32)
    if kind == "stripes":
        return _covered((_wave((x + y) / period) - 0.25) * period / np.sqrt(2), size)
    if kind == "dots":
        return _covered(0.27 * period - _nearest_dot(x / period, y / period) * period, size)
    across, down = (2 * _covered((_wave(along / period) - 0.25) * period, size) - 1 for along in (x, y))
    return 0.5 + 0.5 * across * down  # the signs of two waves multiply to a checkerboard


def _backdrop(scene: Scene, atlas: Atlas, size: int) -> Image.Image:
    canvas = Image.fromarray(paint_background(scene.background, size))
    if scene.background.kind == "ground":
        for item in scene.items:
            box = shadow_box(item, atlas, size)
            canvas.paste(SHADOW, box, scaled_shadow(box))
    return canvas


def _shape(box: Box) -> tuple[int, int]:
    return box[2] - box[0], box[3] - box[1]


def _covered(distance: np.ndarray, size: int) -> np.ndarray:
    """Turn how far inside an edge a pixel lies (a fraction of the picture) into the share of it inside."""
    return np.clip(0.5 + distance * size, 0, 1).astype(np.float32)


def _wave(phase: np.ndarray) -> np.ndarray:
    """Return the distance of a phase from the nearest whole number, 0 to 0.5."""
    return np.abs(phase - np.round(phase))


def _nearest_dot(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the distance to the nearest dot; a cell has one in its middle and one at its corners."""
    return np.minimum(np.hypot(_wave(x), _wave(y)), np.hypot(_wave(x + 0.5), _wave(y + 0.5)))
