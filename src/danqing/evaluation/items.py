"""What is asked for, who answers it, and what a judge says of the answer.

An item is a prompt with its truth in the clause form of GenEval (Ghosh et al. 2023): what a right picture, or
a right description of one, includes and excludes, fact by fact. Nothing here knows how answers are made or
looked at.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal, Protocol, Self

from PIL import Image

from danqing.errors import DataError

RELATIONS: Final = ("left", "right", "above", "below", "inside", "front", "between")

Ability = Literal["draw", "edit", "describe"]
"""Draw a prompt, change a picture as an instruction says, or answer a question about a picture in words."""
Made = Image.Image | str
"""What answers an item: a picture, or a text where words are asked for."""

Position = tuple[str, int] | tuple[str, int, int]
"""A relation and the index of the clause it refers to, or of both for "between"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clause:
    """One thing that a picture shows, or its words, or its background; None leaves a fact open."""

    concept: str | None = None
    """Code of a concept, as in "1F34E"."""
    count: int | None = None
    colour: str | None = None
    position: Position | None = None
    """Where the thing is, as seen from other clauses of the same list."""
    text: str | None = None
    background: str | None = None
    style: str | None = None

    def __post_init__(self) -> None:
        if all(getattr(self, one.name) is None for one in fields(self)):
            raise DataError(
                "expected a clause with a fact, found none; give it a concept, words or a background"
            )
        if self.count is not None and self.count < 1:
            raise DataError(f"expected a count of 1 or more, found {self.count}; use `exclude` for absence")
        if self.position is not None:
            relation, *others = self.position
            if relation not in RELATIONS or len(others) != (2 if relation == "between" else 1):
                raise DataError(
                    f"expected a relation of {', '.join(RELATIONS)} and the clause it refers to (two for "
                    f"between), found {self.position}"
                )

    def to_json(self) -> dict[str, Any]:
        """Return the facts that are given."""
        given = {one.name: getattr(self, one.name) for one in fields(self)}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}
        return {name: value for name, value in plain.items() if value is not None}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the clause that `to_json` wrote."""
        _check_keys(cls, data)
        position = data.get("position")
        return cls(**{**data, "position": None if position is None else tuple(position)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A prompt and what a right picture of it shows."""

    row: str
    """Name of the row of the table in which the item counts."""
    prompt: str
    """What to draw, the instruction of an edit, or a question; a description is asked for by an empty one."""
    language: str = "en"
    ability: Ability = "draw"
    source: str = ""
    """Name of the picture that an edit or a question is about, as a store keeps it."""
    answer: str = ""
    """The true answer to a question."""
    include: tuple[Clause, ...] = ()
    exclude: tuple[Clause, ...] = ()
    """Clauses of which none may hold."""
    readings: tuple[tuple[Clause, ...], ...] = ()
    """Of an ambiguous prompt, the right readings; one of them suffices, in place of `include`."""
    details: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """What the judge of a benchmark wants to know beyond clauses, as plain JSON: questions, references..."""
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Free words for tables by part; a judge does not look at them."""
    cluster: str = ""
    """Items with the same name are resampled together; by default the prompt, with its picture."""
    id: str = field(init=False, default="")
    """Sixteen hexadecimal digits of everything that is asked and judged; tags and cluster are not in it."""

    def __post_init__(self) -> None:
        wordless = not self.prompt.strip() and self.ability != "describe"
        if wordless or not self.row:
            raise DataError(
                f"expected an item with a row and a prompt, found {self.row!r} and {self.prompt!r}"
            )
        if (self.ability == "draw") == bool(self.source):
            raise DataError(f"expected a source for an edit or a question alone, found {self.source!r}")
        for clauses in (self.include, self.exclude, *self.readings):
            _check_positions(clauses)
        content = {key: value for key, value in self._content().items() if key not in ("tags", "cluster")}
        object.__setattr__(self, "cluster", self.cluster or f"{self.prompt}{self.source}")
        object.__setattr__(self, "id", content_key(content)[:16])

    def to_json(self) -> dict[str, Any]:
        """Return the item as JSON has it."""
        return self._content()

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the item that `to_json` wrote."""
        _check_keys(cls, data, without="id")
        return cls(
            **{
                **data,
                "include": _clauses(data.get("include", ())),
                "exclude": _clauses(data.get("exclude", ())),
                "readings": tuple(_clauses(reading) for reading in data.get("readings", ())),
            }
        )

    def _content(self) -> dict[str, Any]:
        about = {"ability": self.ability, "source": self.source, "answer": self.answer}
        return {
            **({} if self.ability == "draw" else about),  # an item to draw keeps the id it always had
            **({"details": dict(self.details)} if self.details else {}),
            "row": self.row,
            "prompt": self.prompt,
            "language": self.language,
            "include": [clause.to_json() for clause in self.include],
            "exclude": [clause.to_json() for clause in self.exclude],
            "readings": [[clause.to_json() for clause in reading] for reading in self.readings],
            "tags": dict(self.tags),
            "cluster": self.cluster,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Atom:
    """What a judge says of one fact of an item."""

    name: str
    """Kind of fact: object, count, colour, position, words, background, style, answer, outside..."""
    value: float
    """From 0, not met, to 1, met."""
    wanted: str
    seen: str
    measure: float | None = None
    """What was measured, in the unit of the fact, where the value only says whether it is enough."""

    def __post_init__(self) -> None:
        if not 0 <= self.value <= 1:
            raise DataError(f"expected a judge's value from 0 to 1, found {self.value} for {self.name}")

    def to_json(self) -> dict[str, Any]:
        """Return the atom as JSON has it."""
        said = {"name": self.name, "value": self.value, "wanted": self.wanted, "seen": self.seen}
        return said if self.measure is None else {**said, "measure": self.measure}


class System(Protocol):
    """Anything that answers items: a model, a baseline, the true renders."""

    @property
    def name(self) -> str:
        """What tables call it."""

    @property
    def version(self) -> str:
        """Digest of its weights and settings: another version may answer otherwise."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """What a reader wants to know of it: size, steps, guidance, weights."""

    def request(self, item: Item, seed: int) -> Mapping[str, Any]:
        """Return all that decides the answer to an item, as JSON; equal requests share one answer."""

    def answer(self, items: Sequence[Item], seed: int) -> Sequence[Made]:
        """Return one picture, or text where words are asked for, for each item.

        Raises RequestError when it refuses an item, another DanqingError when it fails.
        """


class Judge(Protocol):
    """Anything that looks at an answer and says which facts of an item it has right."""

    @property
    def name(self) -> str:
        """What tables call it."""

    @property
    def version(self) -> str:
        """Another version may say something else."""

    def judge(self, made: Made, item: Item) -> tuple[Atom, ...]:
        """Say what the answer shows of each fact of the item."""


def content_key(content: Mapping[str, Any]) -> str:
    """Return the sha256 of the canonical JSON of `content`, in hexadecimal."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _clauses(data: Sequence[Mapping[str, Any]]) -> tuple[Clause, ...]:
    return tuple(Clause.from_json(one) for one in data)


def _check_positions(clauses: Sequence[Clause]) -> None:
    for index, clause in enumerate(clauses):
        others = clause.position[1:] if clause.position is not None else ()
        if any(other == index or not 0 <= other < len(clauses) for other in others):
            raise DataError(f"expected a position that refers to another clause, found {clause.position}")


def _check_keys(kind: type, data: Mapping[str, Any], *, without: str = "") -> None:
    known = {name for name in kind.__dataclass_fields__ if name != without}  # type: ignore[attr-defined]
    if unknown := set(data) - known:
        raise DataError(
            f"{kind.__name__}: unknown key {sorted(unknown)[0]!r}; known: {', '.join(sorted(known))}"
        )
