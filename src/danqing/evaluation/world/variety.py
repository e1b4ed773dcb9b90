"""How different the pictures of one prompt are, and whether a picture is a copy of a training picture."""

from collections.abc import Sequence
from functools import cached_property
from itertools import combinations
from typing import Final

import numpy as np
from PIL import Image

from danqing.data.atlas import Atlas
from danqing.data.world import render, sample_scene
from danqing.evaluation.results import Answer

_SIDE: Final = 16  # pixels a side at which pictures are compared
_COPY_QUANTILE: Final = 0.01


def variety_of_readings(answers: Sequence[Answer]) -> float:
    """Return how many of the right readings were drawn, as a share of those that could have been."""
    drawn = {
        tuple(atom.wanted for atom in answer.atoms)
        for answer in answers
        if answer.atoms and all(atom.value == 1 for atom in answer.atoms)
    }
    return len(drawn) / min(len(answers), max(len(answers[0].item.readings), 1))


def variety_of_pictures(answers: Sequence[Answer]) -> float:
    """Return the mean difference of two pictures, each pixel and channel from 0 to 1, at 16 pixels a side."""
    small = [shrunk(answer.image) for answer in answers]
    pairs = [np.abs(one - other).mean() for one, other in combinations(small, 2)]
    return float(np.mean(pairs)) if pairs else 0.0


class TrainingPictures:
    """Renders of training scenes to compare with: a picture nearer to one than they are to each other is a
    copy."""

    def __init__(self, atlas: Atlas, *, count: int = 4096, codes: Sequence[str] | None = None) -> None:
        self._atlas, self._count, self._codes = atlas, count, codes

    def is_new(self, picture: Image.Image) -> bool:
        """Tell whether a picture is no copy of a training picture."""
        return self.distance(shrunk(picture)) > self.limit

    def distance(self, small: np.ndarray) -> float:
        """Return the distance to the nearest training picture, a mean over pixels from 0 to 1."""
        return float(np.abs(self._pictures - small).mean((1, 2, 3)).min())

    @cached_property
    def limit(self) -> float:
        """The distance below which only one in a hundred fresh training pictures lies."""
        fresh = self._renders(10**6, 400)
        return float(np.quantile([self.distance(one) for one in fresh], _COPY_QUANTILE))

    @cached_property
    def _pictures(self) -> np.ndarray:
        return self._renders(0, self._count)

    def _renders(self, seed: int, count: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        scenes = [sample_scene(rng, self._atlas, codes=self._codes) for _ in range(count)]
        return np.stack([shrunk(Image.fromarray(render(one, self._atlas, 64))) for one in scenes])


def shrunk(picture: Image.Image) -> np.ndarray:
    """Return a picture as (16, 16, 3) float32 in 0..1, each value the mean of its area."""
    small = picture.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    return np.asarray(small, np.float32) / 255
