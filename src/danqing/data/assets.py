"""Openly licensed emoji pictures as training sprites: the sets, one style each, and the builder of the atlas.

Every set below permits training and release of the trained weights; sets with share-alike or proprietary art
are left out on purpose.
"""

import io
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from danqing.data.atlas import Sprite, check_room, write_atlas
from danqing.data.concepts import core_codes, drawn_codes, missing_pictures
from danqing.data.packages import Source, open_pictures
from danqing.errors import DataError, ResourceError

_NOTO: Final = Source(
    name="@iconify-json/noto",
    version="1.2.9",
    style="shaded",
    layout="coded",
    licence="Apache-2.0",
    attribution="Noto Emoji, Google",
    integrity="sha512-DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
)
_FLUENT_FLAT: Final = Source(
    name="@iconify-json/fluent-emoji-flat",
    version="1.2.6",
    style="flat",
    layout="coded",
    licence="MIT",
    attribution="Fluent Emoji, Microsoft Corporation",
    integrity="sha512-RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
)

STYLES: Final = (
    _NOTO,
    Source(
        name="@iconify-json/twemoji",
        version="1.2.5",
        style="cartoon",
        layout="coded",
        licence="CC-BY-4.0",
        attribution="Twemoji, Twitter and other contributors",
        integrity="sha512-uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw==",
    ),
    _FLUENT_FLAT,
    Source(
        name="@lobehub/fluent-emoji-3d",
        version="1.1.0",
        style="3D",
        layout="files",
        licence="MIT",
        attribution="Fluent Emoji, Microsoft Corporation; packaged by LobeHub",
        integrity="sha512-Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
    ),
    Source(
        name="@iconify-json/noto-v1",
        version="1.2.5",
        style="bold",
        layout="named",
        names=_NOTO,
        licence="Apache-2.0",
        attribution="Noto Emoji until 2017, Google",
        integrity="sha512-/DsVMius69Q0fRS53z7QK1TROSuar606jiIx+laXtdsYGMXpf6LtHBx6CGfoo3UHHb/XpBsw+1L1x3eyPqMuVA==",
    ),
    Source(
        name="@iconify-json/fluent-emoji",
        version="1.2.7",
        style="glossy",
        layout="named",
        names=_FLUENT_FLAT,
        licence="MIT",
        attribution="Fluent Emoji, Microsoft Corporation",
        integrity="sha512-D8G6bKAyIsyxP1rzZtIWr/gg/fO4Rg1+DyCWlfqKK4h8W+4Em/Y0P6QYgJUQTlUcagzJvSyg+9OBv4hz4Hc/QA==",
    ),
    Source(
        name="@iconify-json/emojione",
        version="1.2.3",
        style="detailed",
        layout="named",
        names=_NOTO,
        licence="CC-BY-4.0",
        attribution="EmojiOne 2.2, Ranks.com, with contributions from the EmojiTwo community",
        integrity="sha512-T9+T3HIbJNLKKsmxYKlaYhvnHYkz/HNYTV7SHCXVZPfeUi4FqskY70YeN8yYAZT8cCv7w5vJxS4Q1m8zb9CMMg==",
    ),
    Source(
        name="@iconify-json/streamline-emojis",
        version="1.2.4",
        style="outlined",
        layout="named",
        names=_NOTO,
        licence="CC-BY-4.0",
        attribution="Streamline Emojis, Streamline",
        integrity="sha512-iNr9T9XuZVTyQPJO8ZlLxBzPkpi7qMl+z1l0C31vpEMqhPMelth3n7CeWQYtixdetDPdI81yeG4ROqjWpYJE6A==",
    ),
    Source(
        name="@iconify-json/fxemoji",
        version="1.2.2",
        style="simple",
        layout="named",
        licence="CC-BY-4.0",
        attribution="FxEmojis, Mozilla Foundation",
        integrity="sha512-UAasRaxzFUKfIGSmLwnoarsssA4LX0VLLuEmplIqM6ZNQqIQRtav8tZ4H1neTlBreXuMQyAifr5jP4kn78DpiQ==",
    ),
)
"""The picture sets, one style word each; their order is the order of styles everywhere.

The licence is that of the pictures: the package of FxEmojis names the licence of its code."""

CLDR: Final = (
    Source(
        name="cldr-annotations-full",
        version="48.2.0",
        licence="Unicode-3.0",
        attribution="Unicode CLDR, Unicode, Inc.",
        integrity="sha512-DV7A+rEcgUSNTRsVGNGqBZRmAkGfwhGHO5Q1dRwzBoBnVrHWp804JP7/QJdEc66iHmx3+zLWVIMCFLm0lW7PUQ==",
    ),
    Source(
        name="cldr-annotations-derived-full",
        version="48.2.0",
        licence="Unicode-3.0",
        attribution="Unicode CLDR, Unicode, Inc.",
        integrity="sha512-log62km+AOzI7n/NEuNNFV0mg9DWnt67EYCh1RwxZq9dyRuyteB586LT83Ke8TchEfnwI9cIk2P31zO4nTvZmw==",
    ),
)
EMOJIBASE: Final = Source(
    name="emojibase-data",
    version="17.0.0",
    licence="MIT",
    attribution="Emojibase, Miles Johnson",
    integrity="sha512-Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
)
NAMES: Final = (*CLDR, EMOJIBASE)
"""Names, groups and order of emoji: read once, to make `concepts.json`."""


def build_atlas(
    out: Path | str,
    styles: Iterable[str] | None = None,
    *,
    codes: Sequence[str] | None = None,
    size: int = 128,
    archives: Path | str | None = None,
    quality: int | None = None,
    alpha_quality: int = 100,
    progress: Callable[[str, int], None] | None = None,
) -> Path:
    """Draw concepts in every style that has them and write one atlas file.

    Args:
        out: the safetensors file to write, under a temporary name until it is whole.
        styles: style words of `STYLES`; all of them when None.
        codes: concepts to draw; the core when None.
        size: side of a sprite in pixels.
        archives: folder where package archives are kept between builds; a temporary one when None.
        quality: lossy WebP quality 1..100; lossless when None.
        alpha_quality: 100 keeps the alpha channel of lossy pictures exact.
        progress: called with what is being done and how many concepts are drawn.

    Raises DataError for an unknown style or concept, a wrong archive or other pictures than there were when
    the concepts were chosen, ResourceError without npm or resvg.
    """
    wanted = tuple(styles) if styles is not None else tuple(source.style for source in STYLES)
    if unknown := sorted(set(wanted) - {source.style for source in STYLES}):
        raise DataError(f"expected styles among {[source.style for source in STYLES]}, found {unknown}")
    codes = tuple(codes) if codes is not None else core_codes()
    if unknown := sorted(set(codes) - set(drawn_codes())):
        raise DataError(f"expected codes of concepts.json, found {unknown[:3]}")
    chosen = [source for source in STYLES if source.style in wanted]
    licences = {source.style: f"{source.attribution} ({source.licence})" for source in chosen}
    report = progress or (lambda text, done: None)
    with tempfile.TemporaryDirectory() as scratch:
        sets = {
            source.style: _pictures(source, codes, Path(archives or scratch), report) for source in chosen
        }
    check_room(sum(map(len, sets.values())), size)
    return write_atlas(
        Path(out), licences, _sprites(sets, codes, size, report), quality=quality, alpha_quality=alpha_quality
    )


def _pictures(
    source: Source, codes: tuple[str, ...], folder: Path, report: Callable[[str, int], None]
) -> dict[str, bytes]:
    """Return the pictures of the concepts that a set draws, and those only."""
    report(f"fetching {source.name}", 0)
    pictures = open_pictures(source, folder)
    missing = missing_pictures().get(source.style, frozenset())
    if lost := [code for code in codes if (code in pictures) == (code in missing)]:
        raise DataError(
            f"expected the pictures of {source.name} that concepts.json knows, found a difference at "
            f"{lost[:3]}; make concepts.json again"
        )
    return {code: pictures[code] for code in codes if code in pictures}


def _sprites(
    sets: dict[str, dict[str, bytes]], codes: tuple[str, ...], size: int, report: Callable[[str, int], None]
) -> Iterator[tuple[str, str, Sprite]]:
    for done, code in enumerate(codes):
        report("drawing", done)
        for style, pictures in sets.items():
            if code in pictures:
                yield code, style, Sprite.of(trim(draw(pictures[code], 2 * size), size))


def draw(picture: bytes, size: int) -> Image.Image:
    """Rasterise SVG or decode WebP bytes to an RGBA picture; SVG at `size` pixels."""
    if picture.startswith(b"<svg"):
        try:
            import resvg_py
        except ImportError:
            raise ResourceError(
                "expected resvg_py to draw SVG, found none; pip install danqing[data]"
            ) from None
        picture = bytes(resvg_py.svg_to_bytes(svg_string=picture.decode(), width=size, height=size))
    return Image.open(io.BytesIO(picture)).convert("RGBA")


def trim(picture: Image.Image, size: int) -> np.ndarray:
    """Cut a picture to its content box, centre that in a square and resize; returns (size, size, 4) uint8."""
    box = picture.getchannel("A").point([0] * 12 + [255] * 244).getbbox()
    if box is None:
        raise DataError("expected a picture with content, found an empty one")
    content = picture.crop(box)
    side = max(content.size)
    square = Image.new("RGBA", (side, side))
    square.paste(content, ((side - content.width) // 2, (side - content.height) // 2))
    pixels = np.array(square.resize((size, size), Image.Resampling.LANCZOS))
    pixels[pixels[..., 3] < 3] = 0
    return pixels
