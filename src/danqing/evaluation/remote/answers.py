"""What vendors send, made safe to keep: pictures within limits, and notes beside them."""

import base64
import binascii
import ipaddress
import socket
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from PIL import Image

from danqing.conditioning.given import MAX_BYTES, open_transparent
from danqing.errors import DataError, RequestError
from danqing.evaluation.items import Made
from danqing.retry import PASSING, PassingError
from danqing.scoring.vendors import TIMED_OUT

NOTES: Final = "answered"
"""Key of a picture's `info`: what a vendor said of it, as plain JSON (revised prompt, tokens used)."""
INVALID: Final = "invalid picture"
"""How the reason of this outcome begins."""


def noted(picture: Image.Image, notes: Mapping[str, Any]) -> Image.Image:
    """Return the picture with what its vendor said of it, empty things left out."""
    picture.info[NOTES] = {name: value for name, value in notes.items() if value not in (None, "", {})}
    return picture


def notes_of(made: Made) -> dict[str, Any]:
    """Return what a vendor said of an answer; empty for a text and for pictures without notes."""
    return dict(made.info.get(NOTES, {})) if isinstance(made, Image.Image) else {}


def picture_from(content: bytes | str | None) -> Image.Image:
    """Return the picture in bytes, or in base64; RGB, or RGBA where it has transparency.

    Raises DataError, with a reason that begins with INVALID, for what is none, broken or beyond the limits
    of pictures that users give.
    """
    if not content:
        raise DataError(f"{INVALID}: expected one, found none in the answer")
    if isinstance(content, str) and len(content) > MAX_BYTES * 4 // 3 + 4:
        raise DataError(f"{INVALID}: expected at most {MAX_BYTES} bytes, found more")
    try:
        data = base64.b64decode(content, validate=True) if isinstance(content, str) else content
        picture = open_transparent(data, name=INVALID).image
    except binascii.Error:
        raise DataError(f"{INVALID}: expected base64, found something else") from None
    except RequestError as error:  # a vendor's fault, where a user's picture would be the user's
        raise DataError(str(error)) from None
    return picture.convert("RGB") if picture.getchannel("A").getextrema() == (255, 255) else picture


def fetched(address: str, *, endpoint: str, seconds: float) -> bytes:
    """Return the bytes of a picture that an answer points to.

    The address is https and public, or lies on the very endpoint that answered; nothing is followed
    elsewhere, and reading ends at the limit. Raises DataError for other addresses and for what is too large,
    PassingError for what may work in a moment.
    """
    import httpx2  # what the clients speak HTTP with

    _check_address(address, endpoint)
    try:
        with httpx2.stream("GET", address, timeout=seconds, follow_redirects=False) as response:
            if response.status_code in PASSING:
                raise PassingError(f"{INVALID}: its address answered {response.status_code}")
            if response.status_code != 200:
                raise DataError(f"{INVALID}: expected it at its address, found {response.status_code}")
            data = bytearray()
            for part in response.iter_bytes():
                data += part
                if len(data) > MAX_BYTES:
                    raise DataError(f"{INVALID}: expected at most {MAX_BYTES} bytes, found more")
            return bytes(data)
    except httpx2.TimeoutException:
        raise PassingError(f"{TIMED_OUT} fetching a picture after {seconds:g} seconds") from None
    except httpx2.HTTPError as error:
        raise PassingError(f"{INVALID}: cannot fetch it ({type(error).__name__})") from None


def _check_address(address: str, endpoint: str) -> None:
    wanted, own = urlsplit(address), urlsplit(endpoint)
    if wanted.netloc and (wanted.scheme, wanted.netloc) == (own.scheme, own.netloc):
        return
    if wanted.scheme != "https" or not wanted.hostname:
        raise DataError(f"{INVALID}: expected an https address, found {wanted.scheme or 'none'}")
    try:
        found = socket.getaddrinfo(wanted.hostname, wanted.port or 443, type=socket.SOCK_STREAM)
    except OSError:
        raise PassingError(f"{INVALID}: cannot find the host of its address") from None
    if not all(ipaddress.ip_address(one[4][0]).is_global for one in found):
        raise DataError(f"{INVALID}: expected a public address, found one of a private network")
