"""Nouns and places in words: English and Chinese phrases, labels in ten more languages.

`phrases.json` holds the sentence patterns and word lists; this module fills in nouns with the right article,
number, measure word and order of adjectives.
"""

import json
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any, Final, TypeVar

import numpy as np

from danqing.data.atlas import Atlas
from danqing.data.concepts import concepts, with_article
from danqing.data.world import Background, Scene, Thing
from danqing.errors import DataError

T = TypeVar("T")

NUMBERS: Final = {
    "en": ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    "zh": ("零", "一", "两", "三", "四", "五", "六", "七", "八", "九"),
}
SMALL: Final = 0.4
LARGE: Final = 0.78
"""A lone thing below SMALL of the picture may be called small, from LARGE on large; between them neither."""

_GROUPING: Final = ("pair", "bunch", "slice", "piece", "loaf", "bouquet")  # "a bunch of green grapes"
_NATURAL_SHARE: Final = 0.3


@cache
def phrases() -> dict[str, Any]:
    """Return the sentence patterns and word lists of all languages."""
    table: dict[str, Any] = json.loads((resources.files("danqing.data") / "phrases.json").read_text("utf-8"))
    return table


def labels(language: str) -> dict[str, Any]:
    """Return the word lists of one of the ten label languages; raises DataError for another one."""
    table: dict[str, Any] = phrases()["labels"]
    if language not in table:
        raise DataError(f"expected a language of {['en', 'zh', *table]}, found {language!r}")
    words: dict[str, Any] = table[language]
    return words


def pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    """Draw one of `choices`."""
    return choices[int(rng.integers(len(choices)))]


def seen_colour(thing: Thing, atlas: Atlas | None) -> str | None:
    """Return the colour a thing has beyond doubt: its dye, or else its natural one when the atlas knows
    it."""
    if thing.colour is not None or atlas is None:
        return thing.colour
    colour = atlas.facts(thing.concept, thing.style).colour
    return None if colour == concepts()[thing.concept].english else colour  # never "an orange orange"


def said_colour(rng: np.random.Generator, thing: Thing, atlas: Atlas | None) -> str | None:
    """Return the colour to say: a dye always, a natural colour now and then."""
    natural = rng.random() < _NATURAL_SHARE
    return seen_colour(thing, atlas if natural else None)


def size_word(rng: np.random.Generator, scene: Scene, language: str) -> str | None:
    """Return a word for the size of a lone thing where it is plainly small or large, half of the time."""
    size = scene.things[0].size
    kind = "small" if size < SMALL else "large" if size >= LARGE else None
    if scene.kind != "single" or kind is None or rng.random() < 0.5:
        return None
    return str(pick(rng, phrases()[language]["size"][kind]))


def english_noun(code: str, colour: str | None = None, size: str | None = None, *, many: bool = False) -> str:
    """Return an English noun phrase without article: "small pair of blue glasses", "red apples"."""
    noun = concepts()[code].plural if many else concepts()[code].english
    if colour is not None:
        head, of, rest = noun.partition(" of ")
        if of and concepts()[code].english.startswith(_GROUPING):
            noun = f"{head} of {colour} {rest}"
        else:
            noun = f"{colour} {noun}"
    return f"{size} {noun}" if size else noun


def chinese_noun(
    rng: np.random.Generator, code: str, colour: str | None = None, size: str | None = None
) -> str:
    """Return a Chinese noun phrase without number: "红色的小苹果", "很大的红色苹果"."""
    noun = concepts()[code].chinese
    if size is not None and not size.endswith("的"):
        noun = size + noun
    if colour is not None:
        noun = phrases()["zh"]["colour"][colour] + ("的" if rng.random() < 0.6 else "") + noun
    return size + noun if size is not None and size.endswith("的") else noun


def label(language: str, code: str, colour: str | None = None) -> str:
    """Return a thing's name in a label language, its colour in brackets: "manzana (azul)"."""
    words, name = labels(language), concepts()[code].names[language]
    return name + (" " + words["bracket"].format(words["colour"][colour]) if colour is not None else "")


def english_place(rng: np.random.Generator, background: Background) -> tuple[str, str]:
    """Return a background as a noun phrase without article and as a place: "blue table", "on a blue
    table"."""
    colour = background.colour
    if background.kind == "ground":
        noun = f"{colour} {pick(rng, phrases()['en']['ground'])}"
        return noun, f"on {with_article(noun)}"
    plain = "plain " if background.kind == "solid" and rng.random() < 0.15 else ""
    kind = "gradient " if background.kind == "gradient" and rng.random() < 0.4 else ""
    noun = f"{plain}{colour} {kind}background"
    where = pick(rng, ("on", "on", "on", "on", "on", "against", "in front of"))
    return noun, f"{where} {with_article(noun)}"


def chinese_place(rng: np.random.Generator, background: Background) -> tuple[str, str]:
    """Return a background as a noun and as a place: "蓝色背景", "蓝色背景上"."""
    colour = phrases()["zh"]["colour"][background.colour]
    if background.kind == "ground":
        noun = f"{colour}{'的' if rng.random() < 0.5 else ''}{pick(rng, phrases()['zh']['ground'])}"
    else:
        noun = f"{colour}{'渐变' if background.kind == 'gradient' and rng.random() < 0.4 else ''}背景"
    return noun, noun + "上"


def label_place(language: str, background: Background) -> str:
    """Return a background in a label language: "sobre un fondo azul"."""
    words = labels(language)
    pattern: str = words["ground" if background.kind == "ground" else "background"]
    return pattern.format(words["on"][background.colour])
