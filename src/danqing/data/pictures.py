"""Pictures to train an autoencoder on: scenes, some of them overdrawn with letters and strokes."""

from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from danqing.data.atlas import Atlas
from danqing.data.fonts import font, sign_fonts
from danqing.data.language.tables import pick
from danqing.data.world import render, sample_scene
from danqing.data.world.vocabulary import Script, all_words

_MARKED_SHARE: Final = 0.4  # of the pictures carry letters or strokes: fine detail that sprites do not teach
_CHINESE_SHARE: Final = 0.4
_LETTERS: Final[dict[Script, str]] = {
    "latin": "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789",
    "chinese": "".join(sorted({*"".join(all_words("chinese"))})),
}


class PictureSource:
    """Draws scenes of the world, one random generator a batch."""

    def __init__(self, atlas: Atlas, *, size: int = 128) -> None:
        self.atlas, self.size = atlas, size

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
                script: Script = "chinese" if rng.random() < _CHINESE_SHARE else "latin"
                letters = _LETTERS[script]
                text = "".join(letters[i] for i in rng.integers(0, len(letters), rng.integers(1, 7)))
                face = font(pick(rng, sign_fonts(script)), int(rng.integers(10, 40)))
                draw.text((x, y), text, fill=ink, font=face)
            else:
                end = tuple(int(value) for value in rng.integers(0, self.size, 2))
                draw.line([(x, y), end], fill=ink, width=int(rng.integers(1, 6)))
        return np.asarray(canvas)
