"""COCO and Flickr30k, in the three things that their names are used for when models draw or describe.

Described: a system tells in a sentence what a photograph shows, against what five people wrote, and
photographs and captions are searched both ways by these words. Cycle: a caption is drawn, one fixed model
describes the drawing, and measures and search are the same. Pictures: what was drawn for captions, as a set:
CLIPScore, the distance to the photographs, retrieval by CLIP; the column of the photographs is retrieval in
the usual sense. Two numbers of different readings do not compare.

Captions come in the files of Karpathy and Fei-Fei 2015 (dataset_coco.json, dataset_flickr30k.json), test
split; Chinese ones of COCO-CN (Li et al. 2019) in lines of a photograph's name and a caption. Users bring
the photographs.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final

from PIL import Image

from danqing.conditioning.given import open_picture
from danqing.errors import DataError, RequestError
from danqing.evaluation.benchmarks.benchmark import Benchmark, File, Variant
from danqing.evaluation.benchmarks.caption_scores import (
    REFERENCES,
    CaptionJudge,
    caption_atoms,
    caption_rows,
    search_rows,
    source_rows,
)
from danqing.evaluation.benchmarks.picture_sets import encoder_name, set_atoms, set_rows
from danqing.evaluation.items import Ability, Atom, Item, Judge, Made, System, content_key
from danqing.evaluation.results import Row
from danqing.scoring.looking import Looks, needed

QUESTIONS: Final[Mapping[str, str]] = {
    "en": "Describe this picture in one short sentence.",
    "zh": "用一句简短的话描述这张图片。",
}
"""What describing systems, and the model of the cycle, are asked: captions of people are short."""
SPLIT: Final = "test"
_FOLDERS: Final = ("", "images", "pictures", "flickr30k-images")
_VERSION: Final = "1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Photograph:
    """One photograph and what people wrote about it."""

    name: str
    """Where it lies in the folder of photographs."""
    captions: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Set:
    """Photographs with captions that are one benchmark."""

    name: str
    title: str
    licence: str
    source: str
    file: File
    photographs: Callable[[Path], list[Photograph]]
    language: str
    protocol: str


def karpathy(path: Path, split: str = SPLIT) -> list[Photograph]:
    """Return the photographs of a split of dataset_coco.json or dataset_flickr30k.json.

    The splits are "train", "restval", "val" and "test". Raises DataError for another file, and for a split
    without a photograph.
    """
    try:
        records = json.loads(path.read_text(encoding="utf-8"))["images"]
        found = [
            Photograph(
                name=str(PurePosixPath(one.get("filepath", ""), one["filename"])),
                captions=tuple(sentence["raw"].strip() for sentence in one["sentences"]),
            )
            for one in records
            if one["split"] == split
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DataError(f"{path}: expected images with split, filename and sentences, found others") from None
    return _checked(path, found, f"photographs of the split {split!r}")


def listed(path: Path) -> list[Photograph]:
    """Return the photographs of lines "NAME#NUMBER<tab>CAPTION", as COCO-CN has them, in their order."""
    captions: dict[str, list[str]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        name, tab, text = line.partition("\t")
        if not line.strip():
            continue
        if not tab or not text.strip():
            raise DataError(
                f"{path}, line {number}: expected a name, a tab and a caption, found {line[:60]!r}"
            )
        captions.setdefault(name.partition("#")[0], []).append(text.strip())
    found = [Photograph(name=_place(name), captions=tuple(some)) for name, some in captions.items()]
    return _checked(path, found, "photographs")


class PhotographSystem:
    """Answers with the photographs that captions are of: a ceiling, and what sets are compared with."""

    name, version = "photographs", "1"
    abilities: frozenset[Ability] = frozenset({"draw"})

    def __init__(self, folder: Path) -> None:
        """`folder` is that of the benchmark."""
        self._folder = folder
        self.settings: Mapping[str, Any] = {}

    def request(self, item: Item, seed: int) -> Mapping[str, Any]:
        """Return what decides the answer: which photograph."""
        return {"photograph": item.details["photograph"]}

    def answer(self, items: Sequence[Item], seed: int) -> list[Made]:
        """Return the photographs; raises DataError when one is missing."""
        return [photograph(self._folder, item) for item in items]


def photograph(folder: Path, item: Item) -> Image.Image:
    """Return the photograph of an item; raises DataError when it is not there."""
    name = PurePosixPath(item.details["photograph"])
    if name.is_absolute() or ".." in name.parts:
        raise DataError(f"expected the name of a photograph inside {folder}, found {name}")
    places = [folder / part / one for one in (name, name.name) for part in _FOLDERS]
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        raise DataError(
            f"expected {name} in {folder} or its folder images, found none; put photographs there"
        )
    return open_picture(found).image.convert("RGB")


class PhotographJudge:
    """Judges descriptions by their words, and drawings with the models that are there."""

    def __init__(self, looks: Looks) -> None:
        """`looks` has an asker for the cycle, a CLIP for pictures, or neither."""
        self._asker, self._clip, self._captions = looks.asker, looks.clip, CaptionJudge()
        seen = {"ask": looks.asker, "clip": looks.clip}
        told = {role: [look.name, look.version] for role, look in seen.items() if look is not None}
        self.models = {role: look.name for role, look in seen.items() if look is not None}
        named = [] if looks.asker is None else [looks.asker.name]
        named += [] if looks.clip is None else [encoder_name(looks.clip)]
        self.name = " and ".join(["captions", *named])
        self.version = content_key({"rules": _VERSION, "looks": told, "asked": dict(QUESTIONS)})[:12]

    def judge(self, made: Made, item: Item) -> tuple[Atom, ...]:
        """Return the atoms of an answer; raises ResourceError when a model is missing that has to look."""
        if item.ability == "describe" or isinstance(made, str):
            return self._captions.judge(made, item)
        picture = made.convert("RGB")
        if item.row.endswith("-cycle"):
            said = needed(self._asker, "ask").ask(picture, QUESTIONS[item.language])
            return caption_atoms(said, item)
        return set_atoms(picture, item, needed(self._clip, "clip"))


def _items(name: str, language: str, photographs: Sequence[Photograph]) -> list[Item]:
    """Return for each photograph an item to describe it, and two to draw its first caption."""
    return [
        Item(
            row=f"{name}-{reading}",
            prompt=QUESTIONS[language] if reading == "described" else one.captions[0],
            language=language,
            ability="describe" if reading == "described" else "draw",
            source=one.name if reading == "described" else "",
            details={REFERENCES: list(one.captions), "photograph": one.name},
            cluster=one.name,
        )
        for reading in ("described", "cycle", "pictures")
        for one in photographs
    ]


def _rows(name: str, title: str, characters: bool, variant: Variant) -> tuple[Row, ...]:
    described, cycle, pictures = (f"{name}-{reading}" for reading in ("described", "cycle", "pictures"))
    return (
        *caption_rows(described, f"{title}, described", characters=characters),
        *search_rows(described, f"{title}, described"),
        *caption_rows(cycle, f"{title}, cycle", characters=characters),
        *source_rows(cycle, f"{title}, cycle"),
        *set_rows(pictures, f"{title}, pictures"),
    )


def _benchmark(chosen: _Set) -> Benchmark:
    def read(folder: Path) -> list[Item]:
        path = made.path(folder, chosen.file.name)
        return _items(chosen.name, chosen.language, chosen.photographs(path))

    def ceilings(folder: Path) -> Sequence[System]:
        return (PhotographSystem(folder),)

    def judge(looks: Looks, variant: Variant) -> Judge:
        return PhotographJudge(looks)

    made = Benchmark(
        name=chosen.name,
        title=chosen.title,
        licence=chosen.licence,
        source=chosen.source,
        files=(chosen.file,),
        protocol=f"{chosen.protocol} Three readings, which do not compare: photographs described; captions "
        "drawn, described by one fixed model and searched; pictures drawn for captions, as a set.",
        judges={},
        read=read,
        rows=partial(_rows, chosen.name, chosen.title, chosen.language == "zh"),
        judge=judge,
        picture=photograph,
        ceilings=ceilings,
    )
    return made


def _checked(path: Path, found: list[Photograph], what: str) -> list[Photograph]:
    if not found or any(not one.captions or not all(one.captions) for one in found):
        raise DataError(f"{path}: expected {what} with captions, found {len(found)}, some without")
    if len({one.name for one in found}) != len(found):
        raise RequestError(f"{path}: expected every photograph once, found some twice")
    return found


def _place(name: str) -> str:
    """Return where a photograph of COCO 2014 lies by its name."""
    part = next((one for one in ("train2014", "val2014") if f"_{one}_" in name), "")
    return f"{part}/{name}.jpg" if part else f"{name}.jpg"


COCO: Final = _benchmark(
    _Set(
        name="coco",
        title="COCO",
        licence="CC-BY-4.0",
        source="Lin et al. 2014, arXiv 1405.0312; captions of Chen et al. 2015, arXiv 1504.00325; split of "
        "Karpathy and Fei-Fei 2015, arXiv 1412.2306; photographs under terms of their own",
        file=File(name="dataset_coco.json"),
        photographs=karpathy,
        language="en",
        protocol="5,000 photographs of the test split, of val2014. Most papers draw 30,000 captions: "
        "distances of 5,000 pictures are larger.",
    )
)
FLICKR30K: Final = _benchmark(
    _Set(
        name="flickr30k",
        title="Flickr30k",
        licence="",
        source="Young et al. 2014 (photographs on request, for research that is not commercial); split of "
        "Karpathy and Fei-Fei 2015, arXiv 1412.2306",
        file=File(name="dataset_flickr30k.json"),
        photographs=karpathy,
        language="en",
        protocol="1,000 photographs of the test split.",
    )
)
COCO_CN: Final = _benchmark(
    _Set(
        name="coco-cn",
        title="COCO-CN",
        licence="MIT",
        source="https://github.com/li-xirong/coco-cn; Li et al. 2019, arXiv 1805.08661",
        file=File(
            name="coco-cn_ext.icap2020.txt",
            address="https://github.com/li-xirong/coco-cn/raw/22b218e394627df60ee3a05a72be080624728a99/data/"
            "coco-cn_ext.icap2020.txt",
            sha256="6427c1b2f2bc357f26ac7ac37e60965f7574028997dc7aefcad495832359053c",
        ),
        photographs=listed,
        language="zh",
        protocol="4,573 photographs of COCO with captions written in Chinese, most with one alone; measures "
        "of captions count characters, and compare with no score of five references.",
    )
)
