"""PartiPrompts: 1,632 prompts by category and challenge (Yu et al., arXiv 2206.10789).

The authors had people compare pictures side by side; there is no official automatic score. The one given here
is VQAScore (Lin et al., arXiv 2404.01291): how sure a model is that the picture shows the prompt.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from PIL import Image

from danqing.errors import DataError
from danqing.evaluation.benchmarks.benchmark import Benchmark, File, Variant
from danqing.evaluation.benchmarks.judge import BenchmarkJudge
from danqing.evaluation.items import Atom, Item, Judge
from danqing.evaluation.results import Answer, Row
from danqing.scoring.looking import Looks, needed

FILE: Final = "PartiPrompts.tsv"
CATEGORIES: Final = (
    "Abstract",
    "Animals",
    "Artifacts",
    "Arts",
    "Food & Beverage",
    "Illustrations",
    "Indoor Scenes",
    "Outdoor Scenes",
    "People",
    "Produce & Plants",
    "Vehicles",
    "World Knowledge",
)
_COLUMNS: Final = ["Prompt", "Category", "Challenge", "Note"]
_QUESTION: Final = 'Does this figure show "{prompt}"? Please answer yes or no.'


def judged(item: Item, picture: Image.Image, looks: Looks, variant: Variant) -> tuple[Atom, ...]:
    """Return one atom: how sure the model is that the picture shows the prompt."""
    yes = needed(looks.vqa, "vqa").answer_probability(picture, _QUESTION.format(prompt=item.prompt))
    return (Atom(name="prompt", value=yes, wanted=item.prompt, seen="yes" if yes >= 0.5 else "no"),)


def read(folder: Path) -> list[Item]:
    """Return the items; quotation marks belong to the prompts, so no field is quoted."""
    path = PARTI.path(folder, FILE)
    lines = path.read_text(encoding="utf-8").split("\n")
    rows = [line.rstrip("\r").split("\t") for line in lines if line.strip()]
    if not rows or rows[0] != _COLUMNS:
        raise DataError(f"{path}: expected the columns {', '.join(_COLUMNS)}, found {rows[:1]}")
    items = []
    for number, row in enumerate(rows[1:], 2):
        if len(row) < 3 or row[1] not in CATEGORIES:
            raise DataError(f"{path}, line {number}: expected a prompt and a known category, found {row}")
        tags = {"category": row[1], "challenge": row[2]}
        items.append(Item(row="parti", prompt=row[0].strip(), details={"prompt": row[0].strip()}, tags=tags))
    return items


def _rows(variant: Variant) -> tuple[Row, ...]:
    about = "How sure a model is that the picture shows the prompt (VQAScore)."
    parts = tuple(
        Row(
            name=f"parti-{category.lower().replace(' & ', '-').replace(' ', '-')}",
            of="parti",
            title=f"PartiPrompts, {category.lower()}",
            about=about,
            value=partial(_of, category),
            counts=False,
        )
        for category in CATEGORIES
    )
    whole: Callable[[Answer], float | None] = partial(_of, None)
    return (Row(name="parti", title="PartiPrompts", about=about, value=whole), *parts)


def _of(category: str | None, answer: Answer) -> float | None:
    if category is not None and answer.item.tags.get("category") != category:
        return None
    return answer.atoms[0].value


def _judge(looks: Looks, variant: Variant) -> Judge:
    return BenchmarkJudge("PartiPrompts", "1", ("vqa",), judged, looks, variant)


PARTI: Final = Benchmark(
    name="parti",
    title="PartiPrompts",
    licence="Apache-2.0",
    source="https://github.com/google-research/parti; Yu et al. 2022, arXiv 2206.10789",
    files=(
        File(
            name=FILE,
            address="https://github.com/google-research/parti/raw/5a657978134374ce28973948331b319adef164bd"
            f"/{FILE}",
            sha256="fab29e41bb512a169b56acab4cf2a41dcb675e285df2efcde6640c7dd3c440eb",
        ),
    ),
    protocol="No official automatic score: people compared pictures. VQAScore is another measure.",
    judges={"vqa": "CLIP-FlanT5-XXL (VQAScore; not part of the benchmark)"},
    read=read,
    rows=_rows,
    judge=_judge,
)
