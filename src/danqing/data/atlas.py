"""Atlas: every concept in every style, in one file.

File layout (safetensors): tensor `webp`, uint8, the WebP pictures one after another, concept by concept and
style by style; tensor `offsets`, int64, where each starts (one more than there are pictures); metadata with
JSON strings: `format`, `size`, `concepts` (codes), `styles` (word -> attribution), `sprites` (colour facts of
each picture).
"""

import io
import json
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Final, Self

import numpy as np
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from danqing.data.colours import DYES, dominant_colour, dominant_hue, dye
from danqing.data.concepts import concepts
from danqing.errors import DataError

FORMAT: Final = "danqing-atlas-1"
MAX_BYTES: Final = 64 * 2**20
MAX_SIZE: Final = 512
MAX_SPRITES: Final = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What can honestly be said of one sprite's colour."""

    colour: str | None
    """The colour word that fills it, if one does."""
    hue: float | None
    """The hue in degrees that fills most of it, if one does."""
    dyes: tuple[str, ...]
    """Colours it can be dyed with and is then measured to have."""


@dataclass(frozen=True, slots=True)
class Sprite:
    """A picture (size, size, 4) uint8 and its colour facts."""

    pixels: np.ndarray
    facts: Facts

    @classmethod
    def of(cls, pixels: np.ndarray) -> Self:
        """Measure a picture; each possible dye is tried and kept only when the result has that colour."""
        hue, colour = dominant_hue(pixels), dominant_colour(pixels)
        dyes: tuple[str, ...] = ()
        if hue is not None:
            small = Image.fromarray(pixels).resize((64, 64), Image.Resampling.BOX)
            dyes = tuple(
                word
                for word in DYES
                if word != colour and dominant_colour(np.asarray(dye(small, hue, word)), 0.55) == word
            )
        return cls(pixels, Facts(colour=colour, hue=None if hue is None else round(hue, 1), dyes=dyes))


class Atlas:
    """Sprites in memory. `pixels` is (concepts, styles, size, size, 4) uint8 RGBA, content touching the
    square."""

    def __init__(
        self, pixels: np.ndarray, codes: list[str], licences: dict[str, str], facts: list[list[Facts]]
    ):
        self.pixels = pixels
        self.codes = tuple(codes)
        self.licences = licences
        self.styles = tuple(licences)
        self._facts = facts
        self._concept = {code: index for index, code in enumerate(self.codes)}
        self._style = {style: index for index, style in enumerate(self.styles)}
        opaque = pixels[..., 3] > 12
        size = pixels.shape[2]
        # content is centred, so its extent is what the central rows and columns leave over
        self._extent = np.stack([opaque.any(2).sum(-1) / size, opaque.any(3).sum(-1) / size], -1)

    @classmethod
    def load(cls, path: Path | str | None = None) -> Self:
        """Read an atlas file, or the small one inside the package when `path` is None.

        Sizes and counts are checked before anything is decoded. Raises DataError for a file that is not an
        atlas.
        """
        path = (
            Path(path)
            if path is not None
            else Path(str(resources.files("danqing.data") / "sprites.safetensors"))
        )
        if not path.is_file():
            raise DataError(
                f"expected an atlas at {path}, found no file; build it with danqing.data.build_atlas"
            )
        if path.stat().st_size > MAX_BYTES:
            raise DataError(
                f"expected an atlas up to {MAX_BYTES} bytes, found {path.stat().st_size} in {path}"
            )
        try:
            with safe_open(path, "np") as file:
                meta = file.metadata() or {}
                if meta.get("format") != FORMAT:
                    raise DataError(f"expected format {FORMAT!r} in {path}, found {meta.get('format')!r}")
                webp, offsets = file.get_tensor("webp"), file.get_tensor("offsets")
        except SafetensorError as error:
            raise DataError(f"expected a safetensors atlas in {path}: {error}") from error
        return cls._decode(path, meta, webp, offsets)

    @classmethod
    def _decode(cls, path: Path, meta: dict[str, str], webp: np.ndarray, offsets: np.ndarray) -> Self:
        try:
            size, codes = int(meta["size"]), json.loads(meta["concepts"])
            licences, rows = json.loads(meta["styles"]), json.loads(meta["sprites"])
            facts = [[Facts(colour=c, hue=h, dyes=tuple(d)) for c, h, d in row] for row in rows]
        except (KeyError, ValueError, TypeError) as error:
            raise DataError(f"expected atlas metadata in {path}, found it broken: {error!r}") from error
        shape = (len(codes), len(licences))
        count = shape[0] * shape[1]
        if not (0 < size <= MAX_SIZE and 0 < count <= MAX_SPRITES and count * size * size * 4 <= 2**31):
            raise DataError(
                f"expected sprites within {MAX_SIZE} pixels and 2 GiB, found {count} of {size} in {path}"
            )
        if (
            offsets.shape != (count + 1,)
            or offsets[0] != 0
            or (np.diff(offsets) <= 0).any()
            or offsets[-1] != webp.size
            or [len(row) for row in facts] != [shape[1]] * shape[0]
        ):
            raise DataError(f"expected {count} pictures in {path}, found offsets that do not fit")
        if unknown := sorted(set(codes) - set(concepts())):
            raise DataError(
                f"expected concepts of concepts.json, found {unknown[:3]} in {path}; build it again"
            )
        pixels = np.empty((*shape, size, size, 4), np.uint8)
        for index in range(count):
            picture = Image.open(
                io.BytesIO(webp[offsets[index] : offsets[index + 1]].tobytes()), formats=("WEBP",)
            )
            if picture.size != (size, size):
                raise DataError(f"expected pictures of {size} pixels in {path}, found {picture.size}")
            pixels[divmod(index, shape[1])] = np.asarray(picture.convert("RGBA"))
        return cls(pixels, codes, licences, facts)

    @property
    def size(self) -> int:
        """Side of a sprite in pixels."""
        return self.pixels.shape[2]

    def has(self, code: str, style: str) -> bool:
        """Tell whether a concept is drawn in a style."""
        return code in self._concept and style in self._style

    def sprite(self, code: str, style: str) -> np.ndarray:
        """Return one sprite, (size, size, 4) uint8; a view."""
        return self.pixels[self._at(code, style)]

    def facts(self, code: str, style: str) -> Facts:
        """Return the colour facts of one sprite."""
        row, column = self._at(code, style)
        return self._facts[row][column]

    def extent(self, code: str, style: str) -> tuple[float, float]:
        """Return width and height of a sprite's content as fractions of its square; the larger one is 1."""
        width, height = self._extent[self._at(code, style)]
        return float(width), float(height)

    def _at(self, code: str, style: str) -> tuple[int, int]:
        try:
            return self._concept[code], self._style[style]
        except KeyError as error:
            raise DataError(
                f"expected a concept and style of this atlas, found {code!r} in {style!r}"
            ) from error


@cache
def packaged_atlas() -> Atlas:
    """Return the small atlas inside the package, read once."""
    return Atlas.load()


def write_atlas(
    path: Path,
    codes: list[str],
    licences: dict[str, str],
    sprites: dict[tuple[str, str], Sprite],
    *,
    quality: int | None = None,
) -> Path:
    """Write sprites, by (code, style), as an atlas file; lossless unless a WebP `quality` is given."""
    pictures, facts = [], []
    for code in codes:
        row = []
        for style in licences:
            buffer = io.BytesIO()
            image = Image.fromarray(sprites[code, style].pixels)
            if quality is None:
                image.save(buffer, "WEBP", lossless=True, method=4)
            else:
                image.save(buffer, "WEBP", quality=quality, alpha_quality=70, method=6)
            pictures.append(np.frombuffer(buffer.getvalue(), np.uint8))
            row.append(list(asdict(sprites[code, style].facts).values()))
        facts.append(row)
    offsets = np.cumsum([0, *(picture.size for picture in pictures)], dtype=np.int64)
    size = next(iter(sprites.values())).pixels.shape[0]
    meta = {
        "format": FORMAT,
        "size": str(size),
        "concepts": json.dumps(codes),
        "styles": json.dumps(licences),
        "sprites": json.dumps(facts),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"webp": np.concatenate(pictures), "offsets": offsets}, path, metadata=meta)
    return path
