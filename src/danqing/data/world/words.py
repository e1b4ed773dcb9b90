"""What signs and posters say, drawn by chance."""

from dataclasses import replace

import numpy as np

from danqing.data.world.scene import Words
from danqing.data.world.split import any_held_out
from danqing.data.world.vocabulary import vocabulary


def another_text(rng: np.random.Generator, words: Words) -> Words:
    """Return the same sign with other words of the same script, as many lines, nothing held out."""
    return replace(words, lines=tuple(_other(rng, line) for line in words.lines))


def _other(rng: np.random.Generator, line: str) -> str:
    choices = [word for word in vocabulary() if word.isascii() == line.isascii() and word != line.upper()]
    while True:
        word = choices[int(rng.integers(len(choices)))]
        if not any_held_out((word,)):
            return word
