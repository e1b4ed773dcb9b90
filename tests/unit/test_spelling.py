"""What is written in a picture is told letter by letter, and reads the same."""

import numpy as np
import pytest

from danqing.data.atlas import packaged_atlas
from danqing.data.language.descriptions import description
from danqing.data.world import Background, Scene, sample_scene
from danqing.training.objectives.spelling import answer_ids


@pytest.mark.parametrize("language", ["en", "zh", "ar"])
def test_the_text_is_the_same(tiny, language):
    tokenizer, rng = tiny.components.tokenizer, np.random.default_rng(0)
    for _ in range(20):
        scene = sample_scene(rng, packaged_atlas(), shares={"words": 1.0})
        answer = description(scene, language, packaged_atlas())
        ids = answer_ids(tokenizer, answer, scene)
        assert tokenizer.decode(ids, skip_special=False) == answer + "<|im_end|>"


def test_letters_are_tokens_of_their_own(tiny):
    tokenizer = tiny.components.tokenizer
    scene = next(
        scene
        for scene in (
            sample_scene(np.random.default_rng(seed), packaged_atlas(), shares={"words": 1.0})
            for seed in range(99)
        )
        if len(scene.words.lines) == 1 and scene.words.lines[0].isascii()
    )
    (line,) = scene.words.lines
    assert [tokenizer.decode([one]) for one in answer_ids(tokenizer, line, scene)[:-1]] == list(line)


def test_other_answers_are_encoded_as_they_are(tiny):
    tokenizer = tiny.components.tokenizer
    expected = tokenizer.encode("a red apple<|im_end|>")
    assert answer_ids(tokenizer, "a red apple", Scene((), Background.plain("red"))) == expected
