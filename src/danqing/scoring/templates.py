"""A second look at what the namer saw: which sprite, in which colour, explains a crop best.

The namer has seen each sprite a few dozen times and confuses what is nearly alike. So every sprite of the
atlas, in every colour it can have, is laid over the crop's own background and correlated with what differs
from that background, so that neither contrast nor shade matters: first all of them coarsely, then the best,
and those of the namer's first guesses, finely.
"""

from collections.abc import Container, Sequence
from functools import cached_property, lru_cache
from itertools import product
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from danqing.data.atlas import Atlas
from danqing.data.colours import COLOURS
from danqing.data.world.shapes import shapes
from danqing.scoring.looks import Template, look, looks
from danqing.scoring.match import Sheets
from danqing.scoring.squares import sample_axis, squares

SIDE: Final = 32
"""Pixels a side at which sprites and crops are compared."""
_COARSE: Final = 16
_FINALISTS: Final = 48  # of the coarse comparison
_VISIBLE: Final = 0.3  # share of a box that must be left to look only at what is not covered
_MARGIN: Final = 0.06  # of the crop on each side is background
_SHIFT: Final = 0.04  # of the crop's side
_GROWTH: Final = 1.08
_LEADERS: Final = 6  # templates that are moved on to where they fit best
_ROUNDS: Final = 3
_GRID: Final = tuple(product((-1, 0, 1), (-1, 0, 1), (-1, 0, 1)))
_STAR: Final = tuple(step for step in _GRID if sum(map(abs, step)) <= 1)
_AXIS: Final = sample_axis(2 * SIDE, torch.device("cpu"))

Place = tuple[float, float, float]
"""How far a crop lies right of and below a box, by the box's longer side, and how large it is to it."""
_HERE: Final = (0.0, 0.0, 1.0)


class Templates:
    """The sprites of an atlas, their dyes and the plain shapes, ready to be compared (all: four seconds)."""

    def __init__(self, atlas: Atlas) -> None:
        self.atlas = atlas

    def explain(
        self, pixels: Tensor, box: Tensor, covers: Tensor, likely: Sequence[str]
    ) -> dict[tuple[str, str | None], float]:
        """Return how well (concept, colour) explain a box, at most 1; at least for all that do it well.

        Args:
            pixels: (1, 3, height, width) in [-1, 1].
            box: (4,) centre x, y, width and height, as fractions of the picture.
            covers: (boxes, 4) of what lies before the thing; it counts only where it is not covered.
            likely: codes that are compared finely in any case.
        """
        view = _View((pixels + 1) / 2, box, covers)
        rough = self._sheets.correlate(F.avg_pool2d(view.crops(_around(_HERE, _STAR)), SIDE // _COARSE))
        rough = rough.amax(1)
        chosen = set(rough.topk(min(_FINALISTS, len(rough))).indices.tolist())
        for code in likely:
            here = self._places.get(code)
            if here is not None:
                chosen.add(here.start + int(rough[here].argmax()))
        finalists = [self.all[at] for at in sorted(chosen)]
        sheets = Sheets.of(torch.stack([_fractions(self.atlas, one, SIDE) for one in finalists]))
        places = _around(_HERE, _GRID)
        found = sheets.correlate(view.crops(places))
        scores, where = found.max(1)
        at = [places[index] for index in where.tolist()]
        for _ in range(_ROUNDS):
            leaders = scores.topk(min(_LEADERS, len(scores))).indices
            places = list(dict.fromkeys(near for one in leaders.tolist() for near in _around(at[one], _STAR)))
            better, where = sheets[leaders].correlate(view.crops(places)).max(1)
            for one, score, index in zip(leaders.tolist(), better, where.tolist(), strict=True):
                if score > scores[one]:
                    scores[one], at[one] = score, places[index]
        best: dict[tuple[str, str | None], float] = {}
        for template, score in zip(finalists, scores.tolist(), strict=True):
            key = template.concept, template.colour
            best[key] = max(score, best.get(key, 0.0))
        return best

    @cached_property
    def all(self) -> tuple[Template, ...]:
        """Every look, concept by concept."""
        return (
            *looks(self.atlas, self.atlas.codes),
            *(Template(code, None, word, word) for code in shapes() for word in COLOURS),
        )

    @property
    def concepts(self) -> Container[str]:
        """The codes that have looks."""
        return self._places.keys()

    @cached_property
    def _sheets(self) -> Sheets:
        return Sheets.of(torch.stack([_fractions(self.atlas, template, _COARSE) for template in self.all]))

    @cached_property
    def _places(self) -> dict[str, slice]:
        """Where each concept's looks lie in `all`."""
        places: dict[str, slice] = {}
        for at, template in enumerate(self.all):
            first = places.get(template.concept, slice(at, at)).start
            places[template.concept] = slice(first, at + 1)
        return places


@lru_cache(maxsize=8192)
def _fractions(atlas: Atlas, template: Template, side: int) -> Tensor:
    """Return a look as (4, side, side) in 0..1."""
    return torch.from_numpy(look(atlas, template, side)).permute(2, 0, 1).float() / 255


class _View:
    """A part of a picture, to be cut out at places near a box."""

    def __init__(self, picture: Tensor, box: Tensor, covers: Tensor) -> None:
        self.x, self.y, self.side = box[0], box[1], box[2:].max()
        self.layers = torch.cat([picture, _seen(picture, box, covers)], 1)
        self.wide = self.side * (1 + 2 * _MARGIN)
        edges = self._sample(self.x[None], self.y[None], self.wide[None])[:, :3]
        rim = max(1, round(2 * SIDE * _MARGIN / 2))
        self.rows = torch.cat([edges[..., :rim], edges[..., -rim:]], -1).median(-1).values  # (1, 3, 2 side)

    def crops(self, places: Sequence[Place]) -> Tensor:
        """Return (places, 7, side, side) for `Sheets`; the median of a row's rim is its background."""
        right, down, scale = torch.tensor(places).T
        y, side = self.y + down * self.side, self.side * scale
        crops = F.avg_pool2d(self._sample(self.x + right * self.side, y, side), 2)
        at = ((y[:, None] + side[:, None] * _AXIS - self.y) / self.wide + 0.5) * (2 * SIDE) - 0.5
        ground = self.rows[0][:, at.round().long().clamp(0, 2 * SIDE - 1)]  # (3, places, 2 side)
        ground = F.avg_pool1d(ground, 2).transpose(0, 1)[..., None].expand(-1, -1, -1, SIDE)
        return torch.cat([crops[:, :3], ground, crops[:, 3:]], 1)

    def _sample(self, x: Tensor, y: Tensor, side: Tensor) -> Tensor:
        """Return squares (places, 4, 2 side, 2 side) around centres."""
        return squares(self.layers, x, y, side, 2 * SIDE)


def _around(place: Place, steps: Sequence[tuple[int, int, int]]) -> list[Place]:
    """Return places so many steps to the right of, below, and larger than a place."""
    x, y, scale = place
    return [
        (x + right * _SHIFT * scale, y + down * _SHIFT * scale, scale * _GROWTH**larger)
        for right, down, larger in steps
    ]


def _seen(picture: Tensor, box: Tensor, covers: Tensor) -> Tensor:
    """Return (1, 1, height, width): 0 inside of what covers the box, else 1; all 1 if too little is left."""
    height, width = picture.shape[-2:]
    xs, ys = (torch.arange(width) + 0.5) / width, (torch.arange(height) + 0.5) / height

    def inside(one: Tensor) -> Tensor:
        x, y, wide, high = one
        return ((ys - y).abs() < high / 2)[:, None] & ((xs - x).abs() < wide / 2)

    whole = inside(box)
    covered = torch.stack([inside(one) for one in covers]).any(0) if len(covers) else whole & False
    left = (whole & ~covered).sum() / whole.sum().clamp(min=1)
    return torch.ones_like(picture[:, :1]) if left < _VISIBLE else (~covered)[None, None].float()
