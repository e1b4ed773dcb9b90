"""caption-nano: true pictures of the drawn world, described in two languages, scored as COCO captions are.

Two ceilings: what the judge of pictures reads, worded by the grammar, and a sixth caption of each scene, as
near to the five references as these are to one another.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from PIL import Image

from danqing.evaluation.benchmarks.benchmark import Benchmark, Variant
from danqing.evaluation.benchmarks.caption_scores import CaptionJudge, caption_rows, search_rows
from danqing.evaluation.benchmarks.captioned_scenes import OneMore, caption_items, true_picture
from danqing.evaluation.items import Item, Judge, System
from danqing.evaluation.results import Row
from danqing.evaluation.world.captioner import CaptionerSystem, WorldCaptioner
from danqing.scoring.looking import Looks

_NAME: Final = "caption-nano"


def _read(folder: Path) -> list[Item]:
    return caption_items(_NAME, "describe")


def _rows(variant: Variant) -> tuple[Row, ...]:
    english, chinese = f"{_NAME}-en", f"{_NAME}-zh"
    return (
        *caption_rows(english, "Captions", facts=True),
        *search_rows(english, "Captions"),
        *caption_rows(chinese, "Captions, Chinese", facts=True, characters=True),
        *search_rows(chinese, "Captions, Chinese"),
    )


def _judge(looks: Looks, variant: Variant) -> Judge:
    return CaptionJudge()


def _picture(folder: Path, item: Item) -> Image.Image:
    return true_picture(item.source).copy()


def _ceilings(folder: Path) -> Sequence[System]:
    return (CaptionerSystem(WorldCaptioner(), lambda item: true_picture(item.source)), OneMore())


CAPTION_NANO: Final = Benchmark(
    name=_NAME,
    title="Captions of the drawn world",
    licence="Apache-2.0",
    source="made by this package; measures of Chen et al. 2015, arXiv 1504.00325",
    protocol="Five captions a picture by the grammar, different in length and words; scores belong to this "
    "set of pictures and compare with no photographs.",
    judges={},
    read=_read,
    rows=_rows,
    judge=_judge,
    picture=_picture,
    ceilings=_ceilings,
)
