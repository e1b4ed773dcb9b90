"""GenEval: objects, counts, colours and places of what a detector sees (Ghosh et al., arXiv 2310.11513).

Prompts with clauses, and the rules of the project's own evaluation: an object is there when the detector is
sure enough, the colour is that of a zero-shot classifier on the cut-out object, the place is that of boxes'
centres. A picture is right or wrong; the score is the mean of the means of six tags. GenEval-long asks for
the same with prompts that a language model wrote out (UniWorld-V1, arXiv 2506.03147).
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from danqing.errors import DataError
from danqing.evaluation.benchmarks.benchmark import Benchmark, File, Variant
from danqing.evaluation.benchmarks.judge import BenchmarkJudge
from danqing.evaluation.items import Atom, Item, Judge
from danqing.evaluation.results import Row, every_fact
from danqing.scoring.looking import Box, Detection, Looks, needed

COLOURS: Final = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
TAGS: Final[Mapping[str, str]] = {
    "single_object": "One object",
    "two_object": "Two objects",
    "counting": "Counting",
    "colors": "Colours",
    "position": "Position",
    "color_attr": "Colours of two objects",
}
_CLASSES: Final = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop
sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack,
umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball
glove, skateboard, surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana,
apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed,
dining table, toilet, tv, laptop, computer mouse, tv remote, computer keyboard, cell phone, microwave,
oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear, hair drier, toothbrush
"""
CLASSES: Final = tuple(" ".join(_CLASSES.split()).split(", "))
"""The 80 classes of COCO as GenEval names them. All are looked for, so a cow is not taken for a horse."""
MOST: Final = 16
"""Objects of a class that are looked at."""
APART: Final = 0.1
"""Part of the two sizes that centres must be apart before one is left of, or above, the other."""
GREY: Final = "#999"
"""Around an object whose shape is known, where its colour is classified."""

ColourOf = Callable[[Detection, str], str]
"""The colour of a detected thing, given what it is called."""


def keep(detections: Sequence[Detection], least: float) -> dict[str, list[Detection]]:
    """Return what is seen with a score above `least`, by class, most certain first, 16 of each at most."""
    kept: dict[str, list[Detection]] = {}
    for one in sorted(detections, key=lambda one: -one.score):
        if one.score > least and len(kept.setdefault(one.label, [])) < MOST:
            kept[one.label].append(one)
    return kept


def relative_position(box: Box, other: Box) -> set[str]:
    """Return where a box is as seen from another: left of, right of, above, below, or two of them, or none.

    The offset of the centres is shortened by a tenth of the two sizes on each axis, and what is left must be
    more than half of the whole distance.
    """
    offset = [((box[at] + box[at + 2]) - (other[at] + other[at + 2])) / 2 for at in (0, 1)]
    sizes = [abs(box[at + 2] - box[at]) + abs(other[at + 2] - other[at]) for at in (0, 1)]
    left = [
        math.copysign(max(abs(one) - APART * size, 0.0), one) for one, size in zip(offset, sizes, strict=True)
    ]
    if all(abs(one) < 1e-3 for one in left):
        return set()
    across, down = (one / math.hypot(*offset) for one in left)
    names = {"left of": across < -0.5, "right of": across > 0.5, "above": down < -0.5, "below": down > 0.5}
    return {name for name, holds in names.items() if holds}


def clause_atoms(
    record: Mapping[str, Any], seen: Mapping[str, Sequence[Detection]], colour_of: ColourOf
) -> tuple[Atom, ...]:
    """Return an atom a fact of a record of GenEval's metadata; the picture is right when all are 1.

    Of a clause for n objects the n most certain ones are looked at; all must have the colour, and each must
    stand right to each of the clause referred to.
    """
    atoms: list[Atom] = []
    groups: list[Sequence[Detection]] = []  # empty where a clause is not met
    for clause in record["include"]:
        name, count = clause["class"], clause["count"]
        found = list(seen.get(name, ()))[:count]
        facts = [_atom("object", len(found) >= count, f"{count} {name}", f"{len(found)} {name}")]
        if facts[0].value and "color" in clause:
            colours = [colour_of(one, name) for one in found]
            right = colours.count(clause["color"]) >= count
            facts.append(_atom("colour", right, clause["color"], ", ".join(colours)))
        if all(one.value for one in facts) and "position" in clause:
            relation, target = clause["position"]
            where = [relative_position(one.box, other.box) for one in found for other in groups[target]]
            right = bool(where) and all(relation in one for one in where)
            told = ", ".join(" and ".join(sorted(one)) or "neither" for one in where) or "no target"
            facts.append(_atom("position", right, relation, told))
        groups.append(found if all(one.value for one in facts) else ())
        atoms += facts
    for clause in record.get("exclude", ()):
        name, count = clause["class"], clause["count"]
        number = len(seen.get(name, ()))
        atoms.append(_atom("count", number < count, f"fewer than {count} {name}", f"{number} {name}"))
    return tuple(atoms)


def colour(picture: Image.Image, thing: Detection, name: str, looks: Looks) -> str:
    """Return the likeliest of ten colours of a thing, cut out and on grey where its shape is known."""
    seen = picture
    if thing.mask is not None:
        seen = Image.composite(picture, Image.new("RGB", picture.size, GREY), Image.fromarray(thing.mask))
    wordings = [
        (f"a photo of a {one} {name}", f"a photo of a {one}-colored {name}", f"a photo of a {one} object")
        for one in COLOURS
    ]
    crop = seen.crop(thing.box)  # rounded there, as in the reference
    similarity = needed(looks.clip, "clip").class_similarity(crop, wordings)
    return COLOURS[int(np.argmax(similarity))]


def judged(item: Item, picture: Image.Image, looks: Looks, variant: Variant) -> tuple[Atom, ...]:
    """Return the atoms of a picture."""
    least = looks.sure[1] if item.details["tag"] == "counting" else looks.sure[0]
    seen = keep(needed(looks.detector, "open-detector").detect(picture, CLASSES), least)
    return clause_atoms(item.details, seen, lambda one, name: colour(picture, one, name, looks))


def read_records(path: Path, row: str) -> list[Item]:
    """Return the items of a file of GenEval's metadata, a JSON record a line."""
    items = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            try:
                record = json.loads(line)
                prompt, tag = record["prompt"], record["tag"]
                known = tag in TAGS and all(clause["class"] in CLASSES for clause in record["include"])
            except (ValueError, KeyError, TypeError):
                known = False
            if not known:
                raise DataError(f"{path}, line {number}: expected a record of GenEval, found {line[:60]!r}")
            details = {key: value for key, value in record.items() if key != "prompt"}
            items.append(Item(row=f"{row}-{tag}", prompt=prompt, details=details, tags={"tag": tag}))
    return items


def _read_short(folder: Path) -> list[Item]:
    return read_records(GENEVAL.path(folder, _FILE), "geneval")


def _read_long(folder: Path) -> list[Item]:
    return read_records(GENEVAL_LONG.path(folder, _LONG_FILE), "geneval-long")


def _atom(name: str, right: bool, wanted: str, seen: str) -> Atom:
    return Atom(name=name, value=float(right), wanted=wanted, seen=seen)


def _rows(row: str, variant: Variant) -> tuple[Row, ...]:
    about = "Every fact of a prompt must be right, as a detector and a colour classifier see it."
    return tuple(
        Row(name=f"{row}-{tag}", title=f"GenEval, {title.lower()}", about=about, value=every_fact)
        for tag, title in TAGS.items()
    )


def _judge(looks: Looks, variant: Variant) -> Judge:
    return BenchmarkJudge("GenEval", "1", tuple(_JUDGES), judged, looks, variant)


_JUDGES: Final = {
    "open-detector": "Mask2Former Swin-S (COCO, mmdetection 2)",
    "clip": "CLIP ViT-L/14 (openai)",
}
_FILE: Final = "evaluation_metadata.jsonl"
_LONG_FILE: Final = "evaluation_metadata_long.jsonl"

GENEVAL: Final = Benchmark(
    name="geneval",
    title="GenEval",
    licence="MIT",
    source="https://github.com/djghosh13/geneval; Ghosh et al. 2023, arXiv 2310.11513",
    files=(
        File(
            name=_FILE,
            address="https://github.com/djghosh13/geneval/raw/"
            f"af4902f24d3ca90ebbb446dd9891a59e0f82725f/prompts/{_FILE}",
            sha256="5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13",
        ),
    ),
    seeds=(0, 1, 2, 3),
    protocol="Four pictures a prompt; any size. Detector scores count from 0.3, for counting from 0.9.",
    judges=_JUDGES,
    read=_read_short,
    rows=partial(_rows, "geneval"),
    judge=_judge,
)
GENEVAL_LONG: Final = Benchmark(
    name="geneval-long",
    title="GenEval, long prompts",
    licence="MIT",
    source="https://github.com/PKU-YuanGroup/UniWorld-V1; Lin et al. 2025, arXiv 2506.03147",
    files=(
        File(
            name=_LONG_FILE,
            address="https://github.com/PKU-YuanGroup/UniWorld-V1/raw/8403e86505e22e13eb95b146915758b149eeaf6e"
            f"/univa/eval/geneval/eval_prompts/{_LONG_FILE}",
            sha256="b14d4a8043104114ff5b03636fb55180cb0a545819c6e7a9589c2cc84451159d",
        ),
    ),
    seeds=(0, 1, 2, 3),
    protocol="GenEval with rewritten prompts: never to be compared with scores of the short ones.",
    judges=_JUDGES,
    read=_read_long,
    rows=partial(_rows, "geneval-long"),
    judge=_judge,
)
