"""Atlas: pictures of concepts in drawing styles, in one file.

An atlas is sparse: a set of pictures need not draw every concept. Its rows are the (concept, style) pairs it
has, concept by concept.

File layout (safetensors), for `count` rows: `webp`, uint8, one WebP strip a concept with its rows side by
side, one strip after another; `offsets`, int64 (concepts + 1,), where each strip starts; `rows`, int16
(count, 2), which concept and style each row shows; `colours`, int8 (count,), index of the colour word or -1;
`hues`, float32 (count,), degrees or NaN; `dyes`, uint8 (count,), a bit for each dye. Metadata, as strings:
`format`, `size` and, in JSON, `concepts` (codes) and `styles` (word -> attribution).
"""

import io
import json
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import Final, Self

import numpy as np
from einops import rearrange
from PIL import Image
from safetensors import SafetensorError, safe_open

from danqing.data.colours import COLOURS, DYES, dominant_colour, dominant_hue, dye
from danqing.data.concepts import drawn_codes
from danqing.errors import DataError

FORMAT: Final = "danqing-atlas-2"
MAX_BYTES: Final = 512 * 2**20
"""Of a file: ten thousand lossless sprites of 256 pixels take about half."""
MAX_SIZE: Final = 512
MAX_SPRITES: Final = 20_000
"""Twice what nine styles of 1,400 concepts can be."""
MAX_DECODED: Final = 3 * 2**30
"""Bytes of all sprites decoded: ten thousand of 256 pixels take 2.6 GB, of 128 pixels a quarter."""
_DECODERS: Final = 4  # threads
_OPAQUE: Final = 12  # alpha above which a pixel is content
_TENSORS: Final = {
    "webp": np.uint8,
    "offsets": np.int64,
    "rows": np.int16,
    "colours": np.int8,
    "hues": np.float32,
    "dyes": np.uint8,
}


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
    """Sprites by concept and style. Content touches the square; pictures are decoded when first asked for."""

    def __init__(self, tensors: dict[str, np.ndarray], codes: list[str], licences: dict[str, str], size: int):
        self.codes = tuple(codes)
        self.licences = licences
        """Style word -> attribution."""
        self.styles = tuple(licences)
        self.size = size
        """Side of a sprite in pixels."""
        self._tensors = tensors
        self._first = np.searchsorted(tensors["rows"][:, 0], np.arange(len(codes) + 1))
        pairs = [(self.codes[code], self.styles[style]) for code, style in tensors["rows"].tolist()]
        self._rows = {pair: row for row, pair in enumerate(pairs)}
        self._styles: dict[str, tuple[str, ...]] = dict.fromkeys(self.codes, ())
        for code, style in pairs:
            self._styles[code] += (style,)
        # memory is taken as pictures are decoded: the system hands out zeros when they are first written
        self._sprites = np.zeros((len(pairs), size, size, 4), np.uint8)
        self._extents = np.zeros((len(pairs), 2))
        self._decoded = np.zeros(len(codes), bool)

    @classmethod
    def load(cls, path: Path | str | None = None) -> Self:
        """Read an atlas file, or the small one inside the package when `path` is None.

        Sizes and counts are checked here; a picture is decoded, and checked, when it is first asked for.
        Raises DataError for a file that is not an atlas.
        """
        if path is None:
            path = Path(str(resources.files("danqing.data") / "sprites.safetensors"))
        path = Path(path)
        if not path.is_file():
            raise DataError(f"expected an atlas at {path}, found no file; make one with danqing data build")
        if path.stat().st_size > MAX_BYTES:
            raise DataError(
                f"expected an atlas up to {MAX_BYTES} bytes, found {path.stat().st_size} in {path}"
            )
        try:
            with safe_open(path, "np") as file:
                meta = file.metadata() or {}
                if meta.get("format") != FORMAT:
                    raise DataError(
                        f"expected format {FORMAT!r} in {path}, found {meta.get('format')!r}; make it again "
                        "with danqing data build"
                    )
                tensors = {name: file.get_tensor(name) for name in _TENSORS}
        except SafetensorError as error:
            raise DataError(f"expected a safetensors atlas in {path}: {error}") from error
        try:
            size, codes = int(meta["size"]), [str(code) for code in json.loads(meta["concepts"])]
            licences = {str(style): str(text) for style, text in json.loads(meta["styles"]).items()}
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise DataError(f"expected atlas metadata in {path}, found it broken: {error!r}") from error
        _check_tensors(path, tensors, size, len(codes), len(licences))
        if wrong := sorted(set(codes) - set(drawn_codes()))[:3] or _repeated(codes):
            raise DataError(
                f"expected concepts of concepts.json once each in {path}, found {wrong}; build it again"
            )
        return cls(tensors, codes, licences, size)

    def styles_of(self, code: str) -> tuple[str, ...]:
        """Return the styles that draw a concept, in the order of `styles`; none for an unknown one."""
        return self._styles.get(code, ())

    def has(self, code: str, style: str) -> bool:
        """Tell whether there is a picture of this concept in this style."""
        return (code, style) in self._rows

    def index(self, code: str, style: str) -> int:
        """Return the row of a sprite in `sprites`. Raises DataError when there is no such picture."""
        try:
            return self._rows[code, style]
        except KeyError:
            raise DataError(
                f"expected a concept and style of this atlas, found no {code!r} in {style!r}; ask has() first"
            ) from None

    @property
    def sprites(self) -> np.ndarray:
        """All sprites, (rows, size, size, 4) uint8 RGBA; decodes those that nobody has asked for yet."""
        with ThreadPoolExecutor(_DECODERS) as pool:  # Pillow decodes outside the interpreter's lock
            list(pool.map(self._decode, np.flatnonzero(~self._decoded).tolist()))
        self._tensors["webp"] = np.zeros(0, np.uint8)  # nobody needs it any more
        return self._sprites

    def sprite(self, code: str, style: str) -> np.ndarray:
        """Return one sprite, (size, size, 4) uint8; a view."""
        row = self._ready(code, style)
        return self._sprites[row]

    def facts(self, code: str, style: str) -> Facts:
        """Return the colour facts of one sprite."""
        row = self.index(code, style)
        colour, hue, dyes = (self._tensors[name][row] for name in ("colours", "hues", "dyes"))
        return Facts(
            colour=None if colour < 0 else COLOURS[colour],
            hue=None if np.isnan(hue) else round(float(hue), 1),
            dyes=tuple(word for bit, word in enumerate(DYES) if dyes >> bit & 1),
        )

    def extent(self, code: str, style: str) -> tuple[float, float]:
        """Return width and height of a sprite's content as fractions of its square; the larger one is 1."""
        width, height = self._extents[self._ready(code, style)].tolist()
        return width, height

    def _ready(self, code: str, style: str) -> int:
        """Return a row after decoding its concept, unless that is done."""
        row = self.index(code, style)
        concept = int(self._tensors["rows"][row, 0])
        if not self._decoded[concept]:
            self._decode(concept)
        return row

    def _decode(self, concept: int) -> None:
        """Fill and measure the rows of one concept."""
        first, last = self._first[concept : concept + 2].tolist()
        start, end = self._tensors["offsets"][concept : concept + 2].tolist()
        expected = ((last - first) * self.size, self.size)
        try:
            with Image.open(
                io.BytesIO(self._tensors["webp"][start:end].tobytes()), formats=("WEBP",)
            ) as strip:
                if strip.size != expected:
                    raise DataError(
                        f"expected a strip of {expected} pixels for {self.codes[concept]}, found "
                        f"{strip.size}; make the atlas again"
                    )
                pixels = np.asarray(strip.convert("RGBA"))
        except OSError as error:
            raise DataError(
                f"expected WebP for {self.codes[concept]} of the atlas, found broken bytes: {error}"
            ) from error
        tiles = rearrange(pixels, "h (row w) rgba -> row h w rgba", row=last - first)
        opaque = tiles[..., 3] > _OPAQUE
        # content is centred, so its extent is what the outer rows and columns leave over
        self._extents[first:last, 0] = opaque.any(1).sum(-1) / self.size
        self._extents[first:last, 1] = opaque.any(2).sum(-1) / self.size
        self._sprites[first:last] = tiles
        self._decoded[concept] = True


@cache
def packaged_atlas() -> Atlas:
    """Return the small atlas inside the package, read once."""
    return Atlas.load()


def write_atlas(
    path: Path,
    licences: dict[str, str],
    sprites: Iterable[tuple[str, str, Sprite]],
    *,
    quality: int | None = None,
    alpha_quality: int = 100,
) -> Path:
    """Write sprites, as (code, style, sprite) concept by concept and in the order of `licences`, as an atlas.

    Lossless unless a WebP `quality` is given: then colours are approximate, and alpha is exact with an
    `alpha_quality` of 100.
    """
    import torch

    from danqing.weights.store import write_safetensors  # with torch, which reading an atlas does not need

    strips: dict[str, bytes] = {}
    rows: list[tuple[int, int]] = []
    facts: list[Facts] = []
    styles, size = list(licences), 0
    for code, group in groupby(sprites, key=lambda item: item[0]):
        row = list(group)
        strip = np.concatenate([sprite.pixels for _, _, sprite in row], axis=1)
        rows += [(len(strips), styles.index(style)) for _, style, _ in row]
        facts += [sprite.facts for _, _, sprite in row]
        strips[code], size = _encode(strip, quality, alpha_quality), len(strip)
    tensors: dict[str, np.ndarray] = {
        "webp": np.frombuffer(bytearray(b"".join(strips.values())), np.uint8),
        "offsets": np.cumsum([0, *map(len, strips.values())], dtype=np.int64),
        "rows": np.array(rows, np.int16),
        "colours": np.array([-1 if f.colour is None else COLOURS.index(f.colour) for f in facts], np.int8),
        "hues": np.array([np.nan if f.hue is None else f.hue for f in facts], np.float32),
        "dyes": np.array([sum(1 << DYES.index(word) for word in f.dyes) for f in facts], np.uint8),
    }
    _check_tensors(path, tensors, size, len(strips), len(styles))
    meta = {"format": FORMAT, "size": str(size)}
    meta |= {"concepts": json.dumps(list(strips)), "styles": json.dumps(licences)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(path, {name: torch.from_numpy(value) for name, value in tensors.items()}, meta)
    return path


def check_room(count: int, size: int) -> None:
    """Raise DataError when `count` sprites of `size` pixels are none, or more than an atlas may hold."""
    if not (0 < size <= MAX_SIZE and 0 < count <= MAX_SPRITES and count * size * size * 4 <= MAX_DECODED):
        raise DataError(
            f"expected up to {MAX_SPRITES} sprites within {MAX_SIZE} pixels and 3 GiB, found {count} of "
            f"{size} pixels; take fewer or smaller ones"
        )


def _repeated(codes: list[str]) -> list[str]:
    return sorted(code for code, count in Counter(codes).items() if count > 1)


def _encode(pixels: np.ndarray, quality: int | None, alpha_quality: int) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    if quality is None:
        image.save(buffer, "WEBP", lossless=True, method=4)
    else:
        image.save(buffer, "WEBP", quality=quality, alpha_quality=alpha_quality, method=4)
    return buffer.getvalue()


def _check_tensors(
    path: Path, tensors: dict[str, np.ndarray], size: int, concept_count: int, style_count: int
) -> None:
    """Refuse counts, offsets and indices that do not fit together, before anything is decoded."""
    rows, offsets = tensors["rows"], tensors["offsets"]
    count = len(rows) if rows.ndim else 0
    check_room(count, size)
    shapes = {"rows": (count, 2), "offsets": (concept_count + 1,), "webp": (tensors["webp"].size,)}
    for name, dtype in _TENSORS.items():
        found = tensors[name]
        if found.dtype != dtype or found.shape != shapes.get(name, (count,)):
            raise DataError(
                f"expected {name!r} of {path} to be {np.dtype(dtype)} for {count} sprites, found "
                f"{found.dtype} {found.shape}"
            )
    if offsets[0] != 0 or (np.diff(offsets) <= 0).any() or offsets[-1] != tensors["webp"].size:
        raise DataError(f"expected {concept_count} strips in {path}, found offsets that do not fit")
    flat = rows[:, 0].astype(np.int64) * style_count + rows[:, 1]
    if (
        (rows < 0).any()
        or (rows >= (concept_count, style_count)).any()
        or (np.diff(flat) <= 0).any()
        or len(np.unique(rows[:, 0])) != concept_count
    ):
        raise DataError(
            f"expected rows of {path} to go through its concepts and styles in order, found others"
        )
    hues = tensors["hues"]
    if (
        (tensors["colours"] < -1).any()
        or (tensors["colours"] >= len(COLOURS)).any()
        or ((hues < 0) | (hues > 360) | np.isinf(hues)).any()
        or (tensors["dyes"][np.isnan(hues)] != 0).any()
        or (tensors["dyes"] >> len(DYES) != 0).any()
    ):
        raise DataError(f"expected colour facts within their words in {path}, found others")
