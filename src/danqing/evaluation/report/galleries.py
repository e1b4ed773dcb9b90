"""The answers of a page: of each row what went wrong first, and systems side by side on the same prompts."""

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from PIL import Image

from danqing.evaluation.items import Atom, Item
from danqing.evaluation.report.report import Report, Section
from danqing.evaluation.report.table import RowReport, shown
from danqing.evaluation.results import Answer, Entrant, Results, Row

PER_ROW: Final = 24
"""Answers shown of each row."""
BESIDE: Final = 8
"""Prompts of a benchmark on which systems stand side by side."""
_SHARE: Final = 0.75  # of the bytes of pictures, for the galleries; the rest is for systems side by side
_SIDE: Final = 192  # pixels of a shown picture's longer side
_SMALL: Final = 144  # of one side by side
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
    revised: str
    """The prompt as the vendor revised it."""

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
    degrees: bool
    """Whether its judge gives degrees, so that "missed" means the lower half."""

    @property
    def edits(self) -> bool:
        """Whether its answers are pictures made of pictures."""
        return any(card.source and card.picture for card in self.cards)


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """What every system answered to one prompt."""

    prompt: str
    language: str
    title: str
    """Of the row."""
    source: str | None
    cells: tuple[Card | None, ...]
    """In the order of the columns; None where a system was not asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """The answers of one benchmark."""

    section: Section
    first: str
    """Label of the system whose answers the galleries show."""
    ceiling: str
    """Label of whose answers stand beside them; empty where there is none."""
    galleries: tuple[Gallery, ...]
    columns: tuple[str, ...]
    """Labels of the systems that stand side by side."""
    beside: tuple[Beside, ...]


def answers_of(
    report: Report, several: Sequence[Results], *, per_row: int = PER_ROW, limit: int
) -> list[Answers]:
    """Return the answers of every benchmark; each row gets an equal part of the bytes that are left."""
    told = [[row for row in report.of(one) if not row.unit] for one in report.sections]
    galleries_left, beside_left = int(limit * _SHARE), limit - int(limit * _SHARE)
    rows_left = sum(len(rows) for rows in told)
    found = []
    for number, (section, results) in enumerate(zip(report.sections, several, strict=True)):
        galleries = []
        for row in _distinct(told[number], results):
            gallery, used = _gallery(row[0], results, row[1], per_row, galleries_left // max(rows_left, 1))
            galleries_left -= used
            rows_left -= 1
            galleries += [gallery] if gallery.cards else []
        entrants = _standing(results)
        beside, used = _side_by_side(results, entrants, beside_left // (len(several) - number))
        beside_left -= used
        found.append(
            Answers(
                section=section,
                first=results.entrants[0].label,
                ceiling=next((one.label for one in results.entrants if one.role == "ceiling"), ""),
                galleries=tuple(galleries),
                columns=tuple(one.label for one in entrants),
                beside=tuple(beside),
            )
        )
    return found


def _distinct(told: Iterable[RowReport], results: Results) -> list[tuple[RowReport, Row]]:
    """Return the rows that show answers which no row before them shows."""
    rows, seen, found = {row.name: row for row in results.rows}, set[str](), []
    for one in told:
        row = rows.get(one.name)
        if row is not None and row.pool is None and row.corpus is None and row.items not in seen:
            seen.add(row.items)
            found.append((one, row))
    return found


def _gallery(told: RowReport, results: Results, row: Row, per_row: int, room: int) -> tuple[Gallery, int]:
    valued = _valued(results.of(results.entrants[0], row), row)
    degrees = any(atom.value not in (0, 1) for answer, _ in valued for atom in answer.atoms)
    least = 0.5 if degrees else 1.0
    missed = [pair for pair in valued if pair[1] < least]
    met = [pair for pair in valued if pair[1] >= least]
    kept = max(per_row - len(met), per_row - per_row // _MET_SHARE)
    ceiling = next((entrant for entrant in results.entrants if entrant.role == "ceiling"), None)
    there = [] if ceiling is None else [one for one in results.of(ceiling, row) if one.there]
    truths = {(one.item.id, one.seed): one for one in there}
    any_seed = {one.item.id: one for one in reversed(there)}
    cards: list[Card] = []
    used = 0
    for answer, value in (missed[:kept] + met)[:per_row]:
        name = answer.item.id
        truth = truths.get((name, answer.seed), any_seed.get(name))
        card = _card(answer, met=value >= least, truth=truth)
        if used + card.weight > room:
            break
        cards.append(card)
        used += card.weight
    gallery = Gallery(
        name=told.name,
        title=told.title,
        about=told.about,
        cards=tuple(cards),
        missed=len(missed),
        total=len(valued),
        degrees=degrees,
    )
    return gallery, used


def _valued(answers: Sequence[Answer], row: Row) -> list[tuple[Answer, float]]:
    """Return answers and what they came to, worst first; a missing one is worse than any."""
    asked = [one for one in answers if one.state not in ("missing", "unjudged")]
    values = _values(asked, row)
    pairs = [
        (one, -1.0 if one.state != "judged" else value)
        for one, value in zip(asked, values, strict=True)
        if value is not None or one.state != "judged"
    ]
    key = (1, 0) if row.over_seeds is None else (0, 1)  # the answers to one item stay together

    def order(pair: tuple[Answer, float | None]) -> tuple[Any, ...]:
        about = (pair[0].item.id, pair[0].seed)
        return (pair[1], about[key[0]], about[key[1]])

    return sorted(pairs, key=order)  # type: ignore[arg-type]


def _values(answers: Sequence[Answer], row: Row) -> list[float | None]:
    """Return what each answer comes to in a row of shares; None for what is not judged, or says nothing."""
    if row.over_seeds is not None:
        some: dict[str, list[Answer]] = {}
        for one in answers:
            some.setdefault(one.item.id, []).append(one)
        judged = {name: [one for one in several if one.state == "judged"] for name, several in some.items()}
        whole = {name: row.over_seeds(kept) if kept else None for name, kept in judged.items()}
        return [whole[one.item.id] for one in answers]
    if row.together is None:
        return [row.value(one) if one.state == "judged" else None for one in answers]
    values: list[float | None] = [None] * len(answers)
    for seed in dict.fromkeys(one.seed for one in answers):
        at = [place for place, one in enumerate(answers) if one.seed == seed]
        for place, value in zip(at, row.together([answers[place] for place in at]), strict=True):
            values[place] = value
    return values


def _standing(results: Results) -> list[Entrant]:
    """Return who stands side by side: all that are measured and the first ceiling."""
    entrants = shown(results)
    ceilings = [one for one in entrants if one.role == "ceiling"][:1]
    return [one for one in entrants if one.role != "ceiling"] + ceilings


def _side_by_side(results: Results, entrants: Sequence[Entrant], room: int) -> tuple[list[Beside], int]:
    """Return prompts with every system's answer: those first on which the systems differ most."""
    if sum(one.role != "ceiling" for one in entrants) < 2:  # a gallery shows one and the truth
        return [], 0
    shown_rows = _distinct_rows(results)
    found: list[_Candidate] = []
    for row in shown_rows:
        known = [results.of(one, row) for one in entrants]
        answers = [
            {
                (one.item.id, one.seed): (one, value)
                for one, value in zip(some, _values(some, row), strict=True)
            }
            for some in known
        ]
        for key in answers[0]:
            cells = [some.get(key) for some in answers]
            found.append((_difference([cell and cell[1] for cell in cells]), key[0], row, cells))
    found.sort(key=lambda one: (-one[0], one[1]))
    beside, used = [], 0
    for _, _, row, cells in _spread(found, len(shown_rows)):
        one = _compared(row, cells)
        weight = sum(card.weight for card in one.cells if card is not None) + len(one.source or "")
        if used + weight > room:
            break
        beside.append(one)
        used += weight
    return beside, used


_Cell = tuple[Answer, float | None] | None
_Candidate = tuple[float, str, Row, list[_Cell]]
"""How much to see there is, the item, its row, and what every system answered and came to."""


def _distinct_rows(results: Results) -> list[Row]:
    seen: dict[str, Row] = {}
    for row in results.rows:
        if not row.unit and row.pool is None and row.corpus is None and row.over_seeds is None:
            seen.setdefault(row.items, row)
    return list(seen.values())


def _spread(found: Sequence[_Candidate], rows: int) -> list[_Candidate]:
    """Return the first prompts, as many of each row as fit, each prompt once."""
    most = max(1, -(-BESIDE // max(rows, 1)))
    taken: dict[str, int] = {}
    chosen: list[_Candidate] = []
    prompts: set[str] = set()
    for one in found:
        row = one[2].name
        if taken.get(row, 0) < most and one[1] not in prompts and len(chosen) < BESIDE:
            taken[row] = taken.get(row, 0) + 1
            prompts.add(one[1])
            chosen.append(one)
    return chosen


def _difference(values: Sequence[float | None]) -> float:
    """Return how far the first system lies below the best of the others; below 0 where it does not."""
    known = [value for value in values[1:] if value is not None]
    return max(known) - (values[0] or 0.0) if known else -1.0


def _compared(row: Row, cells: Sequence[_Cell]) -> Beside:
    first = next(cell[0] for cell in cells if cell is not None)
    item = first.item
    return Beside(
        prompt=_asked(item),
        language=_language(item),
        title=row.title or row.name,
        source=_thumbnail(first.store.source(item.source), _SMALL) if item.source else None,
        cells=tuple(
            None if cell is None else _card(cell[0], met=False, truth=None, side=_SMALL, sourced=False)
            for cell in cells
        ),
    )


def _card(
    answer: Answer, *, met: bool, truth: Answer | None, side: int = _SIDE, sourced: bool = True
) -> Card:
    item = answer.item
    made = answer.made if answer.there else None
    right = None if truth is None else truth.made
    return Card(
        prompt=_asked(item),
        language=_language(item),
        seed=answer.seed,
        source=_thumbnail(answer.store.source(item.source), side) if item.source and sourced else None,
        picture=_thumbnail(made, side) if isinstance(made, Image.Image) else None,
        truth=_thumbnail(right, side) if isinstance(right, Image.Image) else None,
        said=made if isinstance(made, str) else "",
        wanted=right if isinstance(right, str) else "",
        atoms=answer.atoms,
        met=met,
        state=answer.state,
        reason="" if answer.there else answer.reason,
        revised=str(answer.notes.get("revised_prompt", "")) if answer.there else "",
    )


def _asked(item: Item) -> str:
    return item.prompt or "Describe the picture."


def _language(item: Item) -> str:
    return item.language if item.prompt else "en"


def _thumbnail(picture: Image.Image, side: int) -> str:
    small = picture.convert("RGB") if picture.mode not in ("RGB", "RGBA") else picture.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "WEBP", quality=82, method=4)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
