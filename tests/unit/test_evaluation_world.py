"""The items of the world evaluation: what they ask, and that they ask it the same way every time."""

import numpy as np
import pytest

from danqing.data import LANGUAGES
from danqing.data.atlas import packaged_atlas
from danqing.data.concepts import core_codes
from danqing.data.world.split import contains_held_out
from danqing.evaluation.world.asked import COUNTS, Asked
from danqing.evaluation.world.items import LENGTHS, count_tokens, world_items, world_rows
from danqing.evaluation.world.scenes import scene_from


@pytest.fixture(scope="module")
def asked() -> list[Asked]:
    return world_items(packaged_atlas(), "smoke", concepts=300)


def test_items_are_stable_and_all_different(asked):
    assert [one.item.id for one in world_items(packaged_atlas(), "smoke", concepts=300)] == [
        one.item.id for one in asked
    ]
    assert len({one.item.id for one in asked}) == len(asked)


def test_only_what_is_taught_is_asked_of_the_grammar(asked):
    taught = set(core_codes()[:300])
    for one in asked:
        if one.scene is not None:
            things = {clause.concept for clause in one.item.include} - {None}
            assert {code for code in things if not code.startswith("shape-")} <= taught


def test_unseen_rows_are_held_out_and_the_others_are_not(asked):
    for one in asked:
        if one.scene is not None:
            unseen = one.item.row.endswith("-unseen") or one.item.ability == "describe"
            face = one.scene.portrait is not None  # nothing about faces is held out
            assert contains_held_out(one.scene) == (unseen and not face), one.item.prompt


def test_every_language_words_the_same_scenes(asked):
    scenes = {
        language: [one.scene for one in asked if one.item.row == f"language-{language}"]
        for language in LANGUAGES
    }
    assert all(found == scenes["en"] for found in scenes.values())
    assert len(scenes["en"]) == COUNTS["smoke"]["language"]


@pytest.mark.parametrize("tokens", LENGTHS)
def test_prompts_are_as_long_as_their_row_says(tokens, asked):
    lengths = [count_tokens(one.item.prompt) for one in asked if one.item.row == f"length-{tokens}"]
    assert lengths
    assert all(abs(length - tokens) <= 0.2 * tokens for length in lengths)


def test_natural_prompts_have_a_true_render(asked):
    rng, atlas = np.random.default_rng(0), packaged_atlas()
    people = [one for one in asked if one.item.row.startswith("natural")]
    drawn = [scene_from(one.item.include, rng, atlas) for one in people]
    assert sum(scene is not None for scene in drawn) > 0.9 * len(people)
    for one, scene in zip(people, drawn, strict=True):
        if scene is not None:
            codes = {thing.concept for thing in scene.things}
            assert {clause.concept for clause in one.item.include} - {None} <= codes


def test_rows_have_names_of_their_own():
    class FakeTrainingPictures:
        def is_new(self, picture):
            return True

    names = [row.name for row in world_rows(FakeTrainingPictures())]
    assert len(set(names)) == len(names)
