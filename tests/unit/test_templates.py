"""The second look: which sprite in which colour explains a box."""

import numpy as np
import pytest
import torch

from danqing.conditioning.images import to_pixels
from danqing.data.atlas import packaged_atlas
from danqing.data.world import Background, Scene, Thing, render
from danqing.data.world.tiles import extent
from danqing.scoring.reading import Box
from danqing.scoring.templates import Templates

NOTHING = torch.zeros(0, 4)


@pytest.fixture(scope="module")
def templates() -> Templates:
    return Templates(packaged_atlas())


def scene(*things: Thing, colour: str = "white") -> Scene:
    return Scene(things, Background.plain(colour))


def place(thing: Thing) -> torch.Tensor:
    width, height = (thing.size * side for side in extent(thing, packaged_atlas()))
    return torch.tensor([thing.x, thing.y, width, height], dtype=torch.float32)


def pixels(shown: Scene) -> torch.Tensor:
    return to_pixels(render(shown, packaged_atlas(), 128)[None])


def thing(code: str, style: str = "shaded", colour: str | None = None, **where: float) -> Thing:
    return Thing(concept=code, style=style, colour=colour, **{"x": 0.5, "y": 0.5, "size": 0.6, **where})


def test_a_sprite_is_found_among_all_in_the_colour_it_was_given(templates: Templates) -> None:
    atlas = packaged_atlas()
    rng = np.random.default_rng(5)
    dyed = [look for look in templates.all if look.style is not None and look.dye is not None]
    for at in rng.choice(len(dyed), 12, replace=False):
        look = dyed[int(at)]
        assert look.dye in atlas.facts(look.concept, str(look.style)).dyes
        shown = thing(look.concept, str(look.style), look.dye)
        explained = templates.explain(pixels(scene(shown, colour="gray")), place(shown), NOTHING, ())
        best = max(explained, key=explained.__getitem__)
        assert explained[look.concept, look.colour] > 0.93, look
        assert explained[best] - explained[look.concept, look.colour] < 0.03, (look, best)


def test_a_box_that_is_off_is_moved_to_where_the_sprite_fits(templates: Templates) -> None:
    shown = thing("1F34E")
    off = place(shown) * torch.tensor([1.1, 1.0, 0.85, 0.85])
    explained = templates.explain(pixels(scene(shown)), off, NOTHING, ())
    assert max(explained, key=explained.__getitem__)[0] == "1F34E"
    assert max(explained.values()) > 0.92


def test_what_lies_before_a_thing_does_not_count(templates: Templates) -> None:
    behind, before = thing("shape-circle", "shape", "blue", size=0.9), thing("1F34C", size=0.45)
    seen, box, cover = pixels(scene(before, behind)), place(behind), place(before)[None]
    key = ("shape-circle", "blue")
    with_cover = templates.explain(seen, box, cover, ("shape-circle",))
    without = templates.explain(seen, box, NOTHING, ("shape-circle",))
    assert with_cover[key] > 0.97 > without.get(key, 0.0) + 0.02
    assert max(with_cover, key=with_cover.__getitem__) == key


def test_a_thing_that_is_nearly_covered_is_compared_whole(templates: Templates) -> None:
    shown = thing("1F34E")
    whole = templates.explain(pixels(scene(shown)), place(shown), NOTHING, ())
    assert templates.explain(pixels(scene(shown)), place(shown), place(shown)[None], ()) == whole


def test_boxes_cover_what_they_lie_in_and_what_ends_above_them() -> None:
    large, inner = Box(x=0.5, y=0.5, width=0.8, height=0.8), Box(x=0.5, y=0.6, width=0.3, height=0.3)
    lower, apart = Box(x=0.4, y=0.8, width=0.3, height=0.3), Box(x=0.04, y=0.04, width=0.08, height=0.08)
    covering = [(inner, large), (lower, inner)]
    assert all(one.covers(other) for one, other in covering)
    assert not any(other.covers(one) for one, other in [*covering, (apart, large), (large, apart)])
