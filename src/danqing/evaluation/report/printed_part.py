"""What a page says that was not measured: published scores, how systems are built, claims judged."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from danqing.evaluation.report.architectures import Card, Claim, cards, claims
from danqing.evaluation.report.published import Published, same_system, withdrawn
from danqing.evaluation.report.report import Report, Section
from danqing.evaluation.report.table import RowReport

KINDS: Final = {
    "primary": "read in the source itself",
    "quoted": "quoted by another source",
    "recomputed": "computed from answers that the benchmark released",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """One published score on the scale of a row."""

    system: str
    at: float
    """From 0 to 1."""
    value: str
    """As it was printed."""
    told: str
    """Protocol and source, for whoever points at it."""
    chosen: bool
    """Whether the report is about this system too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One metric under one protocol, with the values of the chosen systems."""

    benchmark: str
    metric: str
    protocol: str
    values: tuple[tuple[Published, int] | None, ...]
    """In the order of `Report.published`, each with the number of its source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Printed:
    """All published scores of the chosen systems."""

    systems: tuple[str, ...]
    lines: tuple[Line, ...]
    sources: tuple[str, ...]
    gone: tuple[str, ...]
    """What is said of systems that their vendors withdrew."""


def marks(report: Report, row: RowReport) -> list[Mark]:
    """Return the published scores of a row that lie on its scale, best first."""
    return [
        Mark(
            system=one.system,
            at=min(1.0, max(0.0, one.share)),
            value=value_of(one),
            told=f"{one.protocol}; {one.source} ({KINDS[one.kind]})",
            chosen=any(same_system(name, one.system) for name in report.published),
        )
        for one in row.published
        if one.share is not None and not row.unit
    ]


def against(report: Report, section: Section) -> list[RowReport]:
    """Return the rows of a benchmark that others printed scores of."""
    return [row for row in report.of(section) if row.published]


def printed_scores(report: Report) -> Printed | None:
    """Return the published scores of the systems that were asked for; None where none was."""
    if not report.published:
        return None
    sources: dict[str, int] = {}
    lines: dict[tuple[str, str, str], list[tuple[Published, int] | None]] = {}
    for one in report.scores:
        number = sources.setdefault(f"{one.source} ({KINDS[one.kind]})", len(sources) + 1)
        place = next(i for i, name in enumerate(report.published) if same_system(name, one.system))
        line = lines.setdefault((one.benchmark, one.metric, one.protocol), [None] * len(report.published))
        if line[place] is None or one.system == report.published[place]:
            line[place] = (one, number)
    return Printed(
        systems=report.published,
        lines=tuple(
            Line(benchmark=benchmark, metric=metric, protocol=protocol, values=tuple(values))
            for (benchmark, metric, protocol), values in sorted(lines.items())
        ),
        sources=tuple(sources),
        gone=tuple(gone_systems(report)),
    )


def gone_systems(report: Report) -> list[str]:
    """Say which systems of the report their vendors withdrew."""
    names = [*report.published, *(column.label for column in report.columns)]
    models = [str(column.settings.get("model", "")) for column in report.columns]
    found = dict.fromkeys(gone for name in (*names, *models) if name and (gone := withdrawn(name)))
    return [str(gone) for gone in found]


def shown_cards(report: Report) -> list[Card]:
    """Return the architecture cards of the systems of a report."""
    names = [*report.published, *(column.label for column in report.columns)]
    names += [str(column.settings.get("model", "")) for column in report.columns]
    return [card for card in cards() if any(same_system(name, card.system) for name in names if name)]


def numbered(found: Sequence[Card]) -> dict[str, int]:
    """Return a number for every source of the cards, in the order they appear."""
    sources: dict[str, int] = {}
    for card in found:
        for cell in card.cells.values():
            if cell.source:
                sources.setdefault(cell.source, len(sources) + 1)
    return sources


def judged_claims(report: Report) -> tuple[Claim, ...]:
    """Return the claims, where the report holds published scores at all."""
    return claims() if report.published else ()


def value_of(one: Published) -> str:
    """Return a value as it was printed, with the end of its scale where that is not 1."""
    scaled = f" of {one.scale:g}" if one.scale not in (None, 1) else ""
    return f"{one.value:g}{scaled}"
