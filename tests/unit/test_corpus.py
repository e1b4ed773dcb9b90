"""Texts for the language tower: all kinds and languages in their shares, cut between Chinese words."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from danqing.conditioning.questions import DESCRIBE_QUESTIONS
from danqing.data.atlas import packaged_atlas
from danqing.data.concepts import LANGUAGES, concepts
from danqing.data.language import caption, facts, ordered
from danqing.data.language.corpus import (
    FIRST_ANSWERS,
    READING,
    TALKING,
    corpus,
    draw_language,
    draw_text,
    words,
)
from danqing.data.language.tables import table
from danqing.data.world import RELATIONS, sample_scene


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(0)
    return [draw_text(rng, packaged_atlas()) for _ in range(600)]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("红色背景上有一个苹果。", ["红色", "背景", "上", "有", "一", "个", "苹果", "。"]),
        ("粉色地板", ["粉色", "地板"]),
        ("红色条纹背景", ["红色", "条纹", "背景"]),
        ("写着“停”的牌子", ["写着", "“", "停", "”", "的", "牌子"]),
        ("苹果在狗的前面", ["苹果", "在", "狗", "的", "前面"]),
        ("赤い縞模様の背景", ["赤い", "縞模様", "の", "背景"]),
        ("a red apple, on a blue table", ["a red apple, on a blue table"]),
        ("manzana (azul)", ["manzana (azul)"]),
        ("", []),
    ],
)
def test_chinese_is_cut_between_words_and_other_writing_stays_whole(text, pieces):
    assert words(text) == pieces


def test_every_chinese_noun_and_colour_stands_alone():
    rng, atlas = np.random.default_rng(1), packaged_atlas()
    colours = table("zh").words["colour"]
    for _ in range(200):
        scene = sample_scene(rng, atlas)
        text = caption(scene, "zh", rng, atlas, length="full")
        said = words(text)
        assert "".join(said) == text
        assert {concepts()[thing.concept].chinese for thing in scene.things} <= set(said), text
        if colours[scene.background.colour] + "背景" in text:
            assert colours[scene.background.colour] in said, text


def test_a_corpus_is_its_texts_in_pieces(texts):
    pieces = list(corpus(np.random.default_rng(0), packaged_atlas(), 50))
    assert "".join(pieces) == "".join(text.prompt + text.answer for text in texts[:50])
    assert len(pieces) > 100
    assert all(pieces)


def test_all_kinds_of_texts_appear_in_their_shares(texts):
    kinds = Counter()
    for text in texts:
        sign = text.task == "generate" and text.labels is None
        told = text.prompt in DESCRIBE_QUESTIONS.values()
        kinds["sign" if sign else "caption" if told else text.task] += 1
        assert text.prompt.strip()
        assert bool(text.answer) == (text.task == "describe")
        assert (text.picture is None) == (text.task == "generate")
        assert (text.labels is None) == (sign or text.task == "describe")
    assert any(text.task == "generate" and "”" in text.prompt for text in texts)
    shares = [kinds[kind] / len(texts) for kind in ("generate", "edit", "describe", "caption", "sign")]
    assert shares == pytest.approx([0.54, 0.16, 0.12, 0.12, 0.06], abs=0.05)


@pytest.mark.parametrize("mixture", [READING, FIRST_ANSWERS, TALKING])
def test_shares_are_shares(mixture):
    said = (mixture.captions, mixture.edits, mixture.questions, mixture.descriptions)
    assert min(said) >= 0
    assert sum(said) <= 1
    assert sum(mixture.languages.values()) <= 1


def test_a_mixture_chooses_kinds_languages_and_concepts():
    rng, codes = np.random.default_rng(0), tuple(packaged_atlas().codes[:3])
    mixture = replace(FIRST_ANSWERS, languages={"de": 1.0}, codes=codes)
    drawn = [draw_text(rng, packaged_atlas(), mixture) for _ in range(40)]
    assert {text.task for text in drawn} == {"describe"}
    assert {thing.concept for text in drawn for thing in text.picture.things} == set(codes)
    assert DESCRIBE_QUESTIONS["de"] in {text.prompt for text in drawn}
    assert not {text.prompt for text in drawn} & {DESCRIBE_QUESTIONS[one] for one in LANGUAGES if one != "de"}


def test_answers_can_be_in_languages_of_their_own():
    rng = np.random.default_rng(0)
    mixture = replace(READING, captions=0.5, descriptions=0.5, languages={"zh": 1.0}, answers={"en": 1.0})
    mixture = replace(mixture, edits=0.0, questions=0.0)
    drawn = [draw_text(rng, packaged_atlas(), mixture) for _ in range(20)]
    assert all(text.answer.isascii() for text in drawn if text.task == "describe")
    assert not any(text.prompt.isascii() for text in drawn if text.task == "generate")


def test_languages_come_in_their_shares():
    rng = np.random.default_rng(0)
    drawn = Counter(draw_language(rng) for _ in range(4000))
    assert set(drawn) == set(LANGUAGES)
    expected = {"en": 0.32, "zh": 0.20}
    shares = [drawn[language] / 4000 for language in LANGUAGES]
    assert shares == pytest.approx([expected.get(language, 0.048) for language in LANGUAGES], abs=0.03)


def test_the_shares_of_languages_can_be_chosen():
    rng = np.random.default_rng(0)
    assert {draw_language(rng, {"zh": 1.0}) for _ in range(50)} == {"zh"}
    drawn = Counter(draw_language(rng, {"en": 0.5, "de": 0.5}) for _ in range(400))
    assert set(drawn) == {"en", "de"}
    assert drawn["en"] / 400 == pytest.approx(0.5, abs=0.1)


def test_both_ways_of_saying_a_relation_have_the_same_labels():
    rng, atlas = np.random.default_rng(0), packaged_atlas()
    scenes = [sample_scene(rng, atlas) for _ in range(100)]
    assert {"left", "right", "above", "below"} <= {scene.relation for scene in scenes}
    for scene in scenes:
        before = facts(scene, atlas)
        after = ordered(before)
        if scene.relation in ("right", "below"):
            assert RELATIONS[after.relation] == {"right": "left", "below": "above"}[scene.relation]
            assert after.concepts == before.concepts[::-1]
            assert after.counts == before.counts[::-1]
            assert after.colours == before.colours[::-1]
            assert after.background == before.background
        else:
            assert after == before
