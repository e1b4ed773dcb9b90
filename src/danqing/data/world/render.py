"""The renderer: a scene becomes a picture, item by item, from the back to the front.

This is the reference; `compose` draws many scenes at once on any device and agrees within 2 of 255.
"""

from functools import cache

import numpy as np
from PIL import Image

from danqing.data.atlas import Atlas
from danqing.data.world.scene import Background, Item, Scene
from danqing.data.world.tiles import extent, tile

SHADOW = (20, 20, 28)


def render(scene: Scene, atlas: Atlas, size: int = 128) -> np.ndarray:
    """Draw a scene as (size, size, 3) uint8 RGB. The same scene and atlas give the same bytes."""
    canvas = Image.fromarray(paint_background(scene.background, size))
    if scene.background.kind == "ground":
        for item in scene.items:
            mask, corner = shadow(item, atlas, size)
            canvas.paste(SHADOW, (*corner, corner[0] + mask.width, corner[1] + mask.height), mask)
    for item in scene.items:
        picture, corner = placed(item, atlas, size)
        canvas.paste(picture, corner, picture)
    return np.array(canvas)


def layers(scene: Scene, atlas: Atlas, size: int = 128) -> list[Image.Image]:
    """Return a scene as RGBA layers (size x size), background first; shadows belong to the background.

    Pasting the layers over one another gives `render`.
    """
    background = Image.fromarray(render(Scene((), scene.background), atlas, size))
    if scene.background.kind == "ground":
        for item in scene.items:
            mask, corner = shadow(item, atlas, size)
            background.paste(SHADOW, (*corner, corner[0] + mask.width, corner[1] + mask.height), mask)
    pictures = [background.convert("RGBA")]
    for item in scene.items:
        picture, corner = placed(item, atlas, size)
        layer = Image.new("RGBA", (size, size))
        layer.paste(picture, corner)
        pictures.append(layer)
    return pictures


def placed(item: Item, atlas: Atlas, size: int) -> tuple[Image.Image, tuple[int, int]]:
    """Return an item's picture at its final scale and its upper left corner in pixels."""
    side = max(2, round(item.size * size))
    picture = Image.fromarray(tile(item, atlas)).resize((side, side), Image.Resampling.BICUBIC)
    return picture, (round(item.x * size - side / 2), round(item.y * size - side / 2))


def shadow(item: Item, atlas: Atlas, size: int) -> tuple[Image.Image, tuple[int, int]]:
    """Return the mask of the shadow that an item casts on the ground, and its upper left corner in pixels."""
    width, height = (item.size * side for side in extent(item, atlas))
    box = (max(2, round(1.15 * width * size)), max(2, round(0.26 * width * size)))
    corner = (round(item.x * size - box[0] / 2), round((item.y + height / 2) * size - 0.62 * box[1]))
    return _shadow().resize(box, Image.Resampling.BILINEAR), corner


def paint_background(background: Background, size: int) -> np.ndarray:
    """Return a background alone, (size, size, 3) uint8."""
    rgb = np.array(background.rgb, np.float32)
    if background.kind == "solid":
        return np.broadcast_to(rgb.astype(np.uint8), (size, size, 3)).copy()
    light, dark = rgb + 0.16 * (255 - rgb), rgb * 0.9
    if background.kind == "ground":
        ramp = np.clip((np.arange(size, dtype=np.float32) / size - background.horizon) / 0.45, 0, 1)[:, None]
        rows = light + ramp * (rgb - light)
        rows[: round(background.horizon * size)] = background.pale
        return np.repeat(rows[:, None].astype(np.uint8), size, 1)
    return (light + _ramp(background.kind, size) * (dark - light)).astype(np.uint8)


@cache
def _ramp(kind: str, size: int) -> np.ndarray:
    """Return (size, size, 1) float32 from 0, light, to 1, dark."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    if kind == "gradient":
        return np.repeat(axis[:, None], size, 1)[..., None]
    distance = np.hypot(axis[:, None] - 0.5, axis[None] - 0.5)
    return np.clip(distance / 0.7, 0, 1)[..., None].astype(np.float32)


@cache
def _shadow() -> Image.Image:
    axis = np.linspace(-1, 1, 64)
    distance = np.hypot(axis[:, None], axis[None])
    return Image.fromarray((np.clip(1 - distance, 0, 1) ** 1.5 * 140).astype(np.uint8))
