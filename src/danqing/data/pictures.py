"""Pictures to train an autoencoder on: scenes, some of them overdrawn with letters and strokes."""

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from danqing.data.atlas import Atlas
from danqing.data.world import render, sample_scene

_MARKED_SHARE = 0.25  # of the pictures carry letters or strokes: fine detail that sprites alone do not teach
_GLYPHS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


class PictureSource:
    """Draws scenes of the world, one random generator a batch."""

    def __init__(
        self, atlas: Atlas, *, size: int = 128, fonts: tuple[Path, ...] = (), glyphs: str = ""
    ) -> None:
        """`fonts` are TrueType files that hold `glyphs`, further characters to overdraw (Chinese, say)."""
        self.atlas, self.size, self.fonts, self.glyphs = atlas, size, fonts, glyphs

    def pictures(self, rng: np.random.Generator, count: int) -> list[np.ndarray]:
        """Return `count` training pictures, (size, size, 3) uint8 each."""
        return [self._picture(rng) for _ in range(count)]

    def held_out(self, count: int) -> list[np.ndarray]:
        """Return the first `count` held-out scenes, always the same ones."""
        rng = np.random.default_rng(0)
        return [
            render(sample_scene(rng, self.atlas, "held_out"), self.atlas, self.size) for _ in range(count)
        ]

    def _picture(self, rng: np.random.Generator) -> np.ndarray:
        picture = render(sample_scene(rng, self.atlas), self.atlas, self.size)
        return self._mark(rng, picture) if rng.random() < _MARKED_SHARE else picture

    def _mark(self, rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
        canvas = Image.fromarray(picture)
        draw = ImageDraw.Draw(canvas)
        for _ in range(rng.integers(1, 5)):
            ink = tuple(int(value) for value in rng.integers(0, 256, 3))
            x, y = (int(value) for value in rng.integers(-8, self.size, 2))
            if rng.random() < 0.75:
                chinese = bool(self.fonts) and rng.random() < 0.4
                letters = self.glyphs if chinese else _GLYPHS
                text = "".join(letters[i] for i in rng.integers(0, len(letters), rng.integers(1, 7)))
                pixels = int(rng.integers(10, 40))
                font = _font(self.fonts[int(rng.integers(len(self.fonts)))] if chinese else None, pixels)
                draw.text((x, y), text, fill=ink, font=font)
            else:
                end = tuple(int(value) for value in rng.integers(0, self.size, 2))
                draw.line([(x, y), end], fill=ink, width=int(rng.integers(1, 6)))
        return np.asarray(canvas)


@cache
def _font(path: Path | None, pixels: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(pixels) if path is None else ImageFont.truetype(str(path), pixels)
