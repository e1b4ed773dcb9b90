"""Texts about scenes, as conversations: what the language tower and its tokenizer learn from."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Final

import numpy as np

from danqing.data.atlas import Atlas
from danqing.data.captions import Labels, caption, facts, sign_text
from danqing.data.concepts import LANGUAGES, concepts
from danqing.data.instructions import edit_instruction, question
from danqing.data.phrases import labels, phrases
from danqing.data.world import OPPOSITE, RELATIONS, sample_scene

_LANGUAGE_SHARES: Final = MappingProxyType({"en": 0.40, "zh": 0.24})  # the other ten share the rest equally
_TASK_SHARES = (0.60, 0.78, 0.93)  # cumulative: caption, edit, question; the rest are signs

_FUNCTION_WORDS = "背景 风格 画风 渐变 一张 图片 纯色 床の上 スタイル"
_NUMERALS = "一二两三四五六七八九"
_MARKS = "，。、：（）“”？的有和在"


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """One thing a user may say, with the answer or the labels that belong to it."""

    task: str
    """`generate`, `edit` or `describe`: the template it goes into."""
    prompt: str
    answer: str = ""
    labels: Labels | None = None


def draw_language(rng: np.random.Generator, shares: Mapping[str, float] = _LANGUAGE_SHARES) -> str:
    """Draw one of the twelve languages; those not in `shares` divide the rest equally."""
    rest = (1 - sum(shares.values())) / (len(LANGUAGES) - len(shares))
    return str(rng.choice(LANGUAGES, p=[shares.get(language, rest) for language in LANGUAGES]))


def draw_text(rng: np.random.Generator, atlas: Atlas) -> Text:
    """Draw a caption with its labels, an edit instruction, a question with its answer, or a sign."""
    scene, language = sample_scene(rng, atlas), draw_language(rng)
    task = rng.random()
    if task < _TASK_SHARES[0]:
        return Text(
            task="generate", prompt=caption(scene, language, rng, atlas), labels=ordered(facts(scene, atlas))
        )
    if task < _TASK_SHARES[1]:
        return Text(task="edit", prompt=edit_instruction(scene, language, rng, atlas)[0])
    if task < _TASK_SHARES[2]:
        asked, answer = question(scene, language, rng, atlas)
        return Text(task="describe", prompt=asked, answer=answer)
    return Text(task="generate", prompt=sign_text(rng, "zh" if language == "zh" else "en"))


def corpus(rng: np.random.Generator, atlas: Atlas, count: int) -> Iterator[str]:
    """Yield pieces of `count` texts for training a tokenizer; Chinese and Japanese come word by word.

    In one piece byte-pair encoding would learn whole phrases ("，粉" + "色地板"), and a model that never sees
    a colour alone cannot put it together with a new noun.
    """
    for _ in range(count):
        text = draw_text(rng, atlas)
        for part in (text.prompt, text.answer):
            yield from words(part)


def words(text: str) -> list[str]:
    """Split a text at every Chinese or Japanese word of the world; other writing stays whole."""
    return [word for word in _unspaced_words().split(text) if word]


@cache
def _unspaced_words() -> re.Pattern[str]:
    chinese, japanese = phrases()["zh"], labels("ja")
    known = {word for concept in concepts().values() for word in (concept.chinese, concept.names["ja"])}
    for kind in ("colour", "style", "at"):
        known |= set(chinese[kind].values())
    known |= set(chinese["ground"])
    known |= {*japanese["colour"].values(), *japanese["on"].values(), *japanese["at"].values()}
    known |= {concept.measure for concept in concepts().values()}
    known |= {*_FUNCTION_WORDS.split(), *_NUMERALS, *_MARKS}
    return re.compile("(" + "|".join(re.escape(word) for word in sorted(known, key=len, reverse=True)) + ")")


def ordered(labels: Labels) -> Labels:
    """Return labels with the left or upper thing first, so that both ways of saying a relation agree."""
    if labels.relation < 0 or RELATIONS[labels.relation] not in ("right", "below"):
        return labels
    return Labels(
        concepts=labels.concepts[::-1],
        counts=labels.counts[::-1],
        colours=labels.colours[::-1],
        background=labels.background,
        relation=RELATIONS.index(OPPOSITE[RELATIONS[labels.relation]]),
    )
