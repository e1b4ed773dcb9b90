"""What clients of vendors share: an address without a key, pictures as PNG, reasons without secrets."""

import base64
import io
import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from PIL import Image

from danqing.errors import ConfigError

ENDPOINT_KEY: Final = "DANQING_ENDPOINT_KEY"
"""Variable with the key of an endpoint that is not its vendor's own; it never gets the vendor's key."""
TIMED_OUT: Final = "timed out"
"""How the reason of an answer that did not come in time begins."""
_LONGEST: Final = 300  # characters of a reason
_SECRET: Final = re.compile(
    r"\b(?:sk|rk|pk)-[\w*-]{6,}|\bAIza[\w-]{10,}|\bBearer\s+\S+|\breq[-_]\w+|\?\S+=\S+", re.IGNORECASE
)
_HIDDEN: Final = "[...]"


def checked_endpoint(endpoint: str) -> str:
    """Return the address of an endpoint; raises ConfigError when it is none, or holds a key."""
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"expected an address such as http://127.0.0.1:8000/v1, found {endpoint!r}")
    if parts.username or parts.password or parts.query:
        raise ConfigError(f"expected an address without a key, found one; put the key into {ENDPOINT_KEY}")
    return endpoint.rstrip("/")


def png_of(picture: Image.Image) -> bytes:
    """Return a picture as the bytes of a PNG file, without what it carries along."""
    file = io.BytesIO()
    plain = picture if picture.mode in ("RGB", "RGBA") else picture.convert("RGB")
    Image.frombytes(plain.mode, plain.size, plain.tobytes()).save(file, "PNG")
    return file.getvalue()


def data_address(picture: Image.Image) -> str:
    """Return a picture as an address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(png_of(picture)).decode()}"


def reason(text: object, secrets: Iterable[str] = ()) -> str:
    """Return what a vendor said as one short line without keys, numbers of requests or query strings."""
    line = " ".join(str(text).split())
    for secret in secrets:
        line = line.replace(secret, _HIDDEN) if secret else line
    line = _SECRET.sub(_HIDDEN, line)
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."
