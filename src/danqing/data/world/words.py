"""What signs and posters say, drawn by chance, and in which colours it can be read."""

from collections.abc import Collection
from dataclasses import replace
from functools import cache
from typing import Final

import numpy as np

from danqing.data.colours import COLOURS, paint, paint_plain
from danqing.data.fonts import sign_fonts
from danqing.data.world.boards import letter_height, line_class, words_extent
from danqing.data.world.scene import TEXTURES, Background, Board, Words
from danqing.data.world.split import any_held_out, held_out_words
from danqing.data.world.vocabulary import Script, all_words, script_of, vocabulary

CONTRAST: Final = 3.0
"""Least ratio of luminance between letters and what is behind them (WCAG 2.2, 1.4.11)."""
READABLE: Final = 13 / 128
"""Least height of a capital, as a fraction of the picture, for texts of up to six letters."""
WIDEST: Final = 0.94

_CHINESE_SHARE: Final = 0.3
_RANDOM_SHARE: Final = 0.3  # of texts are no words, so that every letter is learnt
_TWO_LINES_SHARE: Final = 0.3
_BOARDS: Final[tuple[Board, ...]] = ("sign", "sign", "sign", "poster", "poster", "sticker", "none", "none")
_LENGTHS: Final = (1, 1, 1, 2, 2, 3, 3, 4, 5, 6)  # of random texts
_LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_CONSONANTS: Final = "BCDFGHJKLMNPQRSTVWXZ"
_SMALLEST: Final = 0.4
_SHORT, _SHORT_WIDEST = 2, 0.72  # texts of one or two characters are drawn no wider than this


def sample_words(rng: np.random.Generator, avoid: Collection[str] = (), *, held_out: bool = False) -> Words:
    """Draw one or two lines with their font, board and colours, in the middle of the picture.

    Neither letters nor board have a colour of `avoid`. Nothing held out is written unless `held_out` asks for
    it; then the first line is a held-out word.
    """
    while True:
        script: Script = "chinese" if rng.random() < _CHINESE_SHARE else "latin"
        fonts = sign_fonts(script)
        board, ink, behind = _colours(rng, avoid)
        words = Words(
            lines=_lines(rng, script, held_out),
            font=fonts[int(rng.integers(len(fonts)))],
            ink=ink[0],
            ink_rgb=ink[1],
            board=board,
            board_colour=None if board == "none" else behind[0],
            board_rgb=behind[1],
            size=1.0,
            x=0.5,
            y=0.5,
        )
        least, most = sizes(words)
        if least <= most:
            return replace(words, size=round(float(least + (most - least) * rng.random()), 4))


def another_text(rng: np.random.Generator, words: Words) -> Words:
    """Return the same sign with other words as long as the old ones, nothing held out.

    The board stays as it is; letters without a board keep their height and the place of their middle.
    """
    script = script_of(words.lines[0])
    while True:
        lines = tuple(_like(rng, script, line_class(line)) for line in words.lines)
        if any(new == old for new, old in zip(lines, words.lines, strict=True)) or any_held_out(lines):
            continue
        new = replace(words, lines=lines)
        if words.board == "none":
            new = replace(new, size=round(words.size * letter_height(words) / letter_height(new), 4))
            width, height = (new.size * side / 2 for side in words_extent(new))
            if width > min(new.x, 1 - new.x) or height > min(new.y, 1 - new.y):
                continue
        return new


def sizes(words: Words, widest: float = WIDEST) -> tuple[float, float]:
    """Return the smallest and the largest size at which words can be read and fit into `widest`.

    The smallest is above the largest where they cannot.
    """
    longest = max(map(len, words.lines))
    most = min(widest, _SHORT_WIDEST) if longest <= _SHORT else widest
    needed = READABLE / letter_height(replace(words, size=1.0)) if longest <= 6 else widest
    return max(needed, min(_SMALLEST, most)), most


def readable_on(words: Words, background: Background) -> bool:
    """Tell whether words stand out from a background: letters by their contrast, a board by its colour."""
    if words.board != "none":
        return background.colour != words.board_colour
    red, green, blue = background.rgb
    shades = [background.rgb, tuple(round(c + 0.16 * (255 - c)) for c in (red, green, blue))]
    shades.append(tuple(round(c * 0.9) for c in (red, green, blue)))
    if background.kind in TEXTURES:
        shades.append(background.pale)
    return background.colour != words.ink and all(
        contrast(words.ink_rgb, shade) >= CONTRAST for shade in shades
    )


def contrast(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """Return the contrast ratio of two RGB colours (0..255), 1 to 21, as WCAG 2.2 defines it."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(rgb: tuple[int, ...]) -> float:
    return sum(
        weight * _LINEAR[channel] for weight, channel in zip((0.2126, 0.7152, 0.0722), rgb, strict=True)
    )


_LINEAR: Final = tuple(
    c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in np.arange(256) / 255
)

Shade = tuple[str, tuple[int, int, int]]


def _colours(rng: np.random.Generator, avoid: Collection[str]) -> tuple[Board, Shade, Shade]:
    """Draw a board, the colour of its letters and its own, so far apart that they can be read."""
    board = _BOARDS[int(rng.integers(len(_BOARDS)))]
    pairs = [pair for pair in _readable_pairs() if not avoid or not set(pair) & set(avoid)]
    while True:
        ink, behind = pairs[int(rng.integers(len(pairs)))]
        letters, ground = paint(ink, rng), paint(behind, rng)
        if contrast(letters, ground) >= CONTRAST:
            return board, (ink, letters), (behind, ground)


@cache
def _readable_pairs() -> tuple[tuple[str, str], ...]:
    shades = {colour: paint_plain(colour) for colour in COLOURS}
    return tuple(
        (ink, behind)
        for ink in COLOURS
        for behind in COLOURS
        if contrast(shades[ink], shades[behind]) >= CONTRAST
    )


def _lines(rng: np.random.Generator, script: Script, held_out: bool) -> tuple[str, ...]:
    count = 2 if rng.random() < _TWO_LINES_SHARE else 1
    lines = [_line(rng, script) for _ in range(count)]
    if held_out:
        hidden = _hidden(script)
        lines[0] = hidden[int(rng.integers(len(hidden)))]
    return tuple(lines)


def _line(rng: np.random.Generator, script: Script) -> str:
    if rng.random() < _RANDOM_SHARE:
        return _random(rng, script, _LENGTHS[int(rng.integers(len(_LENGTHS)))])
    words = _open(script)
    return words[int(rng.integers(len(words)))]


def _like(rng: np.random.Generator, script: Script, longest: int) -> str:
    """Draw a text that takes as much room."""
    words = _open_by_class(script).get(longest)
    return words[int(rng.integers(len(words)))] if words else _random(rng, script, int(rng.integers(1, 3)))


def _random(rng: np.random.Generator, script: Script, length: int) -> str:
    """Draw letters, without vowels where they could make a word; in Chinese two common characters."""
    if script == "latin":
        letters = _LETTERS if length < 3 else _CONSONANTS
        return "".join(letters[at] for at in rng.integers(len(letters), size=length))
    while True:
        pair = "".join(_characters()[at] for at in rng.integers(len(_characters()), size=2))
        if pair not in _held_out():
            return pair


@cache
def _characters() -> str:
    return "".join(sorted(set("".join(word for word in all_words("chinese") if len(word) <= 2))))


@cache
def _held_out() -> frozenset[str]:
    return held_out_words(vocabulary())


@cache
def _hidden(script: Script) -> tuple[str, ...]:
    return tuple(sorted(word for word in _held_out() if script_of(word) == script))


@cache
def _open(script: Script) -> tuple[str, ...]:
    """Return the words of a script that are not held out."""
    return tuple(word for word in all_words(script) if word not in _held_out())


@cache
def _open_by_class(script: Script) -> dict[int, tuple[str, ...]]:
    classes: dict[int, list[str]] = {}
    for word in _open(script):
        classes.setdefault(line_class(word), []).append(word)
    return {longest: tuple(words) for longest, words in classes.items()}
