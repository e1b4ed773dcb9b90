"""Captions: what a scene is called in twelve languages, in a few words or in flowing sentences.

A caption says only what the scene holds. Short ones leave most of it out; full ones say every fact, though
not every colour that things have by nature; long ones also say where and how large things are and what the
background is like.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal

import numpy as np

from danqing.data.atlas import Atlas
from danqing.data.language import chinese, english, labels
from danqing.data.language.english import capital
from danqing.data.language.fields import Fields, Maker
from danqing.data.language.seen import style_of
from danqing.data.language.tables import SPOKEN, table
from danqing.data.world.scene import Scene
from danqing.data.world.split import Split
from danqing.errors import DataError

Length = Literal["short", "full", "styled", "long"]

SHORT_SHARE: Final = 0.12
STYLED_SHARE: Final = 0.25
LONG_SHARE: Final = 0.08
"""Captions of a few words, full ones that also say the style, and long ones; the rest is full."""
_MAKERS: Final[Mapping[str, Mapping[str, Maker]]] = MappingProxyType(
    {"en": english.MAKERS, "zh": chinese.MAKERS}
)


def caption(
    scene: Scene,
    language: str,
    rng: np.random.Generator,
    atlas: Atlas | None = None,
    *,
    length: Length | None = None,
    split: Split = "train",
) -> str:
    """Word a scene in one of `LANGUAGES`, in at most 50 words.

    Args:
        scene: what is said.
        language: one of `LANGUAGES`.
        rng: chooses among the phrasings.
        atlas: knows the colours that things have by nature; without it, none of them is said.
        length: "short" (about 1-3 words), "full" (every fact), "styled" (and the style of drawing; "full"
            where nothing has one), "long" (40-64 tokens); drawn by chance when None.
        split: "train" never uses a held-out phrasing, "held_out" uses only those.

    Raises DataError for an unknown language, length or split.
    """
    if length is None:
        length = _draw_length(rng)
    if length not in ("short", "full", "styled", "long") or split not in ("train", "held_out"):
        raise DataError(f"expected a length and split of captions, found {length=} and {split=}")
    fields = fields_of(scene, language, rng, atlas, split, sized=length != "long" or scene.kind == "pair")
    if length == "long":
        return _long(fields) if language in SPOKEN else _long_label(fields)
    text = fields.fill(*_lists(fields, length))
    return text.rstrip() if language not in SPOKEN else text


def fields_of(
    scene: Scene,
    language: str,
    rng: np.random.Generator,
    atlas: Atlas | None,
    split: Split,
    *,
    sized: bool = True,
    said: dict[str, str] | None = None,
) -> Fields:
    """Return the fields of patterns about a scene, some of them `said` already."""
    table(language)  # refuses an unknown language
    return Fields(
        language=language,
        scene=scene,
        rng=rng,
        atlas=atlas,
        split=split,
        makers=_MAKERS.get(language, labels.MAKERS),
        sized=sized,
        said={} if said is None else said,
    )


def _draw_length(rng: np.random.Generator) -> Length:
    at = rng.random()
    if at < SHORT_SHARE:
        return "short"
    if at < SHORT_SHARE + STYLED_SHARE:
        return "styled"
    return "long" if at < SHORT_SHARE + STYLED_SHARE + LONG_SHARE else "full"


def _lists(fields: Fields, length: Length) -> tuple[str, ...]:
    """Return the names of the lists whose patterns fit a scene."""
    scene, spoken = fields.scene, fields.language in SPOKEN
    styled = style_of(scene) is not None
    if length == "short":
        return (f"{scene.kind}.short",) if spoken else ("short",)
    name = "styled" if length == "styled" and styled else "full"
    base = f"clause.{name}" if _is_clause(fields) else name
    own = spoken and (scene.words is None or not (scene.things or scene.words.board == "none"))
    return (base, f"{scene.kind}.{name}") if own else (base,)


def _is_clause(fields: Fields) -> bool:
    """Tell whether what is seen is said as a clause, as Chinese says where one thing is to another."""
    scene = fields.scene
    related = scene.relation is not None or (scene.words is not None and bool(scene.things))
    return fields.language == "zh" and related


def _long(fields: Fields) -> str:
    """Put sentences together: what is seen, one more detail, the background, and that this is all."""
    scene, clause = fields.scene, "clause" if _is_clause(fields) else ""
    if style_of(scene) is None:
        opening = f"long.{clause}_plain" if clause else "long.plain"
    else:
        opening = f"long.{clause or 'open'}"
    sentences = [_sentence(fields, opening), "", _sentence(fields, f"long.{scene.background.kind}"), ""]
    left = fields.words["longest"] - _extent(fields, *sentences)
    for place, name in ((1, f"long.{scene.kind}"), (3, "long.close")):
        sentence = _sentence(fields, name)
        if _extent(fields, sentence) <= left:
            sentences[place] = sentence
            left -= _extent(fields, sentence)
    return ("" if fields.language == "zh" else " ").join(sentence for sentence in sentences if sentence)


def _long_label(fields: Fields) -> str:
    """Return all facts, as long as there is room for them."""
    plain = style_of(fields.scene) is None
    text = fields.fill("long.plain" if plain else "long").rstrip()
    if _extent(fields, text) > fields.words["longest"]:
        text = fields.fill("long.plain_brief" if plain else "long.brief").rstrip()
    return text


def _sentence(fields: Fields, name: str) -> str:
    return capital(fields.fill(name))


def _extent(fields: Fields, *sentences: str) -> int:
    """Return how long sentences are: words in English, else characters."""
    return sum(len(one.split()) if fields.language == "en" else len(one) for one in sentences)
