"""Captions beside what people wrote about the same pictures: atoms of a judge, and rows of the measures.

A caption is kept in an atom, whoever wrote it: a system that was asked to describe a picture, or a model that
looked at what a system drew. Measures of a whole corpus are taken when the table is made: BLEU of sums over
captions, CIDEr-D with the rarity of n-grams among the references of all pictures that were asked, whether
answered or not, and the search for a picture's other captions by words.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Final

import numpy as np
from PIL import Image

from danqing.errors import DataError
from danqing.evaluation.items import Atom, Item, Made
from danqing.evaluation.results import Answer, Row
from danqing.evaluation.world.said import understand
from danqing.evaluation.world.texts import stated_facts
from danqing.scoring.captions import bleu_of_parts, bleu_parts, cider_d, rouge_l, spaced
from danqing.scoring.retrieval import AT, Recalls, recall_both_ways
from danqing.scoring.wording import Wordings

REFERENCES: Final = "references"
"""Key of the captions people wrote, in the details of an item."""
_CAPTION: Final = "caption"
_KEPT: Final = 65536  # captions cut into words
_TOKENS: Final = "Words as the COCO caption evaluation cuts them."
_SIGNS: Final = "Every character is a word."

_spaced = lru_cache(maxsize=_KEPT)(spaced)


class CaptionJudge:
    """Compares a caption with the references of an item, and with its clauses where it has any."""

    name, version = "captions", "1"

    def judge(self, made: Made, item: Item) -> tuple[Atom, ...]:
        """Return the atoms of a caption; raises DataError for a picture."""
        if isinstance(made, Image.Image):
            raise DataError(f"expected a caption for {item.row}, found a picture")
        return caption_atoms(made, item)


def caption_atoms(caption: str, item: Item) -> tuple[Atom, ...]:
    """Return the atom that holds a caption, with its ROUGE-L and its words, and one for each fact."""
    said, references = caption.strip(), references_of(item)
    words = _spaced(said, item.language)
    wanted = [_spaced(one, item.language) for one in references]
    (alike,) = rouge_l([words], [wanted], tokenised=True).each
    kept = Atom(
        name=_CAPTION, value=alike, wanted=references[0], seen=said, measure=float(len(words.split()))
    )
    if not item.include:
        return (kept,)
    return (kept, *stated_facts(understand(said, item.language), item.include))


def references_of(item: Item) -> list[str]:
    """Return the captions people wrote; raises DataError where there is none."""
    found = [str(one) for one in item.details.get(REFERENCES, ())]
    if not found:
        raise DataError(f"{item.row}: expected captions in the details of an item, found none")
    return found


def caption_rows(
    name: str, title: str, *, of: str = "", characters: bool = False, facts: bool = False
) -> tuple[Row, ...]:
    """Return the rows of every measure; `facts` where items have clauses, `characters` for Chinese.

    ROUGE-L counts, or the facts where there are any: BLEU and CIDEr-D are no means over pictures.
    """
    cut, items = _SIGNS if characters else _TOKENS, of or name
    rows = [
        Row(
            name=f"{name}-cider",
            of=items,
            title=f"{title}, CIDEr-D",
            about=f"100 at best usual, 1000 at most; falls steeply for long captions. {cut}",
            together=ciders,
            unit="x100",
            counts=False,
        ),
        *(
            Row(
                name=f"{name}-bleu-{order}",
                of=items,
                title=f"{title}, BLEU-{order}",
                about=f"Of all captions together. {cut}",
                parts=_parts,
                pool=partial(bleu_of_parts, order=order),
                counts=False,
            )
            for order in (1, 2, 3, 4)
        ),
        Row(
            name=f"{name}-rouge",
            of=items,
            title=f"{title}, ROUGE-L",
            about=f"Longest common subsequence with the best reference. {cut}",
            value=lambda answer: answer.atoms[0].value,
            counts=not facts,
        ),
        Row(
            name=f"{name}-length",
            of=items,
            title=f"{title}, length",
            about="Print it beside CIDEr-D: three times as many words as people use cost nearly all of it.",
            value=lambda answer: answer.atoms[0].measure,
            unit="characters" if characters else "words",
            counts=False,
        ),
    ]
    if facts:
        told = "Share of facts that the caption tells right, each thing not there a wrong one; any length."
        rows.insert(0, Row(name=name, of=items, title=f"{title}, facts", about=told, value=_facts))
    return tuple(rows)


def search_rows(name: str, title: str, *, of: str = "") -> tuple[Row, ...]:
    """Return the rows of a search by words, both ways: from captions to references, and back."""
    return tuple(
        Row(
            name=f"{name}-{what}-{k}",
            of=of or name,
            title=f"{title}, R@{k} {said}",
            about=f"{about} Searched by words, not by a likeness of vectors.",
            together=partial(_found, what, k),
            counts=False,
        )
        for what, said, about in (
            ("texts", "to texts", "The caption finds one of its picture's references among those of all."),
            ("pictures", "to pictures", "A reference finds its picture by the caption among all captions."),
        )
        for k in AT
    )


def source_rows(name: str, title: str, *, of: str = "") -> tuple[Row, ...]:
    """Return the rows of a cycle: the caption of a picture finds the prompt it was drawn for."""
    return tuple(
        Row(
            name=f"{name}-source-{k}",
            of=of or name,
            title=f"{title}, R@{k} of the prompt",
            about="The caption of what was drawn finds its prompt among all prompts, by words.",
            together=partial(_sources, k),
            counts=k == 1,
        )
        for k in AT
    )


def ciders(answers: Sequence[Answer]) -> list[float | None]:
    """Return 100 times the CIDEr-D of each answer; rare is what is rare in the references of all."""
    if not answers:
        return []
    captions, references = _cut(answers)
    each = cider_d(captions, references, tokenised=True).each
    return [_judged(one, 100 * value) for one, value in zip(answers, each, strict=True)]


def _found(what: str, k: int, answers: Sequence[Answer]) -> list[float | None]:
    """Return for each answer whether, or how often, the search finds at `k`."""
    if not answers:
        return []
    captions, references = _cut(answers)
    found = _searched(tuple(captions), tuple(map(tuple, references)))
    if what == "texts":
        values = found.texts[k]
    else:
        owners = np.repeat(np.arange(len(references)), [len(several) for several in references])
        values = np.bincount(owners, weights=found.pictures[k]) / np.bincount(owners)
    return [_judged(one, float(value)) for one, value in zip(answers, values, strict=True)]


def _sources(k: int, answers: Sequence[Answer]) -> list[float | None]:
    """Return for each answer whether its caption finds its prompt at `k`."""
    if not answers:
        return []
    captions, _ = _cut(answers)
    prompts = tuple((_spaced(one.item.prompt, one.item.language),) for one in answers)
    values = _searched(tuple(captions), prompts).texts[k]
    return [_judged(one, float(value)) for one, value in zip(answers, values, strict=True)]


@lru_cache(maxsize=16)
def _searched(captions: tuple[str, ...], references: tuple[tuple[str, ...], ...]) -> Recalls:
    """Return how captions, each of one picture, find references; an empty caption finds by chance."""
    texts = [text for several in references for text in several]
    owners = np.repeat(np.arange(len(references)), [len(several) for several in references])
    return recall_both_ways(Wordings(texts).of(captions), owners, len(captions))


def _cut(answers: Sequence[Answer]) -> tuple[list[str], list[list[str]]]:
    """Return captions, empty where there is none, and references, all in words."""
    captions = [
        _spaced(one.atoms[0].seen, one.item.language) if one.state == "judged" else "" for one in answers
    ]
    return captions, [
        [_spaced(text, one.item.language) for text in references_of(one.item)] for one in answers
    ]


def _judged(answer: Answer, value: float) -> float | None:
    return value if answer.state == "judged" else None


def _parts(answer: Answer) -> Sequence[float]:
    (caption,), (references,) = _cut([answer])
    return bleu_parts(caption, references, tokenised=True)


def _facts(answer: Answer) -> float:
    facts = answer.atoms[1:]
    return sum(atom.value for atom in facts) / len(facts)


Describe = Callable[[Image.Image, Item], str]
"""Tells in words what a picture shows, in the language of an item; knows nothing else of the item."""


class CycleJudge:
    """Has one fixed model describe what was drawn, and compares the caption with the references."""

    def __init__(self, describe: Describe, name: str, version: str) -> None:
        """`name` and `version` are those of the model that describes."""
        self._describe = describe
        self.name, self.version = f"captions by {name}", f"{version} 1"
        self.models = {"captions": name}

    def judge(self, made: Made, item: Item) -> tuple[Atom, ...]:
        """Return the atoms of the caption of a picture; raises DataError for a text."""
        if isinstance(made, str):
            raise DataError(f"expected a picture for {item.row}, found a text")
        return caption_atoms(self._describe(made.convert("RGB"), item), item)
