"""What a store holds for a table: the answer of every system to every item."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from PIL import Image

from danqing.errors import DataError
from danqing.evaluation.items import Atom, Item, Made, System
from danqing.evaluation.run import shuffle
from danqing.evaluation.statistics import Interval, Observation, Pool
from danqing.evaluation.store import Gap, Store

Role = Literal["model", "baseline", "ceiling", "floor"]
"""What is measured, what it is compared with, the most that its judge can see, or the least."""
State = Literal["judged", "unjudged", "missing"] | Gap


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
    def there(self) -> bool:
        """Whether there is a picture or a text."""
        return self.state in ("judged", "unjudged")

    @property
    def made(self) -> Made:
        """The picture or the text, read from the store."""
        return self.store.kept(self.key).made

    @property
    def notes(self) -> Mapping[str, Any]:
        """What a vendor said of it: the prompt as it was revised, tokens used."""
        return self.store.notes([self.key]).get(self.key, {})

    @property
    def image(self) -> Image.Image:
        """The picture; raises DataError when words were asked for."""
        made = self.made
        if isinstance(made, str):
            raise DataError(f"{self.item.row}: expected a picture, found a text; ask for `made`")
        return made


Value = Callable[[Answer], float | None]
"""What an answer comes to; None where it says nothing about what a row measures."""
Together = Callable[[Sequence["Answer"]], Sequence[float | None]]
"""What each answer comes to beside the others, those that are not there among them: a place, rare words."""
Corpus = Callable[[Sequence["Answer"], Sequence["Answer"]], Interval | None]
"""What answers come to as a whole, beside the true ones: a distance of two sets of pictures."""


def every_fact(answer: Answer) -> float:
    """Return 1 when every fact is met, else 0 (GenEval); the least value for a judge of degrees."""
    return min(atom.value for atom in answer.atoms)


def mean_fact(answer: Answer) -> float:
    """Return the share of facts that are met."""
    return sum(atom.value for atom in answer.atoms) / len(answer.atoms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of the table: which items it holds, and what an answer to one comes to."""

    name: str
    of: str = ""
    """The `row` of its items; by default its own name."""
    title: str = ""
    about: str = ""
    """One line for readers: what is asked and how it is judged."""
    value: Value = every_fact
    unit: str = ""
    """Of the values; without one they go from 0 to 1, and only such rows can be part of the mean."""
    over_seeds: Callable[[Sequence[Answer]], float] | None = None
    """In place of `value`, what the answers to one item with all seeds come to together."""
    together: Together | None = None
    """In place of `value`, what all answers with one seed come to, each beside the others."""
    corpus: Corpus | None = None
    """In place of `value`, what all answers come to as a whole, with an interval of its own."""
    weight: Callable[[Item], float] | None = None
    """What each answer to an item weighs in the row, by default the same: words of a text, questions."""
    parts: Callable[[Answer], Sequence[float] | None] | None = None
    """In place of `value`, numbers whose sums over all answers `pool` turns into the value of the row."""
    pool: Pool | None = None
    counts: bool = True
    """Whether the row is part of the mean over rows."""

    def __post_init__(self) -> None:
        if self.unit and self.counts:
            raise DataError(f"{self.name}: expected a row in {self.unit} to stay out of the mean; set counts")
        if (self.pool is None) != (self.parts is None) or (self.pool is not None and self.counts):
            raise DataError(f"{self.name}: expected parts and pool of a row out of the mean, found others")
        if self.corpus is not None and not self.unit:
            raise DataError(f"{self.name}: expected a row about all answers to have a unit, found none")
        if sum(one is not None for one in (self.over_seeds, self.together, self.pool, self.corpus)) > 1:
            raise DataError(f"{self.name}: expected one way to come to a value, found several")

    @property
    def items(self) -> str:
        """The `row` of its items."""
        return self.of or self.name


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
    """Everything that a report and its page say of one benchmark."""

    store: Store
    name: str = ""
    """Of the benchmark, and of the variant of its score where there are several."""
    benchmark: str = ""
    """Name of the benchmark alone."""
    title: str = ""
    about: Mapping[str, str] = field(default_factory=dict)
    """What a reader must know of it, a line a heading: licence, source, protocol, what was asked."""
    rows: tuple[Row, ...]
    entrants: tuple[Entrant, ...]
    """The first is what the table is about."""
    judges: tuple[tuple[str, str], ...]
    """Name and version of each."""
    answers: Mapping[tuple[str, str], tuple[Answer, ...]]
    """By label of the entrant and row of the items."""
    shuffled: Mapping[str, tuple[tuple[Item, Answer], ...]]
    """By row of the items: an item whose answer was judged for another item, and what was said."""

    def of(self, entrant: Entrant, row: Row) -> tuple[Answer, ...]:
        """Return the answers of one cell of the table."""
        return self.answers.get((entrant.label, row.items), ())

    def observations(self, entrant: Entrant, row: Row) -> list[Observation]:
        """Return what the answers of one cell come to."""
        answers = self.of(entrant, row)
        if row.over_seeds is None:
            return _all_observed(row, answers, [one.item for one in answers])
        together: dict[str, list[Answer]] = {}
        for one in answers:
            together.setdefault(one.item.id, []).append(one)
        valued = []
        for some in together.values():
            judged = _judged(some)
            valued.append(_observation(row, some[0].item, row.over_seeds(judged) if judged else None))
        return valued

    def floor(self, row: Row) -> list[Observation]:
        """Return the least that the judge sees: of an entrant that does nothing, where there is one.

        Without one, what answers of the first entrant come to when judged for other items of the row.
        """
        if row.over_seeds is not None or row.corpus is not None or (row.unit and row.together is None):
            return []
        for entrant in self.entrants:
            if entrant.role == "floor" and self.of(entrant, row):
                return self.observations(entrant, row)
        others = self.shuffled.get(row.items, ())
        return _all_observed(row, [answer for _, answer in others], [item for item, _ in others])

    def truth(self, row: Row) -> tuple[Answer, ...]:
        """Return the judged true answers of a row: those of the first ceiling that has any."""
        known = (self.of(one, row) for one in self.entrants if one.role == "ceiling")
        return next((kept for some in known if (kept := _judged(some))), ())


def read_results(
    store: Store,
    *,
    rows: Sequence[Row],
    entrants: Sequence[Entrant],
    judges: Sequence[tuple[str, str]],
    items: Sequence[Item] | None = None,
    seeds: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
    name: str = "",
    benchmark: str = "",
    title: str = "",
    about: Mapping[str, str] | None = None,
) -> Results:
    """Read the answers of the entrants to `items` with `seeds`, by default to all that was ever planned.

    `seeds` are those of every item, or by id of an item. `judges` are names and versions; no two of them
    judge the same item. Raises DataError when an item has a row that is not among `rows`.
    """
    labels = [entrant.label for entrant in entrants]
    if not labels or len(set(labels)) != len(labels):
        raise DataError(f"expected entrants with a label of their own, found {labels}; name them apart")
    scores = {key: atoms for judge in judges for key, atoms in store.scores(*judge).items()}
    chosen = None if items is None else {item.id: item for item in items}
    answers: dict[tuple[str, str], list[Answer]] = {}
    shuffled: dict[str, list[tuple[Item, Answer]]] = {}
    for entrant in entrants:
        found, digests = _answers(store, entrant, scores, chosen, seeds)
        for answer in found:
            answers.setdefault((entrant.label, answer.item.row), []).append(answer)
        if entrant is entrants[0]:
            shuffled = _shuffled(found, digests, scores, store)
    if unknown := {row for _, row in answers} - {row.items for row in rows}:
        known = ", ".join(row.items for row in rows)
        raise DataError(f"expected items of the rows {known}, found {', '.join(sorted(unknown))}")
    return Results(
        store=store,
        name=name,
        benchmark=benchmark or name,
        title=title,
        about=about or {},
        rows=tuple(rows),
        entrants=tuple(entrants),
        judges=tuple(judges),
        answers={key: tuple(value) for key, value in answers.items()},
        shuffled={key: tuple(value) for key, value in shuffled.items()},
    )


def _answers(
    store: Store,
    entrant: Entrant,
    scores: Mapping[tuple[str, str], tuple[Atom, ...]],
    chosen: Mapping[str, Item] | None,
    seeds: Sequence[int] | Mapping[str, Sequence[int]] | None,
) -> tuple[list[Answer], dict[str, str]]:
    """Return the answers of one entrant, and the digests of what they made by key."""
    store.settings(entrant.system, entrant.version)  # an unknown system is an error, not an empty column
    tasks = [
        (name, seed, key)
        for name, seed, key in store.tasks(entrant.system, entrant.version)
        if (chosen is None or name in chosen) and _with(name, seed, seeds)
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
            state = last[key].state  # type: ignore[assignment]  # one of Gap, since it is not "ok"
        reason = last[key].reason if key in last else ""
        answer = Answer(
            item=items[name], seed=seed, state=state, atoms=atoms or (), reason=reason, key=key, store=store
        )
        found.append(answer)
    return found, digests


def _with(name: str, seed: int, seeds: Sequence[int] | Mapping[str, Sequence[int]] | None) -> bool:
    """Return whether the answer to an item with a seed is wanted."""
    if seeds is None:
        return True
    return seed in (seeds.get(name, ()) if isinstance(seeds, Mapping) else seeds)


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


def _judged(answers: Sequence[Answer]) -> tuple[Answer, ...]:
    return tuple(one for one in answers if one.state == "judged")


def _all_observed(row: Row, answers: Sequence[Answer], items: Sequence[Item]) -> list[Observation]:
    """Return what answers come to in a row, as observations of `items`.

    The value is None where there is no answer; what a judged answer does not say anything of is left out.
    """
    if row.together is None:
        found = [_observed(row, one, item) for one, item in zip(answers, items, strict=True)]
    else:
        values: dict[int, float | None] = {}
        for seed in dict.fromkeys(one.seed for one in answers):
            at = [place for place, one in enumerate(answers) if one.seed == seed]
            values |= zip(at, row.together([answers[place] for place in at]), strict=True)
        found = [_observation(row, item, values[place]) for place, item in enumerate(items)]
    pairs = zip(answers, found, strict=True)
    return [seen for one, seen in pairs if seen.value is not None or one.state != "judged"]


def _observed(row: Row, answer: Answer, item: Item) -> Observation:
    """Return what one answer comes to in a row, with None as value where it comes to nothing."""
    none = _observation(row, item, None)
    if answer.state != "judged":
        return none
    if row.corpus is not None:
        return none._replace(value=0.0)  # that it is there is all that one answer says
    if row.parts is None:
        return _observation(row, item, row.value(answer))
    parts = row.parts(answer)
    return none if parts is None else none._replace(value=0.0, parts=tuple(parts))  # the pool has the value


def _observation(row: Row, item: Item, value: float | None) -> Observation:
    if value is not None and not row.unit and not 0 <= value <= 1:
        raise DataError(f"{row.name}: expected a value from 0 to 1, found {value} for {item.prompt!r}")
    return Observation(item.id, item.cluster, value, 1.0 if row.weight is None else row.weight(item))
