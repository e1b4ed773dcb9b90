"""The table: every row, every system, with intervals, ceilings, floors and an honest comparison."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from danqing.evaluation.results import Entrant, Results, Role, Row
from danqing.evaluation.statistics import (
    Comparison,
    Interval,
    Observation,
    compare_rows,
    holm,
    mean_over_rows,
    missing_as_zero,
    only_common,
)

MEAN: Final = "mean over rows"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One system in one row."""

    interval: Interval | None
    """Over the judged answers; None without any."""
    zero: float | None
    """The mean when everything without an answer counts as 0; None in a row with a unit."""
    common: float | None
    """The mean over the items that every system of the row answered."""
    expected: int
    """Answers that were wanted."""
    judged: int
    refused: int
    failed: int

    @property
    def coverage(self) -> float:
        """Share of the wanted answers that were judged."""
        return self.judged / self.expected if self.expected else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RowReport:
    """One row of the table."""

    name: str
    title: str
    about: str
    unit: str
    """Of the values; "" for shares from 0 to 1."""
    items: int
    cells: Mapping[str, Cell]
    """By label of the system."""
    floor: Interval | None
    """The least that the judge sees: of answers judged for other prompts, or of doing nothing."""
    comparisons: Mapping[str, Comparison]
    """The first system minus each baseline, by label; p values are adjusted over the rows (Holm)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One system of the table, with what it costs."""

    label: str
    system: str
    version: str
    role: Role
    settings: Mapping[str, Any]
    seconds: float | None
    """Mean seconds that an answer took."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One judge of the table, with what it costs."""

    name: str
    version: str
    seconds: float
    """Mean seconds that judging an answer for an item took."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One evaluation; `str` gives the table to readers, `to_json` everything to programs."""

    title: str
    columns: tuple[Column, ...]
    """The first is what the report is about."""
    rows: tuple[RowReport, ...]
    mean: RowReport
    """The unweighted mean over the rows that count."""
    judges: tuple[Judged, ...]
    """Those that judged anything."""
    commands: tuple[str, ...]
    """What to type to measure this again."""
    notes: tuple[str, ...]

    def to_json(self) -> str:
        """Return the report as JSON."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=1)

    def to_csv(self) -> str:
        """Return one line for each row and system."""
        lines = ["row,system,version,role,items,judged,expected,mean,low,high,missing_as_zero,floor"]
        for row in (*self.rows, self.mean):
            for column in self.columns:
                cell = row.cells[column.label]
                numbers = [cell.interval and cell.interval.mean, cell.interval and cell.interval.low]
                numbers += [cell.interval and cell.interval.high, cell.zero, row.floor and row.floor.mean]
                first = [row.name, column.label, column.version, column.role]
                counts = [str(row.items), str(cell.judged), str(cell.expected)]
                values = ["" if number is None else f"{number:.4f}" for number in numbers]
                lines.append(",".join(_quoted(field) for field in (*first, *counts, *values)))
        return "\n".join(lines) + "\n"

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def make_report(
    results: Results, *, title: str, commands: Sequence[str] = (), notes: Sequence[str] = ()
) -> Report:
    """Return the report of what a store holds; rows without an item are left out."""
    store, entrants = results.store, _shown(results)
    seen = [row for row in results.rows if any(results.of(entrant, row) for entrant in entrants)]
    observed = {
        (entrant.label, row.name): results.observations(entrant, row) for entrant in entrants for row in seen
    }
    compared = _comparisons(seen, entrants, observed)
    return Report(
        title=title,
        columns=tuple(_column(results, entrant) for entrant in entrants),
        rows=tuple(_row(results, row, observed, compared[row.name]) for row in seen),
        mean=_mean(results, [row for row in seen if row.counts], observed),
        judges=tuple(
            Judged(name=name, version=version, seconds=seconds)
            for name, version in results.judges
            if (seconds := store.judging_seconds(name, version)) is not None
        ),
        commands=tuple(commands),
        notes=tuple(notes),
    )


def _shown(results: Results) -> tuple[Entrant, ...]:
    """Return the entrants with a column of their own."""
    return tuple(entrant for entrant in results.entrants if entrant.role != "floor")


_Observed = Mapping[tuple[str, str], list[Observation]]


def _column(results: Results, entrant: Entrant) -> Column:
    store = results.store
    keys = list(dict.fromkeys(one.key for row in results.rows for one in results.of(entrant, row)))
    seconds = store.seconds(keys)
    return Column(
        label=entrant.label,
        system=entrant.system,
        version=entrant.version,
        role=entrant.role,
        settings=store.settings(entrant.system, entrant.version),
        seconds=sum(seconds) / len(seconds) if seconds else None,
    )


def _row(results: Results, row: Row, observed: _Observed, compared: Mapping[str, Comparison]) -> RowReport:
    return RowReport(
        name=row.name,
        title=row.title or row.name,
        about=row.about,
        unit=row.unit,
        items=len({one.item.id for entrant in _shown(results) for one in results.of(entrant, row)}),
        cells=_cells(results, [row], observed),
        floor=mean_over_rows([results.floor(row)]),
        comparisons=compared,
    )


def _mean(results: Results, rows: Sequence[Row], observed: _Observed) -> RowReport:
    first, *others = entrants = _shown(results)
    mine = [observed[first.label, row.name] for row in rows]
    found = {
        other.label: compare_rows(mine, [observed[other.label, row.name] for row in rows])
        for other in others
        if other.role == "baseline"
    }
    return RowReport(
        name=MEAN,
        title="Mean of the rows",
        about="Every row weighs the same.",
        unit="",
        items=len({one.item.id for e in entrants for row in rows for one in results.of(e, row)}),
        cells=_cells(results, rows, observed),
        floor=mean_over_rows([results.floor(row) for row in rows]),
        comparisons={label: comparison for label, comparison in found.items() if comparison is not None},
    )


def _cells(results: Results, rows: Sequence[Row], observed: _Observed) -> dict[str, Cell]:
    """Return the cells of one row, or of the mean over several."""
    shares = not any(row.unit for row in rows)
    labels = [entrant.label for entrant in _shown(results) if any(results.of(entrant, row) for row in rows)]
    common: dict[str, list[list[Observation]]] = {label: [] for label in labels}
    for row in rows:
        for label, kept in zip(labels, only_common([observed[one, row.name] for one in labels]), strict=True):
            common[label].append(kept)
    cells = {}
    for entrant in _shown(results):
        values = [observed[entrant.label, row.name] for row in rows]
        states = [one.state for row in rows for one in results.of(entrant, row)]
        cells[entrant.label] = Cell(
            interval=mean_over_rows(values, shares=shares),
            zero=_plain_mean([missing_as_zero(some) for some in values]) if shares else None,
            common=_plain_mean(common.get(entrant.label, [])),
            expected=len(states),
            judged=states.count("judged"),
            refused=states.count("refused"),
            failed=states.count("failed"),
        )
    return cells


def _plain_mean(rows: Sequence[Sequence[Observation]]) -> float | None:
    means = [sum(one.value or 0.0 for one in row) / len(row) for row in rows if row]
    return sum(means) / len(means) if means else None


def _comparisons(
    rows: Sequence[Row], entrants: Sequence[Entrant], observed: _Observed
) -> dict[str, dict[str, Comparison]]:
    """Compare the first entrant with every baseline in every row, adjusting p over the rows."""
    found: dict[str, dict[str, Comparison]] = {row.name: {} for row in rows}
    first, *others = entrants
    for other in others:
        if other.role != "baseline":
            continue
        pairs = [(observed[first.label, row.name], observed[other.label, row.name]) for row in rows]
        compared = [compare_rows([mine], [theirs]) for mine, theirs in pairs]
        there = [(row, one) for row, one in zip(rows, compared, strict=True) if one is not None]
        for (row, one), p in zip(there, holm([one.p for _, one in there]), strict=True):
            found[row.name][other.label] = one.adjusted(p)
    return found


def _lines(report: Report) -> list[str]:
    """Return the table for a terminal."""
    first, *others = report.columns
    baselines = [column.label for column in others if column.role == "baseline"]
    head = ["", "items", first.label, *(column.label for column in others), "floor"]
    head += [f"minus {label}" for label in baselines]
    body = [_fields(report, row, baselines) for row in (*report.rows, report.mean)]
    widths = [max(len(line[index]) for line in [head, *body]) for index in range(len(head))]
    lines = [report.title, ""]
    for line in [head, *body]:
        fields = [text.ljust(width) for text, width in zip(line, widths, strict=True)]
        lines.append("  ".join([fields[0], line[1].rjust(widths[1]), *fields[2:]]).rstrip())
    lines.append("")
    for column in report.columns:
        cell = report.mean.cells[column.label]
        cost = "" if column.seconds is None else f", {column.seconds:.3g} seconds an answer"
        gaps = _count((cell.refused, "refused"), (cell.failed, "failed"))
        lines.append(f"{column.label} {column.version}: {cell.judged} of {cell.expected} judged{gaps}{cost}")
    for judge in report.judges:
        lines.append(f"judged by {judge.name} {judge.version}, {judge.seconds:.3g} seconds an answer")
    return lines + list(report.notes)


def _fields(report: Report, row: RowReport, baselines: Sequence[str]) -> list[str]:
    first, *others = report.columns
    mine = row.cells[first.label]
    gap = "" if mine.coverage == 1 else f"  ({mine.judged}/{mine.expected})"
    title = f"{row.title} ({row.unit})" if row.unit else row.title
    fields = [title, str(row.items), "-" if mine.interval is None else f"{mine.interval}{gap}"]
    fields += [_short(row.cells[column.label].interval) for column in others]
    fields += [_short(row.floor)]
    return fields + [str(row.comparisons.get(label, "-")) for label in baselines]


def _short(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval.mean:.3f}"


def _count(*counts: tuple[int, str]) -> str:
    return "".join(f", {number} {what}" for number, what in counts if number)


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in ',"\n') else text
