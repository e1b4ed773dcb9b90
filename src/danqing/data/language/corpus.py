"""Texts about scenes, as conversations: what the language tower and its tokenizer learn from."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
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
from danqing.data.world.sample import SceneKind, draw_background, sample_scene
from danqing.data.world.scene import Scene
from danqing.data.world.shapes import shapes
from danqing.data.world.words import sample_words

_CLOSE_UPS: Final = {"what": 0.3, "exists": 0.35, "text": 0.35}  # what is asked about them
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
class TextMixture:
    """How often texts of each kind come, in which languages and about what; the rest says what is written."""

    captions: float
    edits: float
    questions: float
    descriptions: float
    languages: Mapping[str, float]
    """Those that are not here share the rest equally."""
    answers: Mapping[str, float] | None = None
    """Languages of questions and descriptions, where they are others."""
    close_ups: Mapping[str, float] = field(default_factory=dict)
    """Languages of questions about close-ups; all alike by default."""
    codes: tuple[str, ...] | None = None
    """Concepts of the scenes; all of the atlas and all plain shapes by default."""


READING: Final = TextMixture(
    captions=0.54,
    edits=0.16,
    questions=0.12,
    descriptions=0.12,
    languages={"en": 0.32, "zh": 0.20},
)
"""What teaches the words: mostly captions."""
FIRST_ANSWERS: Final = TextMixture(
    captions=0.0,
    edits=0.0,
    questions=0.5,
    descriptions=0.5,
    languages={"en": 1.0},
    close_ups={"en": 1.0},
)
"""What teaches to look at pictures: in one language that takes hold within hundreds of steps."""
TALKING: Final = TextMixture(
    captions=0.28,
    edits=0.12,
    questions=0.32,
    descriptions=0.22,
    languages={"en": 0.16, "zh": 0.12},
)
"""What goes on from there, with more of the rarer languages."""


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


def draw_language(rng: np.random.Generator, shares: Mapping[str, float] = READING.languages) -> str:
    """Draw one of the twelve languages; those not in `shares` divide the rest equally."""
    rest = (1 - sum(shares.values())) / (len(LANGUAGES) - len(shares))
    return str(rng.choice(LANGUAGES, p=[shares.get(language, rest) for language in LANGUAGES]))


def draw_text(rng: np.random.Generator, atlas: Atlas, mixture: TextMixture = READING) -> Text:
    """Draw a caption, an edit of a picture, a question about one, a description of one, or a sign's text."""
    scene = sample_scene(rng, atlas, codes=mixture.codes)
    shares = (mixture.captions, mixture.edits, mixture.questions, mixture.descriptions)
    kind = int(np.searchsorted(np.cumsum(shares), rng.random(), side="right"))
    spoken = mixture.answers if kind in (2, 3) and mixture.answers is not None else mixture.languages
    language = draw_language(rng, spoken)
    if kind == 0:
        labels = ordered(facts(scene, atlas))
        return Text(task="generate", prompt=caption(scene, language, rng, atlas), labels=labels)
    if kind == 1:
        said, edit = edit_instruction(scene, language, rng, atlas)
        labels = ordered(facts(edit.target, atlas))
        return Text(task="edit", prompt=said, labels=labels, picture=edit.source)
    if kind == 2:
        asked, answer = question(scene, language, rng, atlas)
        return Text(task="describe", prompt=asked, answer=answer, picture=scene)
    if kind == 3:
        answer, asked = description(scene, language, atlas), describe_question(language)
        return Text(task="describe", prompt=asked, answer=answer, picture=scene)
    return Text(task="generate", prompt=caption(_sign(rng), language, rng, atlas))


def draw_name(rng: np.random.Generator, atlas: Atlas, codes: Sequence[str] | None = None) -> Text:
    """Draw the bare name of a concept in any language, all alike: the shortest text that teaches a word."""
    code = pick(rng, [*atlas.codes, *shapes()] if codes is None else codes)
    language = pick(rng, LANGUAGES)
    labels = Labels(
        concepts=(concept_position(code),), counts=(1,), colours=(-1,), background=-1, relation=-1
    )
    return Text(task="generate", prompt=nouns()[code].names[language], labels=labels)


def draw_close_up(rng: np.random.Generator, atlas: Atlas, mixture: TextMixture = READING) -> Text:
    """Draw a thing alone and the question what it is, or whether it is this or that; or words to be read."""
    language = draw_language(rng, mixture.close_ups)
    kind = str(rng.choice(list(_CLOSE_UPS), p=list(_CLOSE_UPS.values())))
    single: dict[SceneKind, float] = {"single": 1.0}
    scene = _sign(rng) if kind == "text" else sample_scene(rng, atlas, shares=single, codes=mixture.codes)
    asked, answer = question(scene, language, rng, atlas, kind=kind)
    return Text(task="describe", prompt=asked, answer=answer, picture=scene)


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
