"""DPG-Bench and DSG-1k: long prompts, taken apart into questions that depend on each other.

A question about a property counts only when the thing it is a property of was seen (Davidsonian scene graphs:
Cho et al., arXiv 2310.18235). A picture scores the share of questions that hold, a benchmark the mean over
pictures (DPG: Hu et al., arXiv 2403.05135, whose file of questions has the columns of DSG-1k).
"""

import csv
import re
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from PIL import Image

from danqing.errors import DataError
from danqing.evaluation.benchmarks.benchmark import Benchmark, File, Variant
from danqing.evaluation.benchmarks.judge import BenchmarkJudge
from danqing.evaluation.items import Atom, Item, Judge
from danqing.evaluation.results import Answer, Row
from danqing.scoring.looking import Looks, needed

CATEGORIES: Final = ("global", "entity", "attribute", "relation", "other")
DPG_SEEDS: Final = (0, 1, 2, 3)
_COLUMNS: Final = (
    "item_id",
    "text",
    "proposition_id",
    "dependency",
    "category_broad",
    "category_detailed",
    "question_natural_language",
)
_NUMBER: Final = re.compile(r"\s*\d+\s*")


def held(answers: Mapping[int, bool], parents: Mapping[int, Sequence[int]]) -> dict[int, bool]:
    """Return which questions hold: answered with yes, and so were the questions they depend on, and so on.

    A parent that is not among the questions is left out of account.
    """

    def holds(question: int, children: frozenset[int]) -> bool:
        above = [one for one in parents.get(question, ()) if one in answers and one not in children]
        return answers[question] and all(holds(one, children | {question}) for one in above)

    return {question: holds(question, frozenset()) for question in answers}


def held_in_order(answers: Mapping[int, bool], parents: Mapping[int, Sequence[int]]) -> dict[int, bool]:
    """Return which questions hold as DPG-Bench's code has it: one pass, in the order of the file.

    A parent that comes later counts as it was answered. Raises KeyError for a parent that is not there.
    """
    kept = dict(answers)
    for question in answers:
        if not all(kept[parent] for parent in parents.get(question, ())):
            kept[question] = False
    return kept


def score(answer: Answer, *, variant: Variant) -> float | None:
    """Return the share of questions of a picture that hold.

    Officially the first question of the file is never asked. Pictures of its prompt drop out of the mean when
    another question depends on it, or when there is no other.
    """
    told = _told(answer)
    if variant == "fixed":
        kept = held({one: yes for one, (yes, _) in told.items()}, _parents(answer))
        return sum(kept.values()) / len(kept)
    asked = {one: yes for one, (yes, _) in told.items() if one not in answer.item.details.get("skipped", ())}
    try:
        kept = held_in_order(asked, _parents(answer))
    except KeyError:
        return None
    return sum(kept.values()) / len(kept) if kept else None


def category_score(answer: Answer, *, category: str, variant: Variant) -> float | None:
    """Return the share of the questions of a category that hold; None for a picture without one.

    Officially only the last of the four pictures of a prompt counts, and each question for itself.
    """
    if variant == "official" and (answer.seed != DPG_SEEDS[-1] or score(answer, variant=variant) is None):
        return None
    told = _told(answer)
    if variant == "official":
        skipped = answer.item.details.get("skipped", ())
        values = [yes for one, (yes, broad) in told.items() if broad == category and one not in skipped]
    else:
        kept = held({one: yes for one, (yes, _) in told.items()}, _parents(answer))
        values = [kept[one] for one, (_, broad) in told.items() if broad == category]
    return sum(values) / len(values) if values else None


def category_weight(item: Item, *, category: str, variant: Variant) -> float:
    """Return how many questions of a category a prompt has: category scores are pooled over questions."""
    skipped = item.details.get("skipped", ()) if variant == "official" else ()
    questions = item.details.get("questions", ())
    return float(sum(one["category"] == category and one["id"] not in skipped for one in questions))


def judged(item: Item, picture: Image.Image, looks: Looks, variant: Variant) -> tuple[Atom, ...]:
    """Return an atom a question, named by its category; dependencies are the business of the rows."""
    if not item.details.get("questions"):
        raise DataError(f"expected questions about {item.prompt[:40]!r}, found none; fetch {DPG_FILE}")
    vqa = needed(looks.vqa, "vqa")
    atoms = []
    for one in item.details["questions"]:
        yes = vqa.answer_probability(picture, one["question"])
        said = "yes" if yes >= 0.5 else "no"
        atoms.append(
            Atom(
                name=one["category"], value=float(yes >= 0.5), wanted=one["question"], seen=said, measure=yes
            )
        )
    return tuple(atoms)


def read_questions(path: Path, row: str, *, skip_first: bool = False) -> list[Item]:
    """Return the items of a file with the columns of DSG-1k; `skip_first` marks what DPG's code leaves out.

    Words in the place of a parent's number, as ten rows of DSG-1k have them, are left out.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        table = csv.DictReader(file)
        if missing := set(_COLUMNS) - set(table.fieldnames or ()):
            raise DataError(f"{path}: expected the columns of DSG-1k, found no {', '.join(sorted(missing))}")
        records = list(table)
    items: list[Item] = []
    seen = set[str]()
    for name, group in groupby(records, key=lambda record: record["item_id"]):
        if name in seen:
            raise DataError(f"{path}: expected the questions of {name} in one place, found them in two")
        seen.add(name)
        part = list(group)
        try:
            questions = [_question(record) for record in part]
        except (ValueError, AttributeError):
            raise DataError(f"{path}: expected numbered questions of {name}, found another form") from None
        skipped = {"skipped": [questions[0]["id"]]} if skip_first and not items else {}
        items.append(
            Item(
                row=row,
                prompt=part[0]["text"].strip(),
                details={"id": name, "questions": questions, **skipped},
                tags={"id": name, "source": name.rstrip("0123456789").rstrip("_")},
            )
        )
    return items


def read_dpg(folder: Path) -> list[Item]:
    """Return the prompts with their questions; without, which nothing can judge, from a folder `prompts`."""
    if (folder / DPG_FILE).is_file() or not (folder / "prompts").is_dir():
        return read_questions(DPG.path(folder, DPG_FILE), "dpg", skip_first=True)
    files = sorted((folder / "prompts").glob("*.txt"))
    return [
        Item(
            row="dpg",
            prompt=file.read_text(encoding="utf-8").strip(),
            details={"id": file.stem},
            tags={"id": file.stem},
        )
        for file in files
    ]


def read_dsg(folder: Path) -> list[Item]:
    """Return the prompts of DSG-1k with their questions."""
    return read_questions(DSG.path(folder, _DSG_FILE), "dsg")


def _question(record: Mapping[str, str]) -> dict[str, Any]:
    parents = [int(one) for one in record["dependency"].split(",") if _NUMBER.fullmatch(one) and int(one)]
    return {
        "id": int(record["proposition_id"]),
        "question": record["question_natural_language"].strip(),
        "parents": parents,
        "category": record["category_broad"].strip(),
        "kind": record["category_detailed"].strip(),
    }


def _told(answer: Answer) -> dict[int, tuple[bool, str]]:
    """Return the answer to each question by its number, with its category."""
    questions = answer.item.details["questions"]
    return {
        one["id"]: (bool(atom.value), one["category"])
        for one, atom in zip(questions, answer.atoms, strict=True)
    }


def _parents(answer: Answer) -> dict[int, list[int]]:
    return {one["id"]: one["parents"] for one in answer.item.details["questions"]}


def _rows(row: str, title: str, variant: Variant) -> tuple[Row, ...]:
    whole = Row(
        name=row,
        title=title,
        about="Share of the questions about a picture that hold, with those they depend on.",
        value=partial(score, variant=variant),
    )
    parts = tuple(
        Row(
            name=f"{row}-{category}",
            of=row,
            title=f"{title}, {category}",
            about=f"The same for questions of the kind {category}.",
            value=partial(category_score, category=category, variant=variant),
            weight=partial(category_weight, category=category, variant=variant),
            counts=False,
        )
        for category in CATEGORIES
    )
    return (whole, *parts)


def _judge(name: str, looks: Looks, variant: Variant) -> Judge:
    return BenchmarkJudge(name, "1", ("vqa",), judged, looks, "fixed")  # the variants differ in their rows


DPG_FILE: Final = "dpg_bench.csv"
_DSG_FILE: Final = "dsg-1k-anns.csv"
DPG: Final = Benchmark(
    name="dpg",
    title="DPG-Bench",
    licence="Apache-2.0",
    source="https://github.com/TencentQQGYLab/ELLA; Hu et al. 2024, arXiv 2403.05135",
    files=(
        File(
            name=DPG_FILE,
            address="https://github.com/TencentQQGYLab/ELLA/raw/3c228f1dc6c4d3cad0a47493816151a419f14db3"
            f"/dpg_bench/{DPG_FILE}",
            git_blob="98457fc9901943f51ff9a30367250fc292533bed",
        ),
    ),
    seeds=DPG_SEEDS,
    protocol="Four pictures a prompt. Officially the first question of the file is not asked, with which its "
    "prompt drops out, and category scores are of the last picture alone, without dependencies, so that all "
    "of them may exceed the whole.",
    variants=("official", "fixed"),
    judges={"vqa": "mPLUG large (damo/mplug_visual-question-answering_coco_large_en)"},
    read=read_dpg,
    rows=partial(_rows, "dpg", "DPG-Bench"),
    judge=partial(_judge, "DPG-Bench"),
)
DSG: Final = Benchmark(
    name="dsg",
    title="DSG-1k",
    licence="Apache-2.0",
    source="https://github.com/j-min/DSG; Cho et al. 2023, arXiv 2310.18235",
    files=(
        File(
            name=_DSG_FILE,
            address="https://github.com/j-min/DSG/raw/7330119a39f76ff90e619a8bd3ff321e71aa986b"
            f"/dsg/data/{_DSG_FILE}",
            sha256="b7ce06ea8a0478ccfd8fba105ecd26d7d301eb99d5c412987546c4cc8e08917a",
        ),
    ),
    protocol="Prompts of ten sources, about eight questions each.",
    variants=("fixed",),
    judges={"vqa": "mPLUG large, or PaLI (paper)"},
    read=read_dsg,
    rows=partial(_rows, "dsg", "DSG-1k"),
    judge=partial(_judge, "DSG-1k"),
)
