"""Openly licensed emoji pictures as training sprites: pinned sources and the builder of the atlas.

Packages are fetched by the ordinary `npm` client, pinned by version and by the sha512 of their archive, and
read in memory: nothing is unpacked to disk and no code of theirs runs. Every source below permits training
and release of the trained weights; sets with share-alike or proprietary art are left out on purpose.
"""

import base64
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from danqing.data.atlas import Sprite, write_atlas
from danqing.data.concepts import concepts
from danqing.errors import DataError, ResourceError


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One pinned package of pictures or names."""

    name: str
    version: str
    integrity: str
    """Subresource integrity of the archive: "sha512-" and base64."""
    licence: str
    attribution: str
    style: str = ""
    """The style word of captions; empty for packages without pictures."""
    layout: str = "names"
    """Where pictures lie: "iconify" (SVG bodies in one JSON) or "files" (assets/CODE.webp)."""


STYLES: Final = (
    Source(
        name="@iconify-json/noto",
        version="1.2.9",
        style="shaded",
        layout="iconify",
        licence="Apache-2.0",
        attribution="Noto Emoji, Google",
        integrity="sha512-DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
    ),
    Source(
        name="@iconify-json/twemoji",
        version="1.2.5",
        style="cartoon",
        layout="iconify",
        licence="CC-BY-4.0",
        attribution="Twemoji, Twitter and other contributors",
        integrity="sha512-uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw==",
    ),
    Source(
        name="@iconify-json/fluent-emoji-flat",
        version="1.2.6",
        style="flat",
        layout="iconify",
        licence="MIT",
        attribution="Fluent Emoji, Microsoft Corporation",
        integrity="sha512-RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
    ),
    Source(
        name="@lobehub/fluent-emoji-3d",
        version="1.1.0",
        style="3D",
        layout="files",
        licence="MIT",
        attribution="Fluent Emoji, Microsoft Corporation; packaged by LobeHub",
        integrity="sha512-Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
    ),
)
"""The picture sets of the first world, one style each. A further permitted set is one more row."""

NAMES: Final = (
    Source(
        name="cldr-annotations-full",
        version="48.2.0",
        licence="Unicode-3.0",
        attribution="Unicode CLDR, Unicode, Inc.",
        integrity="sha512-DV7A+rEcgUSNTRsVGNGqBZRmAkGfwhGHO5Q1dRwzBoBnVrHWp804JP7/QJdEc66iHmx3+zLWVIMCFLm0lW7PUQ==",
    ),
    Source(
        name="emojibase-data",
        version="17.0.0",
        licence="MIT",
        attribution="Emojibase, Miles Johnson",
        integrity="sha512-Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
    ),
)
"""Names, groups and order of emoji: read once, to make `concepts.json`."""

_MAX_MEMBER: Final = 64 * 2**20


def build_atlas(
    out: Path | str,
    styles: Iterable[str] | None = None,
    *,
    size: int = 128,
    archives: Path | str | None = None,
    quality: int | None = None,
) -> Path:
    """Draw every concept in every style and write one atlas file.

    Args:
        out: the safetensors file to write.
        styles: style words of `STYLES`; all of them when None.
        size: side of a sprite in pixels.
        archives: folder where package archives are kept between builds; a temporary one when None.
        quality: lossy WebP quality 1..100; lossless when None.

    Raises DataError for an unknown style, a wrong archive or a missing picture, ResourceError without npm or
    resvg.
    """
    wanted = tuple(styles) if styles is not None else tuple(source.style for source in STYLES)
    if unknown := sorted(set(wanted) - {source.style for source in STYLES}):
        raise DataError(f"expected styles among {[source.style for source in STYLES]}, found {unknown}")
    chosen = [source for source in STYLES if source.style in wanted]
    sprites: dict[tuple[str, str], Sprite] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for source in chosen:
            pictures = open_pictures(source, fetch(source, Path(archives or scratch)))
            for code in concepts():
                if code not in pictures:
                    raise DataError(
                        f"{source.name} {source.version} has no picture of {code}; remake concepts.json"
                    )
                sprites[code, source.style] = Sprite.of(trim(draw(pictures[code], 2 * size), size))
    licences = {source.style: f"{source.attribution} ({source.licence})" for source in chosen}
    return write_atlas(Path(out), list(concepts()), licences, sprites, quality=quality)


def fetch(source: Source, folder: Path) -> Path:
    """Return the verified archive of `source` in `folder`, packing it with npm when it is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{source.name.removeprefix('@').replace('/', '-')}-{source.version}.tgz"
    if not path.exists():
        npm = shutil.which("npm")
        if npm is None:
            raise ResourceError(
                f"expected npm to fetch {source.name}@{source.version}, found none; install Node.js"
            )
        command = [npm, "pack", "--silent", "--ignore-scripts", f"{source.name}@{source.version}"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode or not path.exists():
            last = (done.stderr.strip() or "no message").splitlines()[-1]
            raise DataError(f"npm could not pack {source.name}@{source.version}: {last}")
    found = "sha512-" + base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    if found != source.integrity:
        raise DataError(
            f"expected {path.name} with {source.integrity}, found {found}; delete it and try again"
        )
    return path


def read_member(archive: Path, member: str) -> bytes:
    """Read one file of a package archive, refusing more than 64 MiB."""
    with tarfile.open(archive) as tar:
        try:
            entry = tar.getmember(f"package/{member}")
        except KeyError:
            raise DataError(f"expected {member} in {archive.name}, found none") from None
        if not entry.isfile() or entry.size > _MAX_MEMBER:
            raise DataError(f"expected {member} of {archive.name} to be a file up to {_MAX_MEMBER} bytes")
        return tar.extractfile(entry).read()  # type: ignore[union-attr]


def open_pictures(source: Source, archive: Path) -> dict[str, bytes]:
    """Map code ("1F34E", without variation selectors) to SVG or WebP bytes for every picture of a package."""
    if source.layout == "iconify":
        icons, codes = (json.loads(read_member(archive, name)) for name in ("icons.json", "chars.json"))
        aliases = {name: entry["parent"] for name, entry in icons.get("aliases", {}).items()}
        bodies = {}
        for code, name in codes.items():
            icon = icons["icons"].get(aliases.get(name, name))
            if icon is not None:
                width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
                bodies[plain_code(code)] = (
                    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">'
                    f"{icon['body']}</svg>"
                ).encode()
        return bodies
    with tarfile.open(archive) as tar:
        files = [
            entry for entry in tar if entry.isfile() and entry.name.endswith(".webp") and entry.size < 2**20
        ]
        return {
            plain_code(Path(entry.name).stem): tar.extractfile(entry).read()  # type: ignore[union-attr]
            for entry in files
        }


def plain_code(code: str) -> str:
    """Upper-case a hexadecimal code and drop variation selectors, by which the sets differ."""
    return "-".join(part for part in code.upper().split("-") if part != "FE0F")


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
