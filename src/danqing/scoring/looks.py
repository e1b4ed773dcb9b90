"""Every look that a thing of the world can have: its sprites, and the colours they are dyed in."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from danqing.data.atlas import Atlas
from danqing.data.colours import dye
from danqing.data.world.shapes import shape_tile


class Template(NamedTuple):
    """One look that a thing can have."""

    concept: str
    """Code."""
    style: str | None
    """None for plain shapes."""
    dye: str | None
    """The colour that it was given; None for its own."""
    colour: str | None
    """The colour word that fills it, if one does."""


def looks(atlas: Atlas, codes: Sequence[str], styles: Sequence[str] | None = None) -> Iterator[Template]:
    """Yield the looks of concepts, sprite by sprite; of all styles unless some are named."""
    for code in codes:
        for style in styles or atlas.styles_of(code):
            if not atlas.has(code, style):
                continue
            facts = atlas.facts(code, style)
            yield Template(code, style, None, facts.colour)
            if facts.hue is not None:
                yield from (Template(code, style, word, word) for word in facts.dyes)


def look(atlas: Atlas, template: Template, side: int) -> np.ndarray:
    """Return a look as (side, side, 4) uint8, RGBA."""
    if template.style is None:
        assert template.dye is not None
        return np.array(_shrunk(shape_tile(template.concept, template.dye), side))
    image = _shrunk(atlas.sprite(template.concept, template.style), side)
    if template.dye is not None:
        hue = atlas.facts(template.concept, template.style).hue
        assert hue is not None
        image = dye(image, hue, template.dye)
    return np.array(image)


def _shrunk(tile: np.ndarray, side: int) -> Image.Image:
    return Image.fromarray(tile).resize((side, side), Image.Resampling.BOX)
