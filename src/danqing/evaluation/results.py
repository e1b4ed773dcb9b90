"""What a store holds for a table: the answer of every system to every item."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Self

from PIL import Image

from danqing.errors import DataError
from danqing.evaluation.items import Atom, Item, System
from danqing.evaluation.run import shuffle
from danqing.evaluation.statistics import Observation
from danqing.evaluation.store import Store

Role = Literal["model", "baseline", "ceiling"]
State = Literal["judged", "unjudged", "refused", "failed", "missing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a system answered to an item, and what the judge said."""

    item: Item
    seed: int
    state: State
    atoms: tuple[Atom, ...] = ()
    reason: str = ""
    """Why it was refused or failed."""
    key: str
    store: Store = field(repr=False, compare=False)

    @property
    def drawn(self) -> bool:
        """Whether there is a picture."""
        return self.state in ("judged", "unjudged")

    @property
    def image(self) -> Image.Image:
        """The picture, read from the store."""
        return self.store.picture(self.key).image


def every_fact(answer: Answer) -> float:
    """Return 1 when every fact is met, else 0 (GenEval); the least value for a judge of degrees."""
    return min(atom.value for atom in answer.atoms)


def mean_fact(answer: Answer) -> float:
    """Return the share of facts that are met."""
    return sum(atom.value for atom in answer.atoms) / len(answer.atoms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of the table: which items it holds, and what an answer to one comes to, from 0 to 1."""

    name: str
    """The `row` of its items."""
    title: str = ""
    about: str = ""
    """One line for readers: what is asked and how it is judged."""
    value: Callable[[Answer], float] = every_fact
    over_seeds: Callable[[Sequence[Answer]], float] | None = None
    """In place of `value`, what the answers to one item with all seeds come to together."""
    counts: bool = True
    """Whether the row is part of the mean over rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrant:
    """A column of the table."""

    label: str
    system: str
    version: str
    role: Role

    @classmethod
    def of(cls, system: System, role: Role, *, label: str | None = None) -> Self:
        """Return the column of a system."""
        return cls(label=label or system.name, system=system.name, version=system.version, role=role)


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Everything a report and its page are made of."""

    store: Store
    rows: tuple[Row, ...]
    entrants: tuple[Entrant, ...]
    """The first is what the table is about."""
    judge: str
    judge_version: str
    answers: Mapping[tuple[str, str], tuple[Answer, ...]]
    """By label of the entrant and name of the row."""
    shuffled: Mapping[str, tuple[tuple[Item, Answer], ...]]
    """By name of the row: an item whose picture was judged for another item, and what was said."""

    def of(self, entrant: Entrant, row: Row) -> tuple[Answer, ...]:
        """Return the answers of one cell of the table."""
        return self.answers.get((entrant.label, row.name), ())

    def observations(self, entrant: Entrant, row: Row) -> list[Observation]:
        """Return what the answers of one cell come to."""
        answers = self.of(entrant, row)
        if row.over_seeds is None:
            return [_observed(one.item, row.value(one) if one.state == "judged" else None) for one in answers]
        together: dict[str, list[Answer]] = {}
        for one in answers:
            together.setdefault(one.item.id, []).append(one)
        found = []
        for some in together.values():
            judged = [one for one in some if one.state == "judged"]
            found.append(_observed(some[0].item, row.over_seeds(judged) if judged else None))
        return found

    def floor(self, row: Row) -> list[Observation]:
        """Return what pictures of the first entrant come to when judged for other items of the row."""
        if row.over_seeds is not None:
            return []
        return [_observed(item, row.value(answer)) for item, answer in self.shuffled.get(row.name, ())]


def read_results(
    store: Store,
    *,
    rows: Sequence[Row],
    entrants: Sequence[Entrant],
    judge: tuple[str, str],
    items: Sequence[Item] | None = None,
    seeds: Sequence[int] | None = None,
) -> Results:
    """Read the answers of the entrants to `items` with `seeds`, by default to all that was ever planned.

    `judge` is a name and a version. Raises DataError when an item has a row that is not among `rows`.
    """
    labels = [entrant.label for entrant in entrants]
    if not labels or len(set(labels)) != len(labels):
        raise DataError(f"expected entrants with a label of their own, found {labels}; name them apart")
    scores = store.scores(*judge)
    chosen = None if items is None else {item.id: item for item in items}
    answers: dict[tuple[str, str], list[Answer]] = {}
    shuffled: dict[str, list[tuple[Item, Answer]]] = {}
    for entrant in entrants:
        found, digests = _answers(store, entrant, scores, chosen, seeds)
        for answer in found:
            answers.setdefault((entrant.label, answer.item.row), []).append(answer)
        if entrant is entrants[0]:
            shuffled = _shuffled(found, digests, scores, store)
    if unknown := {row for _, row in answers} - {row.name for row in rows}:
        known = ", ".join(row.name for row in rows)
        raise DataError(f"expected items of the rows {known}, found {', '.join(sorted(unknown))}")
    return Results(
        store=store,
        rows=tuple(rows),
        entrants=tuple(entrants),
        judge=judge[0],
        judge_version=judge[1],
        answers={key: tuple(value) for key, value in answers.items()},
        shuffled={key: tuple(value) for key, value in shuffled.items()},
    )


def _answers(
    store: Store,
    entrant: Entrant,
    scores: Mapping[tuple[str, str], tuple[Atom, ...]],
    chosen: Mapping[str, Item] | None,
    seeds: Sequence[int] | None,
) -> tuple[list[Answer], dict[str, str]]:
    """Return the answers of one entrant, and the digests of their pictures by key."""
    store.settings(entrant.system, entrant.version)  # an unknown system is an error, not an empty column
    tasks = [
        (name, seed, key)
        for name, seed, key in store.tasks(entrant.system, entrant.version)
        if (chosen is None or name in chosen) and (seeds is None or seed in seeds)
    ]
    items = store.items(list({name for name, _, _ in tasks})) if chosen is None else chosen
    keys = list(dict.fromkeys(key for _, _, key in tasks))
    digests = store.digests(keys)
    last = store.last_attempts([key for key in keys if key not in digests])
    found = []
    for name, seed, key in tasks:
        atoms = scores.get((digests[key], name)) if key in digests else None
        state: State = "missing"
        if key in digests:
            state = "unjudged" if not atoms else "judged"
        elif key in last and last[key].state != "ok":
            state = "refused" if last[key].state == "refused" else "failed"
        reason = last[key].reason if key in last else ""
        answer = Answer(
            item=items[name], seed=seed, state=state, atoms=atoms or (), reason=reason, key=key, store=store
        )
        found.append(answer)
    return found, digests


def _shuffled(
    answers: Sequence[Answer],
    digests: Mapping[str, str],
    scores: Mapping[tuple[str, str], tuple[Atom, ...]],
    store: Store,
) -> dict[str, list[tuple[Item, Answer]]]:
    partners = shuffle(list({one.item.id: one.item for one in answers}.values()))
    found: dict[str, list[tuple[Item, Answer]]] = {}
    for one in answers:
        partner = partners.get(one.item.id)
        atoms = scores.get((digests.get(one.key, ""), partner.id)) if partner is not None else None
        if partner is not None and atoms:
            said = Answer(item=partner, seed=one.seed, state="judged", atoms=atoms, key=one.key, store=store)
            found.setdefault(one.item.row, []).append((one.item, said))
    return found


def _observed(item: Item, value: float | None) -> Observation:
    if value is not None and not 0 <= value <= 1:
        raise DataError(f"{item.row}: expected a value from 0 to 1, found {value} for {item.prompt!r}")
    return Observation(item.id, item.cluster, value)
