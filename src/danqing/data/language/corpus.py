"""Texts about scenes, as conversations: what the language tower and its tokenizer learn from."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from danqing.conditioning.questions import describe_question
from danqing.data.atlas import Atlas
from danqing.data.colours import COLOURS
from danqing.data.concepts import LANGUAGES
from danqing.data.language.captions import caption
from danqing.data.language.descriptions import description
from danqing.data.language.facts import Labels, concept_position, facts, ordered
from danqing.data.language.instructions import edit_instruction
from danqing.data.language.nouns import nouns
from danqing.data.language.questions import question
from danqing.data.language.tables import pick, table
from danqing.data.world.sample import draw_background, sample_scene
from danqing.data.world.scene import Scene
from danqing.data.world.shapes import shapes
from danqing.data.world.words import sample_words

_LANGUAGE_SHARES: Final = MappingProxyType({"en": 0.32, "zh": 0.20})  # the other ten share the rest equally
_TASK_SHARES: Final = (0.54, 0.70, 0.82, 0.94)
"""Cumulative: caption, edit, question about a picture, description of it; the rest says what is written."""

_FUNCTION_WORDS: Final = (
    "风格 画风 渐变 一张 图片 画面 图中 这是 这张 这幅 我们 看到 可以 一共 总共 正好 没有 东西 位于 之间 "
    "中间 两头 里面 颜色 字样 文字 写着 写有 皮肤 的人 请画 画一 生成 条纹 圆点 波点 格子 方格 背景 纯色 "
    "床の上 スタイル 縞模様 ストライプ 水玉模様 格子模様 チェック柄 グラデーション 無地 大きさ 文字 "
    "見え ありますか 何色"
)
_PHRASES: Final = ("background", "backgrounds", "see", "nothing", "head", "longest")  # no single words
_NUMERALS: Final = "一二两三四五六七八九"
_MARKS: Final = "，。、：（）“”「」『』？的有和在の"


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """One thing a user may say, with the answer or the labels that belong to it."""

    task: str
    """`generate`, `edit` or `describe`: the template it goes into."""
    prompt: str
    answer: str = ""
    labels: Labels | None = None
    """What a picture of it shows; of an edit, what the result shows."""
    picture: Scene | None = None
    """The scene in the picture that is spoken of."""


def draw_language(rng: np.random.Generator, shares: Mapping[str, float] = _LANGUAGE_SHARES) -> str:
    """Draw one of the twelve languages; those not in `shares` divide the rest equally."""
    rest = (1 - sum(shares.values())) / (len(LANGUAGES) - len(shares))
    return str(rng.choice(LANGUAGES, p=[shares.get(language, rest) for language in LANGUAGES]))


def draw_text(rng: np.random.Generator, atlas: Atlas) -> Text:
    """Draw a caption, an edit of a picture, a question about one, a description of one, or a sign's text."""
    scene, language = sample_scene(rng, atlas), draw_language(rng)
    task = rng.random()
    if task < _TASK_SHARES[0]:
        labels = ordered(facts(scene, atlas))
        return Text(task="generate", prompt=caption(scene, language, rng, atlas), labels=labels)
    if task < _TASK_SHARES[1]:
        said, edit = edit_instruction(scene, language, rng, atlas)
        labels = ordered(facts(edit.target, atlas))
        return Text(task="edit", prompt=said, labels=labels, picture=edit.source)
    if task < _TASK_SHARES[2]:
        asked, answer = question(scene, language, rng, atlas)
        return Text(task="describe", prompt=asked, answer=answer, picture=scene)
    if task < _TASK_SHARES[3]:
        answer, asked = description(scene, language, atlas), describe_question(language)
        return Text(task="describe", prompt=asked, answer=answer, picture=scene)
    return Text(task="generate", prompt=caption(_sign(rng), language, rng, atlas))


def draw_name(rng: np.random.Generator, atlas: Atlas) -> Text:
    """Draw the bare name of a concept in any language, all alike: the shortest text that teaches a word."""
    code = pick(rng, [*atlas.codes, *shapes()])
    language = pick(rng, LANGUAGES)
    labels = Labels(
        concepts=(concept_position(code),), counts=(1,), colours=(-1,), background=-1, relation=-1
    )
    return Text(task="generate", prompt=nouns()[code].names[language], labels=labels)


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


def _sign(rng: np.random.Generator) -> Scene:
    colour = pick(rng, COLOURS)
    return Scene((), draw_background(rng, colour, "solid"), words=sample_words(rng, (colour,)))


@cache
def _unspaced_words() -> re.Pattern[str]:
    known = {word for concept in nouns().values() for word in (concept.chinese, concept.names["ja"])}
    known |= {concept.measure for concept in nouns().values()}
    for language in ("zh", "ja"):
        single = {name: words for name, words in table(language).words.items() if name not in _PHRASES}
        for leaf in _leaves(single):
            known |= {part for part in re.split(r"\{\w*\}", leaf) if part}
    known |= {*_FUNCTION_WORDS.split(), *_NUMERALS, *_MARKS}
    known = {word for word in known if not word.isascii()}
    return re.compile("(" + "|".join(re.escape(word) for word in sorted(known, key=len, reverse=True)) + ")")


def _leaves(content: Any) -> Iterator[str]:
    """Yield every text of nested lists and tables."""
    if isinstance(content, str):
        yield content
    else:
        for inner in content.values() if isinstance(content, dict) else content:
            yield from _leaves(inner)
