"""What was measured: tables of all benchmarks, who took part, who judged, what it cost, what is missing."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from danqing.errors import DataError
from danqing.evaluation.judges.agreement import Agreement
from danqing.evaluation.prices import billed_by, cost_with, prices_as_of
from danqing.evaluation.report.languages import ALL, LanguageChange, language_changes
from danqing.evaluation.report.published import Published, lookup
from danqing.evaluation.report.table import RowReport, rows_of, shown
from danqing.evaluation.results import Answer, Entrant, Results, Role
from danqing.evaluation.statistics import Interval


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
    answers: int = 0
    """How many there are."""
    spent: float | None = 0.0
    """US dollars for all answers, by tokens where the vendor told them; None when nobody can tell."""
    made: tuple[str, str] | None = None
    """Days of the first and the last answer, UTC."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One judge of the table, with what it costs."""

    name: str
    version: str
    seconds: float
    """Mean seconds that judging an answer for an item took."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One benchmark of the report."""

    name: str
    benchmark: str
    """Name of the benchmark alone, without the variant of its score."""
    title: str
    about: Mapping[str, str]
    """What a reader must know of it, a line a heading."""
    judges: tuple[tuple[str, str], ...]
    """Name and version of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One evaluation; `str` gives the tables to readers, `to_json` everything to programs."""

    title: str
    columns: tuple[Column, ...]
    """The first is what the report is about."""
    sections: tuple[Section, ...]
    rows: tuple[RowReport, ...]
    """Of all benchmarks."""
    means: tuple[RowReport, ...]
    """Of each benchmark, the unweighted mean over the rows that count."""
    judges: tuple[Judged, ...]
    """Those that judged anything."""
    published: tuple[str, ...] = ()
    """Systems of which published scores are shown."""
    scores: tuple[Published, ...] = ()
    """The published scores of these systems, whatever the benchmark."""
    agreements: tuple[Agreement, ...] = ()
    """How often pairs of judges say the same."""
    languages: tuple[LanguageChange, ...] = ()
    """What systems lose in other languages, on the same meanings."""
    prices: str = ""
    """Day on which the table of prices was last checked."""
    commands: tuple[str, ...]
    """What to type to measure this again."""
    notes: tuple[str, ...]

    @property
    def mean(self) -> RowReport:
        """The mean of the first benchmark."""
        return self.means[0]

    def of(self, section: Section) -> tuple[RowReport, ...]:
        """Return the rows of a benchmark and, last, their mean where there is any."""
        rows = tuple(row for row in self.rows if row.benchmark == section.name)
        return rows + tuple(row for row in self.means if row.benchmark == section.name)

    def to_json(self) -> str:
        """Return the report as JSON."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=1)

    def to_csv(self) -> str:
        """Return one line for each row and system."""
        lines = [_HEAD]
        for section in self.sections:
            for row in self.of(section):
                lines += [_csv_line(section, row, column) for column in self.columns]
        return "\n".join(lines) + "\n"

    def __str__(self) -> str:
        return "\n".join(_lines(self))


_HEAD: Final = (
    "benchmark,row,system,version,role,items,judged,expected,refused,failed,timeout,invalid,missing,mean,low,"
    "high,common,missing_as_zero,floor,place,place_low,place_high,unit"
)


def make_report(
    results: Results | Sequence[Results],
    *,
    title: str,
    commands: Sequence[str] = (),
    notes: Sequence[str] = (),
    published: Sequence[str] = (),
    agreements: Sequence[Agreement] = (),
) -> Report:
    """Return the report of what a store holds of one benchmark or several; rows without an item are left out.

    Raises DataError when two benchmarks mean different systems by one label.
    """
    several = [results] if isinstance(results, Results) else list(results)
    store, columns = several[0].store, _columns(several)
    tables = [rows_of(one, columns) for one in several]
    judges = dict.fromkeys(judge for one in several for judge in one.judges)
    made = tuple(_column(several, entrant) for entrant in columns.values())
    return Report(
        title=title,
        columns=made,
        sections=tuple(
            Section(
                name=one.name,
                benchmark=one.benchmark,
                title=one.title,
                about=one.about,
                judges=one.judges,
            )
            for one in several
        ),
        rows=tuple(row for rows, _ in tables for row in rows),
        means=tuple(mean for _, mean in tables),
        judges=tuple(
            Judged(name=name, version=version, seconds=seconds)
            for name, version in judges
            if (seconds := store.judging_seconds(name, version)) is not None
        ),
        published=tuple(published),
        scores=tuple(row for system in published for row in lookup(system=system)),
        agreements=tuple(agreements),
        languages=tuple(change for one in several for change in language_changes(one)),
        prices=prices_as_of().isoformat() if any(column.spent != 0 for column in made) else "",
        commands=tuple(commands),
        notes=tuple(notes),
    )


def _columns(several: Sequence[Results]) -> dict[str, Entrant]:
    """Return the entrants by label: who answers most benchmarks first, in their order."""
    columns: dict[str, Entrant] = {}
    for entrant in (entrant for results in several for entrant in shown(results)):
        known = columns.setdefault(entrant.label, entrant)
        if (known.system, known.version) != (entrant.system, entrant.version):
            raise DataError(
                f"expected one system named {entrant.label}, found {known.version} and {entrant.version}; "
                "name them apart"
            )
    order: dict[Role, int] = {"model": 0, "baseline": 1, "ceiling": 2, "floor": 3}
    return {one.label: one for one in sorted(columns.values(), key=lambda one: order[one.role])}


def _column(several: Sequence[Results], entrant: Entrant) -> Column:
    store = several[0].store
    answers = {
        one.key: one for results in several for row in results.rows for one in results.of(entrant, row)
    }
    seconds = store.seconds(list(answers))
    settings = store.settings(entrant.system, entrant.version)
    return Column(
        label=entrant.label,
        system=entrant.system,
        version=entrant.version,
        role=entrant.role,
        settings=settings,
        seconds=sum(seconds) / len(seconds) if seconds else None,
        answers=len(seconds),
        spent=_spent(settings, store.notes(list(answers)), answers, entrant.label),
        made=store.days(list(answers)),
    )


def _spent(
    settings: Mapping[str, Any],
    notes: Mapping[str, Mapping[str, Any]],
    answers: Mapping[str, Answer],
    name: str,
) -> float | None:
    """Return what the answers cost that are there; None when nobody can tell."""
    total = 0.0
    for key, said in notes.items():
        told = billed_by(settings, said)
        one = cost_with(settings, [answers[key].item], name=name).amount if told is None else told
        if one is None:
            return None
        total += one
    return total


def _csv_line(section: Section, row: RowReport, column: Column) -> str:
    cell, rank = row.cells[column.label], row.ranks.get(column.label)
    interval = cell.interval
    counts = [row.items, cell.judged, cell.expected, cell.refused, cell.failed, cell.timeout, cell.invalid]
    numbers = [interval and interval.mean, interval and interval.low, interval and interval.high]
    numbers += [cell.common, cell.zero, row.floor and row.floor.mean]
    fields = [section.name, row.name, column.label, column.version, column.role]
    fields += [str(count) for count in (*counts, cell.missing)]
    fields += ["" if number is None else f"{number:.4f}" for number in numbers]
    fields += ["", "", ""] if rank is None else [str(rank.place), str(rank.low), str(rank.high)]
    return ",".join(_quoted(field) for field in (*fields, row.unit))


def _lines(report: Report) -> list[str]:
    """Return the tables for a terminal."""
    lines = [report.title, ""]
    for section in report.sections:
        if len(report.sections) > 1:
            lines += [section.title, ""]
        lines += [*_table(report, report.of(section)), ""]
    for column in report.columns:
        cells = [mean.cells[column.label] for mean in report.means]
        judged, expected = sum(cell.judged for cell in cells), sum(cell.expected for cell in cells)
        gaps = [cell.gaps for cell in cells if cell.gaps]
        cost = "" if column.seconds is None else f", {column.seconds:.3g} seconds an answer"
        cost += (
            ", cost unknown" if column.spent is None else f", {column.spent:,.2f} USD" * bool(column.spent)
        )
        told = "".join(f", {gap}" for gap in gaps)
        lines.append(f"{column.label} {column.version}: {judged} of {expected} judged{told}{cost}")
    for judge in report.judges:
        lines.append(f"judged by {judge.name} {judge.version}, {judge.seconds:.3g} seconds an answer")
    lines += [str(one) for one in report.agreements]
    lines += [str(one) for one in report.languages if one.language == ALL]
    return lines + list(report.notes)


def _table(report: Report, rows: Sequence[RowReport]) -> list[str]:
    taking = [column for column in report.columns if any(row.cells[column.label].expected for row in rows)]
    if not taking:
        return ["nothing asked"]
    first, *others = taking
    baselines = [column.label for column in others if column.role == "baseline"]
    head = ["", "items", first.label, *(column.label for column in others), "floor"]
    head += [f"minus {label}" for label in baselines]
    body = [_fields(row, first, others, baselines) for row in rows]
    widths = [max(len(line[index]) for line in [head, *body]) for index in range(len(head))]
    lines = []
    for line in [head, *body]:
        fields = [text.ljust(width) for text, width in zip(line, widths, strict=True)]
        lines.append("  ".join([fields[0], line[1].rjust(widths[1]), *fields[2:]]).rstrip())
    return lines


def _fields(row: RowReport, first: Column, others: Sequence[Column], baselines: Sequence[str]) -> list[str]:
    mine = row.cells[first.label]
    gap = "" if mine.coverage == 1 else f"  ({mine.judged}/{mine.expected})"
    title = f"{row.title} ({row.unit})" if row.unit else row.title
    fields = [title, str(row.items), "-" if mine.interval is None else f"{mine.interval}{gap}"]
    fields += [_short(row.cells[column.label].interval) for column in others]
    fields += [_short(row.floor)]
    return fields + [str(row.comparisons.get(label, "-")) for label in baselines]


def _short(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval.mean:.3f}"


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in ',"\n') else text
