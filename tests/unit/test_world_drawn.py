"""Drawn tiles of the world: shapes, written words, portraits, and the scenes that show them."""

from dataclasses import replace

import numpy as np
import pytest

from danqing.data.atlas import Atlas, packaged_atlas
from danqing.data.colours import COLOURS, dominant_colour
from danqing.data.fonts import FONTS, font, sign_fonts
from danqing.data.world.boards import letter_height, words_extent, words_tile
from danqing.data.world.edits import sample_edit
from danqing.data.world.layout import overlap
from danqing.data.world.portraits import (
    GLASSES,
    HAIR,
    HATS,
    MOUTHS,
    SKINS,
    portrait_colours,
    portrait_tile,
    sample_portrait,
)
from danqing.data.world.render import render
from danqing.data.world.sample import sample_scene, visible_colour
from danqing.data.world.scene import SHAPE, Scene, Words
from danqing.data.world.shapes import CONTAINERS, shape_tile, shapes
from danqing.data.world.split import any_held_out, contains_held_out
from danqing.data.world.tiles import extent
from danqing.data.world.vocabulary import all_words, vocabulary
from danqing.data.world.words import CONTRAST, READABLE, contrast, readable_on, sample_words
from danqing.errors import DataError


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    return packaged_atlas()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def test_every_drawn_tile_fills_its_square_in_one_direction(rng: np.random.Generator) -> None:
    tiles = [shape_tile(code, "green") for code in shapes()]
    tiles += [words_tile(sample_words(rng)) for _ in range(40)]
    tiles += [portrait_tile(sample_portrait(rng)) for _ in range(20)]
    for tile in tiles:
        opaque = tile[..., 3] > 12
        across, down = opaque.any(0), opaque.any(1)
        assert max(_reach(across), _reach(down)) >= len(tile) - 6  # fonts come in whole pixels


@pytest.mark.parametrize("code", sorted(shapes()))
def test_a_shape_has_the_colour_that_it_is_said_to_have(code: str) -> None:
    assert [dominant_colour(shape_tile(code, colour)) for colour in COLOURS] == list(COLOURS)


def test_held_out_words_are_written_only_on_request(rng: np.random.Generator) -> None:
    assert not any(any_held_out(sample_words(rng).lines) for _ in range(5000))
    assert all(any_held_out(sample_words(rng, held_out=True).lines) for _ in range(100))


def test_words_can_be_read(rng: np.random.Generator) -> None:
    for words in (sample_words(rng, avoid=("red",)) for _ in range(400)):
        assert "red" not in (words.ink, words.board_colour)
        assert words.board == "none" or contrast(words.ink_rgb, words.board_rgb) >= CONTRAST
        if max(map(len, words.lines)) <= 6:
            assert letter_height(words) >= READABLE - 1e-4


@pytest.mark.parametrize("face", FONTS, ids=lambda face: face.name)
def test_a_font_has_a_glyph_for_every_word_of_its_script(face) -> None:
    drawn = font(face.name, 24)
    missing = bytes(drawn.getmask("\uffff"))
    words = all_words("chinese" if face.script == "chinese" else "latin")
    letters = sorted(set("".join(words)))
    assert face.name in sign_fonts(face.script)
    assert not [letter for letter in letters if bytes(drawn.getmask(letter)) == missing]
    assert len({bytes(drawn.getmask(letter)) for letter in letters}) == len(letters)


def test_the_words_of_a_reader_hold_no_doubles() -> None:
    assert len(set(vocabulary())) == len(vocabulary())


@pytest.mark.parametrize(
    ("attribute", "choices"),
    [
        ("skin", SKINS),
        ("hair", HAIR),
        ("glasses", GLASSES),
        ("hat", HATS),
        ("mouth", MOUTHS),
        ("beard", (False, True)),
        ("shirt", COLOURS),
        ("hair_colour", COLOURS),
    ],
)
def test_every_attribute_of_a_portrait_can_be_seen(attribute: str, choices, rng: np.random.Generator) -> None:
    plain = {"hat": "none", "hair": "long", "glasses": "none", "beard": False, "mouth": "neutral"}
    portrait = replace(sample_portrait(rng), **plain)
    tiles = [portrait_tile(replace(portrait, **{attribute: choice})) for choice in choices]
    for at, tile in enumerate(tiles):
        for other in tiles[:at]:
            differing = np.abs(tile.astype(int) - other).max(-1) > 24
            assert differing.mean() > 0.002  # some 70 of 36,864 pixels, the size of a closed mouth


def test_a_portrait_stands_inside_the_picture_and_avoids_colours(atlas: Atlas, rng) -> None:
    for portrait in (sample_portrait(rng, avoid=("red", "blue")) for _ in range(100)):
        width, height = (portrait.size * side for side in extent(portrait, atlas))
        assert width / 2 <= portrait.x <= 1 - width / 2
        assert portrait.y + height / 2 == pytest.approx(1, abs=1e-3)
        assert not portrait_colours(portrait) & {"red", "blue"}
    with pytest.raises(DataError, match="expected hat"):
        portrait_tile(replace(portrait, hat="crown"))


def test_scenes_of_words_can_be_read_and_nothing_overlaps(atlas: Atlas, rng: np.random.Generator) -> None:
    scenes = _scenes(atlas, rng, "words", 150)
    assert 0.1 < np.mean([len(scene.things) == 1 for scene in scenes]) < 0.4
    for scene in scenes:
        assert scene.kind == "words"
        assert scene.relation is None
        assert isinstance(scene.words, Words)
        assert readable_on(scene.words, scene.background)
        width, height = (scene.words.size * side / 2 for side in words_extent(scene.words))
        assert width <= min(scene.words.x, 1 - scene.words.x) + 1e-3
        assert height <= min(scene.words.y, 1 - scene.words.y) + 1e-3
        assert not any(overlap(scene.words, thing, atlas) for thing in scene.things)


def test_scenes_of_portraits_show_them_before_another_colour(atlas: Atlas, rng) -> None:
    for scene in _scenes(atlas, rng, "portrait", 50):
        assert scene.kind == "portrait"
        assert scene.portrait is not None
        assert scene.background.colour not in portrait_colours(scene.portrait)


def test_things_are_inside_shapes_that_hold_them(atlas: Atlas, rng: np.random.Generator) -> None:
    found = [scene for scene in _scenes(atlas, rng, "pair", 300) if scene.relation == "inside"]
    assert len(found) > 15
    for inner, outer in (scene.things for scene in found):
        assert outer.concept in CONTAINERS
        assert outer.style == SHAPE
        assert visible_colour(inner, atlas) != outer.colour
        assert inner.size < 0.6 * outer.size


def test_shapes_are_drawn_now_and_then_and_never_against_the_codes(atlas: Atlas, rng) -> None:
    things = [thing for scene in _scenes(atlas, rng, "single", 600) for thing in scene.things]
    assert 0.03 < np.mean([thing.style == SHAPE for thing in things]) < 0.1
    chosen = [sample_scene(rng, atlas, codes=atlas.codes[:40]) for _ in range(200)]
    assert {thing.concept for scene in chosen for thing in scene.things} <= set(atlas.codes[:40])


def test_held_out_words_scenes_are_found_and_portraits_hold_nothing_out(atlas: Atlas, rng) -> None:
    scenes = [sample_scene(rng, atlas, "held_out", shares={"words": 1.0}) for _ in range(20)]
    assert all(contains_held_out(scene) for scene in scenes)
    with pytest.raises(DataError, match="portrait"):
        sample_scene(rng, atlas, "held_out", shares={"portrait": 1.0})


@pytest.mark.parametrize("kind", ["words", "portrait", "pair"])
def test_edits_keep_scenes_valid(kind: str, atlas: Atlas, rng: np.random.Generator) -> None:
    for scene in _scenes(atlas, rng, kind, 60):
        edit = sample_edit(scene, rng, atlas)
        target = edit.target
        assert target != scene
        assert target.portrait == scene.portrait
        if target.words is not None:
            assert target.things == scene.things
            assert readable_on(target.words, target.background)
        if target.portrait is not None:
            assert target.background.colour not in portrait_colours(target.portrait)
        if target.relation == "inside":
            assert target.things[1].concept in CONTAINERS
        assert render(target, atlas, 64).shape == (64, 64, 3)


def _reach(covered: np.ndarray) -> int:
    at = np.flatnonzero(covered)
    return int(at[-1] - at[0] + 1)


def _scenes(atlas: Atlas, rng: np.random.Generator, kind, count: int) -> list[Scene]:
    return [sample_scene(rng, atlas, shares={kind: 1.0}) for _ in range(count)]
