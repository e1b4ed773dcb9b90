"""Pictures that users hand in: opened within limits, upright.

Limits hold before anything is decoded: bytes when reading, pixels when the header is known. Formats are those
whose decoders run inside Pillow; no other program is started.
"""

import struct
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from danqing.errors import RequestError

MAX_BYTES = 64 * 2**20
MAX_PIXELS = 64 * 2**20
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
_SIXTEEN_BITS = ("I", "I;16", "I;16B", "I;16L", "I;16N")
# What Pillow raises for files that are broken in one way or another.
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class GivenPicture:
    """A picture a user handed in: RGB or RGBA, L for a mask; `name` is what metadata calls it."""

    image: Image.Image
    name: str = "picture"


Source = GivenPicture | Image.Image | str | Path | bytes


def open_picture(source: Source, *, name: str | None = None) -> GivenPicture:
    """Return the first frame of `source` as RGB: turned as its EXIF says, transparency laid over white.

    Raises RequestError for what is no picture, broken, or larger than 64 MiB or 64 Mi pixels.
    """
    if isinstance(source, GivenPicture):
        return source
    label, image = _upright(source, name)
    return GivenPicture(image=opaque(image), name=label)


def open_transparent(source: Source, *, name: str | None = None) -> GivenPicture:
    """Return the first frame of `source` as RGBA, turned as its EXIF says; without alpha it is opaque."""
    if isinstance(source, GivenPicture):
        return GivenPicture(image=source.image.convert("RGBA"), name=source.name)
    label, image = _upright(source, name)
    return GivenPicture(image=image.convert("RGBA"), name=label)


def open_mask(source: Source, *, name: str | None = None) -> GivenPicture:
    """Return a mask as grey levels: white where to draw, black (and transparent) where to keep."""
    if isinstance(source, GivenPicture):
        return GivenPicture(image=source.image.convert("L"), name=source.name)
    label, image = _upright(source, name)
    return GivenPicture(image=_without_alpha(image, "black").convert("L"), name=label)


def opaque(image: Image.Image) -> Image.Image:
    """Return a picture as RGB, transparency laid over white."""
    return _without_alpha(image, "white").convert("RGB")


def _upright(source: Image.Image | str | Path | bytes, name: str | None) -> tuple[str, Image.Image]:
    """Return what to call the source, and its first frame, decoded and turned."""
    label = name or (Path(source).name if isinstance(source, str | Path) else "picture")
    shown = str(source) if isinstance(source, str | Path) else label
    if not isinstance(source, Image.Image | str | Path | bytes):
        raise RequestError(f"{shown}: expected a picture or the path of one, found {type(source).__name__}")
    try:
        image = source if isinstance(source, Image.Image) else _opened(source, shown)
        if image.width * image.height > MAX_PIXELS:
            raise RequestError(
                f"{shown}: expected at most {MAX_PIXELS} pixels, found {image.width}x{image.height}"
            )
        upright = ImageOps.exif_transpose(image)
    except FileNotFoundError:
        raise RequestError(f"{shown}: expected a picture, found no file") from None
    except _BROKEN as error:
        raise RequestError(
            f"{shown}: expected a whole picture ({', '.join(FORMATS)}), cannot read it ({_said(error)})"
        ) from None
    if upright.mode == "F":
        raise RequestError(f"{shown}: expected 8 or 16 bits a channel, found floating-point numbers")
    if upright.mode in _SIXTEEN_BITS:  # Pillow would cut such grey levels off at 255
        upright = Image.fromarray((np.asarray(upright).clip(0, 65535) / 257).round().astype(np.uint8))
    return label, upright


def _opened(source: str | Path | bytes, shown: str) -> Image.Image:
    if isinstance(source, bytes):
        data = source
    else:
        with Path(source).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise RequestError(f"{shown}: expected at most {MAX_BYTES} bytes, found more; shrink the picture")
    return Image.open(BytesIO(data), formats=FORMATS)


def _without_alpha(image: Image.Image, ground: str) -> Image.Image:
    if not image.has_transparency_data:
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, ground), image.convert("RGBA"))


def _said(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())
    return "no such format" if "cannot identify" in text else text or type(error).__name__
