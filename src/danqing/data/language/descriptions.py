"""Descriptions: the one caption of a scene that says every fact in the plainest words."""

from typing import Final, cast

import numpy as np

from danqing.data.atlas import Atlas
from danqing.data.language.captions import caption
from danqing.data.world.scene import Scene


def description(scene: Scene, language: str, atlas: Atlas | None = None) -> str:
    """Return what someone asked to describe the picture says: always the same words for the same scene.

    Captions are what people ask for, so many of them begin with "draw" or "I would like"; a description does
    not. It says every number, relation and size that is plain, every colour that is certain, natural ones
    too where there is an atlas to know them, and what is written. Raises DataError for an unknown language.
    """
    return caption(scene, language, _FIRST, atlas, length="full")


class _First:
    """A generator that always takes the first choice, and whatever is said by chance is said."""

    def random(self) -> float:
        return 0.0


_FIRST: Final = cast(np.random.Generator, _First())  # captions draw only by `random()`
