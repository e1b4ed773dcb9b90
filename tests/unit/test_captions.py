"""Captions, instructions and questions say what is true of their scene."""

import re

import numpy as np
import pytest

from danqing.data import (
    COLOURS,
    LANGUAGES,
    Atlas,
    Background,
    Scene,
    Thing,
    caption,
    concepts,
    edit_instruction,
    facts,
    question,
    render,
    sample_scene,
    sign_text,
)
from danqing.data.atlas import packaged_atlas
from danqing.data.phrases import chinese_noun, english_noun, phrases
from danqing.data.world import OPPOSITE, contains_held_out
from danqing.errors import DataError

APPLE, DOG, SCISSORS, JEANS = "1F34E", "1F415", "2702", "1F456"


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    return packaged_atlas()


def single(code: str = APPLE, colour: str | None = None, kind: str = "solid", size: float = 0.6) -> Scene:
    return Scene(
        (Thing(code, "flat", colour, size, 0.5, 0.5),), Background.plain("blue", kind), "single", None
    )


def pair() -> Scene:
    things = (Thing(APPLE, "flat", "green", 0.4, 0.27, 0.5), Thing(DOG, "flat", None, 0.4, 0.73, 0.5))
    return Scene(things, Background.plain("orange"), "pair", "left")


def count(n: int = 3) -> Scene:
    things = tuple(Thing(APPLE, "3D", None, 0.3, x, 0.5) for x in (0.2, 0.5, 0.8)[:n])
    return Scene(things, Background.plain("yellow"), "count", None)


def many(scene: Scene, language: str, n: int = 300, atlas: Atlas | None = None) -> set[str]:
    rng = np.random.default_rng(0)
    return {caption(scene, language, rng, atlas) for _ in range(n)}


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("scene", [single(), pair(), count()])
def test_a_scene_has_many_phrasings(scene: Scene, language: str) -> None:
    assert len(phrases()[language][scene.kind]["full"]) >= 8
    assert len(many(scene, language)) >= 16


@pytest.mark.parametrize("language", LANGUAGES)
def test_captions_are_short_and_filled_in(language: str, atlas: Atlas) -> None:
    rng = np.random.default_rng(1)
    for _ in range(150):
        text = caption(sample_scene(rng, atlas), language, rng, atlas)
        assert 0 < len(text.split()) <= 50
        assert len(text) < 200
        assert not set("{}") & set(text)
        assert "None" not in text
        assert "  " not in text


def test_english_articles_are_right(atlas: Atlas) -> None:
    rng = np.random.default_rng(2)
    for _ in range(1500):
        text = caption(sample_scene(rng, atlas), "en", rng, atlas)
        wrong = re.findall(r"\b[Aa] ([aeiouAEIOU]\w*)|\b[Aa]n ([^aeiouAEIOU\s]\w*)", text)
        assert all((vowel or other) in ("unicorn", "hourglass") for vowel, other in wrong), text


def test_counts_are_said_and_nouns_are_plural() -> None:
    for text in many(count(3), "en"):
        assert "apples" in text
        assert not re.search(r"\b(two|2)\b", text)
    assert any(text.startswith("two apples") for text in many(count(2), "en"))
    assert any("两个苹果" in text for text in many(count(2), "zh"))
    assert any("三个苹果" in text for text in many(count(3), "zh"))


def test_dyes_are_always_said_and_never_invented() -> None:
    assert all("green" in text for text in many(single(colour="green"), "en"))
    assert all("绿色" in text for text in many(single(colour="green"), "zh"))
    undyed = many(single(), "en")
    assert not any(colour in text for text in undyed for colour in set(COLOURS) - {"blue"})


def test_natural_colours_are_said_only_with_an_atlas(atlas: Atlas) -> None:
    assert any("red apple" in text for text in many(single(), "en", atlas=atlas))
    assert not any("red" in text for text in many(single(), "en"))


def test_relations_are_said_the_right_way_round() -> None:
    for text in many(pair(), "en"):
        left, right = re.search("left", text), re.search("right", text)
        apple, dog = text.index("apple"), text.index("dog")
        if "on the left" in text and "on the right" in text:
            assert (apple < dog) == (left.start() < right.start())
        elif left:
            assert apple < dog
        elif right:
            assert dog < apple
    for text in many(pair(), "zh"):
        if "在" in text and ("狗的左边" in text or "狗左边" in text):
            assert text.index("苹果") < text.index("狗")


def test_background_is_nearly_always_said() -> None:
    rng = np.random.default_rng(0)
    said = np.mean(["blue" in caption(single(), "en", rng) for _ in range(500)])
    assert said > 0.8


def test_ground_is_a_table_or_a_floor() -> None:
    texts = many(single(kind="ground"), "en")
    assert any("on a blue table" in text for text in texts)
    assert any("on a blue floor" in text for text in texts)
    assert not any("background" in text for text in texts)


def test_sizes_are_said_of_plainly_small_and_large_things() -> None:
    assert any("small apple" in text for text in many(single(size=0.3), "en"))
    assert any("large apple" in text for text in many(single(size=0.82), "en"))
    assert not any(re.search("small|large|big|tiny|huge", text) for text in many(single(size=0.6), "en"))


def test_colours_stand_where_english_puts_them() -> None:
    assert english_noun(SCISSORS, "blue", "small") == "small pair of blue scissors"
    assert english_noun(JEANS, "red", many=True) == "pairs of red jeans"
    assert english_noun(APPLE, "green") == "green apple"


def test_colours_and_sizes_stand_where_chinese_puts_them() -> None:
    rng = np.random.default_rng(0)
    found = {chinese_noun(rng, APPLE, "red", size) for size in ("小", "很大的") for _ in range(9)}
    assert found == {"红色的小苹果", "红色小苹果", "很大的红色的苹果", "很大的红色苹果"}


def test_labels_in_other_languages() -> None:
    assert any(text.startswith("manzana (verde)") for text in many(single(colour="green"), "es"))
    assert any("auf blauem Hintergrund" in text for text in many(single(), "de"))
    assert any("青い背景" in text for text in many(single(), "ja"))


def test_unknown_language_is_refused() -> None:
    rng = np.random.default_rng(0)
    for call in (caption, question, edit_instruction):
        with pytest.raises(DataError, match="tlh"):
            call(single(), "tlh", rng)
    with pytest.raises(DataError, match="'zh'"):
        sign_text(rng, "fr")


def test_facts_are_the_state(atlas: Atlas) -> None:
    labels = facts(pair())
    codes = list(concepts())
    assert labels.concepts == (codes.index(APPLE), codes.index(DOG))
    assert labels.counts == (1, 1)
    assert labels.colours == (COLOURS.index("green"), -1)
    assert labels.background == COLOURS.index("orange")
    assert labels.relation == 0
    assert facts(count(3)).counts == (3,)
    assert facts(single(), atlas).colours == (COLOURS.index("red"),)


@pytest.mark.parametrize("language", LANGUAGES)
def test_edits_end_in_scenes_that_can_be_drawn(language: str, atlas: Atlas) -> None:
    rng = np.random.default_rng(3)
    for _ in range(60):
        scene = sample_scene(rng, atlas)
        text, edit = edit_instruction(scene, language, rng, atlas)
        assert not set("{}") & set(text)
        assert "None" not in text
        assert len(text.split()) <= 50
        assert edit.source == scene != edit.target
        assert not contains_held_out(edit.target)
        assert render(edit.target, atlas, 32).shape == (32, 32, 3)


def test_each_edit_does_what_it_says(atlas: Atlas) -> None:
    rng = np.random.default_rng(4)
    seen = set()
    for _ in range(1500):
        scene = sample_scene(rng, atlas)
        text, edit = edit_instruction(scene, "en", rng, atlas)
        before, after = edit.source, edit.target
        seen.add(edit.kind)
        match edit.kind:
            case "add":
                assert after.things[0].concept != after.things[1].concept == before.things[0].concept
                assert concepts()[after.things[0].concept].english in text
            case "more":
                assert len(after.things) == len(before.things) + 1
            case "fewer":
                assert after.things == before.things[:-1]
            case "remove":
                assert after.things == (before.things[1 - edit.subject],)
                assert concepts()[before.things[edit.subject].concept].english.split()[-1] in text
            case "replace":
                assert after.things[edit.subject].concept != before.things[edit.subject].concept
            case "recolour":
                assert after.things[edit.subject].colour in text
            case "background":
                assert after.background.colour in text
                assert after.things == before.things
            case "style":
                assert after.things[0].style in text
            case "count":
                assert {2: "two", 3: "three"}[len(after.things)] in text
            case "move":
                assert after.relation == OPPOSITE[before.relation]
    assert len(seen) == 10


def test_answers_are_true(atlas: Atlas) -> None:
    rng = np.random.default_rng(5)
    answers = {question(pair(), "en", rng) for _ in range(400)}
    assert ("what is to the right of the apple?", "a dog") in answers
    assert ("what is to the left of the dog?", "a green apple") in answers
    assert ("what colour is the apple?", "green") in answers
    assert ("what colour is the background?", "orange") in answers
    assert ("is there a dog in the picture?", "yes") in answers
    assert not any(text.startswith("is there a dog") and answer == "no" for text, answer in answers)
    assert ("how many apples are there?", "three") in {question(count(), "en", rng) for _ in range(200)}
    assert ("有几个苹果？", "三个") in {question(count(), "zh", rng) for _ in range(200)}
    assert ("¿Qué hay a la izquierda?", "manzana (verde)") in {
        question(pair(), "es", rng) for _ in range(200)
    }


def test_no_colour_is_asked_that_is_not_certain() -> None:
    rng = np.random.default_rng(6)
    assert not any("apple" in question(single(), "en", rng)[0].partition("colour")[2] for _ in range(200))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_signs_quote_a_short_word(language: str) -> None:
    rng = np.random.default_rng(7)
    for _ in range(200):
        text = sign_text(rng, language)
        (word,) = re.findall('["“](.*?)["”]', text)
        assert re.fullmatch("[A-Z]{1,6}|[\u4e00-\u9fff]{1,2}", word)
        assert not re.search(r"\ba orange", text)
