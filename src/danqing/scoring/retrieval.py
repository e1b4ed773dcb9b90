"""Which picture belongs to which text: recall at K both ways, from any measure of likeness.

Likeness is looked at in tiles, some pictures by some texts at a time. Of what passes by, each query keeps its
K best wrong candidates and its best right one: neither the table of all pairs nor a ranking is ever held.

A query is a hit at K when any right candidate is among the K best (COCO and Flickr30k: any of the five
captions of a picture). Equal likeness is no order: a query with ties counts with the chance of a hit when
they are put in order at random, so constant likeness scores K / candidates, not 1.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from danqing.errors import DataError

AT: Final = (1, 5, 10)
BLOCK: Final = 512
"""Pictures, and texts, in a tile."""

Likeness = Callable[[slice, slice], np.ndarray]
"""Gives the likeness of some pictures and some texts, (pictures, texts); more is more alike."""


@runtime_checkable
class Encoder(Protocol):
    """Turns pictures and texts into vectors of one space (CLIP)."""

    @property
    def name(self) -> str:
        """The id of its weights."""

    @property
    def version(self) -> str:
        """Another version may give other vectors."""

    @property
    def resize(self) -> str:
        """How pictures are brought to the size that the network sees: part of the name of a distance."""

    def picture_vector(self, picture: Image.Image) -> np.ndarray:
        """Return the vector of a picture (size,), of length 1."""

    def text_vector(self, text: str) -> np.ndarray:
        """Return the vector of a text (size,), of length 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalls:
    """Recall at K both ways, for each query: 0 or 1, or the chance of a hit where there are ties."""

    texts: Mapping[int, np.ndarray]
    """By K, for each picture as the query: whether one of its own texts is among the first K."""
    pictures: Mapping[int, np.ndarray]
    """By K, for each text as the query: whether its picture is among the first K."""

    def mean(self) -> dict[str, float]:
        """Return the six numbers of papers, as shares: "texts@1" to "pictures@10"."""
        both = {"texts": self.texts, "pictures": self.pictures}
        return {f"{what}@{k}": float(hits.mean()) for what, by_k in both.items() for k, hits in by_k.items()}


def recall_both_ways(
    likeness: Likeness,
    picture_of: Sequence[int] | np.ndarray,
    pictures: int,
    *,
    at: Sequence[int] = AT,
    block: int = BLOCK,
) -> Recalls:
    """Return how often the right one is found, from pictures to texts and from texts to pictures.

    Args:
        likeness: called once for each tile.
        picture_of: for each text, which picture it is about: 0 to `pictures` - 1.
        pictures: how many there are; each has a text or more.
        at: values of K.
        block: pictures, and texts, in a tile.

    Raises DataError for a picture without a text, and for likeness that is no number.
    """
    owners = np.asarray(picture_of, dtype=np.int64)
    if not len(owners) or not np.array_equal(np.unique(owners), np.arange(pictures)):
        raise DataError(f"expected texts of each of {pictures} pictures, found {len(np.unique(owners))}")
    most = max(at)
    from_pictures, from_texts = Ranking(pictures, most), Ranking(len(owners), most)
    for rows in _blocks(pictures, block):
        for columns in _blocks(len(owners), block):
            tile = np.asarray(likeness(rows, columns), dtype=np.float64)
            right = owners[columns] == np.arange(rows.start, rows.stop)[:, None]
            from_pictures.add(rows, tile, right)
            from_texts.add(columns, tile.T, right.T)
    return Recalls(texts={k: from_pictures.hits(k) for k in at}, pictures={k: from_texts.hits(k) for k in at})


def cosine(pictures: np.ndarray, texts: np.ndarray) -> Likeness:
    """Return the likeness of vectors (pictures, size) and (texts, size), which need not have length 1."""
    seen, said = _unit(pictures), _unit(texts)
    return lambda rows, columns: seen[rows] @ said[columns].T


class Ranking:
    """What is known of the ranking of each query while candidates pass by."""

    def __init__(self, queries: int, most: int) -> None:
        """`most` is the largest K that will be asked for."""
        self._most = most
        self._wrong = np.full((queries, most), -np.inf)  # the best wrong candidates, best first
        self._beyond = np.zeros(queries, np.int64)  # wrong ones as good as the last of these, left out
        self._right = np.full(queries, -np.inf)  # the best right candidate,
        self._rights = np.zeros(queries, np.int64)  # and how many right ones are as good

    def add(self, queries: slice, values: np.ndarray, right: np.ndarray) -> None:
        """Take in the likeness (queries, candidates) of new candidates, and which are right."""
        if values.shape != right.shape or not np.isfinite(values).all():
            raise DataError(f"expected a finite likeness of every pair, found {values.shape}, some without")
        self._add_right(queries, np.where(right, values, -np.inf))
        self._add_wrong(queries, np.where(right, -np.inf, values))

    def hits(self, k: int) -> np.ndarray:
        """Return, for each query, the chance that a right candidate is among the first `k`, (queries,)."""
        better = (self._wrong > self._right[:, None]).sum(1)
        last = self._wrong[:, -1] == self._right
        tied = (self._wrong == self._right[:, None]).sum(1) + np.where(last, self._beyond, 0)
        each = zip(better.tolist(), tied.tolist(), self._rights.tolist(), strict=True)
        found = [_chance(k - before, wrong, right) for before, wrong, right in each]
        return np.array(found, dtype=np.float64)

    def _add_right(self, queries: slice, values: np.ndarray) -> None:
        best = values.max(1)
        count = np.where(best > -np.inf, (values == best[:, None]).sum(1), 0)
        known, number = self._right[queries], self._rights[queries]
        self._rights[queries] = np.where(best > known, count, np.where(best == known, number + count, number))
        self._right[queries] = np.maximum(best, known)

    def _add_wrong(self, queries: slice, values: np.ndarray) -> None:
        known, beyond = self._wrong[queries], self._beyond[queries]
        if values.shape[1] > self._most:  # no more than these can enter, but all may be as good as the last
            top = np.partition(values, -self._most, axis=1)[:, -self._most :]
        else:
            top = values
        kept = -np.sort(-np.concatenate([known, top], 1), axis=1)[:, : self._most]
        last = kept[:, -1:]
        there = (known == last).sum(1) + (values == last).sum(1)
        left = there - (kept == last).sum(1) + np.where(known[:, -1] == last[:, 0], beyond, 0)
        self._beyond[queries] = np.where(last[:, 0] > -np.inf, left, 0)
        self._wrong[queries] = kept


def _chance(places: int, wrong: int, right: int) -> float:
    """Return the chance of a right one in the first `places` of `wrong` and `right` ones in random order."""
    if places <= 0 or right == 0:
        return 0.0
    if places > wrong:
        return 1.0
    return 1.0 - math.comb(wrong, places) / math.comb(wrong + right, places)


def _unit(vectors: np.ndarray) -> np.ndarray:
    found = np.asarray(vectors, dtype=np.float64)
    norms = np.linalg.norm(found, axis=-1, keepdims=True)
    if found.ndim != 2 or not np.isfinite(norms).all() or not norms.all():
        raise DataError(f"expected vectors other than 0 (count, size), found {found.shape}")
    return found / norms


def _blocks(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
