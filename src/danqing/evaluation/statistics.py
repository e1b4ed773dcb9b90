"""How sure a share, a mean or a difference is.

Prompts are the unit. Several pictures of one prompt, or one scene asked for in twelve languages, say less
than as many independent prompts would; resampling whole clusters (Field and Welsh 2007) keeps that in the
interval.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, Self

import numpy as np

from danqing.errors import DataError

DRAWS: Final = 2000
LEVEL: Final = 0.05
"""Two-sided; the intervals hold 95 %."""
_Z95 = 1.959964  # two-sided 95 % of the normal distribution
_BLOCK: Final = 1 << 23  # random numbers held at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A share of successes with its 95 % Wilson interval (Wilson 1927)."""

    successes: int
    total: int
    share: float
    low: float
    high: float

    @classmethod
    def of(cls, successes: int, total: int) -> Self:
        """Return the rate of `successes` in `total` trials."""
        if not 0 <= successes <= total or total < 1:
            raise DataError(f"expected 0 <= successes <= total and total >= 1, found {successes} of {total}")
        share = successes / total
        middle = share + _Z95**2 / (2 * total)
        spread = _Z95 * math.sqrt(share * (1 - share) / total + _Z95**2 / (4 * total**2))
        scale = 1 + _Z95**2 / total
        return cls(
            successes=successes,
            total=total,
            share=share,
            low=max(0.0, (middle - spread) / scale),
            high=min(1.0, (middle + spread) / scale),
        )

    def __str__(self) -> str:
        return f"{self.share:.3f} [{self.low:.3f}, {self.high:.3f}]  {self.successes}/{self.total}"


class Observation(NamedTuple):
    """What one picture, or all pictures of one item, came to."""

    item: str
    cluster: str
    """What is resampled as a whole: the prompt, or the scene that several prompts describe."""
    value: float | None
    """From 0 to 1, a difference of two such, or in a unit of its own; None when there is no answer."""
    weight: float = 1.0
    """What it weighs in the mean: a share of words pools over prompts when long texts weigh more."""
    parts: tuple[float, ...] = ()
    """Of a row that is pooled: numbers whose sums over answers come to the row's value together."""


Pool = Callable[[np.ndarray], np.ndarray]
"""Turns sums of parts, (..., parts), into values, (...): a share of shares, BLEU (Papineni et al. 2002)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The first system minus the second on the items that both answered."""

    difference: float
    low: float
    high: float
    p: float
    """Two-sided, of a sign-flip test over clusters; adjusted for several rows where a report says so."""
    separated: bool
    """Whether `p` is at most 0.05 and the interval leaves out 0."""
    common: int
    """Items that both answered."""

    def adjusted(self, p: float) -> "Comparison":
        """Return the comparison with a `p` that allows for the other rows."""
        return replace(self, p=p, separated=p <= LEVEL and not self.low <= 0 <= self.high)

    def __str__(self) -> str:
        said = "" if self.separated else ", not separated"
        return f"{self.difference:+.3f} [{self.low:+.3f}, {self.high:+.3f}]{said}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rank:
    """The place of one system among several, from 1, with the interval that resampled prompts give it."""

    place: int
    low: int
    high: int

    def __str__(self) -> str:
        return str(self.place) if self.low == self.high else f"{self.place} [{self.low}–{self.high}]"


def cluster_interval(
    observations: Sequence[Observation], *, draws: int = DRAWS, seed: int = 0
) -> Interval | None:
    """Return the mean of what was answered with a percentile bootstrap over clusters; None without answers.

    When every value is 0, or every value is 1, resampling would claim certainty; the interval is then that of
    Wilson for as many trials as there are clusters. One cluster alone tells nothing: 0 to 1.
    """
    return mean_over_rows([observations], draws=draws, seed=seed)


def mean_over_rows(
    rows: Sequence[Sequence[Observation]], *, draws: int = DRAWS, seed: int = 0, shares: bool = True
) -> Interval | None:
    """Return the unweighted mean of the rows' means; clusters are drawn together for all rows.

    Rows without an answered observation are left out; None when there is no other. A row whose values are all
    0, or all 1, adds no width: the interval is a little too narrow when many rows are perfect. Values that
    are no `shares` have a unit and no bounds: equal ones, and a single cluster, then have no width at all.
    """
    answered = [kept for row in rows if (kept := only_answered(row))]
    if not answered:
        return None
    sums, counts = _tables(answered)  # (clusters, rows) each
    mean = float((sums.sum(0) / counts.sum(0)).mean())
    clusters = len(sums)
    if shares and ((sums == 0).all() or (sums == counts).all()):
        rate = Rate.of(round(mean) * clusters, clusters)
        return Interval(mean=mean, low=rate.low, high=rate.high)
    if clusters == 1:
        return Interval(mean=mean, low=0.0 if shares else mean, high=1.0 if shares else mean)
    low, high = _percentiles(_resampled(sums, counts, draws, seed))
    return Interval(mean=mean, low=low, high=high)


def compare(
    first: Sequence[Observation], second: Sequence[Observation], *, draws: int = DRAWS, seed: int = 0
) -> Comparison | None:
    """Compare two systems on the items that both answered; None without such items.

    The interval is a paired percentile bootstrap over clusters. The test flips the signs of the clusters'
    differences (Fisher 1935), which a handful of lucky prompts cannot pass.
    """
    return compare_rows([first], [second], draws=draws, seed=seed)


def compare_rows(
    first: Sequence[Sequence[Observation]],
    second: Sequence[Sequence[Observation]],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Comparison | None:
    """Compare the unweighted means over rows of two systems; rows without a common item are left out."""
    pairs = [_differences(left, right) for left, right in zip(first, second, strict=True)]
    rows = [pair for pair in pairs if pair]
    if not rows:
        return None
    sums, counts = _tables(rows)
    mean = float((sums.sum(0) / counts.sum(0)).mean())
    low, high = _percentiles(_resampled(sums, counts, draws, seed)) if sums.any() else (0.0, 0.0)
    items = {one.item for row in rows for one in row}
    found = Comparison(difference=mean, low=low, high=high, p=1.0, separated=False, common=len(items))
    return found.adjusted(_sign_flip((sums / counts.sum(0)).mean(1), draws, seed))


def pooled_interval(
    observations: Sequence[Observation], pool: Pool, *, draws: int = DRAWS, seed: int = 0
) -> Interval | None:
    """Return what the sums of parts come to, with a percentile bootstrap over clusters."""
    answered = only_answered(observations)
    if not answered:
        return None
    sums = _parts(answered, _clusters([answered]))
    value = float(pool(sums.sum(0)))
    if len(sums) == 1:
        return Interval(mean=value, low=value, high=value)
    drawn = [pool(_weights(chosen, len(sums)) @ sums) for chosen in _blocks(len(sums), draws, seed)]
    low, high = _percentiles(np.concatenate(drawn))
    return Interval(mean=value, low=low, high=high)


def compare_pooled(
    first: Sequence[Observation],
    second: Sequence[Observation],
    pool: Pool,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Comparison | None:
    """Compare two systems in a pooled row, on the items that both answered.

    The test exchanges the two systems' answers cluster by cluster (approximate randomisation, Noreen 1989),
    which is the sign-flip test where values are means.
    """
    left, right = only_common([first, second])
    if not left:
        return None
    clusters = _clusters([left])
    mine, theirs = _parts(left, clusters), _parts(right, clusters)
    count = len(clusters)
    difference = float(pool(mine.sum(0)) - pool(theirs.sum(0)))
    drawn = []
    for chosen in _blocks(count, draws, seed):
        weights = _weights(chosen, count)
        drawn.append(pool(weights @ mine) - pool(weights @ theirs))
    low, high = _percentiles(np.concatenate(drawn))
    reached, extreme = abs(difference) * (1 - 1e-9), 0
    for signs in _signs(count, draws, seed):
        kept = (signs > 0).astype(float)
        swapped = pool(kept @ mine + (1 - kept) @ theirs) - pool(kept @ theirs + (1 - kept) @ mine)
        extreme += int((np.abs(swapped) >= reached).sum())
    found = Comparison(
        difference=difference,
        low=low,
        high=high,
        p=1.0,
        separated=False,
        common=len({one.item for one in left}),
    )
    return found.adjusted((extreme + 1) / (draws + 1))


def ranks(
    systems: Mapping[str, Sequence[Sequence[Observation]]], *, draws: int = DRAWS, seed: int = 0
) -> dict[str, Rank]:
    """Return the place of each system by its mean over rows, on the items that all of them answered.

    Prompts are drawn alike for all systems, so that an easy draw lifts none above another. Systems without a
    difference share the better place. Empty without two systems and an item in common.
    """
    rows = list(zip(*systems.values(), strict=True))
    common = [kept for row in rows if (kept := only_common(row)) and kept[0]]
    if len(systems) < 2 or not common:
        return {}
    means, drawn = [], []
    for place in range(len(systems)):
        sums, counts = _tables([row[place] for row in common])
        means.append((sums.sum(0) / counts.sum(0)).mean())
        drawn.append(_resampled(sums, counts, draws, seed))
    places = _places(np.array(means)[:, None])[:, 0]
    bounds = np.quantile(_places(np.array(drawn)), (LEVEL / 2, 1 - LEVEL / 2), axis=1, method="nearest")
    return {
        label: Rank(place=int(places[index]), low=int(bounds[0, index]), high=int(bounds[1, index]))
        for index, label in enumerate(systems)
    }


def holm(values: Sequence[float]) -> list[float]:
    """Return the p values adjusted for being several (Holm 1979)."""
    adjusted = [1.0] * len(values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        largest = max(largest, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = largest
    return adjusted


def only_answered(observations: Iterable[Observation]) -> list[Observation]:
    """Leave out what has no answer, and what weighs nothing."""
    return [one for one in observations if one.value is not None and one.weight > 0]


def missing_as_zero(observations: Iterable[Observation]) -> list[Observation]:
    """Count what has no answer as 0."""
    return [one if one.value is not None else one._replace(value=0.0) for one in observations]


def only_common(systems: Sequence[Sequence[Observation]]) -> list[list[Observation]]:
    """Keep, for each system, the items that all systems answered."""
    answered = [only_answered(observations) for observations in systems]
    shared = set.intersection(*({one.item for one in some} for some in answered)) if answered else set()
    return [[one for one in some if one.item in shared] for some in answered]


def _differences(first: Sequence[Observation], second: Sequence[Observation]) -> list[Observation]:
    left, right = _by_item(first), _by_item(second)
    return [
        one._replace(value=(one.value or 0.0) - (right[item].value or 0.0))
        for item, one in left.items()
        if item in right
    ]


def _by_item(observations: Iterable[Observation]) -> dict[str, Observation]:
    """Return the mean of each answered item."""
    found: dict[str, list[Observation]] = {}
    for one in only_answered(observations):
        found.setdefault(one.item, []).append(one)
    return {
        item: some[0]._replace(value=sum(one.value or 0.0 for one in some) / len(some))
        for item, some in found.items()
    }


def _clusters(rows: Sequence[Sequence[Observation]]) -> dict[str, int]:
    """Return the place of each cluster in a table."""
    names = {one.cluster for row in rows for one in row}
    return {cluster: index for index, cluster in enumerate(sorted(names))}


def _tables(rows: Sequence[Sequence[Observation]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the weighted sum and the weight of each cluster in each row, (clusters, rows) float64."""
    place = _clusters(rows)
    sums, counts = np.zeros((2, len(place), len(rows)))
    for column, row in enumerate(rows):
        index = [place[one.cluster] for one in row]
        weights = np.array([one.weight for one in row])
        np.add.at(sums[:, column], index, np.array([one.value for one in row], float) * weights)
        np.add.at(counts[:, column], index, weights)
    return sums, counts


def _parts(row: Sequence[Observation], place: Mapping[str, int]) -> np.ndarray:
    """Return the sums of parts of each cluster, (clusters, parts) float64."""
    sums = np.zeros((len(place), len(row[0].parts)))
    np.add.at(sums, [place[one.cluster] for one in row], np.array([one.parts for one in row], float))
    return sums


def _resampled(sums: np.ndarray, counts: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Return the mean over rows of each draw of clusters; rows that a draw misses are left out of it."""
    clusters, rows = sums.shape
    means = []
    for chosen in _blocks(clusters, draws, seed):
        weights = _weights(chosen, clusters)
        total, number = weights @ sums, weights @ counts
        share = np.divide(total, number, out=np.zeros((len(chosen), rows)), where=number > 0)
        means.append(share.sum(1) / np.maximum((number > 0).sum(1), 1))
    return np.concatenate(means)


def _blocks(clusters: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """Yield the clusters of each draw, some draws at a time, (draws, clusters)."""
    rng = np.random.default_rng(seed)
    step = max(1, _BLOCK // clusters)
    for start in range(0, draws, step):
        yield rng.integers(clusters, size=(min(step, draws - start), clusters))


def _weights(chosen: np.ndarray, clusters: int) -> np.ndarray:
    """Return how often each draw holds each cluster, (draws, clusters)."""
    size = len(chosen)
    flat = chosen + clusters * np.arange(size)[:, None]
    return np.bincount(flat.ravel(), minlength=size * clusters).reshape(size, clusters)


def _percentiles(means: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(means, (LEVEL / 2, 1 - LEVEL / 2))
    return float(low), float(high)


def _sign_flip(sums: np.ndarray, draws: int, seed: int) -> float:
    """Return how often random signs give a total at least as far from 0 as the true ones."""
    sums = sums[sums != 0]
    if not len(sums):
        return 1.0
    reached = abs(sums.sum()) * (1 - 1e-9)
    extreme = sum(int((np.abs(signs @ sums) >= reached).sum()) for signs in _signs(len(sums), draws, seed))
    return (extreme + 1) / (draws + 1)


def _signs(clusters: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """Yield random signs of the clusters, some draws at a time, (draws, clusters)."""
    rng = np.random.default_rng(seed)
    step = max(1, _BLOCK // clusters)
    for start in range(0, draws, step):
        yield rng.integers(2, size=(min(step, draws - start), clusters)) * 2 - 1


def _places(values: np.ndarray) -> np.ndarray:
    """Return 1 and the number of systems that are better, for each system and draw, (systems, draws)."""
    return 1 + (values[None] > values[:, None]).sum(1)
