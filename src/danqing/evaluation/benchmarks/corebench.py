"""T2I-CoReBench: composition and reasoning, checked question by question (Li et al., arXiv 2509.03516).

Twelve dimensions of 90 prompts, each with a checklist; a judge sees the picture, the prompt for context and
one question, and says yes or no. A picture scores the share of yes, a dimension the mean over its pictures,
the whole the mean over dimensions.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from PIL import Image

from danqing.errors import DataError
from danqing.evaluation.benchmarks.benchmark import Benchmark, File, Variant
from danqing.evaluation.benchmarks.judge import BenchmarkJudge
from danqing.evaluation.items import Atom, Item, Judge
from danqing.evaluation.results import Row, mean_fact
from danqing.scoring.looking import Looks, needed

DIMENSIONS: Final[Mapping[str, str]] = {
    "C-MI": "Several instances",
    "C-MA": "Several attributes",
    "C-MR": "Several relations",
    "C-TR": "Text",
    "R-LR": "Logical reasoning",
    "R-BR": "Behavioural reasoning",
    "R-HR": "Hypothetical reasoning",
    "R-PR": "Procedural reasoning",
    "R-GR": "Generalisation",
    "R-AR": "Analogy",
    "R-CR": "Common sense",
    "R-RR": "Reconstruction",
}
_QUESTION: Final = (
    "Answer from what the picture shows, not from what it was meant to show. Say yes only if the picture "
    "leaves no doubt; what is missing, hidden or unclear is a no. A question with a condition is a yes only "
    'if the condition holds too.\nThe picture was made for this prompt: "{prompt}"\nQuestion: {question}\n'
    "Answer with one word, yes or no."
)


def judged(item: Item, picture: Image.Image, looks: Looks, variant: Variant) -> tuple[Atom, ...]:
    """Return an atom a question, named by its first tag; `measure` is how sure the yes is."""
    vqa = needed(looks.vqa, "vqa")
    atoms = []
    for one in item.details["checklist"]:
        question = _QUESTION.format(prompt=item.prompt, question=one["question"])
        yes = vqa.answer_probability(picture, question)
        said = "yes" if yes >= 0.5 else "no"
        name = (one.get("tags") or ["question"])[0]
        atoms.append(Atom(name=name, value=float(yes >= 0.5), wanted=one["question"], seen=said, measure=yes))
    return tuple(atoms)


def read(folder: Path) -> list[Item]:
    """Return the items of the twelve dimensions."""
    return [item for name in DIMENSIONS for item in _items(COREBENCH.path(folder, f"{name}.json"), name)]


def _items(path: Path, dimension: str) -> list[Item]:
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
        return [
            Item(
                row=_row(dimension),
                prompt=record["Prompt"],
                details={"checklist": [_question(one) for one in record["Checklist"]]},
                tags={"id": name, "class": record["Main Class"], "dimension": record["Sub Class"]},
            )
            for name, record in records.items()
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: expected prompts with checklists, found another form ({error!r})") from None


def _question(one: Mapping[str, object]) -> dict[str, object]:
    tags = one.get("tags")
    return {"question": one["question"], **({"tags": tags} if tags else {})}


def _row(dimension: str) -> str:
    return f"corebench-{dimension.lower()}"


def _rows(variant: Variant) -> tuple[Row, ...]:
    about = "Share of the questions about a picture that are answered with yes."
    return tuple(
        Row(name=_row(name), title=f"CoReBench, {title.lower()}", about=about, value=mean_fact)
        for name, title in DIMENSIONS.items()
    )


def _judge(looks: Looks, variant: Variant) -> Judge:
    return BenchmarkJudge("T2I-CoReBench", "1", ("vqa",), judged, looks, variant)


_PLACE: Final = "https://github.com/KlingTeam/T2I-CoReBench/raw/ebf7b7a0ac0da088f4664c50012b6b483ac6f02b/data"
_SHA256: Final = {
    "C-MI": "20684699d52c75d2553790c8ec4fc9da13550426f297fd06fa739e2399665b94",
    "C-MA": "a1c06bf30d6f952bff8a76c0accfd95b7b95d582baae622fd57b694a855a11cd",
    "C-MR": "e6c61d517d9c8ccb6925ef9e14affc3157bdfe7bb157fd8bb425454643a62375",
    "C-TR": "5cd3bf63a3b592903d7cb880ca6ec457dfe8cdfad0d2c69db51472cba8362a29",
    "R-LR": "219895df3fd37f141a971633a7af17c9aca1b54ef4c0b9967292156c7203e3b9",
    "R-BR": "f4d3fddd7dabb160f80c21d0ceda9cd155e452e625dfb357ca70b8aae0633d5c",
    "R-HR": "012c0d10d350a5edfe39fcaa6c4cc6fc5ab2adb70479e61f8162badf5670a15e",
    "R-PR": "ba8494bba888fa2599fded078526153fc0383d8d85a3ba90458199bc395a1e3e",
    "R-GR": "48e4e1557766fcedb33d28758c032e434a6a34456655c71f69e002b8f3d60cca",
    "R-AR": "c356fe77620c47e9f540c5755e2b08efa3c992c32bd99c47b1851485e98e53b5",
    "R-CR": "8a5a0c6fb2de8a8dfc521a22d12f47be19c2ce0cbc8a467f42395e0f51323978",
    "R-RR": "5f94745af411bb64b81a12a04dd9248d26380700876111b661d5535eccaa8dcd",
}
COREBENCH: Final = Benchmark(
    name="corebench",
    title="T2I-CoReBench",
    licence="Apache-2.0",
    source="https://github.com/KlingTeam/T2I-CoReBench; Li et al. 2025, arXiv 2509.03516",
    files=tuple(
        File(name=f"{name}.json", address=f"{_PLACE}/{name}.json", sha256=_SHA256[name])
        for name in DIMENSIONS
    ),
    seeds=(0, 1, 2, 3),
    protocol="Four pictures a prompt, one question a call at temperature 0; the instruction is worded anew.",
    judges={"vqa": "Gemini 2.5 Flash or a Qwen3-VL"},
    read=read,
    rows=_rows,
    judge=_judge,
)
