"""A second look: of the concepts that the namer thinks of, which sprite explains a crop best.

The namer has seen each sprite a few dozen times and confuses what is nearly alike; its first guesses hold the
right one far more often than its best. Each guess is laid over the crop's own background, in every style and
in the colour that the namer saw, and correlated with what differs from that background, so that neither
contrast nor shade matters.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from danqing.data.atlas import Atlas
from danqing.data.colours import dye
from danqing.data.world.shapes import shape_tile, shapes
from danqing.scoring.match import Sheets

SIDE = 32
"""Pixels a side at which sprites and crops are compared."""
_MARGIN = 0.06  # of the crop on each side is background
_SCALES = (0.92, 1.0, 1.08)
_SHIFTS = (-0.04, 0.0, 0.04)


class Templates:
    """The sprites of an atlas, ready to be compared; made as they are asked for."""

    def __init__(self, atlas: Atlas) -> None:
        self.atlas = atlas
        self._known = frozenset(atlas.codes)

    def scores(
        self, pixels: Tensor, box: Tensor, codes: Sequence[str], colour: str | None
    ) -> dict[str, float]:
        """Return how well each concept explains a box, at most 1; concepts without a sprite have none.

        `pixels` are (1, 3, height, width) in [-1, 1], `box` is (4,) as the namer's.
        """
        sheets = [(code, sheet) for code in codes for sheet in self._sheets(code, colour)]
        if not sheets:
            return {}
        crops = _crops((pixels + 1) / 2, box)
        found = Sheets.of(torch.stack([sheet for _, sheet in sheets])).correlate(crops).amax(1)
        best: dict[str, float] = {}
        for (code, _), score in zip(sheets, found.tolist(), strict=True):
            best[code] = max(score, best.get(code, -1.0))
        return best

    def _sheets(self, code: str, colour: str | None) -> tuple[Tensor, ...]:
        if code in shapes():
            return () if colour is None else (_shape(code, colour),)
        if code not in self._known:
            return ()
        return _drawn(self.atlas, code, None) + (() if colour is None else _drawn(self.atlas, code, colour))


@lru_cache(maxsize=4096)
def _drawn(atlas: Atlas, code: str, colour: str | None) -> tuple[Tensor, ...]:
    """Return a concept in all its styles, each (4, side, side) in 0..1, dyed where it can be."""
    drawn = []
    for style in atlas.styles_of(code):
        facts = atlas.facts(code, style)
        image = Image.fromarray(atlas.sprite(code, style)).resize((SIDE, SIDE), Image.Resampling.BOX)
        if colour is not None:
            if facts.hue is None or colour not in facts.dyes:
                continue
            image = dye(image, facts.hue, colour)
        drawn.append(torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255)
    return tuple(drawn)


@lru_cache(maxsize=256)
def _shape(code: str, colour: str) -> Tensor:
    image = Image.fromarray(shape_tile(code, colour)).resize((SIDE, SIDE), Image.Resampling.BOX)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def _crops(picture: Tensor, box: Tensor) -> Tensor:
    """Return (places, 6, side, side): crops around the box, each with its background, row by row."""
    x, y, side = box[0], box[1], box[2:].max()
    wide = side * (1 + 2 * _MARGIN)
    axis = (torch.arange(2 * SIDE) + 0.5) / (2 * SIDE) - 0.5
    places = [
        (x + dx * side, y + dy * side, side * scale) for scale in _SCALES for dx in _SHIFTS for dy in _SHIFTS
    ]
    edges = _sample(picture, x, y, wide, axis)  # (1, 3, 2 side, 2 side)
    rim = max(1, round(2 * SIDE * _MARGIN / 2))
    rows = torch.cat([edges[..., :rim], edges[..., -rim:]], -1).median(-1).values  # (1, 3, 2 side)
    crops = []
    for px, py, s in places:
        crop = F.avg_pool2d(_sample(picture, px, py, s, axis), 2)
        at = ((py + s * axis - y) / wide + 0.5) * (2 * SIDE) - 0.5
        ground = rows[..., at.round().long().clamp(0, 2 * SIDE - 1)]
        ground = F.avg_pool1d(ground, 2)[..., None].expand_as(crop)
        crops.append(torch.cat([crop, ground], 1))
    return torch.cat(crops)


def _sample(picture: Tensor, x: Tensor, y: Tensor, side: Tensor, axis: Tensor) -> Tensor:
    xs, ys = 2 * (x + side * axis) - 1, 2 * (y + side * axis) - 1
    grid = torch.stack(torch.broadcast_tensors(xs[None, :], ys[:, None]), -1)[None]
    return F.grid_sample(picture, grid, mode="bilinear", padding_mode="border", align_corners=False)
