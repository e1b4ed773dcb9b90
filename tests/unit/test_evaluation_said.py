"""Texts read back: the grammar's own captions in full, other scenes' hardly, and errors found one by one."""

import numpy as np
import pytest

from danqing.data import LANGUAGES
from danqing.data.atlas import packaged_atlas
from danqing.data.language import caption
from danqing.data.language.descriptions import description
from danqing.data.world import Scene, sample_scene
from danqing.errors import DataError
from danqing.evaluation.items import Clause, Item
from danqing.evaluation.world.asked import clauses
from danqing.evaluation.world.said import understand
from danqing.evaluation.world.texts import TextJudge, same_answer

SHARES = {"single": 0.3, "count": 0.2, "group": 0.15, "pair": 0.2, "between": 0.05, "words": 0.1}
APPLE, DOG, CAT = "1F34E", "1F415", "1F408"


def scenes(count: int) -> list[Scene]:
    rng = np.random.default_rng(3)
    return [sample_scene(rng, packaged_atlas(), "held_out", shares=SHARES) for _ in range(count)]


def share_right(text: str, scene: Scene, language: str) -> float:
    item = Item(
        row="describe", prompt="", ability="describe", source="x", language=language, include=clauses(scene)
    )
    return float(np.mean([atom.value for atom in TextJudge().judge(text, item)]))


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_the_grammar_says_is_read_back(language):
    rng, atlas = np.random.default_rng(4), packaged_atlas()
    for length in ("full", "styled", "long"):
        found = [
            share_right(caption(scene, language, rng, atlas, length=length, split=split), scene, language)
            for scene in scenes(25)
            for split in ("train", "held_out")
        ]
        assert np.mean(found) >= 0.98, length
    told = [share_right(description(scene, language, atlas), scene, language) for scene in scenes(25)]
    assert np.mean(told) >= 0.98


@pytest.mark.parametrize("language", ["en", "zh", "de", "ar"])
def test_captions_of_other_scenes_are_mostly_wrong(language):
    rng, some = np.random.default_rng(5), scenes(50)
    texts = [caption(scene, language, rng, length="full") for scene in some]
    found = [share_right(text, scene, language) for text, scene in zip(texts[1:], some, strict=False)]
    assert np.mean(found) < 0.15


ASKED = (
    Clause(concept=APPLE, count=2, colour="green", position=("left", 1)),
    Clause(concept=DOG),
    Clause(background="blue"),
)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("two green apples to the left of a dog on a blue table", []),
        ("On a blue background there is a dog with 2 green apples to its left.", []),
        ("two green apples left of a dog, in front of a blue background", []),
        ("three green apples to the left of a dog on a blue table", ["count"]),
        ("two red apples to the left of a dog on a blue table", ["colour"]),
        ("two green apples to the right of a dog on a blue table", ["position"]),
        ("a dog to the right of two green apples on a black table", ["background"]),
        ("two green apples on a blue table", ["position", "object"]),
        ("two green apples to the left of a dog and a cat on a blue table", ["object"]),
        ('two green apples to the left of a dog, a sign that says "DOG", blue background', ["words"]),
        ("", ["object", "count", "colour", "position", "object", "background"]),
    ],
)
def test_each_wrong_fact_is_found_alone(text, wrong):
    item = Item(row="describe", prompt="", ability="describe", source="x", include=ASKED)
    atoms = TextJudge().judge(text, item)
    assert [atom.name for atom in atoms if atom.value == 0] == wrong


def test_an_orange_is_a_fruit_or_a_colour():
    assert [one.concept for one in understand("an orange on a white background", "en").mentions] == ["1F34A"]
    said = understand("an orange cat on an orange background", "en")
    assert [(one.concept, one.colour) for one in said.mentions] == [(CAT, "orange")]
    assert said.backgrounds == ("orange",)
    assert understand('a sign that says "CAT" in orange, black background', "en").mentions == ()


@pytest.mark.parametrize(
    ("said", "wanted", "language"),
    [
        ("Three.", "three", "en"),
        ("3", "three", "en"),
        ("a blue house and the dress", "a dress and a blue house", "en"),
        ("a green apple", "an apple", "en"),
        ("红色", "红色", "zh"),
        ("两只狗和一个红色的苹果", "一个红色的苹果和两只狗", "zh"),
        ("3个。", "三个", "zh"),
        ("Sí", "sí", "es"),
        ("open", "OPEN", "en"),
    ],
)
def test_answers_are_compared_by_what_they_say(said, wanted, language):
    assert same_answer(said, wanted, language)


@pytest.mark.parametrize(
    ("said", "wanted", "language"),
    [
        ("two", "three", "en"),
        ("no", "yes", "en"),
        ("an apple", "a green apple", "en"),
        ("an apple and a dog", "an apple", "en"),
        ("", "yes", "en"),
        ("蓝色", "红色", "zh"),
        ("没有", "有", "zh"),
    ],
)
def test_other_answers_are_wrong(said, wanted, language):
    assert not same_answer(said, wanted, language)


def test_a_language_that_nobody_speaks_is_refused():
    with pytest.raises(DataError, match="expected a language"):
        understand("hund", "da")
