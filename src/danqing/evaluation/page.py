"""One offline HTML page of an evaluation: table, bars, answers with failures first, methods."""

import base64
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

from jinja2 import Environment, StrictUndefined
from PIL import Image

from danqing.evaluation.items import Atom
from danqing.evaluation.report import Report, RowReport
from danqing.evaluation.results import Answer, Results, Row
from danqing.evaluation.statistics import Interval

PER_ROW: Final = 24
"""Pictures shown of each row."""
LIMIT: Final = 8_000_000
"""Bytes of pictures in the page."""
_SIDE: Final = 192  # pixels of a shown picture's longer side
_MET_SHARE: Final = 4  # one picture in so many shows what went right, where anything did


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One answer of the page; pictures are data URIs."""

    prompt: str
    language: str
    seed: int
    source: str | None
    """The picture that an edit or a question is about."""
    picture: str | None
    """What was drawn; None for a text, and when the system refused or failed."""
    truth: str | None
    """The picture of the first ceiling."""
    said: str
    """What was answered in words."""
    wanted: str
    """The words of the first ceiling."""
    atoms: tuple[Atom, ...]
    met: bool
    state: str
    reason: str
    """Why there is no answer."""

    @property
    def weight(self) -> int:
        """Bytes of its pictures."""
        return sum(len(picture or "") for picture in (self.source, self.picture, self.truth))


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """The answers of one row."""

    name: str
    title: str
    about: str
    cards: tuple[Card, ...]
    missed: int
    total: int

    @property
    def edits(self) -> bool:
        """Whether its answers are pictures made of pictures."""
        return any(card.source and card.picture for card in self.cards)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One bar: where it ends, its error bar, and what it says to those who do not see it."""

    label: str
    role: str
    interval: Interval
    spoken: str


def write_page(
    report: Report, results: Results, path: Path, *, per_row: int = PER_ROW, limit: int = LIMIT
) -> None:
    """Write the page; it loads nothing, so it can be sent and kept as one file."""
    write_text(path, render_page(report, results, per_row=per_row, limit=limit))


def write_text(path: Path, text: str) -> None:
    """Write a text file that is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def render_page(report: Report, results: Results, *, per_row: int = PER_ROW, limit: int = LIMIT) -> str:
    """Return the page as text; at most `per_row` pictures a row and `limit` bytes of pictures are inside."""
    folder = resources.files("danqing.evaluation")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, auto_reload=False
    )
    environment.filters |= {"share": _share, "signed": _signed}
    template = environment.from_string((folder / "page.html.jinja").read_text(encoding="utf-8"))
    first, *others = report.columns
    galleries = _galleries(report, results, per_row, limit)
    return template.render(
        report=report,
        first=first,
        others=others,
        baselines=[column for column in others if column.role == "baseline"],
        ceilings=[column for column in others if column.role == "ceiling"],
        rows=[*report.rows, report.mean],
        bars={row.name: _bars(report, row) for row in (*report.rows, report.mean)},
        galleries=galleries,
        anchors={gallery.name: f"pictures-{number}" for number, gallery in enumerate(galleries, 1)},
        style=(folder / "page.css").read_text(encoding="utf-8"),
        csv=_data_uri("text/csv", report.to_csv().encode()),
        json=_data_uri("application/json", report.to_json().encode()),
    )


def _bars(report: Report, row: RowReport) -> list[Bar]:
    marks = [
        f"{column.role} {column.label} {_share(interval.mean)}"
        for column in report.columns
        if column.role == "ceiling" and (interval := row.cells[column.label].interval) is not None
    ]
    marks += [f"floor {_share(row.floor.mean)}"] if row.floor else []
    bars = []
    for column in report.columns:
        interval = row.cells[column.label].interval
        if column.role == "ceiling" or interval is None or row.unit:
            continue
        low, high = _share(interval.low), _share(interval.high)
        spoken = "; ".join([f"{column.label} {_share(interval.mean)}, 95 % interval {low} to {high}", *marks])
        bars.append(Bar(label=column.label, role=column.role, interval=interval, spoken=spoken))
    return bars


def _galleries(report: Report, results: Results, per_row: int, limit: int) -> list[Gallery]:
    """Return the answers of every row of shares; each gets an equal part of the bytes that are left."""
    galleries = []
    rows = {row.name: row for row in results.rows}
    shown = [told for told in report.rows if not told.unit]
    for index, told in enumerate(shown):
        room = limit // (len(shown) - index)
        gallery, used = _gallery(told, results, rows[told.name], per_row, room)
        limit -= used
        if gallery.cards:
            galleries.append(gallery)
    return galleries


def _gallery(told: RowReport, results: Results, row: Row, per_row: int, room: int) -> tuple[Gallery, int]:
    first = results.entrants[0]
    valued = _valued(results.of(first, row), row)
    missed = [pair for pair in valued if pair[1] < 1]
    met = [pair for pair in valued if pair[1] == 1]
    kept = max(per_row - len(met), per_row - per_row // _MET_SHARE)
    ceiling = next((entrant for entrant in results.entrants if entrant.role == "ceiling"), None)
    there = [] if ceiling is None else [one for one in results.of(ceiling, row) if one.there]
    truths = {(one.item.id, one.seed): one for one in there}
    any_seed = {one.item.id: one for one in reversed(there)}
    cards: list[Card] = []
    used = 0
    for answer, value in (missed[:kept] + met)[:per_row]:
        name = answer.item.id
        card = _card(answer, value, truths.get((name, answer.seed), any_seed.get(name)))
        if used + card.weight > room:
            break
        cards.append(card)
        used += card.weight
    shown = Gallery(
        name=told.name,
        title=told.title,
        about=told.about,
        cards=tuple(cards),
        missed=len(missed),
        total=len(valued),
    )
    return shown, used


def _valued(answers: Sequence[Answer], row: Row) -> list[tuple[Answer, float]]:
    """Return answers and what they came to, worst first; a missing one is worse than any."""
    asked = [one for one in answers if one.state in ("judged", "refused", "failed")]
    if row.over_seeds is None:
        values_of = [row.value(one) if one.state == "judged" else -1.0 for one in asked]
        pairs = [(one, value) for one, value in zip(asked, values_of, strict=True) if value is not None]
        return sorted(pairs, key=lambda pair: (pair[1], pair[0].seed, pair[0].item.id))
    together: dict[str, list[Answer]] = {}
    for one in asked:
        together.setdefault(one.item.id, []).append(one)
    values = {
        name: row.over_seeds(judged) if (judged := [o for o in some if o.state == "judged"]) else -1.0
        for name, some in together.items()
    }
    pairs = [(one, values[one.item.id]) for one in asked]
    return sorted(pairs, key=lambda pair: (pair[1], pair[0].item.id, pair[0].seed))


def _card(answer: Answer, value: float, truth: Answer | None) -> Card:
    item = answer.item
    made = answer.made if answer.there else None
    right = None if truth is None else truth.made
    return Card(
        prompt=item.prompt or "Describe the picture.",
        language=item.language if item.prompt else "en",
        seed=answer.seed,
        source=_thumbnail(answer.store.source(item.source)) if item.source else None,
        picture=_thumbnail(made) if isinstance(made, Image.Image) else None,
        truth=_thumbnail(right) if isinstance(right, Image.Image) else None,
        said=made if isinstance(made, str) else "",
        wanted=right if isinstance(right, str) else "",
        atoms=answer.atoms,
        met=value == 1,
        state=answer.state,
        reason="" if answer.there else answer.reason,
    )


def _thumbnail(picture: Image.Image) -> str:
    small = picture.copy()
    small.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "WEBP", quality=82, method=4)
    return _data_uri("image/webp", file.getvalue())


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}".replace("-", "−")


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")
