"""The judge of the drawn world: clauses of an item against what is read off the picture."""

from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np
from PIL import Image

from danqing.data.concepts import concepts
from danqing.errors import DataError
from danqing.evaluation.items import Atom, Clause, Item, Made
from danqing.scoring.ocr import Reader, words_match
from danqing.scoring.reading import Found, Reading, SceneReader, packaged_reader, stands

NOTHING: Final = "nothing"


class SceneJudge:
    """Reads pictures with a detector, and their words with OCR; knows prompts only through their clauses."""

    name = "world"

    def __init__(self, reader: SceneReader | None = None, words: Reader | None = None) -> None:
        """`words` is made when the first item asks for words; without the extra `evaluate` that fails."""
        self._reader = reader if reader is not None else packaged_reader()
        self._words = words

    @property
    def version(self) -> str:
        """Digest of the detector's weights, and the version of these rules."""
        return f"{self._reader.version}-1"

    def judge(self, made: Made, item: Item) -> tuple[Atom, ...]:
        """Return one atom a fact; of an ambiguous item, those of the reading that the picture meets best."""
        if isinstance(made, str):
            raise DataError(f"expected a picture for {item.row}, found a text")
        return self.facts(self.read(made), made, item)

    def read(self, picture: Image.Image) -> Reading:
        """Return what is seen in a picture."""
        return self._reader.read([np.asarray(picture.convert("RGB"))])[0]

    def facts(self, reading: Reading, picture: Image.Image, item: Item) -> tuple[Atom, ...]:
        """Return the atoms of a picture that was read; the picture itself is for its words."""
        choices = [self._atoms(reading, picture, clauses) for clauses in item.readings or (item.include,)]
        best = max(choices, key=lambda atoms: sum(atom.value for atom in atoms) / max(len(atoms), 1))
        absent = tuple(_absent(reading, clause) for clause in item.exclude if clause.concept is not None)
        return (*best, *absent)

    def _atoms(self, reading: Reading, picture: Image.Image, clauses: Sequence[Clause]) -> tuple[Atom, ...]:
        atoms: list[Atom] = []
        seen = [_matching(reading, clause, clauses) for clause in clauses]
        for index, clause in enumerate(clauses):
            if clause.concept is not None:
                atoms += thing_atoms(reading, clause, seen[index])
            if clause.position is not None:
                atoms.append(_position(clause, [seen[index], *(seen[at] for at in clause.position[1:])]))
            if clause.background is not None:
                right = reading.background == clause.background
                atoms.append(_atom("background", right, clause.background, reading.background))
            if clause.text is not None:
                lines = self._read_words(picture)
                atoms.append(_atom("words", words_match(lines, clause.text), clause.text, " / ".join(lines)))
        return tuple(atoms)

    def _read_words(self, picture: Image.Image) -> tuple[str, ...]:
        if self._words is None:
            self._words = Reader()
        return self._words.read(picture)


def thing_atoms(reading: Reading, clause: Clause, seen: Sequence[Found]) -> list[Atom]:
    """Return what is seen of one thing: itself, how many, which colour."""
    assert clause.concept is not None
    wanted = concepts()[clause.concept].english
    others = Counter(concepts()[thing.concept].english for thing in reading.things)
    shown = wanted if seen else ", ".join(others) or NOTHING
    atoms = [_atom("object", bool(seen), wanted, shown)]
    if clause.count is not None:
        atoms.append(_atom("count", len(seen) == clause.count, str(clause.count), str(len(seen))))
    if clause.colour is not None:
        colours = Counter(thing.colour or "no one colour" for thing in seen)
        most = colours.most_common(1)[0][0] if colours else NOTHING
        atoms.append(_atom("colour", most == clause.colour, clause.colour, most))
    return atoms


def _matching(reading: Reading, clause: Clause, clauses: Sequence[Clause]) -> tuple[Found, ...]:
    """Return the things a clause is about: where two clauses share a concept, colours tell them apart."""
    if clause.concept is None:
        return ()
    things = reading.of(clause.concept)
    if sum(other.concept == clause.concept for other in clauses) > 1 and clause.colour is not None:
        return tuple(thing for thing in things if thing.colour == clause.colour)
    return things


def _position(clause: Clause, seen: Sequence[Sequence[Found]]) -> Atom:
    assert clause.position is not None
    relation = clause.position[0]
    if not all(seen):
        return _atom("position", False, relation, "not all of them")
    firsts, *others = ([thing.box for thing in found] for found in seen)
    if relation == "between":
        right = any(stands("between", a, b, c) for a in firsts for b in others[0] for c in others[1])
    else:
        right = any(stands(relation, a, b) for a in firsts for b in others[0])  # type: ignore[arg-type]
    return _atom("position", right, relation, relation if right else "elsewhere")


def _absent(reading: Reading, clause: Clause) -> Atom:
    assert clause.concept is not None
    seen = reading.of(clause.concept)
    name = concepts()[clause.concept].english
    return _atom("object", not seen, f"no {name}", name if seen else f"no {name}")


def _atom(name: str, right: bool, wanted: str, seen: str) -> Atom:
    return Atom(name=name, value=float(right), wanted=wanted, seen=seen)
