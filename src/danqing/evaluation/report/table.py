"""The rows of one benchmark: every system with interval, coverage and rank, its floor and comparisons."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from danqing.evaluation.report.printed import MEAN, printed
from danqing.evaluation.report.published import Published
from danqing.evaluation.results import Entrant, Results, Row
from danqing.evaluation.statistics import (
    Comparison,
    Interval,
    Observation,
    Rank,
    compare_pooled,
    compare_rows,
    holm,
    mean_over_rows,
    missing_as_zero,
    only_common,
    pooled_interval,
    ranks,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One system in one row, in three views of what was answered."""

    interval: Interval | None = None
    """Over the judged answers; None without any."""
    zero: float | None = None
    """The mean when everything without an answer counts as 0; None in a row with a unit."""
    common: float | None = None
    """The mean over the items that every system of the row answered."""
    expected: int = 0
    """Answers that were wanted."""
    judged: int = 0
    refused: int = 0
    failed: int = 0
    timeout: int = 0
    invalid: int = 0
    """Answers that were no pictures."""
    missing: int = 0
    """Answers that nobody made: not asked for yet, or not in the folder."""

    @property
    def coverage(self) -> float:
        """Share of the wanted answers that were judged."""
        return self.judged / self.expected if self.expected else 0.0

    @property
    def gaps(self) -> str:
        """Why answers are not there, in words; empty when all are."""
        names = {"refused": "refused", "failed": "failed", "timeout": "timed out", "invalid": "invalid"}
        names |= {"missing": "missing"}
        told = [f"{count} {said}" for name, said in names.items() if (count := getattr(self, name))]
        return ", ".join(told)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowReport:
    """One row of the table."""

    benchmark: str
    """Name of the benchmark that it belongs to."""
    name: str
    title: str
    about: str
    unit: str
    """Of the values; "" for shares from 0 to 1."""
    counts: bool
    """Whether it is part of the mean."""
    items: int
    cells: Mapping[str, Cell]
    """By label of the system."""
    floor: Interval | None
    """The least that the judge sees: of answers judged for other prompts, or of doing nothing."""
    comparisons: Mapping[str, Comparison]
    """The first system minus each baseline, by label; p values are adjusted over the rows (Holm)."""
    ranks: Mapping[str, Rank] = field(default_factory=dict)
    """Of the first system and the baselines, on the items that all answered."""
    published: tuple[Published, ...] = ()
    """What others printed for the same metric, each under its own protocol."""


_Observed = Mapping[tuple[str, str], list[Observation]]


def shown(results: Results) -> tuple[Entrant, ...]:
    """Return the entrants with a column of their own."""
    return tuple(entrant for entrant in results.entrants if entrant.role != "floor")


def rows_of(results: Results, labels: Iterable[str]) -> tuple[tuple[RowReport, ...], RowReport]:
    """Return the rows of one benchmark and the mean over those that count.

    Rows without an item are left out. Each has a cell for every one of `labels`, empty for those that do not
    take part.
    """
    entrants = shown(results)
    seen = [row for row in results.rows if any(results.of(entrant, row) for entrant in entrants)]
    observed = {
        (entrant.label, row.name): results.observations(entrant, row) for entrant in entrants for row in seen
    }
    compared, empty = _comparisons(seen, entrants, observed), {label: Cell() for label in labels}
    rows = tuple(
        RowReport(
            benchmark=results.name,
            name=row.name,
            title=row.title or row.name,
            about=row.about,
            unit=row.unit,
            counts=row.counts,
            items=len({one.item.id for entrant in entrants for one in results.of(entrant, row)}),
            cells=empty | _cells(results, [row], observed),
            floor=_interval([row], [results.floor(row)]),
            comparisons=compared[row.name],
            ranks=_ranks([row], entrants, observed),
            published=printed(results.benchmark, row.name),
        )
        for row in seen
    )
    return rows, _mean(results, [row for row in seen if row.counts], observed, empty)


def _mean(results: Results, rows: Sequence[Row], observed: _Observed, empty: Mapping[str, Cell]) -> RowReport:
    entrants = shown(results)
    first, *others = entrants
    mine = [observed[first.label, row.name] for row in rows]
    found = {
        other.label: compare_rows(mine, [observed[other.label, row.name] for row in rows])
        for other in others
        if other.role == "baseline"
    }
    return RowReport(
        benchmark=results.name,
        name=MEAN,
        title="Mean of the rows",
        about="Every row weighs the same.",
        unit="",
        counts=False,
        items=len({one.item.id for e in entrants for row in rows for one in results.of(e, row)}),
        cells={**empty, **_cells(results, rows, observed)},
        floor=mean_over_rows([results.floor(row) for row in rows]),
        comparisons={label: comparison for label, comparison in found.items() if comparison is not None},
        ranks=_ranks(rows, entrants, observed),
        published=printed(results.benchmark, MEAN),
    )


def _cells(results: Results, rows: Sequence[Row], observed: _Observed) -> dict[str, Cell]:
    """Return the cells of one row, or of the mean over several."""
    shares = not any(row.unit or row.pool for row in rows)
    labels = [entrant.label for entrant in shown(results) if any(results.of(entrant, row) for row in rows)]
    common: dict[str, list[list[Observation]]] = {label: [] for label in labels}
    for row in rows:
        for label, kept in zip(labels, only_common([observed[one, row.name] for one in labels]), strict=True):
            common[label].append(kept)
    cells = {}
    for entrant in shown(results):
        values = [observed[entrant.label, row.name] for row in rows]
        states = [one.state for row in rows for one in results.of(entrant, row)]
        cells[entrant.label] = Cell(
            interval=_whole(results, entrant, rows) or _interval(rows, values),
            zero=_plain_mean(rows, [missing_as_zero(some) for some in values]) if shares else None,
            common=_common(results, entrant, rows, common.get(entrant.label, [[] for _ in rows])),
            expected=len(states),
            judged=states.count("judged"),
            refused=states.count("refused"),
            failed=states.count("failed"),
            timeout=states.count("timeout"),
            invalid=states.count("invalid"),
            missing=states.count("missing"),
        )
    return cells


def _whole(
    results: Results, entrant: Entrant, rows: Sequence[Row], items: Collection[str] | None = None
) -> Interval | None:
    """Return what all answers of one row, or those to some items, come to as a whole; None for other rows."""
    if len(rows) != 1 or rows[0].corpus is None:
        return None
    answers = [
        one
        for one in results.of(entrant, rows[0])
        if one.state == "judged" and (items is None or one.item.id in items)
    ]
    return rows[0].corpus(answers, results.truth(rows[0]))


def _common(
    results: Results, entrant: Entrant, rows: Sequence[Row], values: Sequence[Sequence[Observation]]
) -> float | None:
    """Return the mean, or what takes its place, over the items that every system answered."""
    if len(rows) == 1 and rows[0].corpus is not None:
        whole = _whole(results, entrant, rows, {one.item for one in values[0]})
        return None if whole is None else whole.mean
    return _plain_mean(rows, values)


def _interval(rows: Sequence[Row], values: Sequence[Sequence[Observation]]) -> Interval | None:
    if any(row.corpus is not None for row in rows):
        return None
    if len(rows) == 1 and rows[0].pool is not None:
        return pooled_interval(values[0], rows[0].pool)
    return mean_over_rows(values, shares=not any(row.unit for row in rows))


def _plain_mean(rows: Sequence[Row], values: Sequence[Sequence[Observation]]) -> float | None:
    means = []
    for row, some in zip(rows, values, strict=True):
        answered = [one for one in some if one.weight > 0]
        if answered and row.pool is not None:
            found = pooled_interval(answered, row.pool, draws=1)
            means += [] if found is None else [found.mean]
        elif answered:
            total = sum(one.weight for one in answered)
            means.append(sum((one.value or 0.0) * one.weight for one in answered) / total)
    return sum(means) / len(means) if means else None


def _ranks(rows: Sequence[Row], entrants: Sequence[Entrant], observed: _Observed) -> dict[str, Rank]:
    """Return ranks in rows where more is better: without a unit, and no pooled ones."""
    if any(row.unit or row.pool for row in rows):
        return {}
    taking = [
        entrant.label
        for entrant in entrants
        if entrant.role in ("model", "baseline") and any(observed[entrant.label, row.name] for row in rows)
    ]
    return ranks({label: [observed[label, row.name] for row in rows] for label in taking})


def _comparisons(
    rows: Sequence[Row], entrants: Sequence[Entrant], observed: _Observed
) -> dict[str, dict[str, Comparison]]:
    """Compare the first entrant with every baseline in every row, adjusting p over the rows."""
    found: dict[str, dict[str, Comparison]] = {row.name: {} for row in rows}
    first, *others = entrants
    for other in others:
        if other.role != "baseline":
            continue
        compared = [
            _compared(row, observed[first.label, row.name], observed[other.label, row.name]) for row in rows
        ]
        there = [(row, one) for row, one in zip(rows, compared, strict=True) if one is not None]
        for (row, one), p in zip(there, holm([one.p for _, one in there]), strict=True):
            found[row.name][other.label] = one.adjusted(p)
    return found


def _compared(row: Row, mine: Sequence[Observation], theirs: Sequence[Observation]) -> Comparison | None:
    if row.corpus is not None:
        return None
    return compare_rows([mine], [theirs]) if row.pool is None else compare_pooled(mine, theirs, row.pool)
