"""How alike two captions are in their words: the measure by which a caption finds its picture's others.

The mean over n-grams of one to four words of the cosine of tf-idf weights (CIDEr, Vedantam et al. 2015,
equations 1 to 3), without what CIDEr-D adds against gaming; how rare an n-gram is is counted among the texts
that are searched.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from danqing.scoring.retrieval import Likeness

_ORDERS: Final = 4

_Gram = tuple[str, ...]


class Wordings:
    """Texts that can be searched, each cut into words with single spaces between them."""

    def __init__(self, texts: Sequence[str]) -> None:
        """Count the n-grams of the texts."""
        counts = [_grams(text) for text in texts]
        number = Counter(gram for grams in counts for gram in grams)
        self._count, self._unseen = len(texts), math.log(max(len(texts), 1))
        self._rarity = {gram: self._unseen - math.log(found) for gram, found in number.items()}
        held: dict[_Gram, tuple[list[int], list[float]]] = {gram: ([], []) for gram in number}
        for place, grams in enumerate(counts):
            for gram, weight in self._weights(grams).items():
                held[gram][0].append(place)
                held[gram][1].append(weight)
        self._held = {
            gram: (np.array(places), np.array(weights)) for gram, (places, weights) in held.items() if places
        }

    def likeness(self, texts: Sequence[str]) -> np.ndarray:
        """Return how alike each of `texts` and each searched text are, (texts, searched), 0 to 1."""
        found = np.zeros((len(texts), self._count))
        for row, text in zip(found, texts, strict=True):
            for gram, weight in self._weights(_grams(text)).items():
                if gram in self._held:
                    places, weights = self._held[gram]
                    row[places] += weight * weights  # a text holds a gram once, so no place comes twice
        return found / _ORDERS

    def of(self, texts: Sequence[str]) -> Likeness:
        """Return the likeness of `texts` and the searched ones, in tiles for `recall_both_ways`."""
        last: dict[tuple[int, int], np.ndarray] = {}

        def tile(rows: slice, columns: slice) -> np.ndarray:
            key = (rows.start, rows.stop)
            if key not in last:
                last.clear()
                last[key] = self.likeness(texts[rows])
            return last[key][:, columns]

        return tile

    def _weights(self, grams: Counter[_Gram]) -> dict[_Gram, float]:
        """Return the tf-idf weights of a text, of length 1 for each order."""
        weights = {gram: count * self._rarity.get(gram, self._unseen) for gram, count in grams.items()}
        norms = [0.0] * (_ORDERS + 1)
        for gram, weight in weights.items():
            norms[len(gram)] += weight * weight
        return {gram: weight / math.sqrt(norms[len(gram)]) for gram, weight in weights.items() if weight > 0}


def _grams(text: str) -> Counter[_Gram]:
    words = text.split()
    return Counter(_all_grams(words))


def _all_grams(words: Sequence[str]) -> Iterable[_Gram]:
    for order in range(1, _ORDERS + 1):
        for at in range(len(words) - order + 1):
            yield tuple(words[at : at + order])
