"""Descriptions: plain, complete, and the same every time."""

import numpy as np
import pytest

from danqing.data.atlas import packaged_atlas
from danqing.data.concepts import LANGUAGES
from danqing.data.language.descriptions import description
from danqing.data.world import Background, Scene, Thing, sample_scene

APPLE, DOG = "1F34E", "1F415"


def pair():
    things = (Thing(APPLE, "shaded", "blue", 0.4, 0.26, 0.5), Thing(DOG, "shaded", None, 0.4, 0.74, 0.5))
    return Scene(things, Background.plain("green"), "left")


def test_all_facts_are_said():
    text = description(pair(), "en", packaged_atlas())
    assert text == "a blue apple to the left of a dog on a green background"


@pytest.mark.parametrize("language", LANGUAGES)
def test_nobody_is_asked_to_draw(language):
    asked = ("draw", "paint", "please", "画一", "请", "帮我", "dibuj", "dessin", "描いて", "그려", "нарису")
    rng, atlas = np.random.default_rng(0), packaged_atlas()
    for _ in range(40):
        text = description(sample_scene(rng, atlas), language, atlas).lower()
        assert not text.startswith(asked)
        assert text == text.strip() != ""


def test_a_scene_has_one_description():
    assert description(pair(), "fr", packaged_atlas()) == description(pair(), "fr", packaged_atlas())
