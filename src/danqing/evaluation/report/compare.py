"""Two systems on the prompts that both answered: differences, intervals, and how likely luck makes them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from danqing.errors import DataError
from danqing.evaluation.evaluate import STORE
from danqing.evaluation.finished import Finished, read_finished
from danqing.evaluation.report.printed import MEAN
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
    pooled_interval,
    ranks,
)
from danqing.evaluation.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two: a column of an evaluation."""

    finished: Finished
    entrant: Entrant


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRow:
    """One row of a benchmark."""

    name: str
    title: str
    unit: str
    first: Interval | None
    second: Interval | None
    """Each over all that it answered."""
    comparison: Comparison | None
    """On the items that both answered; p is adjusted over the rows of the benchmark (Holm)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedBenchmark:
    """One benchmark that both took."""

    name: str
    title: str
    rows: tuple[ComparedRow, ...]
    """The last is the mean over the rows that count."""
    ranks: Mapping[str, Rank]
    """Of both, and of everyone else in the same folder, by that mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Two systems on all benchmarks that both took; `str` is for readers, `to_json` for programs."""

    first: str
    second: str
    benchmarks: tuple[ComparedBenchmark, ...]
    left_out: tuple[str, ...]
    """Why benchmarks are not compared."""

    def to_json(self) -> str:
        """Return the comparison as JSON."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=1)

    def __str__(self) -> str:
        lines = [f"{self.first} minus {self.second}, on what both answered"]
        for one in self.benchmarks:
            lines += ["", one.title or one.name, *_lines(self, one)]
        return "\n".join([*lines, *([""] if self.left_out else []), *self.left_out])


def side(text: str, folder: Path | None) -> Side:
    """Return the system that FOLDER, FOLDER:LABEL, or LABEL in `folder`, means.

    Raises DataError when there is no evaluation in the folder, or nobody of this name.
    """
    if (Path(text) / STORE).is_file():
        finished = read_finished(Path(text))
        return Side(finished=finished, entrant=finished.entrant())
    place, colon, label = text.rpartition(":")
    if colon and (Path(place) / STORE).is_file():
        finished = read_finished(Path(place))
        return Side(finished=finished, entrant=finished.entrant(label))
    if folder is None:
        raise DataError(f"expected FOLDER, FOLDER:LABEL, or --folder beside a label, found {text!r}")
    finished = read_finished(folder)
    return Side(finished=finished, entrant=finished.entrant(text))


def compare_sides(first: Side, second: Side) -> Compared:
    """Compare two systems on every benchmark that both took and the same judges judged.

    Raises DataError when there is no such benchmark.
    """
    found, left_out = [], []
    for section in first.finished.sections:
        if section not in second.finished.sections:
            left_out.append(f"{section}: only {first.finished.folder} has it")
        elif first.finished.judges(section) != second.finished.judges(section):
            left_out.append(f"{section}: judged by different judges, or versions of them")
        else:
            found.append(_benchmark(first, second, section))
    if not found:
        told = "; ".join(left_out)
        raise DataError(
            f"expected a benchmark that both took and the same judges judged, found none ({told})"
        )
    same = first.finished.folder.resolve() == second.finished.folder.resolve()
    names = [
        one.entrant.label if same else f"{one.entrant.label} in {one.finished.folder}"
        for one in (first, second)
    ]
    return Compared(first=names[0], second=names[1], benchmarks=tuple(found), left_out=tuple(left_out))


def _benchmark(first: Side, second: Side, section: str) -> ComparedBenchmark:
    same = first.finished.folder.resolve() == second.finished.folder.resolve()
    with (
        Store.open(first.finished.folder / STORE, readonly=True) as one,
        Store.open(second.finished.folder / STORE, readonly=True) as other,
    ):
        others = _standing(first.finished) if same else []
        entrants = list(dict.fromkeys([first.entrant, *([second.entrant] if same else []), *others]))
        mine = first.finished.results(one, section, entrants)
        theirs = mine if same else second.finished.results(other, section, [second.entrant])
        rows = [
            row
            for row in mine.rows
            if row.corpus is None and mine.of(first.entrant, row) and theirs.of(second.entrant, row)
        ]
        seen = {
            row.name: (mine.observations(first.entrant, row), theirs.observations(second.entrant, row))
            for row in rows
        }
        counted = [row for row in rows if row.counts]
        order = _order(mine, counted, seen, (first.entrant, second.entrant), same=same)
    compared = [_compared(row, *seen[row.name]) for row in rows]
    there = [index for index, one in enumerate(compared) if one is not None]
    adjusted = holm([compared[index].p for index in there])  # type: ignore[union-attr]
    for index, p in zip(there, adjusted, strict=True):
        compared[index] = compared[index].adjusted(p)  # type: ignore[union-attr]
    told = [
        ComparedRow(
            name=row.name,
            title=row.title or row.name,
            unit=row.unit,
            first=_interval(row, seen[row.name][0]),
            second=_interval(row, seen[row.name][1]),
            comparison=comparison,
        )
        for row, comparison in zip(rows, compared, strict=True)
    ]
    return ComparedBenchmark(name=section, title=mine.title, rows=(*told, _mean(counted, seen)), ranks=order)


def _mean(
    rows: Sequence[Row], seen: Mapping[str, tuple[list[Observation], list[Observation]]]
) -> ComparedRow:
    mine, theirs = [seen[row.name][0] for row in rows], [seen[row.name][1] for row in rows]
    return ComparedRow(
        name=MEAN,
        title="Mean of the rows",
        unit="",
        first=mean_over_rows(mine),
        second=mean_over_rows(theirs),
        comparison=compare_rows(mine, theirs),
    )


def _standing(finished: Finished) -> list[Entrant]:
    return [one for one in finished.entrants if one.role in ("model", "baseline")]


def _order(
    results: Results,
    rows: Sequence[Row],
    seen: Mapping[str, tuple[list[Observation], list[Observation]]],
    two: tuple[Entrant, Entrant],
    *,
    same: bool,
) -> dict[str, Rank]:
    """Return the places of all systems of a folder, or of the two of different ones."""
    if not same:
        labels = [f"{one.label} ({place})" for one, place in zip(two, ("first", "second"), strict=True)]
        return ranks({label: [seen[row.name][i] for row in rows] for i, label in enumerate(labels)})
    found = {one.label: [results.observations(one, row) for row in rows] for one in results.entrants}
    return ranks({label: some for label, some in found.items() if any(some)})


def _compared(row: Row, mine: list[Observation], theirs: list[Observation]) -> Comparison | None:
    return compare_rows([mine], [theirs]) if row.pool is None else compare_pooled(mine, theirs, row.pool)


def _interval(row: Row, seen: list[Observation]) -> Interval | None:
    if row.pool is not None:
        return pooled_interval(seen, row.pool)
    return mean_over_rows([seen], shares=not row.unit)


def _lines(compared: Compared, one: ComparedBenchmark) -> list[str]:
    head = ["", compared.first, compared.second, "difference", "p", "items"]
    body = [head]
    for row in one.rows:
        found = row.comparison
        values = ["-" if side is None else str(side) for side in (row.first, row.second)]
        told = ["-", "-", "0"] if found is None else [str(found), f"{found.p:.2g}", str(found.common)]
        body.append([f"{row.title} ({row.unit})" if row.unit else row.title, *values, *told])
    widths = [max(len(line[index]) for line in body) for index in range(len(head))]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in body
    ]
    if one.ranks:
        lines.append("ranks: " + ", ".join(f"{label} {rank}" for label, rank in one.ranks.items()))
    return lines
