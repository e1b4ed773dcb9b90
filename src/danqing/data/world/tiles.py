"""Tiles: the pictures of a scene's items before they are scaled and placed.

A tile is a square RGBA picture whose content touches the square at least on two sides. Both renderers scale
and paste tiles and do nothing else, so what an item looks like is decided here once: emoji come from the
atlas, shapes, words and portraits are drawn.
"""

from functools import lru_cache

import numpy as np
from PIL import Image

from danqing.data.atlas import Atlas
from danqing.data.colours import dye
from danqing.data.world.boards import words_extent, words_tile
from danqing.data.world.portraits import portrait_extent, portrait_tile
from danqing.data.world.scene import SHAPE, Item, Thing, Words
from danqing.data.world.shapes import shape_extent, shape_tile
from danqing.errors import DataError

_KEPT = 4096  # tiles of 64 KiB


def tile(item: Item, atlas: Atlas) -> np.ndarray:
    """Return the picture of an item, (side, side, 4) uint8 RGBA, alpha not premultiplied; do not write to it.

    The side depends on what the item is. Raises DataError for a shape without a colour and for a dyed thing
    that cannot be dyed.
    """
    if isinstance(item, Thing):
        if item.style == SHAPE:
            return _shape(item)
        return atlas.sprite(item.concept, item.style) if item.colour is None else _dyed(atlas, item)
    return words_tile(item) if isinstance(item, Words) else portrait_tile(item)


def extent(item: Item, atlas: Atlas) -> tuple[float, float]:
    """Return width and height of an item's content as fractions of its tile; the larger one is 1."""
    if isinstance(item, Thing):
        shape = item.style == SHAPE
        return shape_extent(item.concept) if shape else atlas.extent(item.concept, item.style)
    return words_extent(item) if isinstance(item, Words) else portrait_extent(item)


def _shape(thing: Thing) -> np.ndarray:
    if thing.colour is None:
        raise DataError(f"expected a colour for {thing.concept}, found none; shapes have none by nature")
    return shape_tile(thing.concept, thing.colour)


def _dyed(atlas: Atlas, thing: Thing) -> np.ndarray:
    assert thing.colour is not None
    return _dyed_sprite(atlas, thing.concept, thing.style, thing.colour)


@lru_cache(maxsize=_KEPT)
def _dyed_sprite(atlas: Atlas, concept: str, style: str, colour: str) -> np.ndarray:
    hue = atlas.facts(concept, style).hue
    if hue is None:
        raise DataError(f"expected a thing with a dominant hue, found {concept} in style {style!r}")
    return np.asarray(dye(Image.fromarray(atlas.sprite(concept, style)), hue, colour))
