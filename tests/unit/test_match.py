"""The judge of drawn pictures: it reads pixels, and knows what rendered scenes show."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from danqing.data.atlas import Atlas, packaged_atlas
from danqing.data.colours import COLOURS
from danqing.data.world import Background, Scene, draw_background, held_out_prompts, render, sample_scene
from danqing.errors import DataError
from danqing.scoring.background import read_background
from danqing.scoring.match import STYLES, Matcher, first_concepts, packaged_matcher

KINDS = ("solid", "gradient", "radial", "ground")


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    return packaged_atlas()


@pytest.fixture(scope="module")
def matcher() -> Matcher:
    return packaged_matcher()


def single_scenes(atlas: Atlas, count: int) -> list[Scene]:
    rng, found = np.random.default_rng(11), []
    while len(found) < count:
        scene = sample_scene(rng, atlas, "held_out", shares={"single": 1.0}, codes=first_concepts())
        if scene.things[0].style in STYLES:
            found.append(scene)
    return found


def worn(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blur by 0.7 pixels and add noise of 3 levels, like an autoencoder of about 28 dB."""
    blurred = np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(0.7)), np.float32)
    return (blurred + rng.normal(0, 3, picture.shape)).clip(0, 255).round().astype(np.uint8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("colour", COLOURS)
def test_an_empty_background_has_its_colour_and_kind_and_no_thing(colour, kind, matcher):
    rng = np.random.default_rng(3)
    for _ in range(4):
        scene = Scene((), draw_background(rng, colour, kind))
        picture = render(scene, packaged_atlas())
        seen = read_background(worn(picture, rng))
        assert (seen.colour, seen.kind) == (colour, kind)
        assert matcher.judge(picture).concept is None


def test_scenes_of_all_kinds_have_the_background_they_were_given(atlas):
    rng = np.random.default_rng(4)
    scenes = [sample_scene(rng, atlas, shares={"single": 0.5, "pair": 0.5}) for _ in range(200)]
    scenes = [scene for scene in scenes if scene.background.kind in KINDS and scene.relation != "inside"]
    hits = [read_background(render(s, atlas)).colour == s.background.colour for s in scenes]
    assert np.mean(hits) >= 0.99


def test_the_ceiling_on_held_out_scenes(atlas, matcher):
    rng = np.random.default_rng(0)
    scenes = single_scenes(atlas, 60)
    pictures = [render(scene, atlas) for scene in scenes]
    plain = [matcher.judge(p).concept == s.things[0].concept for p, s in zip(pictures, scenes, strict=True)]
    worse = [
        matcher.judge(worn(p, rng)).concept == s.things[0].concept
        for p, s in zip(pictures, scenes, strict=True)
    ]
    assert np.mean(plain) >= 0.97
    assert np.mean(worse) >= 0.93


@pytest.mark.parametrize("size", [64, 96, 256])
def test_pictures_of_other_sizes_are_judged_too(size, atlas, matcher):
    prompts = held_out_prompts(8, atlas, first_concepts())
    for prompt in prompts:
        seen = matcher.judge(Image.fromarray(render(prompt.scene, atlas, size)))
        assert (seen.concept, seen.background) == (prompt.concept, prompt.background)
        assert 0.8 < seen.score <= 1.0001
        assert seen.runner_up != seen.concept
        assert seen.margin > 0


def test_nothing_but_the_pixels_counts(atlas, matcher):
    picture = render(held_out_prompts(1, atlas, first_concepts())[0].scene, atlas)
    labelled = Image.fromarray(picture)
    labelled.info["prompt"] = "a cat on a green background"
    assert matcher.judge(labelled) == matcher.judge(picture)


def test_noise_is_no_thing_with_certainty(matcher):
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3)).astype(np.uint8)
    assert matcher.judge(noise).score < 0.5


@pytest.mark.parametrize(
    "picture",
    [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3), np.float32)],
)
def test_what_is_no_picture_is_refused(picture, matcher):
    with pytest.raises(DataError, match="expected a picture"):
        matcher.judge(picture)


def test_a_plain_background_is_read_in_its_middle_shade():
    for colour in COLOURS:
        scene = Scene((), Background.plain(colour))
        assert read_background(render(scene, packaged_atlas())).colour == colour
