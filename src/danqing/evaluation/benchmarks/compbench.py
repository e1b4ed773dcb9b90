"""T2I-CompBench and T2I-CompBench++: eight kinds of composition (Huang et al., arXiv 2307.06350).

Colours, shapes and textures are asked for phrase by phrase (BLIP-VQA); places, depths and numbers come from
boxes of a detector, depths also from an estimate of depth; prompts without a place are compared with CLIP; of
complex prompts the mean of two or three of these counts. Validation prompts, ten pictures each.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final, Literal

from PIL import Image

from danqing.errors import DataError
from danqing.evaluation.benchmarks.benchmark import Benchmark, Variant
from danqing.evaluation.benchmarks.compbench_files import FILES, OBJECTS
from danqing.evaluation.benchmarks.compbench_scores import (
    PHRASES,
    class_name,
    count_of,
    depth_score,
    find_two,
    find_two_in_depth,
    frame_pixel,
    one_each,
    pair_score,
    phrase_score,
    place_score,
    three_in_one,
)
from danqing.evaluation.benchmarks.compbench_words import (
    DEPTHS,
    DROPPED,
    RELATIONS,
    Parser,
    RuleParser,
    nouns_around,
    phrases_around,
    quantities,
    spacy_parser,
    things,
    without_adjectives,
)
from danqing.evaluation.benchmarks.judge import BenchmarkJudge
from danqing.evaluation.items import Atom, Item, Judge
from danqing.evaluation.results import Answer, Row, mean_fact
from danqing.scoring.looking import ROLES, Detection, Looks, needed

Category = Literal["color", "shape", "texture", "spatial", "3d_spatial", "numeracy", "non_spatial", "complex"]
TITLES: Final[Mapping[Category, str]] = {
    "color": "Colour",
    "shape": "Shape",
    "texture": "Texture",
    "spatial": "2D place",
    "3d_spatial": "3D place",
    "numeracy": "Numbers",
    "non_spatial": "Other relations",
    "complex": "Complex",
}
ATTRIBUTES: Final[tuple[Category, ...]] = ("color", "shape", "texture")
_ABOUT: Final[Mapping[Category, str]] = {
    **dict.fromkeys(ATTRIBUTES, "BLIP-VQA: the product of how sure a model is of each noun phrase."),
    "spatial": "Scores of a detector for two things and whether they stand as asked; below one half, 0.",
    "3d_spatial": "Scores of a detector for two things, and whether depths and overlap are as asked.",
    "numeracy": "Half for each thing that is there, half for its exact number.",
    "non_spatial": "Cosine of CLIP; of good and bad pictures it lies near 0.3.",
    "complex": "Mean of the scores for phrases, places and CLIP that the prompt calls for.",
}
_MARKS: Final = re.compile(r"[.!\"()*#:;~]")  # BLIP takes them out of questions


def read(folder: Path) -> list[Item]:
    """Return the validation prompts of the eight categories that are in the folder: all, or some."""
    there = [category for category in TITLES if (folder / f"{category}_val.txt").is_file()]
    if not there:
        COMPBENCH.path(folder, "color_val.txt")
    return [item for category in there for item in _items(folder, category)]


def prompts(path: Path) -> list[str]:
    """Return the lines of a file, whatever ends them, without empty ones."""
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def atoms(
    parser: Parser, item: Item, picture: Image.Image, looks: Looks, variant: Variant
) -> tuple[Atom, ...]:
    """Return what is seen of each fact of a prompt."""
    category = item.details["category"]
    if category in ATTRIBUTES:
        return _phrase_atoms(parser, item, picture, looks, variant)
    if category == "numeracy":
        return _number_atoms(item, picture, looks)
    if category == "non_spatial":
        return (_text_atom(item.prompt, picture, looks),)
    if category in ("spatial", "3d_spatial"):
        return _pair_atoms(_two(parser, item, variant), item, picture, looks, variant)
    text = without_adjectives(parser.words(item.prompt))
    return (
        *_phrase_atoms(parser, item, picture, looks, variant),
        *_pair_atoms(_two(parser, item, variant), item, picture, looks, variant),
        _text_atom(text, picture, looks),
    )


def score(answer: Answer, *, variant: Variant, phrases: int = PHRASES) -> float:
    """Return what the atoms of a picture come to by the formula of its category."""
    category, values = answer.item.details["category"], _by_name(answer.atoms)
    whole = phrase_score(values.get("phrase", ()), phrases=phrases)
    whole = round(whole, 4) if variant == "official" else whole
    if category in ATTRIBUTES:
        return whole
    if category == "numeracy":
        return mean_fact(answer)
    place = 0.0
    if "position" in values:
        place = pair_score(values["object"], values["position"][0], floor=category != "3d_spatial")
    if category in ("spatial", "3d_spatial"):
        return place
    text = values["text"][0]
    return (
        text if category == "non_spatial" else three_in_one(answer.item.details["kind"], whole, place, text)
    )


def _items(folder: Path, category: Category) -> list[Item]:
    path = COMPBENCH.path(folder, f"{category}_val.txt")
    kinds = _kinds(folder) if category == "complex" else {}
    parts = _parts(folder, category)
    names = _objects(folder) if category == "numeracy" else ({}, {})
    items = []
    for prompt in prompts(path):
        details: dict[str, Any] = {"category": category}
        if category == "complex":
            details["kind"] = kinds.get(_plain(prompt), "spatialaction")
        if category == "numeracy":
            details["quantities"] = [list(one) for one in quantities(prompt, *names)]
            if not details["quantities"]:
                raise DataError(f"{path}: expected a number and a thing of {OBJECTS}, found {prompt!r}")
        if category in ("spatial", "3d_spatial") and things(prompt) is None:
            raise DataError(f"{path}: expected a relation of two things, found {prompt!r}")
        tags = {"category": category, **({"part": parts[prompt]} if prompt in parts else {})}
        items.append(Item(row=_row(category), prompt=prompt, details=details, tags=tags))
    return items


def _kinds(folder: Path) -> dict[str, str]:
    """Return what each complex prompt is about, by its plain form; the reference knows the first sentence."""
    return {
        _plain(prompt): kind
        for kind in ("action", "spatial")
        for prompt in prompts(COMPBENCH.path(folder, f"complex_val_{kind}.txt"))
    }


def _parts(folder: Path, category: Category) -> dict[str, str]:
    files = {part: folder / f"{category}_val_{part}.txt" for part in ("seen", "unseen")}
    return {prompt: part for part, path in files.items() if path.is_file() for prompt in prompts(path)}


def _objects(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return the singular of each thing that can be counted, by its singular and by its plural."""
    pairs = [line.lower().split(" - ") for line in prompts(COMPBENCH.path(folder, OBJECTS))]
    if any(len(pair) != 2 for pair in pairs):
        raise DataError(f"{folder / OBJECTS}: expected 'singular - plural' a line, found another form")
    return {one.strip(): one.strip() for one, _ in pairs}, {many.strip(): one.strip() for one, many in pairs}


def _plain(prompt: str) -> str:
    return prompt.split(".")[0].lower()


def _phrase_atoms(
    parser: Parser, item: Item, picture: Image.Image, looks: Looks, variant: Variant
) -> tuple[Atom, ...]:
    phrases = [one for one in parser.noun_phrases(item.prompt) if one not in DROPPED][:PHRASES]
    vqa = needed(looks.blip_vqa, "blip-vqa")
    found = []
    for phrase in phrases:
        sure = vqa.answer_probability(picture, _MARKS.sub("", f"{phrase}?".lower()))
        value = round(sure, 4) if variant == "official" else sure
        seen = "yes" if sure >= 0.5 else "no"
        found.append(Atom(name="phrase", value=value, wanted=phrase, seen=seen, measure=sure))
    return tuple(found) or (Atom(name="phrase", value=1.0, wanted="", seen="no phrase to ask about"),)


def _two(parser: Parser, item: Item, variant: Variant) -> tuple[str, str] | None:
    """Return the two things of a prompt about a place."""
    if item.details["category"] == "complex":
        if variant == "official":
            return nouns_around(parser.words(item.prompt))
        return phrases_around(item.prompt, parser)
    if variant == "official" and not isinstance(parser, RuleParser):
        nouns = [one.text for one in parser.words(item.prompt) if one.tag == "NOUN"]
        return nouns[0], nouns[-1]
    return things(item.prompt)


def _pair_atoms(
    two: tuple[str, str] | None, item: Item, picture: Image.Image, looks: Looks, variant: Variant
) -> tuple[Atom, ...]:
    """Return how sure the detector is of two things, and how well they stand; none without two things."""
    if two is None:
        return ()
    first, second = (class_name(one) for one in two)
    seen = _detect(picture, (first, second), looks)
    deep = item.details["category"] == "3d_spatial"
    known = DEPTHS if deep else RELATIONS
    relation = next((one for one in known if one in item.prompt), "")
    if deep and variant == "official":
        found = find_two_in_depth(seen, first, second)
    else:
        found = find_two(seen, first, second, variant=variant)
    objects = [_object_atom(name, one) for name, one in zip((first, second), found, strict=True)]
    one, other = found
    if one is None or other is None:
        return (*objects, Atom(name="position", value=0.0, wanted=relation, seen="not both of them"))
    if deep:
        near = needed(looks.depth, "depth").depth(picture)
        value = depth_score(relation, one.box, other.box, near, variant=variant)
    else:
        pixel = frame_pixel(picture.size)
        value = place_score(relation, one.box, other.box, pixel=pixel, variant=variant)
    told = f"{relation}, {value:.2f}" if value else "elsewhere"
    return (*objects, Atom(name="position", value=value, wanted=relation, seen=told))


def _number_atoms(item: Item, picture: Image.Image, looks: Looks) -> tuple[Atom, ...]:
    wanted = [(class_name(thing, counted=True), number) for thing, number in item.details["quantities"]]
    seen = _detect(picture, [name for name, _ in wanted], looks)
    labels = [one.label for one in one_each(seen, pixel=frame_pixel(picture.size))]
    found = []
    for name, number in wanted:
        count = count_of(labels, name)
        found.append(Atom(name="object", value=float(count > 0), wanted=name, seen=str(count)))
        found.append(
            Atom(name="count", value=float(count == number), wanted=f"{number} {name}", seen=str(count))
        )
    return tuple(found)


def _detect(picture: Image.Image, names: Sequence[str], looks: Looks) -> list[Detection]:
    """Return what is seen of some names, most certain first."""
    seen = needed(looks.detector, "open-detector").detect(picture, list(dict.fromkeys(names)))
    return sorted(seen, key=lambda one: -one.score)


def _object_atom(name: str, one: Detection | None) -> Atom:
    sure = 0.0 if one is None else one.score
    return Atom(name="object", value=sure, wanted=name, seen="nothing" if one is None else f"{sure:.2f}")


def _text_atom(text: str, picture: Image.Image, looks: Looks) -> Atom:
    cosine = needed(looks.clip, "clip").similarity(picture, [text])[0]
    value = min(max(cosine, 0.0), 1.0)
    return Atom(name="text", value=value, wanted=text, seen=f"{cosine:.3f}", measure=cosine)


def _by_name(found: Sequence[Atom]) -> dict[str, list[float]]:
    values: dict[str, list[float]] = {}
    for one in found:
        values.setdefault(one.name, []).append(one.value)
    return values


def _row(category: str) -> str:
    return f"compbench-{category}"


def _rows(variant: Variant) -> tuple[Row, ...]:
    rows = []
    for category, title in TITLES.items():
        about, name = _ABOUT[category], f"T2I-CompBench, {title.lower()}"
        value: Callable[[Answer], float | None] = partial(score, variant=variant)
        rows.append(Row(name=_row(category), title=name, about=about, value=value))
        if category in ATTRIBUTES:
            rows += _attribute_rows(category, name, variant)
    return tuple(rows)


def _attribute_rows(category: Category, title: str, variant: Variant) -> list[Row]:
    """Return the row of the first code generation, and those of the halves of a category."""
    first = Row(
        name=f"{_row(category)}-2023",
        of=_row(category),
        title=f"{title}, code of 2023",
        about="BLIP-VQA as it was until December 2023, and in the first paper: the first two phrases alone.",
        value=partial(score, variant=variant, phrases=2),
        counts=False,
    )
    halves = [
        Row(
            name=f"{_row(category)}-{part}",
            of=_row(category),
            title=f"{title}, {part}",
            about=f"Prompts whose pairs of words are {part} in the training prompts of the benchmark.",
            value=partial(_part_score, part=part, variant=variant),
            counts=False,
        )
        for part in ("seen", "unseen")
    ]
    return [first, *halves]


def _part_score(answer: Answer, *, part: str, variant: Variant) -> float | None:
    return score(answer, variant=variant) if answer.item.tags.get("part") == part else None


@lru_cache(maxsize=1)
def _reference_parser() -> Parser:
    return spacy_parser() or RuleParser()


def _judge(looks: Looks, variant: Variant) -> Judge:
    """Return the judge; officially spaCy parses prompts where it is installed, else our rules do.

    A model that is missing is an error of the first item that needs it: three categories need BLIP-VQA alone.
    """
    parser = _reference_parser() if variant == "official" else RuleParser()
    rules = f"1, {parser.name}"
    roles = [one for one in COMPBENCH.judges if getattr(looks, ROLES[one]) is not None]
    return BenchmarkJudge(f"T2I-CompBench, {variant}", rules, roles, partial(atoms, parser), looks, variant)


COMPBENCH: Final = Benchmark(
    name="compbench",
    title="T2I-CompBench++",
    licence="MIT",
    source="https://github.com/Karine-Huang/T2I-CompBench; Huang et al. 2023, arXiv 2307.06350",
    files=FILES,
    seeds=tuple(range(42, 52)),
    protocol="Ten pictures a prompt, seeds 42 to 51; most papers since draw one to four and do not say so. "
    "Scores of the code of 2023 and of today's differ by 0.03 to 0.1 on the same pictures.",
    variants=("official", "fixed"),
    judges={
        "blip-vqa": "BLIP VQA base (capfilt-large), 480 px",
        "open-detector": "UniDet RS200 (places), R50 (numbers)",
        "depth": "MiDaS DPT-Hybrid",
        "clip": "CLIP ViT-B/32 (openai)",
    },
    read=read,
    rows=_rows,
    judge=_judge,
)
