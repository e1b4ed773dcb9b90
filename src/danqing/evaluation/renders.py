"""Systems that draw the truth: pasted sprites, the same through an autoencoder, or blurred."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from danqing.conditioning.images import to_pictures, to_pixels
from danqing.data.atlas import Atlas
from danqing.data.world import Scene, render
from danqing.errors import RequestError
from danqing.evaluation.items import Item, content_key
from danqing.evaluation.reconstruction import restore
from danqing.models.vae import VAE

Finish = Callable[[Image.Image], Image.Image]
SceneOf = Callable[[Item, int], Scene | None]


class RenderSystem:
    """Pastes the sprites of the scene that an item words: the ceiling of what its judge can see."""

    def __init__(
        self,
        name: str,
        scene_of: SceneOf,
        atlas: Atlas,
        *,
        size: int = 128,
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

    def draw(self, items: Sequence[Item], seed: int) -> list[Image.Image]:
        """Render the scenes; raises RequestError for an item without one."""
        return [self._one(item, seed) for item in items]

    def _one(self, item: Item, seed: int) -> Image.Image:
        scene = self._scene_of(item, seed)
        if scene is None:
            raise RequestError(f"expected an item with a scene, found {item.prompt!r}")
        picture = Image.fromarray(render(scene, self._atlas, self._size))
        return picture if self._finish is None else self._finish(picture)


def through(vae: VAE) -> Finish:
    """Return a finish that encodes and decodes a picture."""
    return lambda picture: to_pictures(restore(vae, to_pixels(np.array(picture)[None])))[0]


def blurred(picture: Image.Image) -> Image.Image:
    """Return a picture blurred by one pixel."""
    return picture.filter(ImageFilter.GaussianBlur(1.0))


def atlas_digest(atlas: Atlas) -> str:
    """Return twelve hexadecimal digits that change when the sprites do, from one of each concept."""
    digest = hashlib.sha256()
    for code in atlas.codes:
        for style in atlas.styles_of(code)[:1]:
            digest.update(f"{code}{style}".encode())
            digest.update(atlas.sprite(code, style).tobytes())
    return digest.hexdigest()[:12]
