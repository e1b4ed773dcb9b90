"""LongText-Bench: long texts in pictures, in English and Chinese (X-Omni: Geng et al., arXiv 2507.22058).

How many of the wanted words, or Chinese characters, are read in the picture, in any order, over all pictures
together. Text that nobody asked for costs nothing.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from PIL import Image

from danqing.errors import DataError
from danqing.evaluation.benchmarks.benchmark import Benchmark, File, Variant
from danqing.evaluation.benchmarks.judge import BenchmarkJudge
from danqing.evaluation.items import Atom, Item, Judge
from danqing.evaluation.results import Answer, Row
from danqing.scoring.looking import Looks, needed

_ACCENTS: Final = "àâäéèêëîïôöùûüçÀÂÄÉÈÊËÎÏÔÖÙÛÜÇ"
_LETTERS: Final = f"\u4e00-\u9fa5a-zA-Z0-9{_ACCENTS}"
_OTHER: Final = re.compile(rf"[^{_LETTERS}\s]")
_NO_TEXT: Final = "No text recognized."
"""What the reference's reader, a language model, says of a picture without words."""
FILES: Final = {"en": "text_prompts.jsonl", "zh": "text_prompts_zh.jsonl"}


def units(text: str, language: str) -> list[str]:
    """Return the words of a text without marks and case, or, in Chinese, its characters as they are."""
    plain = _OTHER.sub("", text)
    if language == "en":
        return plain.lower().split()
    return [sign for sign in plain if not sign.isspace()]


def recall(wanted: Sequence[str], read: str, language: str) -> tuple[int, int]:
    """Return how many wanted units were read, each as often as it is wanted, and how many there are."""
    target = Counter(units(" ".join(wanted), language))
    found = target & Counter(units(read.replace(_NO_TEXT, ""), language))
    return found.total(), target.total()


def judged(item: Item, picture: Image.Image, looks: Looks, variant: Variant) -> tuple[Atom, ...]:
    """Return one atom: the share that was read; `measure` is the number of units."""
    texts: list[str] = item.details["text"]
    lines = "\n".join(needed(looks.words, "words").read_lines(picture))
    found, total = recall(texts, lines, item.language)
    seen = " / ".join(lines.split("\n"))
    return (Atom(name="words", value=found / total, wanted=" / ".join(texts), seen=seen, measure=found),)


def weight(item: Item) -> float:
    """Return the number of units that a picture should show: the score is pooled over them."""
    return float(len(units(" ".join(item.details["text"]), item.language)))


def read(folder: Path) -> list[Item]:
    """Return the items of both languages."""
    return [item for language, name in FILES.items() for item in _items(folder, language, name)]


def _items(folder: Path, language: str, name: str) -> list[Item]:
    path = LONGTEXT.path(folder, name)
    items = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            prompt, texts = record["prompt"], list(record["text"])
            tags = {key: str(record[key]) for key in ("category", "length")}
        except (ValueError, KeyError, TypeError):
            raise DataError(
                f"{path}, line {number}: expected a prompt with texts, found {line[:60]!r}"
            ) from None
        if not units(" ".join(texts), language):
            raise DataError(f"{path}, line {number}: expected text to render, found {texts}")
        details = {"text": texts}
        items.append(
            Item(row=f"longtext-{language}", prompt=prompt, language=language, details=details, tags=tags)
        )
    return items


def _share(answer: Answer) -> float:
    return answer.atoms[0].value


def _rows(variant: Variant) -> tuple[Row, ...]:
    return (
        Row(
            name="longtext-en",
            title="LongText, English",
            about="Share of the wanted words that are read in the picture, in any order.",
            value=_share,
            weight=weight,
        ),
        Row(
            name="longtext-zh",
            title="LongText, Chinese",
            about="Share of the wanted characters that are read in the picture, in any order.",
            value=_share,
            weight=weight,
        ),
    )


def _judge(looks: Looks, variant: Variant) -> Judge:
    return BenchmarkJudge("LongText-Bench", "1", ("words",), judged, looks, variant)


_PLACE: Final = "https://github.com/X-Omni-Team/X-Omni/raw/2b8237bb3789638c290eeda3e83ed81bd3652c3b/textbench"
_SHA256: Final = {
    "en": "a2130769e72bd8560470a066114cdac87f80f1eb071ba6bc0f7033225a9be0d8",
    "zh": "6512cd121ac093e8113e114d76eb2c0ce967c220b18e2049e1063554ce496758",
}
LONGTEXT: Final = Benchmark(
    name="longtext",
    title="LongText-Bench",
    licence="Apache-2.0",
    source="https://github.com/X-Omni-Team/X-Omni; Geng et al. 2025, arXiv 2507.22058",
    files=(
        File(name=FILES["en"], address=f"{_PLACE}/{FILES['en']}", sha256=_SHA256["en"]),
        File(name=FILES["zh"], address=f"{_PLACE}/{FILES['zh']}", sha256=_SHA256["zh"]),
    ),
    seeds=(0, 1, 2, 3),
    protocol="Four pictures a prompt. Words are read by a language model officially; name the reader.",
    judges={"words": "Qwen2.5-VL-7B-Instruct"},
    read=read,
    rows=_rows,
    judge=_judge,
)
