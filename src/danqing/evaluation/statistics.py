"""How sure a share, a mean or a difference is.

Prompts are the unit. Several pictures of one prompt, or one scene asked for in twelve languages, say less
than as many independent prompts would; resampling whole clusters (Field and Welsh 2007) keeps that in the
interval.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
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
        separated = p <= LEVEL and not self.low <= 0 <= self.high
        return Comparison(
            difference=self.difference,
            low=self.low,
            high=self.high,
            p=p,
            separated=separated,
            common=self.common,
        )

    def __str__(self) -> str:
        said = "" if self.separated else ", not separated"
        return f"{self.difference:+.3f} [{self.low:+.3f}, {self.high:+.3f}]{said}"


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


def holm(values: Sequence[float]) -> list[float]:
    """Return the p values adjusted for being several (Holm 1979)."""
    adjusted = [1.0] * len(values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        largest = max(largest, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = largest
    return adjusted


def only_answered(observations: Iterable[Observation]) -> list[Observation]:
    """Leave out what has no picture."""
    return [one for one in observations if one.value is not None]


def missing_as_zero(observations: Iterable[Observation]) -> list[Observation]:
    """Count what has no picture as 0."""
    return [one if one.value is not None else one._replace(value=0.0) for one in observations]


def only_common(systems: Sequence[Sequence[Observation]]) -> list[list[Observation]]:
    """Keep, for each system, the items that all systems answered."""
    answered = [only_answered(observations) for observations in systems]
    shared = set.intersection(*({one.item for one in some} for some in answered)) if answered else set()
    return [[one for one in some if one.item in shared] for some in answered]


def _differences(first: Sequence[Observation], second: Sequence[Observation]) -> list[Observation]:
    left, right = _by_item(first), _by_item(second)
    return [
        Observation(item, cluster, value - right[item][1])
        for item, (cluster, value) in left.items()
        if item in right
    ]


def _by_item(observations: Iterable[Observation]) -> dict[str, tuple[str, float]]:
    """Return the cluster and the mean value of each answered item."""
    found: dict[str, tuple[str, list[float]]] = {}
    for item, cluster, value in observations:
        if value is not None:
            found.setdefault(item, (cluster, []))[1].append(value)
    return {item: (cluster, sum(values) / len(values)) for item, (cluster, values) in found.items()}


def _tables(rows: Sequence[Sequence[Observation]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum and the number of values of each cluster in each row, (clusters, rows) float64."""
    names = {one.cluster for row in rows for one in row}
    place = {cluster: index for index, cluster in enumerate(sorted(names))}
    sums, counts = np.zeros((2, len(place), len(rows)))
    for column, row in enumerate(rows):
        index = [place[one.cluster] for one in row]
        np.add.at(sums[:, column], index, np.array([one.value for one in row], float))
        np.add.at(counts[:, column], index, 1)
    return sums, counts


def _resampled(sums: np.ndarray, counts: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Return the mean over rows of each draw of clusters; rows that a draw misses are left out of it."""
    clusters, rows = sums.shape
    means = []
    for chosen in _blocks(clusters, draws, seed):
        size = len(chosen)
        flat = chosen + clusters * np.arange(size)[:, None]
        weights = np.bincount(flat.ravel(), minlength=size * clusters).reshape(size, clusters)
        total, number = weights @ sums, weights @ counts
        share = np.divide(total, number, out=np.zeros((size, rows)), where=number > 0)
        means.append(share.sum(1) / np.maximum((number > 0).sum(1), 1))
    return np.concatenate(means)


def _blocks(clusters: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """Yield the clusters of each draw, some draws at a time, (draws, clusters)."""
    rng = np.random.default_rng(seed)
    step = max(1, _BLOCK // clusters)
    for start in range(0, draws, step):
        yield rng.integers(clusters, size=(min(step, draws - start), clusters))


def _percentiles(means: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(means, (LEVEL / 2, 1 - LEVEL / 2))
    return float(low), float(high)


def _sign_flip(sums: np.ndarray, draws: int, seed: int) -> float:
    """Return how often random signs give a total at least as far from 0 as the true ones."""
    sums = sums[sums != 0]
    if not len(sums):
        return 1.0
    rng = np.random.default_rng(seed)
    step = max(1, _BLOCK // len(sums))
    reached = abs(sums.sum()) * (1 - 1e-9)
    extreme = 0
    for start in range(0, draws, step):
        signs = rng.integers(2, size=(min(step, draws - start), len(sums))) * 2 - 1
        extreme += int((np.abs(signs @ sums) >= reached).sum())
    return (extreme + 1) / (draws + 1)
