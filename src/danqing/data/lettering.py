"""Captions as pictures: wrapped lines of any of the twelve languages, in the fonts of the package.

A caption may quote Chinese characters in any language; what the font of the language lacks is written in the
Chinese one. Arabic runs from the right.
"""

from itertools import groupby
from typing import Final

from PIL import Image, ImageDraw

from danqing.data.fonts import CAPTION_FONTS, caption_characters, font
from danqing.errors import DataError

LINE: Final = 1.38
"""Distance of two lines, in font sizes."""
_INK: Final = (28, 28, 32)
_UNSPACED: Final = ("zh", "ja")
_RIGHT: Final = ("ar",)
_ARROWS: Final = ("→", "←")  # in the Chinese font alone
_OPENING: Final = "（「『“‘《([{"  # never ends a line
_CLOSING: Final = "，。、！？：；）」』”’》ー,.!?:;)]}"  # never begins one

Run = tuple[str, str]
"""A text and the font that has its characters."""


def caption_picture(text: str, language: str, width: int, *, size: int = 13, lines: int = 6) -> Image.Image:
    """Return a caption as dark lines on white, `width` pixels wide and as high as it needs.

    More than `lines` lines end in an ellipsis. Raises DataError for an unknown language, ResourceError where
    Pillow cannot shape text.
    """
    if language not in CAPTION_FONTS:
        raise DataError(f"expected a language of {list(CAPTION_FONTS)}, found {language!r}")
    wrapped = wrap(text, language, width, size)
    if len(wrapped) > lines:
        wrapped = [*wrapped[: lines - 1], wrapped[lines - 1].rstrip(" .。") + "..."]
    step = round(LINE * size)
    picture = Image.new("RGB", (width, step * len(wrapped) + size // 3), "white")
    pen = ImageDraw.Draw(picture)
    for row, line in enumerate(wrapped):
        _write(pen, line, language, width, row * step + size, size)
    return picture


def wrap(text: str, language: str, width: int, size: int) -> list[str]:
    """Break a text into lines of at most `width` pixels; a word that is wider stands alone."""
    lines = [""]
    for word in _words(text, language):
        longer = lines[-1] + word
        if lines[-1].strip() and _length(longer.rstrip(), language, size) > width:
            lines.append(word.lstrip())
        else:
            lines[-1] = longer
    return [line.strip() for line in lines]


def runs(text: str, language: str) -> list[Run]:
    """Split a text where its font changes."""
    own = CAPTION_FONTS[language]
    if language == "zh":
        return [(text, own)]
    found: list[Run] = []
    for foreign, group in groupby(text, _is_foreign):
        part = "".join(group)
        foreign = foreign and (part in _ARROWS or not set(part) <= caption_characters(language))
        found.append((part, CAPTION_FONTS["zh"] if foreign else own))
    return found


def _is_foreign(character: str) -> bool:
    """Tell whether a character may be missing in the font of a language."""
    return character in _ARROWS or "\u3400" <= character <= "\u9fff"


def _words(text: str, language: str) -> list[str]:
    """Return what must stay together, each with the space before it."""
    parts = text.split(" ")
    words = [parts[0], *(f" {part}" for part in parts[1:])]
    if language not in _UNSPACED:
        return [word for word in words if word]
    pieces = [""]
    for word in words:
        for latin, group in groupby(word, lambda character: character.isascii() and character.isalnum()):
            part = "".join(group)
            for piece in [part] if latin else part:
                if piece[0] in _CLOSING or pieces[-1][-1:] in _OPENING or pieces[-1] == " ":
                    pieces[-1] += piece
                else:
                    pieces.append(piece)
    return [piece for piece in pieces if piece]


def _length(text: str, language: str, size: int) -> float:
    return sum(font(name, size).getlength(part) for part, name in runs(text, language))


def _write(pen: ImageDraw.ImageDraw, line: str, language: str, width: int, base: int, size: int) -> None:
    right = language in _RIGHT
    at = float(width if right else 0)
    for part, name in runs(line, language):
        face = font(name, size)
        shaped = right and name == CAPTION_FONTS[language]
        direction = "rtl" if shaped else None
        pen.text((at, base), part, _INK, face, anchor="rs" if right else "ls", direction=direction)
        at += face.getlength(part, direction=direction) * (-1 if right else 1)
