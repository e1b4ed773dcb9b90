"""cycle-nano: a caption is drawn, the judge describes the drawing, and the caption is looked for among all.

Whatever draws gets a number that captioning has: how much of a caption survives a picture.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from danqing.evaluation.benchmarks.benchmark import Benchmark, Variant
from danqing.evaluation.benchmarks.caption_scores import CycleJudge, caption_rows, source_rows
from danqing.evaluation.benchmarks.captioned_scenes import caption_items, true_renders
from danqing.evaluation.items import Item, Judge, System
from danqing.evaluation.results import Row
from danqing.evaluation.world.captioner import WorldCaptioner
from danqing.scoring.looking import Looks

_NAME: Final = "cycle-nano"


def _read(folder: Path) -> list[Item]:
    return caption_items(_NAME, "draw")


def _rows(variant: Variant) -> tuple[Row, ...]:
    english, chinese = f"{_NAME}-en", f"{_NAME}-zh"
    return (
        *caption_rows(english, "Cycle", facts=True),
        *source_rows(english, "Cycle"),
        *caption_rows(chinese, "Cycle, Chinese", facts=True, characters=True),
        *source_rows(chinese, "Cycle, Chinese"),
    )


def _judge(looks: Looks, variant: Variant) -> Judge:
    captioner = WorldCaptioner()
    return CycleJudge(
        lambda picture, item: captioner.describe(picture, item.language), captioner.name, captioner.version
    )


def _ceilings(folder: Path) -> Sequence[System]:
    return (true_renders(),)


CYCLE_NANO: Final = Benchmark(
    name=_NAME,
    title="Caption, picture, caption in the drawn world",
    licence="Apache-2.0",
    source="made by this package; measures of Chen et al. 2015, arXiv 1504.00325",
    protocol="The first of five captions is drawn; the drawing is described by the judge of pictures and "
    "compared with all five.",
    judges={},
    read=_read,
    rows=_rows,
    judge=_judge,
    ceilings=_ceilings,
)
