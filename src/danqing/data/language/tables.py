"""Word lists and sentence patterns of the twelve languages, and which patterns training never sees.

One file a language: `words` are lists and tables, `patterns` are named lists of sentences with fields in
braces. A pattern that stands several times in a list comes that much more often. The ten label languages
share the patterns of `labels.json` and add a few of their own. `longest` is where long captions end: in words
in English, else in characters; some 64 tokens of Qwen2.5, but for Hindi, of which it knows few words.
"""

import json
from collections.abc import Sequence
from functools import cache, lru_cache
from importlib import resources
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np

from danqing.data.concepts import LANGUAGES
from danqing.data.world.split import Split, is_held_out, rank
from danqing.errors import DataError

T = TypeVar("T")

SPOKEN: Final = ("en", "zh")
"""Languages with a grammar; the rest is written as labels, since their names carry no gender nor plural."""
_ENOUGH: Final = 5  # a list of that many patterns always holds one out


class Table(NamedTuple):
    """Everything a language needs."""

    words: dict[str, Any]
    patterns: dict[str, list[str]]


@cache
def table(language: str) -> Table:
    """Return the word lists and patterns of a language; raises DataError for an unknown one."""
    if language not in LANGUAGES:
        raise DataError(f"expected a language of {list(LANGUAGES)}, found {language!r}")
    own = _read(language)
    if language in SPOKEN:
        return Table(own["words"], own["patterns"])
    patterns = dict(_read("labels")["patterns"])
    for name, added in own["patterns"].items():
        patterns[name] = patterns.get(name, []) + added
    return Table(own["words"], patterns)


@cache
def held_out_phrasings(language: str) -> frozenset[str]:
    """Return the patterns of a language that are held out: 5 % by their hash, and one at least of each list.

    Where the hash leaves a list of five or more without one, it is the pattern of the lowest rank.
    """
    lists = [tuple(dict.fromkeys(patterns)) for patterns in table(language).patterns.values()]
    chosen = {one for patterns in lists for one in patterns if is_held_out("phrasing", language, one)}
    for patterns in lists:
        if len(patterns) >= _ENOUGH and chosen.isdisjoint(patterns):
            chosen.add(min(patterns, key=lambda one: rank("phrasing", language, one)))
    return frozenset(chosen)


@lru_cache(maxsize=4096)
def phrasings(language: str, names: tuple[str, ...], split: Split) -> tuple[str, ...]:
    """Return the patterns of some lists that a split may use; names of lists that do not exist are left out.

    Training never gets a held-out one. Evaluation gets only those, or all others where none is held out.
    """
    patterns = table(language).patterns
    every = [one for name in names for one in patterns.get(name, ())]
    held_out = held_out_phrasings(language)
    kept = tuple(one for one in every if (one in held_out) == (split == "held_out"))
    return kept if kept or split == "train" else tuple(every)


def pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    """Draw one of `choices`; a third of the time that `integers` takes."""
    return choices[int(rng.random() * len(choices))]


def _read(name: str) -> dict[str, Any]:
    text = (resources.files("danqing.data.language") / f"{name}.json").read_text("utf-8")
    content: dict[str, Any] = json.loads(text)
    return content
