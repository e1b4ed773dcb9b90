"""The drawn world: what a scene holds is what its picture shows."""

from collections import Counter
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from danqing.data import (
    COLOURS,
    Atlas,
    Background,
    Scene,
    Thing,
    concepts,
    held_out_prompts,
    preview,
    render,
    sample_scene,
)
from danqing.data.atlas import packaged_atlas
from danqing.data.colours import dominant_colour, name_pixels, paint, paint_plain
from danqing.data.world import KIND_SHARES, OPPOSITE, contains_held_out, is_held_out
from danqing.data.world.layout import overlap
from danqing.data.world.sample import visible_colour
from danqing.data.world.scene import SHAPE
from danqing.data.world.tiles import extent
from danqing.errors import DataError

APPLE = "1F34E"
KINDS = ("single", "count", "pair", "group", "between")


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    return packaged_atlas()


def scenes(atlas: Atlas, count: int, seed: int = 0) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [sample_scene(rng, atlas) for _ in range(count)]


def test_same_seed_same_scenes_same_pictures(atlas: Atlas) -> None:
    first, second = scenes(atlas, 20), scenes(atlas, 20)
    assert first == second
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(render(one, atlas, 64), render(other, atlas, 64))


@pytest.mark.parametrize("size", [32, 64, 128])
def test_picture_has_the_size_asked_for(atlas: Atlas, size: int) -> None:
    picture = render(scenes(atlas, 1)[0], atlas, size)
    assert picture.shape == (size, size, 3)
    assert picture.dtype == np.uint8


def test_kinds_come_in_their_shares(atlas: Atlas) -> None:
    kinds = Counter(scene.kind for scene in scenes(atlas, 4000))
    shares = [kinds[kind] / 4000 for kind in KINDS]
    total = sum(KIND_SHARES.values())
    assert shares == pytest.approx([KIND_SHARES[kind] / total for kind in KINDS], abs=0.03)


def test_things_stand_where_the_relation_says(atlas: Atlas) -> None:
    for scene in scenes(atlas, 500):
        if scene.relation in OPPOSITE:
            first, second = scene.things
            dx, dy = first.x - second.x, first.y - second.y
            gap = {"left": -dx, "right": dx, "above": -dy, "below": dy}[scene.relation]
            assert gap > 0.3
        elif scene.relation == "inside":
            inner, outer = scene.things
            assert inner.size < 0.6 * outer.size
        elif scene.relation == "front":
            assert overlap(*scene.things, atlas)
            assert isinstance(scene.items[-1], Thing)
            assert scene.items[-1] == scene.things[0]
        elif scene.relation == "between":
            middle, one, other = scene.things
            assert min(one.x, other.x) < middle.x < max(one.x, other.x) or (
                min(one.y, other.y) < middle.y < max(one.y, other.y)
            )


def test_items_stay_inside_and_things_share_a_style(atlas: Atlas) -> None:
    for scene in scenes(atlas, 500):
        assert len({thing.style for thing in scene.things} - {SHAPE}) <= 1
        for item in scene.items:
            width, height = (item.size * side / 2 for side in extent(item, atlas))
            assert width - 1e-3 <= item.x <= 1 - width + 1e-3
            assert height - 1e-3 <= item.y <= 1 - height + 1e-3


def test_only_inside_and_in_front_things_overlap(atlas: Atlas) -> None:
    for scene in scenes(atlas, 500):
        if scene.relation not in ("inside", "front"):
            for one, other in combinations(scene.things, 2):
                assert abs(one.x - other.x) > 0.1 or abs(one.y - other.y) > 0.1


def test_counts_reach_nine(atlas: Atlas) -> None:
    counts = {len(scene.things) for scene in scenes(atlas, 1500) if scene.kind == "count"}
    assert counts == set(range(2, 10))


def test_counted_things_are_separate_blobs(atlas: Atlas) -> None:
    rng = np.random.default_rng(1)
    counted = [s for s in scenes(atlas, 400) if s.kind == "count" and s.background.kind == "solid"][:20]
    assert counted
    for scene in counted:
        style = next(s for s in atlas.styles if atlas.facts(APPLE, s).colour == "red")
        things = tuple(replace(t, concept=APPLE, style=style, colour=None) for t in scene.things)
        drawn = render(
            Scene(things, Background("blue", "solid", paint("blue", rng), (0, 0, 0), 0.5)),
            atlas,
        )
        red = name_pixels(drawn) == COLOURS.index("red")
        centres = [(round(t.y * 128), round(t.x * 128)) for t in things]
        assert all(red[max(0, y - 6) : y + 6, x - 6 : x + 6].mean() > 0.5 for y, x in centres)


@pytest.mark.parametrize("colour", COLOURS)
def test_paints_are_the_colour_they_are_called(colour: str) -> None:
    rng = np.random.default_rng(0)
    shades = np.array([[paint(colour, rng) for _ in range(200)] + [paint_plain(colour)]], np.uint8)
    assert (name_pixels(shades) == COLOURS.index(colour)).mean() > 0.97


def test_dyed_things_have_the_colour_said(atlas: Atlas) -> None:
    dyed = [
        s for s in scenes(atlas, 600) if s.kind == "single" and s.things[0].colour and s.things[0].size > 0.5
    ]
    assert len(dyed) > 30
    right = 0
    for scene in dyed:
        away = Background.plain("white" if scene.things[0].colour != "white" else "black")
        drawn, empty = (render(Scene(t, away), atlas) for t in (scene.things, ()))
        mask = (drawn != empty).any(-1).astype(np.uint8) * 255
        right += dominant_colour(np.dstack([drawn, mask]), 0.5) == scene.things[0].colour
    assert right / len(dyed) > 0.9


def test_background_is_the_colour_said(atlas: Atlas) -> None:
    for scene in scenes(atlas, 300):
        bottom = render(Scene((), scene.background), atlas, 32)[-3:]
        words = name_pixels(bottom)
        other = (words >= 0) & (words != COLOURS.index(scene.background.colour))
        assert other.mean() < 0.3, scene.background


def test_nothing_vanishes_into_its_background(atlas: Atlas) -> None:
    for scene in scenes(atlas, 500):
        for thing in scene.things:
            assert visible_colour(thing, atlas) != scene.background.colour


def test_a_fifth_of_the_scenes_is_dyed(atlas: Atlas) -> None:
    dyed = np.mean([any(thing.colour for thing in scene.things) for scene in scenes(atlas, 2000)])
    assert 0.12 < dyed < 0.45


def test_held_out_scenes_hold_something_held_out(atlas: Atlas) -> None:
    rng = np.random.default_rng(0)
    assert all(contains_held_out(sample_scene(rng, atlas, "held_out")) for _ in range(50))


def test_held_out_prompts_are_stable_and_truly_held_out() -> None:
    prompts = held_out_prompts(100)
    assert prompts[:10] == held_out_prompts(10)
    assert len({item.prompt for item in prompts}) == 100
    assert prompts[0].prompt == "a pair of scissors on a brown background"
    for item in prompts:
        assert is_held_out("background", item.concept, item.background)
        assert item.scene.things[0].concept == item.concept
        assert concepts()[item.concept].english in item.prompt
        assert item.background in item.prompt


def test_five_in_a_hundred_are_held_out() -> None:
    share = np.mean([is_held_out("background", code, colour) for code in concepts() for colour in COLOURS])
    assert share == pytest.approx(0.05, abs=0.01)


def test_too_many_prompts_are_refused() -> None:
    with pytest.raises(DataError, match="ask for fewer"):
        held_out_prompts(10_000)


def test_unknown_split_is_refused(atlas: Atlas) -> None:
    with pytest.raises(DataError, match="held_out"):
        sample_scene(np.random.default_rng(0), atlas, "test")


def test_a_scene_of_several_things_needs_as_many_concepts():
    atlas = packaged_atlas()
    with pytest.raises(DataError, match="at least 2 concepts"):
        sample_scene(np.random.default_rng(0), atlas, shares={"pair": 1.0}, codes=atlas.codes[:1])


def only(code: str, style: str) -> Scene:
    wanted: dict = {"shares": {"single": 1.0}, "codes": [code], "styles": {style: 1.0}}
    return sample_scene(np.random.default_rng(0), packaged_atlas(), **wanted)


def test_a_scene_that_is_all_held_out_is_refused():
    atlas = packaged_atlas()
    drawn = [(code, style) for code in atlas.codes for style in atlas.styles if atlas.has(code, style)]
    with pytest.raises(DataError, match="no such scene"):
        only(*next(one for one in drawn if is_held_out("style", *one)))
    code, style = next(one for one in drawn if not is_held_out("style", *one))
    assert only(code, style).things[0].concept == code


def test_a_thing_in_a_style_it_does_not_have_is_refused():
    atlas = packaged_atlas()
    missing = next((c, s) for c in atlas.codes for s in atlas.styles if not atlas.has(c, s))
    with pytest.raises(DataError, match="found no 1 of them"):
        only(*missing)


def test_dyeing_a_many_coloured_thing_is_refused(atlas: Atlas) -> None:
    code, style = next((c, s) for c in atlas.codes for s in atlas.styles if atlas.facts(c, s).hue is None)
    scene = Scene((Thing(code, style, "blue", 0.5, 0.5, 0.5),), Background.plain("red"))
    with pytest.raises(DataError, match="dominant hue"):
        render(scene, atlas)


def test_ground_has_a_wall_above_it(atlas: Atlas) -> None:
    scene = next(s for s in scenes(atlas, 200) if s.background.kind == "ground")
    picture = render(Scene((), scene.background), atlas)
    assert tuple(picture[0, 0]) == scene.background.pale
    assert tuple(picture[-1, 0]) != scene.background.pale


def test_preview_writes_a_sheet(atlas: Atlas, tmp_path) -> None:
    drawn = scenes(atlas, 5)
    path = preview(drawn, ["a caption"] * 5, tmp_path / "sheets" / "sheet.png", atlas, columns=3)
    with Image.open(path) as sheet:
        assert sheet.width == 3 * 168 + 8
    with pytest.raises(DataError, match="as many captions"):
        preview(drawn, [], tmp_path / "none.png", atlas)
