"""Captions against what people wrote about the same pictures: BLEU, ROUGE-L and CIDEr-D.

The numbers are those of the COCO caption evaluation (Chen et al. 2015, arXiv 1504.00325), to rounding, whose
choices the papers leave open: the words of `tokenise`, the nearest reference length, beta 1.2, sigma 6.

CIDEr falls steeply when captions are longer than their references, so print the mean length beside it.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final, Self

import numpy as np

from danqing.errors import DataError
from danqing.scoring.tokenise import tokenise

_ORDERS: Final = 4  # n-grams of one to four words
_BETA: Final = 1.2  # recall weighs more than precision in ROUGE-L
_SIGMA: Final = 6.0  # words of difference in length that CIDEr-D forgives
_TINY: Final = 1e-15  # keep BLEU finite where no n-gram is found,
_SMALL: Final = 1e-9  # or none is there

_SIGNS: Final = re.compile(
    r"[\u3005\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Of Chinese and Japanese, which put no spaces between words."""
_MARKS: Final = frozenset("。、・「」『』《》〈〉【】〔〕")
"""Marks that the Penn Treebank does not know; the others become its own (NFKC)."""

_Words = list[str]
_Gram = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """A measure of captions: its mean over pictures, and its value for each."""

    mean: float
    each: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionScores:
    """All measures of one set of captions."""

    bleu: tuple[float, float, float, float]
    """BLEU-1 to BLEU-4 of the corpus."""
    rouge_l: Scores
    cider_d: Scores
    mean_length: float
    """Words in a candidate, on average."""


def score_captions(
    candidates: Sequence[str], references: Sequence[Sequence[str]], *, tokenised: bool = False
) -> CaptionScores:
    """Return every measure of one caption a picture, cutting sentences into words once.

    `references` holds the captions people wrote, one or more a picture. With `tokenised` captions are words
    with single spaces between them, taken as they are. Raises DataError when the two do not fit together.
    """
    found, wanted = _cut(candidates, references, tokenised)
    return CaptionScores(
        bleu=_bleu(found, wanted),
        rouge_l=_scores(_rouge(*pair) for pair in zip(found, wanted, strict=True)),
        cider_d=_scores(_cider(found, wanted)),
        mean_length=fmean(map(len, found)),
    )


def bleu(
    candidates: Sequence[str], references: Sequence[Sequence[str]], *, tokenised: bool = False
) -> tuple[float, float, float, float]:
    """Return BLEU-1 to BLEU-4 of the corpus, 0 to 1 (Papineni et al. 2002)."""
    return _bleu(*_cut(candidates, references, tokenised))


def bleu_parts(candidate: str, references: Sequence[str], *, tokenised: bool = False) -> tuple[float, ...]:
    """Return ten numbers of one caption whose sums over captions are what `bleu_of_parts` takes."""
    found, wanted = _cut([candidate], [references], tokenised)
    return tuple(map(float, _counted(found[0], wanted[0])))


def bleu_of_parts(parts: np.ndarray, order: int) -> np.ndarray:
    """Return BLEU of words up to `order` in a row, of sums of parts (..., 10)."""
    matched, total = parts[..., :order], parts[..., _ORDERS : _ORDERS + order]
    ratio = (parts[..., -2] + _TINY) / (parts[..., -1] + _SMALL)
    penalty = np.exp(np.minimum(0.0, 1 - 1 / ratio))
    precisions = (matched + _TINY) / (total + _SMALL)
    return np.asarray(penalty * precisions.prod(-1) ** (1 / order))


def spaced(text: str, language: str) -> str:
    """Return the words of a caption with single spaces between them, as measures take it when `tokenised`.

    In Chinese and Japanese every character is a word, as others print scores of captions in characters, and
    marks are dropped.
    """
    if language in ("zh", "ja"):
        plain = unicodedata.normalize("NFKC", text)
        marks = "".join(" " if sign in _MARKS else sign for sign in plain)
        text = _SIGNS.sub(r" \g<0> ", marks)
    return " ".join(word for part in tokenise(text) for word in part.split())


def rouge_l(
    candidates: Sequence[str], references: Sequence[Sequence[str]], *, tokenised: bool = False
) -> Scores:
    """Return ROUGE-L, 0 to 1: the longest common subsequence with the best reference (Lin 2004)."""
    pairs = zip(*_cut(candidates, references, tokenised), strict=True)
    return _scores(_rouge(*pair) for pair in pairs)


def cider_d(
    candidates: Sequence[str], references: Sequence[Sequence[str]], *, tokenised: bool = False
) -> Scores:
    """Return CIDEr-D, 0 to 10 (Vedantam, Zitnick and Parikh 2015).

    Rare n-grams weigh more, and how rare they are is counted in these references: scores belong to their set
    of pictures, and a picture alone scores 0.
    """
    return _scores(_cider(*_cut(candidates, references, tokenised)))


def _scores(each: Iterable[float]) -> Scores:
    values = tuple(each)
    return Scores(mean=fmean(values), each=values)


def _cut(
    candidates: Sequence[str], references: Sequence[Sequence[str]], tokenised: bool
) -> tuple[list[_Words], list[list[_Words]]]:
    """Return the words of each candidate, and of each reference of each picture."""
    if len(candidates) != len(references) or not candidates:
        raise DataError(
            "expected one caption and one list of references a picture, "
            f"found {len(candidates)} captions and {len(references)} lists; pass both for every picture"
        )
    for at, several in enumerate(references):
        if isinstance(several, str) or not several:
            raise DataError(
                f"expected a list of captions as references of picture {at}, found {several!r}; "
                "put them in a list, and leave out pictures nobody described"
            )
    cut = _given if tokenised else tokenise
    return [cut(text) for text in candidates], [[cut(text) for text in several] for several in references]


def _given(text: str) -> _Words:
    return [word for word in text.split(" ") if word]


def _grams(words: _Words) -> list[Counter[_Gram]]:
    """Count the n-grams of each order; a fraction or a telephone number is several words here."""
    words = " ".join(words).split()
    return [
        Counter(tuple(words[i : i + order]) for i in range(len(words) - order + 1))
        for order in range(1, _ORDERS + 1)
    ]


def _bleu(found: list[_Words], wanted: list[list[_Words]]) -> tuple[float, float, float, float]:
    """Return the geometric means of clipped precisions, times the brevity penalty (equations 2 and 3)."""
    sums = np.array([_counted(*pair) for pair in zip(found, wanted, strict=True)], np.float64).sum(axis=0)
    one, two, three, four = (float(bleu_of_parts(sums, order + 1)) for order in range(_ORDERS))
    return one, two, three, four


def _counted(words: _Words, several: list[_Words]) -> list[int]:
    """Return matched n-grams, all n-grams, words, and words of the reference of the nearest length."""
    matched, total = [], []
    grams, others = _grams(words), [_grams(reference) for reference in several]
    for order, counts in enumerate(grams):
        most: Counter[_Gram] = Counter()
        for other in others:
            most |= other[order]
        matched.append((counts & most).total())
        total.append(counts.total())
    size = grams[0].total()
    near = min((other[0].total() for other in others), key=lambda other: (abs(other - size), other))
    return [*matched, *total, size, near]


def _rouge(words: _Words, several: list[_Words]) -> float:
    """Return the F measure of the best precision and the best recall, maybe of different references."""
    words = words or [""]  # nothing equals nothing
    common = [(_common(words, reference or [""]), len(reference) or 1) for reference in several]
    precision = max(shared for shared, _ in common) / len(words)
    recall = max(shared / length for shared, length in common)
    if not precision:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def _common(first: _Words, second: _Words) -> int:
    """Return the length of the longest common subsequence."""
    row = [0] * (len(second) + 1)
    for word in first:
        diagonal = 0
        for at, other in enumerate(second, 1):
            diagonal, row[at] = row[at], diagonal + 1 if word == other else max(row[at], row[at - 1])
    return row[-1]


@dataclass(frozen=True, slots=True)
class _Vector:
    """A caption as tf-idf weights of its n-grams, one table an order."""

    weights: list[dict[_Gram, float]]
    norms: list[float]
    pairs: int  # words next to each other: the length that CIDEr-D compares

    @classmethod
    def of(cls, grams: list[Counter[_Gram]], rarity: dict[_Gram, float], unseen: float) -> Self:
        weights = [{g: n * rarity.get(g, unseen) for g, n in counts.items()} for counts in grams]
        norms = [math.sqrt(sum(weight * weight for weight in table.values())) for table in weights]
        return cls(weights, norms, grams[1].total())

    def likeness(self, reference: Self) -> float:
        """Return the mean cosine, clipped so that repeating a word gains nothing, less for another length."""
        cosines = [
            sum(min(weight, theirs[g]) * theirs[g] for g, weight in ours.items() if g in theirs)
            / (norm * other or 1.0)
            for ours, theirs, norm, other in zip(
                self.weights, reference.weights, self.norms, reference.norms, strict=True
            )
        ]
        return fmean(cosines) * math.exp(-((self.pairs - reference.pairs) ** 2) / (2 * _SIGMA**2))


def _cider(found: list[_Words], wanted: list[list[_Words]]) -> Iterator[float]:
    """Yield ten times the mean likeness to the references of each picture."""
    others = [[_grams(reference) for reference in several] for several in wanted]
    pictures = Counter(
        g for several in others for g in {g for grams in several for table in grams for g in table}
    )
    unseen = math.log(len(found))
    rarity = {gram: unseen - math.log(count) for gram, count in pictures.items()}
    for words, several in zip(found, others, strict=True):
        candidate = _Vector.of(_grams(words), rarity, unseen)
        yield 10 * fmean(candidate.likeness(_Vector.of(grams, rarity, unseen)) for grams in several)
