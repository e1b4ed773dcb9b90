"""Coherence-nano: are drawn faces faces, with the expression asked for, and do things stay apart?

Faces are the world's portraits, in their expressions that prompts word: smiling, sad, surprised. (Smileys of
picture sets are no part of the packaged world.) Things stand alone, in twos of a kind, or beside another. All
is read from pixels: heads and things by the reader of the world, landmarks by where its drawings fit.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from danqing.data.atlas import Atlas, packaged_atlas
from danqing.data.concepts import concepts
from danqing.data.language import caption
from danqing.data.world import Scene, SceneKind, sample_scene
from danqing.errors import DataError
from danqing.evaluation.benchmarks.benchmark import Benchmark, Variant
from danqing.evaluation.benchmarks.coherence import apart_atom, value_of
from danqing.evaluation.items import Atom, Item, Judge, Made, System
from danqing.evaluation.results import Answer, Row
from danqing.evaluation.world.asked import SEED, Asked, take
from danqing.evaluation.world.items import taught
from danqing.evaluation.world.renders import RenderSystem
from danqing.scoring.drawn_faces import CLEAR, DrawnFaces
from danqing.scoring.faces import faults
from danqing.scoring.looking import Box, Looks
from danqing.scoring.reading import Box as Place
from danqing.scoring.reading import Found, Reading, packaged_reader

ITEMS: Final = 60
"""Prompts of each kind, half of them English, half Chinese."""
FACES: Final = "coherence-nano-faces"
THINGS: Final = "coherence-nano-things"
NOTHING: Final = "nothing"
_MOST: Final = 4  # things of a kind
_KINDS: Final[tuple[SceneKind, ...]] = ("single", "count", "pair")
_PARTS: Final = ("left_eye", "right_eye", "nose", "mouth")


class NanoJudge:
    """Reads faces and things off pictures of the drawn world."""

    name = "world, coherence"

    def __init__(self) -> None:
        self._reader = packaged_reader()
        self._faces = DrawnFaces(self._reader)
        self.version = f"{self._faces.version}-1"

    def judge(self, made: Made, item: Item) -> tuple[Atom, ...]:
        """Return the atoms of a picture; raises DataError for a text."""
        if isinstance(made, str):
            raise DataError(f"expected a picture for {item.row}, found a text")
        picture = made.convert("RGB")
        reading = self._reader.read([np.asarray(picture)])[0]
        if item.row == FACES:
            return self._face_atoms(picture, reading, item)
        return tuple(_thing_atoms(reading, item))

    def _face_atoms(self, picture: Image.Image, reading: Reading, item: Item) -> tuple[Atom, ...]:
        """Return whether there is one face and nothing else, its form, expression and glasses."""
        faces = self._faces.look(picture, reading.faces)
        alone = len(faces) == 1 and not reading.things
        told = f"{len(faces)} faces, {len(reading.things)} things"
        if not faces:
            missing = [(name, item.details[name]) for name in ("mouth", "glasses")]
            unseen = [_atom(name, False, wanted, NOTHING) for name, wanted in (("form", "a face"), *missing)]
            return (_atom("alone", False, "1 face", told), *unseen)
        best = max(faces, key=lambda one: one.face.score)
        wrong = (*faults(best.face), *(part for part in _PARTS if part not in best.clear))
        form = Atom(
            name="form",
            value=float(not wrong),
            wanted="a face",
            seen=", ".join(dict.fromkeys(wrong)) or "a face",
            measure=best.face.score,
        )
        looks = [
            _atom(name, seen == item.details[name], item.details[name], seen)
            for name, seen in (("mouth", best.mouth), ("glasses", best.glasses))
        ]
        return (_atom("alone", alone, "1 face", told), form, *looks)


def read(folder: Path) -> list[Item]:
    """Return the prompts; `folder` is not looked at."""
    return [one.item for one in asked()]


def ceilings(folder: Path) -> Sequence[System]:
    """Return the true renders of the prompts; `folder` is not looked at."""
    scenes = {one.item.id: one.scene for one in asked()}
    return (RenderSystem("pasted sprites", lambda item, seed: scenes.get(item.id), packaged_atlas()),)


@lru_cache(maxsize=1)
def asked() -> tuple[Asked, ...]:
    """Return the prompts with their scenes, always the same ones."""
    atlas = packaged_atlas()
    return (*take(_portraits(atlas), ITEMS), *take(_things(atlas), ITEMS))


def _portraits(atlas: Atlas) -> Iterator[Asked]:
    """Yield portraits whose expression is worded; English and Chinese in turn."""
    rng = np.random.default_rng([SEED, *FACES.encode()])
    number = 0
    while True:
        scene = sample_scene(rng, atlas, shares={"portrait": 1.0})
        assert scene.portrait is not None
        if scene.portrait.mouth == "neutral":
            continue
        details = {"mouth": scene.portrait.mouth, "glasses": scene.portrait.glasses}
        yield _asked(FACES, scene, number, rng, atlas, details)
        number += 1


def _things(atlas: Atlas) -> Iterator[Asked]:
    """Yield held-out scenes of one thing, some of a kind, or two beside or above each other."""
    rng, codes = np.random.default_rng([SEED, *THINGS.encode()]), taught(atlas)
    number = 0
    while True:
        kind = _KINDS[number % len(_KINDS)]
        scene = sample_scene(rng, atlas, "held_out", shares={kind: 1.0}, codes=codes)
        if len(scene.things) > _MOST or scene.relation in ("inside", "front"):
            continue
        wanted = {thing.concept: count for thing, count in scene.groups}
        yield _asked(THINGS, scene, number, rng, atlas, {"things": wanted})
        number += 1


def _asked(
    row: str, scene: Scene, number: int, rng: np.random.Generator, atlas: Atlas, details: Mapping[str, object]
) -> Asked:
    language = ("en", "zh")[number // len(_KINDS) % 2]
    prompt = caption(scene, language, rng, atlas, length="full")
    return Asked(item=Item(row=row, prompt=prompt, language=language, details=details), scene=scene)


def _thing_atoms(reading: Reading, item: Item) -> Iterator[Atom]:
    """Yield whether things are there in their numbers, nothing else is, and they stay apart."""
    wanted: dict[str, int] = item.details["things"]
    sure = []
    for code, number in wanted.items():
        seen = reading.of(code)
        name = concepts()[code].english
        yield _atom("number", len(seen) == number, f"{number} {name}", str(len(seen)))
        sure.append(max((thing.confidence for thing in seen), default=0.0))
    expected = {id(thing) for code in wanted for thing in reading.of(code)}
    others = [concepts()[thing.concept].english for thing in reading.things if id(thing) not in expected]
    others += ["a face"] * len(reading.faces)
    yield _atom("alone", not others, "nothing else", ", ".join(others) or "nothing else")
    yield apart_atom([_corners(thing) for thing in reading.things], "things")
    least = min(sure)
    yield Atom(name="sure", value=least, wanted="things", seen=f"{least:.2f}")


def _corners(thing: Found) -> Box:
    box: Place = thing.box
    across, down = box.width / 2, box.height / 2
    return box.x - across, box.y - down, box.x + across, box.y + down


def _all_of(names: Sequence[str], answer: Answer) -> float:
    """Return 1 when all atoms of some names are met, else 0."""
    return min(atom.value for atom in answer.atoms if atom.name in names)


def _rows(variant: Variant) -> tuple[Row, ...]:
    whole: Callable[[Answer], float] = partial(_all_of, ("alone", "form", "mouth", "glasses"))
    separate: Callable[[Answer], float] = partial(_all_of, ("number", "alone", "apart"))
    return (
        _row(FACES, FACES, "A face as asked", "One whole face, its expression and glasses as asked.", whole),
        _row(FACES, "form", "Form", f"Eyes, nose and mouth fit at {CLEAR} or more, and lie as in a face."),
        _row(FACES, "alone", "One face", "One face and nothing else, as every prompt of the row asks."),
        _row(FACES, "mouth", "Expression", "Smiling, sad or surprised, of four that are told apart."),
        _row(FACES, "glasses", "Glasses", "None, round, square or sunglasses, as asked."),
        _row(THINGS, THINGS, "Things as asked", "Each in its number, nothing else, none merged.", separate),
        _row(THINGS, "apart", "Apart", "No two things lie over each other; true of few things, too."),
        _row(THINGS, "sure", "Certainty", "How sure the namer is of the least certain thing asked for."),
    )


def _row(
    of: str, name: str, title: str, about: str, value: Callable[[Answer], float | None] | None = None
) -> Row:
    """Return a row over all items of a kind; those of one atom are parts of the first and do not count."""
    whole = value is not None
    return Row(
        name=of if whole else f"{of}-{name}",
        of=of,
        title=f"Coherence-nano, {title.lower()}",
        about=about,
        value=value if value is not None else partial(value_of, name),
        counts=whole,
    )


@lru_cache(maxsize=1)
def _nano_judge() -> NanoJudge:
    return NanoJudge()


def _judge(looks: Looks, variant: Variant) -> Judge:
    """Return the judge; it looks with the reader of the world, whatever models others look with."""
    return _nano_judge()


def _atom(name: str, right: bool, wanted: str, seen: str) -> Atom:
    return Atom(name=name, value=float(right), wanted=wanted, seen=seen)


COHERENCE_NANO: Final = Benchmark(
    name="coherence-nano",
    title="Coherence-nano",
    licence="Apache-2.0",
    source="made by this package",
    seeds=(0, 1, 2, 3),
    size=(128, 128),
    protocol="Portraits of the drawn world, of which nothing is held out, and things in combinations that "
    "training never has, English and Chinese.",
    judges={},
    read=read,
    rows=_rows,
    judge=_judge,
    ceilings=ceilings,
)
