"""What every live system is asked alike: what decides an answer, and the picture of an item."""

from collections.abc import Mapping
from typing import Any

from PIL import Image

from danqing.errors import RequestError
from danqing.evaluation.items import Item
from danqing.evaluation.systems import SourceOf


def request_of(item: Item, seed: int) -> Mapping[str, Any]:
    """Return what decides the answer to an item; vendors draw by chance, so the seed numbers the samples."""
    if item.ability == "draw":
        return {"prompt": item.prompt, "seed": seed}
    asked = {"ability": item.ability, "prompt": item.prompt, "source": item.source, "seed": seed}
    return {**asked, "language": item.language} if item.ability == "describe" else asked


def picture_of(item: Item, source_of: SourceOf | None) -> Image.Image:
    """Return the picture that an item is about; raises RequestError when nobody can tell."""
    if source_of is None:
        raise RequestError(f"expected an item to draw, found one about a picture: {item.prompt!r}")
    return source_of(item)
