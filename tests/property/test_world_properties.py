"""What must hold of every draw from the world."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danqing.data import LANGUAGES, caption, edit_instruction, question, render, sample_scene
from danqing.data.atlas import packaged_atlas
from danqing.data.world import contains_held_out
from danqing.data.world.split import combinations, held_out_words, rank
from danqing.data.world.vocabulary import vocabulary

seeds = st.integers(0, 2**32 - 1)


def held_out_in_training_draws(count: int) -> list[tuple[str, ...]]:
    """Return what is held out, by its hash alone, among the combinations and words of training draws."""
    rng, atlas = np.random.default_rng(0), packaged_atlas()
    drawn: set[tuple[str, ...]] = set()
    for _ in range(count):
        scene = sample_scene(rng, atlas)
        drawn.update(combinations(scene))
        if scene.words is not None:
            drawn.update(("word", line.upper()) for line in scene.words.lines)
    assert len(drawn) > min(10_000, count // 5)
    unseen = held_out_words(vocabulary())
    return [p for p in drawn if (p[1] in unseen if p[0] == "word" else rank(*p) < 0.05 * 2**64)]


def test_no_training_draw_holds_anything_held_out() -> None:
    assert not held_out_in_training_draws(20_000)


@pytest.mark.slow
def test_no_training_draw_in_a_million_holds_anything_held_out() -> None:
    assert not held_out_in_training_draws(10**6)


def test_combinations_do_not_depend_on_the_direction_of_the_relation() -> None:
    rng, atlas = np.random.default_rng(0), packaged_atlas()
    for _ in range(200):
        scene = sample_scene(rng, atlas)
        if scene.relation in ("left", "above"):
            turned = {"left": "right", "above": "below"}[scene.relation]
            mirrored = replace(scene, things=scene.things[::-1], relation=turned)
            assert set(combinations(scene)) == set(combinations(mirrored))


@settings(max_examples=60, deadline=None)
@given(seed=seeds, size=st.sampled_from([16, 48, 128]))
def test_rendering_is_a_function_of_the_state(seed: int, size: int) -> None:
    atlas = packaged_atlas()
    scene = sample_scene(np.random.default_rng(seed), atlas)
    assert hash(scene) == hash(sample_scene(np.random.default_rng(seed), atlas))
    assert np.array_equal(render(scene, atlas, size), render(scene, atlas, size))


@settings(max_examples=150, deadline=None)
@given(seed=seeds, language=st.sampled_from(LANGUAGES))
def test_texts_are_a_function_of_the_seed(seed: int, language: str) -> None:
    atlas = packaged_atlas()

    def texts() -> tuple[str, str, tuple[str, str]]:
        rng = np.random.default_rng(seed)
        scene = sample_scene(rng, atlas)
        instruction, edit = edit_instruction(scene, language, rng, atlas)
        assert not contains_held_out(edit.target)
        return caption(scene, language, rng, atlas), instruction, question(edit.target, language, rng, atlas)

    first = texts()
    assert first == texts()
    assert all(first[:2])
    assert all(first[2])
