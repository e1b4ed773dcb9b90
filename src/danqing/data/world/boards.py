"""How written words look: a sign on a post, a poster, a sticker, or letters straight on the background.

Lengths are in lines: 1 is the height that a line of capitals may have. What a board measures depends on how
many lines it has and on how long the longest one may be, not on the letters, so another text of that length
fits the same board.
"""

import math
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from danqing.data.fonts import font
from danqing.data.world.scene import Board, Words
from danqing.data.world.shapes import SIDE
from danqing.data.world.vocabulary import script_of

_LINE_WIDTHS: Final = {
    "latin": {2: 1.5, 4: 2.9, 6: 4.3, 8: 5.7},
    "chinese": {1: 1.0, 2: 2.1, 4: 4.2},
}
"""Width of a line by the longest text it takes."""
_TALLEST: Final = {"latin": "H", "chinese": "国"}
_GAP: Final = 0.32  # between two lines
_EDGE: Final = {"sign": 0.4, "poster": 0.38}  # from the letters to the edge of the board
_POST: Final = (0.3, 0.9)  # width, and how much of it is seen below the board
_POST_RGB: Final = (128, 122, 116)
_ROUND: Final = 1.6  # diagonal of the text on a sticker, in radii
_FINE: Final = 3  # boards are drawn so many times as large
_REFERENCE: Final = 96  # font size at which letters are measured


Rgb = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The measures of a board, in lines."""

    width: float
    height: float
    """Of all that is drawn, with the post of a sign."""
    left: float
    top: float
    """Corner of the text's box."""
    box: float
    """Width of the text's box."""
    board: float
    """Height of the board, without the post."""


@lru_cache(maxsize=128)
def words_tile(words: Words) -> np.ndarray:
    """Return written words with their board, (SIDE, SIDE, 4) uint8 RGBA; place and size do not matter."""
    letters = Image.new("L", (SIDE, SIDE))
    _write(ImageDraw.Draw(letters), words, *_frame(words))
    if words.board == "none":
        tile = Image.new("RGB", (SIDE, SIDE), words.ink_rgb)
        tile.putalpha(letters)
    else:
        body, outline, post = _masks(words.board, _box_width(words), len(words.lines), _burst(words))
        tile = _between(_edge_rgb(words), words.board_rgb, body)
        if post is not None:
            tile.paste(_POST_RGB, post)
        box = letters.getbbox()
        if box is not None:
            tile.paste(words.ink_rgb, box, letters.crop(box))
        tile.putalpha(outline)
    pixels = np.asarray(tile)
    pixels.setflags(write=False)
    return pixels


def words_extent(words: Words) -> tuple[float, float]:
    """Return width and height of words with their board as fractions of their tile; the larger one is 1."""
    width, height = _content(words)
    return width / max(width, height), height / max(width, height)


def letter_height(words: Words) -> float:
    """Return the height of a capital, or of a Chinese character, as a fraction of the picture."""
    return words.size * _em(words) * _tall(words.font, script_of(words.lines[0])) / max(_content(words))


def line_class(line: str) -> int:
    """Return how many characters a line of this length leaves room for: 2, 4, 6, 8; in Chinese 1, 2, 4."""
    widths = _LINE_WIDTHS[script_of(line)]
    return next((longest for longest in widths if len(line) <= longest), max(widths))


def _box_width(words: Words) -> float:
    """Return the width of the text's box, in lines."""
    longest = max(words.lines, key=len)
    return _LINE_WIDTHS[script_of(longest)][line_class(longest)]


def _plan(words: Words) -> Plan:
    return _planned(words.board, _box_width(words), len(words.lines))


@cache
def _planned(board: Board, box: float, lines: int) -> Plan:
    text = lines + (lines - 1) * _GAP
    if board == "sticker":
        radius = math.hypot(box, text) / _ROUND
        side = 2 * radius
        left, top = radius - box / 2, radius - text / 2
        return Plan(width=side, height=side, left=left, top=top, box=box, board=side)
    edge = _EDGE[board]
    high = text + 2 * edge
    below = _POST[1] if board == "sign" else 0.0
    return Plan(width=box + 2 * edge, height=high + below, left=edge, top=edge, box=box, board=high)


def _content(words: Words) -> tuple[float, float]:
    """Return width and height of what is drawn, in lines."""
    if words.board != "none":
        plan = _plan(words)
        return plan.width, plan.height
    left, top, right, bottom = _ink(words)
    return right - left, bottom - top


def _frame(words: Words) -> tuple[float, float, float]:
    """Return pixels in a line, and where the first line's box begins in the tile, in lines."""
    width, height = _content(words)
    side = max(width, height)
    across, down = (side - width) / 2, (side - height) / 2
    if words.board == "none":
        left, top, *_ = _ink(words)
        return SIDE / side, across - left, down - top
    plan = _plan(words)
    return SIDE / side, across + plan.left, down + plan.top


def _em(words: Words) -> float:
    """Return the font size, in lines, at which the widest line fits its box and capitals fit a line."""
    tall = _tall(words.font, script_of(words.lines[0]))
    widest = max(_measured(words.font, line)[1] for line in words.lines)
    box = _box_width(words)
    return min(1 / tall, box / widest)


def _ink(words: Words) -> tuple[float, float, float, float]:
    """Return the box of all letters, in lines, from the corner of the text's box."""
    em, tall = _em(words), _tall(words.font, script_of(words.lines[0]))
    box = _box_width(words)
    boxes = []
    for index, line in enumerate(words.lines):
        _, width, top, bottom = _measured(words.font, line)
        base = _baseline(index, em * tall)
        left, right = box / 2 - em * width / 2, box / 2 + em * width / 2
        boxes.append((left, base + em * top, right, base + em * bottom))
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)


def _baseline(index: int, tall: float) -> float:
    """Return where a line stands, in lines: capitals are centred in their line."""
    return index * (1 + _GAP) + 0.5 + tall / 2


def _write(pen: ImageDraw.ImageDraw, words: Words, scale: float, left: float, top: float) -> None:
    em, script = _em(words), script_of(words.lines[0])
    face = font(words.font, max(4, int(em * scale)))
    box = _box_width(words)
    tall = em * _tall(words.font, script)
    for index, line in enumerate(words.lines):
        start, width, *_ = _measured(words.font, line)
        x = (left + box / 2) * scale - (start + width / 2) * face.size
        pen.text((x, (top + _baseline(index, tall)) * scale), line, 255, face, anchor="ls")


@lru_cache(maxsize=16384)
def _measured(name: str, line: str) -> tuple[float, float, float, float]:
    """Return start, width, top and bottom of a line's ink, from its baseline, in ems."""
    start, left, top, right, bottom = 0.0, np.inf, np.inf, -np.inf, -np.inf
    for character in line:
        (x0, y0, x1, y1), advance = _glyph(name, character)
        left, top, right, bottom = (
            min(left, start + x0),
            min(top, y0),
            max(right, start + x1),
            max(bottom, y1),
        )
        start += advance
    return left / _REFERENCE, (right - left) / _REFERENCE, top / _REFERENCE, bottom / _REFERENCE


@cache
def _glyph(name: str, character: str) -> tuple[tuple[int, int, int, int], float]:
    """Return the box of a character's ink, from its baseline, and its advance, at the reference size."""
    face = font(name, _REFERENCE)
    # `getbbox` of a font would count the empty space beside the letter
    mask, (x, y) = face.getmask2(character, "L", anchor="ls")
    left, top, right, bottom = mask.getbbox() or (0, 0, 1, 1)
    return (left + x, top + y, right + x, bottom + y), face.getlength(character)


@cache
def _tall(name: str, script: str) -> float:
    _, _, top, bottom = _measured(name, _TALLEST[script])
    return bottom - top


def _burst(words: Words) -> bool:
    """Tell whether a sticker is a star of many points: half of them are, by their shade."""
    return words.board == "sticker" and sum(words.board_rgb) % 2 == 1


def _edge_rgb(words: Words) -> Rgb:
    """Return the colour of a board's rim: that of the ink on a sign, elsewhere a shade of the board."""
    if words.board == "sign":
        return words.ink_rgb
    dark = sum(words.board_rgb) < 3 * 70
    red, green, blue = (round(c + (255 - c) * 0.3) if dark else round(c * 0.75) for c in words.board_rgb)
    return red, green, blue


def _between(low: Rgb, high: Rgb, mask: Image.Image) -> Image.Image:
    """Return a picture that is `low` where a mask is 0 and `high` where it is 255."""
    tables = [[round(a + (b - a) * at / 255) for at in range(256)] for a, b in zip(low, high, strict=True)]
    return Image.merge("RGB", [mask.point(table) for table in tables])


@cache
def _masks(
    board: Board, box: float, lines: int, burst: bool
) -> tuple[Image.Image, Image.Image, tuple[int, int, int, int] | None]:
    """Return where a board's face is and where all of it is, 0..255, and the pixels of a sign's post."""
    plan, fine = _planned(board, box, lines), SIDE * _FINE
    side = max(plan.width, plan.height)
    scale = fine / side
    left, top = (side - plan.width) / 2 * scale, (side - plan.height) / 2 * scale
    right, bottom = fine - 1 - left, top + plan.board * scale - 1
    masks = [Image.new("L", (fine, fine)) for _ in range(2)]
    face, outline = (ImageDraw.Draw(mask) for mask in masks)
    if board == "sticker":
        _round(face, fine, burst, 0.94)
        _round(outline, fine, burst, 1.0)
    else:
        corner, line = (0.3, 0.1) if board == "sign" else (0.04, 0.06)
        outline.rounded_rectangle((left, top, right, bottom), corner * scale, 255)
        inset = line * scale
        frame = (left + inset, top + inset, right - inset, bottom - inset)
        face.rounded_rectangle(frame, max(0.0, corner - line) * scale, 255)
    post = None
    if board == "sign":
        half, foot = _POST[0] / 2 * scale, top + plan.height * scale
        outline.rectangle((fine / 2 - half, bottom, fine / 2 + half, foot), 255)
        left, right = fine / 2 - half - _FINE, fine / 2 + half + _FINE
        post = (round(left / _FINE), round(bottom / _FINE), round(right / _FINE), round(foot / _FINE))
    smooth = [mask.resize((SIDE, SIDE), Image.Resampling.BOX) for mask in masks]
    return smooth[0], smooth[1], post


def _round(pen: ImageDraw.ImageDraw, fine: int, burst: bool, share: float) -> None:
    """Draw a disc, or a star of 20 points, in the middle of a mask."""
    middle, radius = (fine - 1) / 2, (fine - 1) / 2 * share
    if not burst:
        pen.ellipse((middle - radius, middle - radius, middle + radius, middle + radius), 255)
        return
    corners = [
        (middle + r * math.sin(math.pi * step / 20), middle - r * math.cos(math.pi * step / 20))
        for step in range(40)
        for r in (radius * (1.0 if step % 2 == 0 else 0.9),)
    ]
    pen.polygon(corners, 255)
