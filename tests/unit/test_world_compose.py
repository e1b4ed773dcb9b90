"""The compositor draws what the renderer draws, many scenes at once."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from danqing.data import Atlas, Background, Scene, Thing, sample_scene
from danqing.data.atlas import packaged_atlas
from danqing.data.colours import COLOURS, name_pixels
from danqing.data.world import KIND_SHARES, render
from danqing.data.world.compose import TileBank, compose
from danqing.data.world.render import layers, paint_background
from danqing.data.world.scene import SHAPE, TEXTURES
from danqing.errors import DataError

TOLERANCE = 2
ORDERS = pytest.mark.parametrize("by_rank", [False, True], ids=["scene by scene", "by rank"])


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    return packaged_atlas()


@pytest.fixture(scope="module")
def scenes(atlas: Atlas) -> list[Scene]:
    """Every kind of scene before every kind of background."""
    rng = np.random.default_rng(0)
    drawn = [sample_scene(rng, atlas) for _ in range(224)]
    assert {scene.background.kind for scene in drawn} >= {"solid", "gradient", "radial", "ground", *TEXTURES}
    assert {scene.kind for scene in drawn} == set(KIND_SHARES)
    return drawn


@pytest.fixture(scope="module")
def corners(atlas: Atlas) -> list[Scene]:
    """Scenes that no generator draws: over the edge, outside, tiny, huge, crowded, empty."""
    code, other = atlas.codes[:2]
    style = next(s for s in atlas.styles if atlas.has(code, s) and atlas.has(other, s))
    first, second = Thing(code, style, None, 0.5, 0.5, 0.5), Thing(other, style, None, 0.4, 0.6, 0.55)
    at = [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.5, 1.02), (-0.4, 0.5), (0.9, 1.4)]
    lone = [replace(first, x=x, y=y, size=size) for x, y in at for size in (0.3, 0.7)]
    sides = [replace(first, size=size) for size in (0.004, 0.0156, 0.03, 1.0, 1.7)]
    crowd = tuple(replace(second, x=0.1 + 0.09 * i, y=0.5 + 0.02 * i) for i in range(10))
    stacks = [(), (first, second), (second, first, replace(first, x=0.45)), crowd, (*lone, *sides)]
    piles = [(thing,) for thing in (*lone, *sides)] + stacks
    kinds = ("solid", "gradient", "radial", "ground", *TEXTURES)
    return [
        Scene(things, Background.plain(COLOURS[i % len(COLOURS)], kinds[i % len(kinds)]))
        for i, things in enumerate(piles)
    ] + [Scene((first, second), Background.plain("green", kind)) for kind in kinds]


@ORDERS
@pytest.mark.parametrize("size", [64, 128, 192, 256])
def test_pictures_equal_the_reference(
    atlas: Atlas, scenes: list[Scene], corners: list[Scene], size: int, by_rank: bool
) -> None:
    few = size > 64 and by_rank  # which is made for accelerators
    drawn = [*scenes[: 24 if few else 224 if size < 192 else 64], *corners[:: 4 if few else 1]]
    pictures = compose(drawn, atlas, size, by_rank=by_rank)
    assert pictures.shape == (len(drawn), 3, size, size)
    assert pictures.dtype == torch.uint8
    away = differences(pictures, drawn, atlas)
    assert away.max() <= TOLERANCE
    assert (away > 0).mean() < 0.001


@ORDERS
def test_a_scene_gives_the_same_bytes_alone_and_in_any_company(
    atlas: Atlas, scenes: list[Scene], corners: list[Scene], by_rank: bool
) -> None:
    drawn = [*scenes[:16], *corners[:8]]
    together = compose(drawn, atlas, 64, by_rank=by_rank)
    backwards = compose(drawn[::-1], atlas, 64, by_rank=by_rank).flip(0)
    alone = torch.cat([compose([scene], atlas, 64, by_rank=by_rank) for scene in drawn])
    assert torch.equal(together, backwards)
    assert torch.equal(together, alone)


@ORDERS
def test_tiles_of_different_sides_share_a_picture(atlas: Atlas, scenes: list[Scene], by_rank: bool) -> None:
    mixed = MixedSides(atlas)
    assert (
        len({mixed.sprite(code, style).shape[0] for code in atlas.codes for style in atlas.styles_of(code)})
        == 3
    )
    drawn = [scene for scene in scenes if scene.kind == "pair"][:16]
    assert differences(compose(drawn, mixed, 96, by_rank=by_rank), drawn, mixed).max() <= TOLERANCE


def test_a_small_bank_forgets_and_draws_the_same(atlas: Atlas, scenes: list[Scene]) -> None:
    drawn = [scene for scene in scenes if scene.kind in ("single", "count", "pair")][:48]
    drawn = [scene for scene in drawn if all(thing.style != SHAPE for thing in scene.things)]
    things = {(thing.concept, thing.style, thing.colour) for scene in drawn for thing in scene.things}
    assert len(things) > 40
    small = TileBank(atlas, capacity=40)
    wide = compose(drawn, atlas, 64, by_rank=True)
    for _ in range(2):
        parts = [drawn[i : i + 8] for i in range(0, len(drawn), 8)]
        narrow = [compose(part, atlas, 64, bank=small, by_rank=True) for part in parts]
        assert torch.equal(torch.cat(narrow), wide)
        assert len(small) <= 40


def test_a_tile_is_uploaded_once(atlas: Atlas, scenes: list[Scene]) -> None:
    bank = TileBank(atlas)
    drawn = [scene for scene in scenes[:32] if scene.things]
    compose(drawn, atlas, 32, bank=bank, by_rank=True)
    kept = len(bank)
    compose(drawn[::-1], atlas, 32, bank=bank, by_rank=True)
    moved = [replace(scene.things[0], x=0.1, y=0.9, size=0.2) for scene in drawn]
    assert bank.find(moved) == bank.find([scene.things[0] for scene in drawn])
    assert len(bank) == kept


def test_too_many_tiles_at_once_are_refused(atlas: Atlas, scenes: list[Scene]) -> None:
    with pytest.raises(DataError, match="raise the capacity"):
        compose(scenes, atlas, 32, bank=TileBank(atlas, capacity=2), by_rank=True)


def test_a_bank_of_another_atlas_is_refused(atlas: Atlas, scenes: list[Scene]) -> None:
    with pytest.raises(DataError, match="bank of this atlas"):
        compose(scenes[:1], atlas, bank=TileBank(MixedSides(atlas)))


def test_no_scenes_give_no_pictures(atlas: Atlas) -> None:
    assert compose([], atlas, 32).shape == (0, 3, 32, 32)


def test_by_rank_the_number_of_kernels_does_not_grow_with_the_batch(
    atlas: Atlas, scenes: list[Scene]
) -> None:
    bank = TileBank(atlas)
    counts = []
    for repeat in (1, 1, 4):  # the first fills the bank
        with Operations() as operations:
            compose(scenes[:16] * repeat, atlas, 32, bank=bank, by_rank=True)
        counts.append(operations.count)
    assert counts[1] == counts[2]


@pytest.mark.parametrize("kind", TEXTURES)
def test_textures_look_alike_at_every_size(kind) -> None:
    background = Background.plain("blue", kind)
    small, large = (paint_background(background, size).astype(float) for size in (64, 512))
    shrunk = large.reshape(64, 8, 64, 8, 3).mean((1, 3))
    contrast = np.abs(np.subtract(background.rgb, background.pale)).max()
    assert small.std((0, 1)).max() > 0.25 * contrast
    assert np.abs(small - shrunk).max() < 0.25 * contrast  # edges are antialiased, not stepped


@pytest.mark.parametrize("kind", TEXTURES)
@pytest.mark.parametrize("colour", ["red", "green", "blue", "brown", "gray", "yellow"])
def test_both_tones_of_a_texture_have_its_colour(kind, colour: str) -> None:
    words = name_pixels(paint_background(Background.plain(colour, kind), 64))
    assert (words == COLOURS.index(colour)).all()


def test_layers_pasted_over_one_another_are_the_picture(
    atlas: Atlas, scenes: list[Scene], corners: list[Scene]
) -> None:
    for scene in [*scenes[:40], *corners]:
        canvas, *rest = layers(scene, atlas, 64)
        for layer in rest:
            canvas.paste(layer, mask=layer)
        assert np.array_equal(np.array(canvas.convert("RGB")), render(scene, atlas, 64))


@pytest.mark.gpu
def test_a_gpu_draws_the_same(atlas: Atlas, scenes: list[Scene], corners: list[Scene]) -> None:
    drawn = [*scenes, *corners]
    pictures = compose(drawn, atlas, 128, device="cuda")
    assert pictures.device.type == "cuda"
    assert differences(pictures.cpu(), drawn, atlas).max() <= TOLERANCE
    alone = torch.cat([compose([scene], atlas, 128, device="cuda") for scene in drawn[:16]])
    assert torch.equal(alone, pictures[:16])


class MixedSides(Atlas):
    """An atlas whose sprites have three sides, as tiles of things, words and faces do."""

    def __init__(self, atlas: Atlas):
        self.__dict__.update(atlas.__dict__)

    def sprite(self, code: str, style: str) -> np.ndarray:
        times = 1 + (self.codes.index(code) + self.styles.index(style)) % 3
        return np.repeat(np.repeat(super().sprite(code, style), times, 0), times, 1)


class Operations(TorchDispatchMode):
    """Counts what torch is asked to do."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


def differences(pictures: torch.Tensor, scenes: Sequence[Scene], atlas: Atlas) -> np.ndarray:
    """Return how far each byte is from the renderer's."""
    size = pictures.shape[-1]
    drawn = np.stack([render(scene, atlas, size) for scene in scenes])
    return np.abs(pictures.permute(0, 2, 3, 1).numpy().astype(int) - drawn)
