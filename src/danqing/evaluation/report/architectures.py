"""What is known of how systems are built, cell by cell with its source, and what an article claims of them.

The verdict on a claim is not written down anywhere: it follows from the published rows, so that it changes
with them. A claim names the benchmarks that would speak for or against it.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final, Literal

from danqing.errors import DataError
from danqing.evaluation.report.published import Published, lookup, same_system

NOT_PUBLISHED: Final = "not published"
Verdict = Literal["supported", "contradicted", "mixed", "no public source"]
"""All public evidence for a claim, all against it, some of each, or none at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One fact of a card; without a source it is not published."""

    value: str
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """How one system is built."""

    system: str
    vendor: str
    released: str
    withdrawn: str
    """Day on which its vendor ends, or ended, it; empty while it lasts."""
    cells: Mapping[str, Cell]
    """By key of a column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The same score of two systems under the same protocol."""

    ours: Published
    theirs: Published

    @property
    def better(self) -> bool | None:
        """Whether ours is higher; None when they are equal."""
        return None if self.ours.value == self.theirs.value else self.ours.value > self.theirs.value

    @property
    def same_source(self) -> bool:
        """Whether one source prints both, so that one laboratory stands behind the comparison."""
        return self.ours.source == self.theirs.source


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What public evidence says of one claim against one rival."""

    rival: str
    nearest: bool
    """Whether the claim is about another rival, for which this one stands in."""
    verdict: Verdict
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A statement that one system is better than others."""

    name: str
    title: str
    about: str
    reading: str
    """What the statement can mean, and what would measure it."""
    judged: tuple[Judged, ...]


def columns() -> tuple[tuple[str, str], ...]:
    """Return key and title of the columns of the table of cards."""
    return tuple((one["key"], one["title"]) for one in _table()["columns"])


def cards() -> tuple[Card, ...]:
    """Return all cards; every cell of every column is there."""
    return tuple(
        Card(
            system=one["system"],
            vendor=one["vendor"],
            released=one["released"],
            withdrawn=one.get("withdrawn", ""),
            cells={key: Cell(**cell) for key, cell in one["cells"].items()},
        )
        for one in _table()["cards"]
    )


def card(system: str) -> Card:
    """Return the card of a system by its name as people write it; raises DataError when there is none."""
    for one in cards():
        if same_system(system, one.system):
            return one
    known = ", ".join(one.system for one in cards())
    raise DataError(f"expected a system with a card ({known}), found {system!r}")


def claims() -> tuple[Claim, ...]:
    """Return the claims of the article, each judged against each rival by the published rows."""
    return tuple(
        Claim(
            name=one["name"],
            title=one["title"],
            about=one["about"],
            reading=one["reading"],
            judged=tuple(
                _judged(one, rival, nearest=rival in one["nearest"])
                for rival in (*one["rivals"], *one["nearest"])
            ),
        )
        for one in _table()["claims"]
    )


def _judged(claim: Mapping[str, Any], rival: str, *, nearest: bool) -> Judged:
    evidence = tuple(pair for asked in claim["evidence"] for pair in _pairs(claim["about"], rival, asked))
    found = {pair.better for pair in evidence} - {None}
    verdict: Verdict = "no public source"
    if evidence:
        verdict = "supported" if found == {True} else "contradicted" if found == {False} else "mixed"
    return Judged(rival=rival, nearest=nearest, verdict=verdict, evidence=evidence)


def _pairs(ours: str, theirs: str, asked: Mapping[str, Any]) -> Iterator[Evidence]:
    """Yield what can be compared: same benchmark, metric and protocol, from one source where one has both."""
    for metric in asked["metrics"]:
        mine = [one for one in lookup(benchmark=asked["benchmark"], metric=metric) if one.system == ours]
        other = lookup(benchmark=asked["benchmark"], metric=metric, system=theirs)
        pairs = [
            Evidence(ours=one, theirs=two)
            for one in mine
            for two in other
            if one.protocol == two.protocol and asked.get("protocol", "") in one.protocol
        ]
        yield from [pair for pair in pairs if pair.same_source] or pairs


@cache
def _table() -> dict[str, Any]:
    file = resources.files(__package__) / "architectures.json"
    table: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return table
