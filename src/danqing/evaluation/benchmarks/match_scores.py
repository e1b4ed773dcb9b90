"""Which picture was drawn for which caption: rows of recall at K, from what a judge keeps of each picture.

The pictures of a system and the captions they were drawn for are searched both ways. Of true pictures that is
the retrieval of COCO and Flickr30k, a score of the judge; of drawn ones it is how well they can be told apart
by their captions (R-precision, Xu et al. 2018, arXiv 1711.10485).
"""

import base64
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Protocol

import numpy as np

from danqing.errors import DataError
from danqing.evaluation.items import Atom
from danqing.evaluation.results import Answer, Row
from danqing.scoring.retrieval import AT, Likeness, Recalls, recall_both_ways


class Search(Protocol):
    """Gives the likeness of answers and all their captions, and which answer each caption is of."""

    def __call__(self, answers: Sequence[Answer]) -> tuple[Likeness, list[int]]:
        """Return both; all of `answers` are judged."""

    def __hash__(self) -> int:
        """Results are kept by it."""


def match_rows(name: str, title: str, search: Search, *, of: str = "", about: str = "") -> tuple[Row, ...]:
    """Return the rows of recall at 1, 5 and 10 both ways; those at 1 count."""
    return tuple(
        Row(
            name=f"{name}-{what}-{k}",
            of=of or name,
            title=f"{title}, R@{k} {said}",
            about=f"{does} {about}".strip(),
            together=partial(_hits, search, what, k),
            counts=k == 1,
        )
        for what, said, does in (
            ("texts", "to texts", "The picture finds its caption, or one of several, among all."),
            ("pictures", "to pictures", "The caption finds its picture among all pictures of this system."),
        )
        for k in AT
    )


def packed(name: str, values: Sequence[float] | np.ndarray) -> Atom:
    """Return an atom that keeps numbers for rows, as float32 in base64; it says nothing of the answer."""
    data = np.asarray(values, dtype="<f4").tobytes()
    return Atom(name=name, value=1.0, wanted="", seen=base64.b64encode(data).decode())


def unpacked(answer: Answer, name: str) -> list[np.ndarray]:
    """Return the numbers of every atom of this name; raises DataError when there is none."""
    found = [_numbers(atom.seen) for atom in answer.atoms if atom.name == name]
    if not found:
        raise DataError(f"{answer.item.row}: expected an atom {name!r}, found none; judge it again")
    return found


@lru_cache(maxsize=65536)
def _numbers(seen: str) -> np.ndarray:
    found = np.frombuffer(base64.b64decode(seen), dtype="<f4")
    return found.astype(np.float64)


def _hits(search: Search, what: str, k: int, answers: Sequence[Answer]) -> list[float | None]:
    """Return for each answer whether it is found at `k`, or the share of its captions that find it.

    What is searched are the answers that are there: a picture that nobody drew misleads nobody.
    """
    there = [one for one in answers if one.state == "judged"]
    if not there:
        return [None] * len(answers)
    recalls, owners = _recalled(search, tuple(there))
    if what == "texts":
        values = recalls.texts[k]
    else:
        values = np.bincount(owners, weights=recalls.pictures[k]) / np.bincount(owners)
    found = iter(values.tolist())
    return [next(found) if one.state == "judged" else None for one in answers]


@lru_cache(maxsize=8)
def _recalled(search: Search, answers: tuple[Answer, ...]) -> tuple[Recalls, list[int]]:
    """Return what is found, once for the six rows of a cell."""
    likeness, owners = search(answers)
    return recall_both_ways(likeness, owners, len(answers)), owners
