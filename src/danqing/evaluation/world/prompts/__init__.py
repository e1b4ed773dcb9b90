"""Prompts as people type them, made by no grammar: for evaluation only, never for training.

`natural.json` holds prompts in twelve languages with the facts that they state; texts of one scene state the
same facts in each language. `ambiguous.json` holds prompts with more than one right picture, with all right
readings. Both were written for this project, under its licence. The facts are clauses in the form of GenEval
(Ghosh et al. 2023).
"""

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from itertools import product
from typing import Any, Final, Literal, get_args

from danqing.data.colours import COLOURS
from danqing.data.concepts import LANGUAGES, concepts
from danqing.errors import DataError

Ambiguity = Literal["homonym", "category", "underspecified"]
"""One word for several things; a kind of thing, of which any will do; a wish that several things meet."""

DIRECTIONS: Final = ("left", "right", "above", "below")
MAX_COUNT: Final = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Clause:
    """One thing that a right picture shows; None leaves a fact open."""

    concept: str | None = None
    """Code of a concept, as in "1F34E"; None is only the background."""
    count: int | None = None
    colour: str | None = None
    position: tuple[str, int] | None = None
    """One of `DIRECTIONS` and the index of the clause from which the thing is seen there."""
    background: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NaturalPrompt:
    """A prompt and the facts it states."""

    language: str
    text: str
    scene: str
    """Name of what is asked for, the same in every language that asks for it."""
    include: tuple[Clause, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AmbiguousPrompt:
    """A prompt and its right readings, of which one suffices."""

    language: str
    text: str
    meaning: str
    """Name of what is asked for, the same in every language that asks for it."""
    ambiguity: Ambiguity
    readings: tuple[tuple[Clause, ...], ...]


def natural(language: str | None = None) -> tuple[NaturalPrompt, ...]:
    """Return the natural prompts of one of `LANGUAGES`, or of all.

    Raises DataError for an unknown language.
    """
    chosen = _chosen(language)
    return tuple(prompt for prompt in _natural() if prompt.language in chosen)


def ambiguous(
    language: str | None = None, *, known: Collection[str] | None = None
) -> tuple[AmbiguousPrompt, ...]:
    """Return the ambiguous prompts of one of `LANGUAGES`, or of all, with the readings a judge can tell.

    Readings name things that are no concepts yet; what is not among `known` codes, by default `concepts()`,
    is left out, and so is a prompt without readings. Raises DataError for an unknown language.
    """
    chosen, codes = _chosen(language), {None, *(concepts() if known is None else known)}
    prompts = []
    for prompt in _ambiguous():
        readings = tuple(one for one in prompt.readings if codes.issuperset(clause.concept for clause in one))
        if readings and prompt.language in chosen:
            prompts.append(replace(prompt, readings=readings))
    return tuple(prompts)


def parse_natural(document: Mapping[str, Any]) -> tuple[NaturalPrompt, ...]:
    """Check and read what `natural.json` holds; raises DataError for a fact that no judge knows."""
    prompts = []
    for scene, row in _rows(document, "scenes", {"include", "text"}):
        include = tuple(_clause(clause, scene, concepts()) for clause in row["include"])
        _check_clauses(include, scene)
        for language, text in _texts(row, scene):
            prompts.append(NaturalPrompt(language=language, text=text, scene=scene, include=include))
    _check_unique(prompts)
    return tuple(prompts)


def parse_ambiguous(document: Mapping[str, Any]) -> tuple[AmbiguousPrompt, ...]:
    """Check and read what `ambiguous.json` holds, groups spelt out; raises DataError as `parse_natural`."""
    groups = {"*": _drawable(), **_groups(document)}
    prompts = []
    for meaning, row in _rows(document, "prompts", {"ambiguity", "readings", "text"}):
        if row["ambiguity"] not in get_args(Ambiguity):
            raise DataError(
                f"expected an ambiguity of {', '.join(get_args(Ambiguity))}, found "
                f"{row['ambiguity']!r} in {meaning!r}"
            )
        readings = tuple(spelt for reading in row["readings"] for spelt in _spell(reading, groups, meaning))
        for reading in readings:
            _check_clauses(reading, meaning)
        if not readings or len(set(readings)) < len(readings):
            raise DataError(f"expected readings, each one once, found {len(readings)} in {meaning!r}")
        for language, text in _texts(row, meaning):
            prompts.append(
                AmbiguousPrompt(
                    language=language,
                    text=text,
                    meaning=meaning,
                    ambiguity=row["ambiguity"],
                    readings=readings,
                )
            )
    _check_unique(prompts)
    return tuple(prompts)


@cache
def _natural() -> tuple[NaturalPrompt, ...]:
    return parse_natural(_read("natural.json"))


@cache
def _ambiguous() -> tuple[AmbiguousPrompt, ...]:
    return parse_ambiguous(_read("ambiguous.json"))


def _read(name: str) -> Mapping[str, Any]:
    return dict(json.loads((resources.files(__name__) / name).read_text("utf-8")))


@cache
def _drawable() -> tuple[str, ...]:
    """Return the codes of all concepts, then of the other things that have a noun."""
    table = json.loads((resources.files("danqing.data") / "nouns.json").read_text("utf-8"))
    return tuple(dict.fromkeys((*concepts(), *table["nouns"])))


def _chosen(language: str | None) -> tuple[str, ...]:
    if language is not None and language not in LANGUAGES:
        raise DataError(f"expected a language of {', '.join(LANGUAGES)}, found {language!r}")
    return LANGUAGES if language is None else (language,)


def _rows(document: Mapping[str, Any], key: str, names: set[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, row in document[key].items():
        if set(row) != names or not row["text"]:
            raise DataError(f"expected {sorted(names)} with texts in {name!r}, found {sorted(row)}")
        yield name, row


def _texts(row: Mapping[str, Any], where: str) -> Iterator[tuple[str, str]]:
    for language, text in row["text"].items():
        if language not in LANGUAGES or not text or text != text.strip():
            raise DataError(f"expected a language and a bare text, found {language!r}, {text!r} in {where!r}")
        yield language, text


def _groups(document: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    groups = {
        name: tuple("-".join(f"{ord(part):X}" for part in sign) for sign in signs.split())
        for name, signs in document["groups"].items()
    }
    for name, codes in groups.items():
        if strange := [code for code in codes if code not in _drawable()]:
            raise DataError(f"expected things of nouns.json in group {name!r}, found {strange}")
    return groups


def _spell(
    reading: list[dict[str, Any]], groups: Mapping[str, tuple[str, ...]], where: str
) -> Iterator[tuple[Clause, ...]]:
    """Yield a reading once for each way to choose members of its groups."""
    choices = []
    for clause in reading:
        group = clause.get("any")
        if group is not None and group not in groups:
            raise DataError(f"expected a group of the file, found {group!r} in {where!r}")
        rest = {key: value for key, value in clause.items() if key != "any"}
        rows = [rest] if group is None else [{**rest, "concept": code} for code in groups[group]]
        choices.append([_clause(row, where, _drawable()) for row in rows])
    yield from product(*choices)


def _clause(row: Mapping[str, Any], where: str, codes: Collection[str]) -> Clause:
    position = row.get("position")
    try:
        clause = Clause(**{**row, "position": None if position is None else tuple(position)})
    except TypeError as error:
        raise DataError(f"expected facts of a clause in {where!r}, found {dict(row)}") from error
    facts = (
        clause.concept is None or clause.concept in codes,
        clause.count is None or clause.count in range(1, MAX_COUNT + 1),
        clause.colour in (None, *COLOURS) and clause.background in (None, *COLOURS),
        clause.concept is not None or (clause.background is not None and set(row) == {"background"}),
        clause.position is None or (len(clause.position) == 2 and clause.position[0] in DIRECTIONS),
    )
    if not all(facts):
        raise DataError(
            f"expected a known thing, colour, count and direction in {where!r}, found {dict(row)}"
        )
    return clause


def _check_clauses(clauses: tuple[Clause, ...], where: str) -> None:
    others = [(at, clause.position[1]) for at, clause in enumerate(clauses) if clause.position is not None]
    if not clauses or any(other not in range(len(clauses)) or other == at for at, other in others):
        raise DataError(f"expected clauses that refer to another one of theirs in {where!r}, found {clauses}")


def _check_unique(prompts: list[Any]) -> None:
    times = Counter((prompt.language, prompt.text.casefold()) for prompt in prompts)
    if twice := [text for text, count in times.items() if count > 1]:
        raise DataError(f"expected each prompt once, found {twice[:3]} again; word one of them differently")
