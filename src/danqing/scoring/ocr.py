"""Words in a picture, read by PP-OCR (rapidocr) on the CPU, and single letters by their shape.

The models lie inside the wheel of rapidocr, so nothing is downloaded. A picture of 128 px takes 40 ms of one
core. PP-OCR was made for words: it takes a lone E for 日, an O for 0, so letters are compared with a font.

A sign that can be read fairly has letters of 8 px or more, Chinese characters of 12 px (a blur of 1 px costs
smaller ones dearly), single letters of 20 px, and ink whose contrast with its board (WCAG 2) is 2 or more.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from itertools import permutations
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from danqing.errors import DataError, ResourceError

_SIDE: Final = 192
"""Smaller pictures are enlarged: at 128 px a character that fills the picture is not found."""
_FAR_SIDE: Final = 960
"""Larger pictures are searched at this size, and read at their own."""
_GLYPH: Final = 32
"""Letters are compared at this size."""
_LEVELS: Final = 12
"""Colours nearer than this, of 255 levels, are noise or JPEG."""
_RIM: Final = 2
"""Pixels between a board and what lies around it."""
_SMALLEST: Final = 1 / 8
"""Part of a crop's height below which nothing is its letter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of text in a picture."""

    text: str
    confidence: float
    """What PP-OCR makes of its own reading, 0 to 1."""
    box: tuple[float, float, float, float]
    """Left, top, right and bottom, in pixels of the picture."""


class Reader:
    """Reads the words in pictures; loading takes half a second.

    Every reader owns its models and does not change them, so readers in several threads do not disturb each
    other. Raises ResourceError without the extra `evaluate`.
    """

    def __init__(self, *, threads: int = 1, confidence: float = 0.5) -> None:
        self._engine = _load(threads)
        self._confidence = confidence

    def read(self, picture: np.ndarray | Image.Image) -> tuple[str, ...]:
        """Return the lines of a picture, top to bottom, and left to right on one height."""
        return tuple(line.text for line in self.find(picture))

    def find(self, picture: np.ndarray | Image.Image) -> tuple[Line, ...]:
        """Return the lines of a picture, (height, width, 3) uint8, with their places."""
        lines = self._lines(_image(picture))
        return tuple(line for line in lines if line.confidence >= self._confidence)

    def read_letter(
        self, picture: np.ndarray | Image.Image, letters: Sequence[str], fonts: Sequence[Path | str]
    ) -> str | None:
        """Return which of `letters` the picture shows where most text is, by `match_glyph`; None without."""
        image = _image(picture)
        boxes = [_widened(line.box, image.size) for line in self._lines(image)]
        if not boxes:
            return None
        left, top, right, bottom = max(boxes, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))
        return _match(image.crop((left, top, right, bottom)), letters, fonts)

    def _lines(self, image: Image.Image) -> tuple[Line, ...]:
        scale = max(1.0, _SIDE / max(image.size))
        if scale > 1:
            size = (round(image.width * scale), round(image.height * scale))
            image = image.resize(size, Image.Resampling.BICUBIC)
        found = self._engine(np.ascontiguousarray(np.asarray(image)[..., ::-1]))  # blue first
        if not found.txts:
            return ()
        boxes = np.asarray(found.boxes, np.float64) / scale  # (lines, 4 corners, 2)
        lines = [
            Line(text=text, confidence=float(score), box=(*corners.min(0).tolist(), *corners.max(0).tolist()))
            for text, score, corners in zip(found.txts, found.scores, boxes, strict=True)
        ]
        return _in_order(lines)


def words_match(found: Sequence[str], wanted: str) -> bool:
    """Say whether consecutive lines of a picture spell the wanted words, whatever stands above or below.

    Case, spaces and the width of characters do not matter (NFKC); traditional and simplified ones differ.
    """
    target = _plain(wanted)
    if not target:
        raise DataError(f"expected words to look for, found {wanted!r}; leave out pictures without words")
    lines = [_plain(line) for line in found]
    return any(
        "".join(lines[first:last]) == target
        for first in range(len(lines))
        for last in range(first + 1, len(lines) + 1)
    )


def text_accuracy(found: Sequence[str], wanted: str) -> float:
    """Return 1 minus the edit distance over the longer length (Levenshtein 1966), 0 to 1.

    Compared as by `words_match`, but nearly right counts for nearly all, and text nobody asked for costs.
    """
    read, target = _plain("".join(found)), _plain(wanted)
    longer = max(len(read), len(target))
    return 1 - _edits(read, target) / longer if longer else 1.0


def match_glyph(crop: np.ndarray | Image.Image, letters: Sequence[str], fonts: Sequence[Path | str]) -> str:
    """Return the letter whose drawing in one of the fonts is most like the one in a crop.

    The crop, (height, width, 3) uint8, shows one whole letter on a board of one colour, and maybe what lies
    around the board. Its three main colours are tried as ink and board; ink is what does not touch the edge.
    Ink and drawing are fitted into a square and compared by normalised correlation. Raises DataError when
    nothing stands apart.
    """
    found = _match(_image(crop), letters, fonts)
    if found is None:
        raise DataError("expected a letter on a board of another colour, found none; crop around the letter")
    return found


def _match(crop: Image.Image, letters: Sequence[str], fonts: Sequence[Path | str]) -> str | None:
    names = tuple(letters)
    if not names or not fonts:
        raise DataError(
            f"expected letters and fonts, found {len(names)} and {len(fonts)}; pass one or more of each"
        )
    shapes = _shapes(np.asarray(crop, np.float32))
    if not shapes:
        return None
    glyphs = _glyphs(names, tuple(str(font) for font in fonts))  # (fonts, letters, pixels)
    likeness = np.stack([glyphs @ _standardised(_fitted(shape)) for shape in shapes])
    return names[int(likeness.max((0, 1)).argmax())]


def _load(threads: int) -> Any:
    """Return PP-OCR without its classifier of upside-down lines, quiet and offline."""
    try:
        rapidocr = import_module("rapidocr")
        import_module("onnxruntime")
    except ImportError as error:
        raise ResourceError(
            f"expected rapidocr and onnxruntime to read words, found no module {error.name!r}; "
            "run `pip install danqing[evaluate]`"
        ) from error
    return rapidocr.RapidOCR(
        params={
            "Global.log_level": "critical",
            "Global.use_cls": False,
            "Global.text_score": 0.0,
            "EngineConfig.onnxruntime.intra_op_num_threads": threads,
            "EngineConfig.onnxruntime.inter_op_num_threads": threads,
            "Det.model_path": str(_model(rapidocr, "det")),  # a given path is never downloaded
            "Det.limit_type": "max",
            "Det.limit_side_len": _FAR_SIDE,
            "Rec.model_path": str(_model(rapidocr, "rec")),
        }
    )


def _model(rapidocr: Any, task: str) -> Path:
    folder = Path(rapidocr.__file__).parent / "models"
    found = sorted(folder.glob(f"PP-OCR*_{task}_*.onnx"))
    if not found:
        raise ResourceError(
            f"expected a PP-OCR model for {task} inside rapidocr, found none; "
            "install a wheel that ships its models: `pip install 'rapidocr>=3.10'`"
        )
    return found[-1]


def _image(picture: np.ndarray | Image.Image) -> Image.Image:
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise DataError(
            f"expected a picture (height, width, 3) of uint8, found {picture.shape} of {picture.dtype}"
        )
    return Image.fromarray(picture)


def _in_order(lines: list[Line]) -> tuple[Line, ...]:
    """Return lines from top to bottom; pieces whose middle lies within the row before are its next words."""
    rows: list[list[Line]] = []
    for line in sorted(lines, key=lambda line: line.box[1] + line.box[3]):
        middle = (line.box[1] + line.box[3]) / 2
        if rows and rows[-1][0].box[1] <= middle <= rows[-1][0].box[3]:
            rows[-1].append(line)
        else:
            rows.append([line])
    return tuple(line for row in rows for line in sorted(row, key=lambda line: line.box[0]))


def _plain(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def _edits(first: str, second: str) -> int:
    """Return how many letters must be put in, left out or changed."""
    row = list(range(len(second) + 1))
    for done, letter in enumerate(first, 1):
        diagonal, row[0] = row[0], done
        for at, other in enumerate(second, 1):
            changed = diagonal + (letter != other)
            diagonal, row[at] = row[at], min(changed, row[at] + 1, row[at - 1] + 1)
    return row[-1]


def _widened(box: tuple[float, float, float, float], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return a box with half its height around it, in whole pixels inside the picture."""
    left, top, right, bottom = box
    margin = (bottom - top) / 2
    return (
        max(0, round(left - margin)),
        max(0, round(top - margin)),
        min(size[0], round(right + margin)),
        min(size[1], round(bottom + margin)),
    )


def _shapes(crop: np.ndarray) -> list[np.ndarray]:
    """Return what may be a letter: for each two main colours the ink, 0 to 1, cut to its bounding box."""
    colours = _main_colours(crop.reshape(-1, 3))
    nearest = np.square(crop[:, :, None] - colours).sum(-1).argmin(-1)
    found = []
    for ink, board in permutations(range(len(colours)), 2):
        away = colours[ink] - colours[board]
        if np.abs(away).max() < _LEVELS:
            continue
        inner = _extent(nearest == board, shrink=_RIM)  # the rim of a board has all colours between two
        shades = ((crop[inner] - colours[board]) @ away / (away @ away)).clip(0, 1)
        letter = _inside(nearest[inner] == ink)
        if letter.any(1).sum() >= max(4, len(crop) * _SMALLEST):
            found.append(shades[_extent(letter)])
    return found


def _extent(mask: np.ndarray, shrink: int = 0) -> tuple[slice, slice]:
    """Return the bounding box of a mask, made smaller on each side."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (
        slice(rows[0] + shrink, max(rows[-1] + 1 - shrink, rows[0] + shrink + 1)),
        slice(columns[0] + shrink, max(columns[-1] + 1 - shrink, columns[0] + shrink + 1)),
    )


def _main_colours(pixels: np.ndarray) -> np.ndarray:
    """Return three colours by k-means, begun at the median and the colours farthest from those before."""
    colours = np.median(pixels, 0, keepdims=True)
    for _ in range(2):
        away = np.square(pixels[:, None] - colours).sum(-1).min(1)
        colours = np.concatenate([colours, pixels[away.argmax()][None]])
    for _ in range(8):
        nearest = np.square(pixels[:, None] - colours).sum(-1).argmin(1)
        colours = np.stack(
            [pixels[nearest == k].mean(0) for k in range(len(colours)) if (nearest == k).any()]
        )
    return colours


def _inside(mask: np.ndarray) -> np.ndarray:
    """Return a mask without the parts that touch its edge."""
    outer = np.zeros_like(mask)
    outer[[0, -1]], outer[:, [0, -1]] = mask[[0, -1]], mask[:, [0, -1]]
    size = -1
    while size != (size := int(outer.sum())):
        grown = outer.copy()
        grown[1:] |= outer[:-1]
        grown[:-1] |= outer[1:]
        grown[:, 1:] |= outer[:, :-1]
        grown[:, :-1] |= outer[:, 1:]
        outer = grown & mask
    return mask & ~outer


def _fitted(ink: np.ndarray) -> np.ndarray:
    """Return ink fitted into a square of side `_GLYPH`, its proportions kept."""
    image = Image.fromarray(ink.astype(np.float32))
    scale = _GLYPH / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    square = Image.new("F", (_GLYPH, _GLYPH))
    corner = ((_GLYPH - size[0]) // 2, (_GLYPH - size[1]) // 2)
    square.paste(image.resize(size, Image.Resampling.BILINEAR), corner)
    return np.asarray(square)


def _standardised(ink: np.ndarray) -> np.ndarray:
    flat = ink.ravel() - ink.mean()
    return np.asarray(flat / max(float(np.linalg.norm(flat)), 1e-6))


@lru_cache(maxsize=32)
def _glyphs(letters: tuple[str, ...], fonts: tuple[str, ...]) -> np.ndarray:
    """Return every letter in every font, ready to correlate: (fonts, letters, pixels)."""
    return np.stack([[_standardised(_fitted(_drawn(letter, font))) for letter in letters] for font in fonts])


def _drawn(letter: str, path: str) -> np.ndarray:
    """Return a letter as ink, 0 to 1, large enough to be reduced smoothly."""
    try:
        font = ImageFont.truetype(path, 3 * _GLYPH)
    except OSError as error:
        raise DataError(f"expected a font at {path}, found {error}; pass paths of TrueType files") from error
    board = Image.new("L", (6 * _GLYPH, 6 * _GLYPH))
    ImageDraw.Draw(board).text((3 * _GLYPH, 3 * _GLYPH), letter, font=font, fill=255, anchor="mm")
    ink = np.asarray(board, np.float32) / 255
    if not ink.any():
        raise DataError(f"expected a letter that the font draws, found {letter!r}; leave it out")
    return ink[_extent(ink > 0.5)]
