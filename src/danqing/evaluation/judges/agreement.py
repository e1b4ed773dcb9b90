"""How far two judges of the same answers agree, fact by fact and on the order of systems."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from danqing.errors import DataError
from danqing.evaluation.items import Atom

Key = tuple[str, str]
"""Digest of an answer and id of an item, as a store has its scores."""
Scores = Mapping[Key, Sequence[Atom]]
Pair = tuple[Atom, Atom]

MET = 0.5
"""A fact is met from this value on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreed:
    """How far two judges agree on some facts."""

    name: str
    """Kind of fact; "all" for all of them."""
    count: int
    raw: float
    """Share of the facts on which both say met, or both say not met."""
    kappa: float | None
    """Raw agreement beyond chance (Cohen 1960); None where both always say the same one thing."""
    first: float
    second: float
    """Share of the facts that each says are met."""

    def __str__(self) -> str:
        kappa = "-" if self.kappa is None else f"{self.kappa:.2f}"
        return f"{self.name}: {self.raw:.1%} of {self.count} facts, kappa {kappa}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemScores:
    """What two judges give a system: means over its answers of the mean value of their facts."""

    name: str
    count: int
    first: float
    second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How far two judges agree."""

    judges: tuple[str, str]
    answers: int
    """That both judged."""
    unmatched: int
    """Facts that only one of them spoke of; they count nowhere."""
    whole: Agreed
    kinds: tuple[Agreed, ...]
    """By kind of fact, the most frequent first."""
    systems: tuple[SystemScores, ...]
    spearman: float | None
    """Rank correlation of the systems' scores (Spearman 1904); None for fewer than two, or all alike."""

    def to_json(self) -> dict[str, Any]:
        """Return the agreement as JSON has it."""
        return asdict(self) | {"judges": list(self.judges)}

    def __str__(self) -> str:
        first, second = self.judges
        lines = [f"{first} and {second}, {self.answers} answers: {self.whole}"]
        lines += [f"  {kind}" for kind in self.kinds]
        if self.spearman is not None:
            lines.append(f"  order of {len(self.systems)} systems: Spearman {self.spearman:.2f}")
        if self.unmatched:
            lines.append(f"  {self.unmatched} facts that only one of them spoke of")
        return "\n".join(lines)


def agreement(
    first: Scores,
    second: Scores,
    *,
    judges: tuple[str, str],
    systems: Mapping[str, Collection[Key]] | None = None,
) -> Agreement:
    """Compare what two judges said of the answers that both have judged.

    `systems` holds the answers of each system by its name. Facts are paired by their kind and by what was
    wanted. Raises DataError when there is no fact that both judged.
    """
    common = sorted(first.keys() & second.keys())
    pairs = {key: _paired(first[key], second[key]) for key in common}
    flat = [pair for key in common for pair in pairs[key]]
    if not flat:
        raise DataError(
            f"expected answers that {judges[0]} and {judges[1]} both judged, found none; score with both"
        )
    spoken = sum(len(first[key]) + len(second[key]) for key in common)
    by_kind = Counter(one.name for one, _ in flat)
    scored = tuple(_systems(pairs, systems or {}))
    return Agreement(
        judges=judges,
        answers=len(common),
        unmatched=spoken - 2 * len(flat),
        whole=_agreed("all", flat),
        kinds=tuple(
            _agreed(kind, [pair for pair in flat if pair[0].name == kind])
            for kind, _ in by_kind.most_common()
        ),
        systems=scored,
        spearman=spearman([one.first for one in scored], [one.second for one in scored]),
    )


def cohen_kappa(first: Sequence[bool], second: Sequence[bool]) -> float | None:
    """Return raw agreement beyond what chance gives, in parts of what is possible (Cohen 1960).

    None where chance alone gives full agreement: both always say the same.
    """
    one, other = np.asarray(first, bool), np.asarray(second, bool)
    raw = float((one == other).mean())
    chance = float(one.mean() * other.mean() + (1 - one.mean()) * (1 - other.mean()))
    return None if chance == 1 else (raw - chance) / (1 - chance)


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return the correlation of the ranks, ties at their mean rank; None where a side has only one rank."""
    ranks = np.stack([_ranks(first), _ranks(second)])
    if ranks.shape[1] < 2 or (ranks.std(1) == 0).any():
        return None
    return float(np.corrcoef(ranks)[0, 1])


def _paired(first: Sequence[Atom], second: Sequence[Atom]) -> list[Pair]:
    """Return the facts that both judges spoke of; equal ones in the order of their appearance."""
    waiting: dict[tuple[str, str], list[Atom]] = {}
    for atom in second:
        waiting.setdefault((atom.name, atom.wanted), []).append(atom)
    return [(atom, others.pop(0)) for atom in first if (others := waiting.get((atom.name, atom.wanted), []))]


def _agreed(name: str, pairs: Sequence[Pair]) -> Agreed:
    one = [pair[0].value >= MET for pair in pairs]
    other = [pair[1].value >= MET for pair in pairs]
    return Agreed(
        name=name,
        count=len(pairs),
        raw=float(np.mean(np.asarray(one) == np.asarray(other))),
        kappa=cohen_kappa(one, other),
        first=float(np.mean(one)),
        second=float(np.mean(other)),
    )


def _systems(
    pairs: Mapping[Key, Sequence[Pair]], systems: Mapping[str, Collection[Key]]
) -> Iterator[SystemScores]:
    for name, keys in systems.items():
        there = [pairs[key] for key in keys if pairs.get(key)]
        if there:
            means = [[float(np.mean([pair[side].value for pair in one])) for one in there] for side in (0, 1)]
            first, second = map(float, np.mean(means, axis=1))
            yield SystemScores(name=name, count=len(there), first=first, second=second)


def _ranks(values: Sequence[float]) -> np.ndarray:
    given = np.asarray(values, np.float64)
    ranks: np.ndarray = ((given[:, None] > given).sum(1) + (given[:, None] >= given).sum(1) - 1) / 2
    return ranks
