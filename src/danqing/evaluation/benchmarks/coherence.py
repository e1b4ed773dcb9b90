"""Coherence: are there as many faces as asked for, do their parts lie as in faces, do things merge or repeat?

No benchmark of this is agreed on; this one counts what can be counted. Faces and landmarks come from MTCNN,
and geometry says which faces are malformed; it sees neither hands nor a wrong number of teeth, and a landmark
model draws what it misses towards a mean face, so the rate is a lower bound. Things come from an open
detector.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Final

from PIL import Image

from danqing.errors import DataError
from danqing.evaluation.benchmarks.benchmark import Benchmark, Variant
from danqing.evaluation.benchmarks.coherence_prompts import PEOPLE, THINGS
from danqing.evaluation.benchmarks.compbench_scores import frame_pixel, one_each, overlap
from danqing.evaluation.benchmarks.judge import BenchmarkJudge
from danqing.evaluation.items import Atom, Item, Judge, Made, content_key
from danqing.evaluation.results import Answer, Row
from danqing.scoring.faces import Face, FaceDetector, MtcnnFaces, faults
from danqing.scoring.looking import Box, Looks, needed

FACES: Final = "coherence-faces"
OBJECTS: Final = "coherence-objects"
APART: Final = 0.2
"""Intersection over union of two boxes of a kind, above which they are one thing seen twice, or two grown
together."""


class FaceJudge:
    """Counts faces and looks at their landmarks."""

    name = "coherence, faces"

    def __init__(self, detector: FaceDetector) -> None:
        self._detector = detector
        looks = {"faces": [detector.name, detector.version]}
        self.version = content_key({"rules": "1", "apart": APART, "looks": looks})[:12]

    def judge(self, made: Made, item: Item) -> tuple[Atom, ...]:
        """Return the atoms of a picture; raises DataError for a text."""
        if isinstance(made, str):
            raise DataError(f"expected a picture for {item.row}, found a text")
        return face_atoms(self._detector.faces(made.convert("RGB")), item.details["faces"])


def face_atoms(faces: Sequence[Face], wanted: int) -> tuple[Atom, ...]:
    """Return how many faces there are, whether they merge, and of each its form and how sure it is."""
    found = [
        _atom("faces", len(faces) == wanted, str(wanted), str(len(faces))),
        apart_atom([face.box for face in faces], "faces"),
    ]
    for face in faces:
        wrong = faults(face)
        found.append(_atom("form", not wrong, "a face", ", ".join(wrong) or "a face"))
        found.append(Atom(name="sure", value=face.score, wanted="a face", seen=f"{face.score:.2f}"))
    return tuple(found)


def apart_atom(boxes: Sequence[Box], what: str) -> Atom:
    """Return whether no two boxes lie over each other."""
    most = max((overlap(one, other) for one, other in combinations(boxes, 2)), default=0.0)
    seen = f"{what} apart" if most <= APART else f"{what} merged or doubled"
    return Atom(name="apart", value=float(most <= APART), wanted=f"{what} apart", seen=seen, measure=most)


def value_of(name: str, answer: Answer) -> float | None:
    """Return the mean value of the atoms of one name; None where there is none."""
    values = [atom.value for atom in answer.atoms if atom.name == name]
    return fmean(values) if values else None


def read_people(folder: Path) -> list[Item]:
    """Return the prompts about people, English and Chinese; `folder` is not looked at."""
    return _items(FACES, [(english, chinese, {"faces": faces}) for english, chinese, faces in PEOPLE])


def read_things(folder: Path) -> list[Item]:
    """Return the prompts about things, English and Chinese; `folder` is not looked at."""
    told = [(english, chinese, {"things": dict(things)}) for english, chinese, things in THINGS]
    return _items(OBJECTS, told)


def _items(row: str, scenes: Sequence[tuple[str, str, Mapping[str, object]]]) -> list[Item]:
    """Return each scene in both languages, resampled together."""
    return [
        Item(row=row, prompt=prompt, language=language, details=details, cluster=english)
        for english, chinese, details in scenes
        for language, prompt in (("en", english), ("zh", chinese))
    ]


def _object_atoms(item: Item, picture: Image.Image, looks: Looks, variant: Variant) -> tuple[Atom, ...]:
    """Return for each kind of thing its number, whether things of it merge, and how sure the detector is."""
    wanted: dict[str, int] = item.details["things"]
    seen = needed(looks.detector, "open-detector").detect(picture, list(wanted))
    least = looks.sure[0]
    certain = sorted((one for one in seen if one.score >= least), key=lambda one: -one.score)
    every = one_each(certain, pixel=frame_pixel(picture.size))
    found = []
    for name, number in wanted.items():
        things = [one for one in every if one.label == name]
        found.append(_atom("number", len(things) == number, f"{number} {name}", str(len(things))))
        found.append(apart_atom([one.box for one in things], name))
        sure = fmean(one.score for one in things) if things else 0.0
        found.append(Atom(name="sure", value=sure, wanted=name, seen=f"{sure:.2f}"))
    return tuple(found)


def _face_rows(variant: Variant) -> tuple[Row, ...]:
    return (
        Row(
            name=FACES,
            title="Faces, number",
            about="Just as many faces as the prompt asks for.",
            value=lambda answer: value_of("faces", answer),
        ),
        Row(
            name="coherence-form",
            of=FACES,
            title="Faces, form",
            about="Share of faces whose eyes, nose and mouth lie as in a face; 1 less the malformed rate.",
            value=lambda answer: value_of("form", answer),
        ),
        Row(
            name="coherence-apart",
            of=FACES,
            title="Faces apart",
            about="No two faces lie over each other.",
            value=lambda answer: value_of("apart", answer),
        ),
        Row(
            name="coherence-sure",
            of=FACES,
            title="Faces, certainty",
            about="How sure the detector is of the faces it sees.",
            value=lambda answer: value_of("sure", answer),
            counts=False,
        ),
    )


def _object_rows(variant: Variant) -> tuple[Row, ...]:
    return (
        Row(
            name=OBJECTS,
            title="Things, number",
            about="Just as many of each kind as the prompt asks for: none doubled, none missing.",
            value=lambda answer: value_of("number", answer),
        ),
        Row(
            name="coherence-objects-apart",
            of=OBJECTS,
            title="Things apart",
            about="No two things of a kind have grown together.",
            value=lambda answer: value_of("apart", answer),
        ),
        Row(
            name="coherence-objects-sure",
            of=OBJECTS,
            title="Things, certainty",
            about="How sure the detector is of the things asked for.",
            value=lambda answer: value_of("sure", answer),
            counts=False,
        ),
    )


@cache
def _mtcnn() -> MtcnnFaces:
    return MtcnnFaces()


def _face_judge(looks: Looks, variant: Variant) -> Judge:
    """Return the judge; raises ConfigError without the extra `faces`."""
    return FaceJudge(_mtcnn())


def _object_judge(looks: Looks, variant: Variant) -> Judge:
    return BenchmarkJudge("coherence, things", "1", ["open-detector"], _object_atoms, looks, variant)


def _atom(name: str, right: bool, wanted: str, seen: str) -> Atom:
    return Atom(name=name, value=float(right), wanted=wanted, seen=seen)


COHERENCE: Final = Benchmark(
    name="coherence",
    title="Coherence of faces",
    licence="Apache-2.0",
    source="made by this package; faces by MTCNN, Zhang et al. 2016, arXiv 1604.02878",
    seeds=(0, 1, 2, 3),
    protocol="People in plain sight, English and Chinese. Form is judged by five landmarks: hands, teeth and "
    "faces that the detector takes for none are not seen, so the malformed rate is a lower bound.",
    judges={},
    read=read_people,
    rows=_face_rows,
    judge=_face_judge,
)
COHERENCE_OBJECTS: Final = Benchmark(
    name="coherence-objects",
    title="Coherence of things",
    licence="Apache-2.0",
    source="made by this package",
    seeds=(0, 1, 2, 3),
    protocol="Everyday things in small numbers, English and Chinese.",
    judges={"open-detector": "any open-vocabulary detector; scores of two do not compare"},
    read=read_things,
    rows=_object_rows,
    judge=_object_judge,
)
