"""What every live system is asked alike: what decides an answer, the picture of an item, a safe address."""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from PIL import Image

from danqing.errors import ConfigError, RequestError
from danqing.evaluation.items import Item
from danqing.evaluation.systems import SourceOf

ENDPOINT_KEY: Final = "DANQING_ENDPOINT_KEY"
"""Variable with the key of an endpoint that is not its vendor's own; it never gets the vendor's key."""


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


def checked_endpoint(endpoint: str) -> str:
    """Return the address of an endpoint; raises ConfigError when it is none, or holds a key."""
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"expected an address such as http://127.0.0.1:8000/v1, found {endpoint!r}")
    if parts.username or parts.password or parts.query:
        raise ConfigError(f"expected an address without a key, found one; put the key into {ENDPOINT_KEY}")
    return endpoint.rstrip("/")
