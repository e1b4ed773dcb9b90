"""Pictures for the autoencoder: scenes of which a share is overdrawn."""

import numpy as np

from danqing.data.atlas import packaged_atlas
from danqing.data.pictures import PictureSource
from danqing.data.world import render, sample_scene


def pictures(source, count, *, seed=0):
    return source.pictures(np.random.default_rng(seed), count)


def test_two_in_five_pictures_are_marked():
    atlas, source = packaged_atlas(), PictureSource(packaged_atlas(), size=32)
    drawn = [pictures(source, 1, seed=seed)[0] for seed in range(200)]
    plain = [render(sample_scene(np.random.default_rng(seed), atlas), atlas, 32) for seed in range(200)]
    marked = [not np.array_equal(one, other) for one, other in zip(drawn, plain, strict=True)]
    assert 0.3 < np.mean(marked) < 0.5


def test_pictures_depend_on_the_generator_alone():
    source = PictureSource(packaged_atlas(), size=24)
    first, second, other = (np.stack(pictures(source, 8, seed=seed)) for seed in (3, 3, 4))
    assert first.shape == (8, 24, 24, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_held_out_scenes_are_always_the_same_and_unmarked():
    atlas = packaged_atlas()
    source = PictureSource(atlas, size=24)
    before = source.held_out(4)
    pictures(source, 3)
    rng = np.random.default_rng(0)
    for one, again in zip(before, PictureSource(atlas, size=24).held_out(4), strict=True):
        assert np.array_equal(one, again)
        assert np.array_equal(one, render(sample_scene(rng, atlas, "held_out"), atlas, 24))
    assert all(np.array_equal(*pair) for pair in zip(source.held_out(2), before[:2], strict=True))
