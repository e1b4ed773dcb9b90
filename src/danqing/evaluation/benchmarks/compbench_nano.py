"""CompBench-nano: the eight categories of T2I-CompBench++ over the drawn world, offline, with its own reader.

Prompts, things and the models that look are ours; protocol and formulas are those of T2I-CompBench++ (Huang
et al., arXiv 2307.06350), as its paper means them. So numbers compare checkpoints of the drawn world with
each other, and never with scores of T2I-CompBench. What the categories mean here:

* colour: two things in colours they never had; shape: two plain shapes; texture: patterned backgrounds,
  since things of the world have no material;
* 2D and 3D place, numbers, complex: as there; "next to" and "hidden by" are left out, which the world does
  not word;
* other relations: inside and between, since nothing in the world does anything.
"""

from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Final

from PIL import Image

from danqing.data.atlas import packaged_atlas
from danqing.evaluation.benchmarks.benchmark import Benchmark, Variant
from danqing.evaluation.benchmarks.compbench import ATTRIBUTES, TITLES, Category, score
from danqing.evaluation.benchmarks.compbench_nano_scenes import PREFIX, asked
from danqing.evaluation.benchmarks.compbench_scores import (
    count_of,
    depth_score,
    find_two,
    frame_pixel,
    one_each,
    place_score,
)
from danqing.evaluation.benchmarks.judge import BenchmarkJudge
from danqing.evaluation.benchmarks.world_looks import WorldLooks
from danqing.evaluation.items import Atom, Item, Judge, System
from danqing.evaluation.results import Row
from danqing.evaluation.world.renders import RenderSystem
from danqing.scoring.looking import Detection, Looks, needed

ROLES: Final = ("blip-vqa", "open-detector", "depth", "clip")
_ABOUT: Final[dict[Category, str]] = {
    "color": "Two things in colours they never had; the product of whether each is there, so coloured.",
    "shape": "Two plain shapes before a colour that one of them never met; the product over the three.",
    "texture": "A thing before stripes, dots or checks in a colour it never met; the product over both.",
    "spatial": "Two things never so related: left, right, above, below; nothing below one half.",
    "3d_spatial": "One before or behind another, never so related; full marks ask for half an overlap.",
    "numeracy": "One to three kinds, two to eight things; half for each kind, half for its exact number.",
    "non_spatial": "Inside a shape, or between two others, never so related; share of facts met.",
    "complex": "Two colours never had, in a place; mean of phrases, place and share of facts.",
}


def read(folder: Path) -> list[Item]:
    """Return the prompts of the eight categories; `folder` is not looked at."""
    return [one.item for one in asked()]


def ceilings(folder: Path) -> Sequence[System]:
    """Return the true renders of the prompts; `folder` is not looked at."""
    scenes = {one.item.id: one.scene for one in asked()}
    return (RenderSystem("pasted sprites", lambda item, seed: scenes.get(item.id), packaged_atlas()),)


def atoms(item: Item, picture: Image.Image, looks: Looks, variant: Variant) -> tuple[Atom, ...]:
    """Return what is seen of each fact of a prompt, by the rules of its category."""
    category = item.details["category"]
    if category in ATTRIBUTES:
        return _phrase_atoms(item, picture, looks)
    if category == "numeracy":
        return _number_atoms(item, picture, looks)
    if category == "non_spatial":
        return (_text_atom(item.prompt, picture, looks),)
    if category in ("spatial", "3d_spatial"):
        return _pair_atoms(item, picture, looks, variant)
    text = _text_atom(item.details["text"], picture, looks)
    return (*_phrase_atoms(item, picture, looks), *_pair_atoms(item, picture, looks, variant), text)


def _phrase_atoms(item: Item, picture: Image.Image, looks: Looks) -> tuple[Atom, ...]:
    vqa = needed(looks.blip_vqa, "blip-vqa")
    found = []
    for phrase in item.details["phrases"]:
        sure = vqa.answer_probability(picture, f"{phrase}?")
        found.append(Atom(name="phrase", value=sure, wanted=phrase, seen="yes" if sure >= 0.5 else "no"))
    return tuple(found)


def _pair_atoms(item: Item, picture: Image.Image, looks: Looks, variant: Variant) -> tuple[Atom, ...]:
    names, relation = item.details["things"], item.details["relation"]
    seen = needed(looks.detector, "open-detector").detect(picture, names)
    one, other = find_two(seen, *names, variant=variant)
    objects = [_object_atom(name, found) for name, found in zip(names, (one, other), strict=True)]
    if one is None or other is None:
        return (*objects, Atom(name="position", value=0.0, wanted=relation, seen="not both of them"))
    if item.details["category"] == "3d_spatial":
        near = needed(looks.depth, "depth").depth(picture)
        value = depth_score(relation, one.box, other.box, near, variant=variant)
    else:
        pixel = frame_pixel(picture.size)
        value = place_score(relation, one.box, other.box, pixel=pixel, variant=variant)
    told = f"{relation}, {value:.2f}" if value else "elsewhere"
    return (*objects, Atom(name="position", value=value, wanted=relation, seen=told))


def _number_atoms(item: Item, picture: Image.Image, looks: Looks) -> tuple[Atom, ...]:
    wanted: list[tuple[str, int]] = [(name, count) for name, count in item.details["quantities"]]
    seen = needed(looks.detector, "open-detector").detect(picture, [name for name, _ in wanted])
    labels = [one.label for one in one_each(seen, pixel=frame_pixel(picture.size))]
    found = []
    for name, number in wanted:
        count = count_of(labels, name)
        found.append(Atom(name="object", value=float(count > 0), wanted=name, seen=str(count)))
        right = float(count == number)
        found.append(Atom(name="count", value=right, wanted=f"{number} {name}", seen=str(count)))
    return tuple(found)


def _object_atom(name: str, one: Detection | None) -> Atom:
    sure = 0.0 if one is None else one.score
    return Atom(name="object", value=sure, wanted=name, seen="nothing" if one is None else f"{sure:.2f}")


def _text_atom(text: str, picture: Image.Image, looks: Looks) -> Atom:
    value = needed(looks.clip, "clip").similarity(picture, [text])[0]
    return Atom(name="text", value=value, wanted=text, seen=f"{value:.2f} of its facts")


def _rows(variant: Variant) -> tuple[Row, ...]:
    return tuple(
        Row(
            name=f"{PREFIX}-{category}",
            title=f"CompBench-nano, {title.lower() if title[0].isalpha() else title}",
            about=_ABOUT[category],
            value=partial(score, variant=variant),
        )
        for category, title in TITLES.items()
    )


@lru_cache(maxsize=1)
def _eyes() -> WorldLooks:
    return WorldLooks()


def _judge(looks: Looks, variant: Variant) -> Judge:
    """Return the judge; it looks with the reader of the world, whatever models others look with."""
    return BenchmarkJudge("CompBench-nano", "1", ROLES, atoms, _eyes().looks, variant)


COMPBENCH_NANO: Final = Benchmark(
    name=PREFIX,
    title="CompBench-nano",
    licence="Apache-2.0",
    source="made by this package; categories, protocol and formulas of T2I-CompBench++, arXiv 2307.06350",
    seeds=tuple(range(42, 52)),
    size=(128, 128),
    protocol="Every prompt holds a combination that training never has. Judged by the reader of the drawn "
    "world, so no score here compares with one of T2I-CompBench.",
    variants=("fixed",),
    judges={},
    read=read,
    rows=_rows,
    judge=_judge,
    ceilings=ceilings,
)
