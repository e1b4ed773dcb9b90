"""Systems that answer with the truth: pasted sprites, the same through an autoencoder, or blurred; words."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from PIL import Image, ImageFilter

from danqing.conditioning.images import to_pictures, to_pixels
from danqing.data.atlas import Atlas
from danqing.data.language import caption
from danqing.data.world import Scene, render
from danqing.errors import RequestError
from danqing.evaluation.digests import atlas_digest
from danqing.evaluation.items import Item, Made, content_key
from danqing.evaluation.world.reconstruction import Autoencoder, restore

Finish = Callable[[Image.Image], Image.Image]
SceneOf = Callable[[Item, int], Scene | None]
SIDE: Final = 128
"""Pixels a side of true renders."""


class RenderSystem:
    """Pastes the sprites of the scene that an item words: the ceiling of what its judge can see."""

    def __init__(
        self,
        name: str,
        scene_of: SceneOf,
        atlas: Atlas,
        *,
        size: int = SIDE,
        finish: Finish | None = None,
        finish_version: str = "",
    ) -> None:
        """`scene_of` gives the scene of an item and a seed; `finish` changes the picture, as `name` says.

        `finish_version` tells one finish from another of the same name: a digest of its weights, say.
        """
        self.name = name
        self.version = content_key({"atlas": atlas_digest(atlas), "size": size, "finish": finish_version})[
            :12
        ]
        self.settings: Mapping[str, Any] = {
            "atlas": len(atlas.codes),
            "styles": list(atlas.styles),
            "size": size,
        }
        self._scene_of, self._atlas, self._size, self._finish = scene_of, atlas, size, finish

    def request(self, item: Item, seed: int) -> Mapping[str, Any]:
        """Return what decides the picture: the item, since two scenes may share a prompt, and the seed."""
        return {"item": item.id, "seed": seed}

    def answer(self, items: Sequence[Item], seed: int) -> list[Made]:
        """Render the scenes, or word them; raises RequestError for an item without one."""
        return [self._one(item, seed) for item in items]

    def _one(self, item: Item, seed: int) -> Made:
        if item.answer:
            return item.answer
        scene = self._scene_of(item, seed)
        if scene is None:
            raise RequestError(f"expected an item with a scene, found {item.prompt!r}")
        if item.ability == "describe":
            return caption(scene, item.language, np.random.default_rng(int(item.id, 16)), length="full")
        picture = Image.fromarray(render(scene, self._atlas, self._size))
        return picture if self._finish is None else self._finish(picture)


def through(vae: Autoencoder) -> Finish:
    """Return a finish that encodes and decodes a picture."""
    return lambda picture: to_pictures(restore(vae, to_pixels(np.array(picture)[None])))[0]


def blurred(picture: Image.Image) -> Image.Image:
    """Return a picture blurred by one pixel."""
    return picture.filter(ImageFilter.GaussianBlur(1.0))
