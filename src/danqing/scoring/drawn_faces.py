"""Faces of the drawn world: where eyes, nose and mouth are, which expression, which glasses.

The reader's finder marks heads. Around each, patches of the world's own drawing, one for every look of an
eye, the nose and the mouth, are laid over the picture wherever they could be, at three scales; where a patch
correlates best, there is the landmark. Correlation is blind to brightness and contrast.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Final, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from danqing.conditioning.images import to_pixels
from danqing.data.world import Portrait
from danqing.data.world.portraits import GLASSES, MOUTHS, SKINS, portrait_tile
from danqing.scoring.background import normalised
from danqing.scoring.faces import Face, Point
from danqing.scoring.reading import Box, SceneReader, packaged_reader
from danqing.scoring.squares import squares

SIDE: Final = 96
"""Pixels a side at which a head with its shoulders is looked at."""
CLEAR: Final = 0.45
"""Least correlation of a landmark that is there."""
_SCALES: Final = (0.93, 1.0, 1.07)
_REACH: Final = 6  # pixels that a landmark may be away from its place
_PLACES: Final = {
    "left_eye": (0.395, 0.5),
    "right_eye": (0.605, 0.5),
    "nose": (0.5, 0.58),
    "mouth": (0.5, 0.7),
}
_HALVES: Final = {
    "left_eye": (0.1, 0.1),
    "right_eye": (0.1, 0.1),
    "nose": (0.06, 0.05),
    "mouth": (0.112, 0.075),
}
"""Middle, half width and half height of each landmark's patch, an ellipse, where the lower edge is 1."""
_CORNER: Final = 0.08  # from the middle of a mouth


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnFace:
    """A face with what can be named of it."""

    face: Face
    """Its score is the least correlation of a landmark."""
    clear: tuple[str, ...]
    """Landmarks that are there."""
    mouth: str
    """The expression, one of `MOUTHS`."""
    glasses: str


class DrawnFaces:
    """Finds faces of the drawn world; about 50 ms a face besides the reader."""

    name = "world, faces"

    def __init__(self, reader: SceneReader | None = None) -> None:
        self._reader = reader if reader is not None else packaged_reader()
        self.version = f"{self._reader.version}-1"

    def faces(self, picture: Image.Image) -> list[Face]:
        """Return the faces of a picture, most certain first."""
        return sorted((one.face for one in self.read(picture)), key=lambda face: -face.score)

    def read(self, picture: Image.Image) -> list[DrawnFace]:
        """Return the faces of a picture with their expressions."""
        boxes = self._reader.read([np.asarray(picture.convert("RGB"))])[0].faces
        return self.look(picture, boxes)

    @torch.no_grad()
    def look(self, picture: Image.Image, boxes: Sequence[Box]) -> list[DrawnFace]:
        """Return what is seen of faces whose boxes, with the shoulders, are known."""
        pixels = to_pixels(normalised(picture.convert("RGB")).round().astype(np.uint8)[None])
        return [self._look(pixels, box, picture.size) for box in boxes]

    def _look(self, pixels: Tensor, box: Box, size: tuple[int, int]) -> DrawnFace:
        """Find the landmarks of one face at the scale that fits them best."""
        tries = [_landmarks(_cut(pixels, box, scale)) for scale in _SCALES]
        best = max(range(len(tries)), key=lambda at: sum(mark.fit for mark in tries[at].values()))
        marks, side = tries[best], box.width * _SCALES[best]
        bottom = box.y + box.height / 2

        def place(mark: "_Mark", aside: float = 0.0) -> Point:
            x, y = box.x + (mark.x + aside - 0.5) * side, bottom + (mark.y - 1) * side
            return x * size[0], y * size[1]

        width, height = size
        face = Face(
            box=(
                (box.x - box.width / 2) * width,
                (box.y - box.height / 2) * height,
                (box.x + box.width / 2) * width,
                bottom * height,
            ),
            score=max(0.0, min(1.0, min(mark.fit for mark in marks.values()))),
            left_eye=place(marks["left_eye"]),
            right_eye=place(marks["right_eye"]),
            nose=place(marks["nose"]),
            mouth_left=place(marks["mouth"], -_CORNER),
            mouth_right=place(marks["mouth"], _CORNER),
        )
        eyes = max((marks["left_eye"], marks["right_eye"]), key=lambda mark: mark.fit)
        return DrawnFace(
            face=face,
            clear=tuple(name for name, mark in marks.items() if mark.fit >= CLEAR),
            mouth=marks["mouth"].look[0],
            glasses=eyes.look[1],
        )


class _Mark(NamedTuple):
    """Where a landmark is, in the drawing, and which look fits it."""

    x: float
    y: float
    fit: float
    look: tuple[str, str]
    """Expression and glasses."""


def _cut(pixels: Tensor, box: Box, scale: float) -> Tensor:
    """Return the drawing of a face with its lower edge at 1, (1, 3, SIDE, SIDE)."""
    side = torch.tensor([box.width * scale])
    x, y = torch.tensor([box.x]), torch.tensor([box.y + box.height / 2]) - side / 2
    return F.avg_pool2d(squares(pixels, x, y, side, 2 * SIDE), 2)


def _landmarks(drawn: Tensor) -> dict[str, _Mark]:
    found = {}
    for name, (x, y) in _PLACES.items():
        looks, patches, shape = _patches(name)
        down, across = patches.shape[-2:]
        top, left = round(y * SIDE - down / 2) - _REACH, round(x * SIDE - across / 2) - _REACH
        window = drawn[..., top : top + down + 2 * _REACH, left : left + across + 2 * _REACH]
        fits = _correlations(window, patches, shape)
        best = int(fits.argmax())
        look, row, column = np.unravel_index(best, fits.shape)
        found[name] = _Mark(
            x=x + (int(column) - _REACH) / SIDE,
            y=y + (int(row) - _REACH) / SIDE,
            fit=float(fits.flatten()[best]),
            look=looks[int(look)],
        )
    return found


def _correlations(window: Tensor, patches: Tensor, shape: Tensor) -> Tensor:
    """Return (patches, rows, columns) of the correlation of each patch with each place of a window.

    Only what lies in the patch's `shape` counts. Patches have a mean of zero in every colour, and a norm of
    one.
    """
    bands, mask = window.transpose(0, 1), shape[None, None]
    spread = F.conv2d(bands.square(), mask) - F.conv2d(bands, mask).square() / shape.sum()
    scale = spread.sum(0, keepdim=True).clamp_min(1e-3).sqrt()
    return (F.conv2d(window, patches) / scale)[0]


@cache
def _patches(name: str) -> tuple[list[tuple[str, str]], Tensor, Tensor]:
    """Return the looks of a landmark, its patches (looks, 3, height, width), and what of them counts."""
    (x, y), (half, high) = _PLACES[name], _HALVES[name]
    rows = slice(round((y - high) * SIDE), round((y + high) * SIDE))
    columns = slice(round((x - half) * SIDE), round((x + half) * SIDE))
    glasses = GLASSES if name != "mouth" else GLASSES[:1]
    mouths = MOUTHS if name != "nose" else MOUTHS[:1]
    down, across = (torch.linspace(-1, 1, part.stop - part.start) for part in (rows, columns))
    shape = (down[:, None].square() + across[None].square() <= 1.05).float()
    looks, found = [], []
    for mouth, worn, skin in product(mouths, glasses, SKINS):
        patch = _drawing(replace(_PLAIN, mouth=mouth, glasses=worn, skin=skin))[:, rows, columns]
        patch = (patch - (patch * shape).sum((1, 2), keepdim=True) / shape.sum()) * shape
        looks.append((mouth, worn))
        found.append(patch / patch.norm())
    return looks, torch.stack(found), shape


def _drawing(portrait: Portrait) -> Tensor:
    """Return a portrait before grey with its lower edge at 1, (3, SIDE, SIDE) in [-1, 1]."""
    tile = Image.fromarray(portrait_tile(portrait))
    _, _, _, bottom = tile.getchannel("A").getbbox() or (0, 0, 0, tile.height)
    canvas = Image.new("RGB", tile.size, (128, 128, 128))
    canvas.paste(tile, (0, tile.height - bottom), tile)
    return to_pixels(np.array(canvas.resize((SIDE, SIDE), Image.Resampling.BOX))[None])[0]


_PLAIN: Final = Portrait(
    skin="light",
    hair="bald",
    hair_colour="black",
    glasses="none",
    hat="none",
    hat_colour="black",
    beard=False,
    mouth="neutral",
    shirt="gray",
    size=1.0,
    x=0.5,
    y=0.5,
)
