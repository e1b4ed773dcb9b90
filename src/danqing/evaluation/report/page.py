"""One offline HTML page of an evaluation: results, answers, published scores, architectures, methods."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

from jinja2 import DictLoader, Environment, StrictUndefined

from danqing.evaluation.report.architectures import columns as architecture_columns
from danqing.evaluation.report.galleries import PER_ROW, Answers, answers_of
from danqing.evaluation.report.printed_part import (
    KINDS,
    against,
    gone_systems,
    judged_claims,
    marks,
    numbered,
    printed_scores,
    shown_cards,
    value_of,
)
from danqing.evaluation.report.report import Column, Report, Section
from danqing.evaluation.report.table import RowReport
from danqing.evaluation.results import Results
from danqing.evaluation.statistics import Comparison, Interval
from danqing.files import write_whole

LIMIT: Final = 8_000_000
"""Bytes of pictures in the page."""
MANY: Final = 6
"""Rows outside the mean that are shown at once; more of them open on request."""
_TEMPLATE: Final = "page.html.jinja"
_PARTS: Final = "page.parts.jinja"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One bar: where it ends, its error bar, and what it says to those who do not see it."""

    label: str
    role: str
    interval: Interval
    spoken: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One benchmark of the page."""

    section: Section
    rows: tuple[RowReport, ...]
    """The last is the mean."""
    columns: tuple[Column, ...]
    """Those that take part."""
    baselines: tuple[Column, ...]
    ceilings: tuple[Column, ...]

    @property
    def measured(self) -> bool:
        """Whether anybody but those who know the answers takes part."""
        return any(column.role != "ceiling" for column in self.columns)

    @property
    def more_rows(self) -> tuple[RowReport, ...]:
        """Rows that are no part of the mean, where there are many of them."""
        more = tuple(row for row in self.rows[:-1] if not row.counts)
        return more if len(more) > MANY and len(more) < len(self.rows) - 1 else ()

    @property
    def shown_rows(self) -> tuple[RowReport, ...]:
        """The other rows, without the mean."""
        return tuple(row for row in self.rows[:-1] if row not in self.more_rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What systems lose from English to other languages in one benchmark."""

    labels: tuple[str, ...]
    """Of the systems."""
    lines: tuple[tuple[str, tuple[Comparison | None, ...]], ...]
    """A language and each system's change."""


def write_page(
    report: Report,
    results: Results | Sequence[Results],
    path: Path,
    *,
    per_row: int = PER_ROW,
    limit: int = LIMIT,
) -> None:
    """Write the page; it loads nothing, so it can be sent and kept as one file."""
    write_whole(path, render_page(report, results, per_row=per_row, limit=limit))


def render_page(
    report: Report, results: Results | Sequence[Results], *, per_row: int = PER_ROW, limit: int = LIMIT
) -> str:
    """Return the page as text; at most `per_row` pictures a row and `limit` bytes of pictures are inside.

    `results` are those that the report was made of, in the same order.
    """
    several = [results] if isinstance(results, Results) else list(results)
    folder = resources.files(__package__)
    files = {name: (folder / name).read_text(encoding="utf-8") for name in (_TEMPLATE, _PARTS)}
    environment = Environment(
        loader=DictLoader(files),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {"share": _share, "signed": _signed, "printed": value_of}
    parts = [_part(report, section) for section in report.sections]
    answers = answers_of(report, several, per_row=per_row, limit=limit)
    found = shown_cards(report) if report.published else []
    return environment.get_template(_TEMPLATE).render(
        report=report,
        first=report.columns[0],
        parts=parts,
        bars={(row.benchmark, row.name): _bars(report, row) for part in parts for row in part.rows},
        marks={(row.benchmark, row.name): marks(report, row) for part in parts for row in part.rows},
        against=[(part, rows) for part in parts if (rows := against(report, part.section))],
        changes={part.section.name: _changes(report, part) for part in parts},
        answers=answers,
        anchors=_anchors(answers),
        printed=printed_scores(report),
        gone=gone_systems(report),
        kinds=KINDS,
        cards=found,
        card_columns=architecture_columns(),
        card_sources=numbered(found),
        claims=judged_claims(report),
        style=(folder / "page.css").read_text(encoding="utf-8"),
        csv=_data_uri("text/csv", report.to_csv().encode()),
        json=_data_uri("application/json", report.to_json().encode()),
    )


def _part(report: Report, section: Section) -> Part:
    rows = report.of(section)
    columns = tuple(
        column for column in report.columns if any(row.cells[column.label].expected for row in rows)
    )
    return Part(
        section=section,
        rows=rows,
        columns=columns or report.columns[:1],
        baselines=tuple(column for column in columns[1:] if column.role == "baseline"),
        ceilings=tuple(column for column in columns[1:] if column.role == "ceiling"),
    )


def _changes(report: Report, part: Part) -> Changes | None:
    found = [one for one in report.languages if one.benchmark == part.section.name]
    labels = tuple(dict.fromkeys(one.label for one in found))
    by_pair = {(one.language, one.label): one.comparison for one in found}
    lines = tuple(
        (language, tuple(by_pair.get((language, label)) for label in labels))
        for language in dict.fromkeys(one.language for one in found)
    )
    return Changes(labels=labels, lines=lines) if found else None


def _anchors(answers: Sequence[Answers]) -> dict[tuple[str, str], str]:
    """Return the id of each gallery, by names of its benchmark and row."""
    pairs = [(one.section.name, gallery.name) for one in answers for gallery in one.galleries]
    return {pair: f"pictures-{number}" for number, pair in enumerate(pairs, 1)}


def _bars(report: Report, row: RowReport) -> list[Bar]:
    ends = [
        f"{column.role} {column.label} {_share(interval.mean)}"
        for column in report.columns
        if column.role == "ceiling" and (interval := row.cells[column.label].interval) is not None
    ]
    ends += [f"floor {_share(row.floor.mean)}"] if row.floor else []
    bars = []
    for column in report.columns:
        interval = row.cells[column.label].interval
        if column.role == "ceiling" or interval is None or row.unit:
            continue
        low, high = _share(interval.low), _share(interval.high)
        spoken = "; ".join([f"{column.label} {_share(interval.mean)}, 95 % interval {low} to {high}", *ends])
        bars.append(Bar(label=column.label, role=column.role, interval=interval, spoken=spoken))
    return bars


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}".replace("-", "−")


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")
