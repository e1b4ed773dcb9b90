"""Recall at K, streamed in tiles, is what the whole table of likeness gives."""

import math
import tracemalloc

import numpy as np
import pytest

from danqing.errors import DataError
from danqing.scoring.retrieval import Ranking, cosine, recall_both_ways


def brute(values: np.ndarray, right: np.ndarray, k: int) -> np.ndarray:
    """Return for each row the chance of a right column among the first k, ties in random order."""
    found = []
    for row, is_right in zip(values, right, strict=True):
        best = row[is_right].max()
        better = int((row > best).sum())
        tied = int(((row == best) & ~is_right).sum())
        rights = int(((row == best) & is_right).sum())
        missed = float(better < k)
        for drawn in range(max(k - better, 0)):  # one after another, and none of them right
            missed *= (tied - drawn) / (tied + rights - drawn) if drawn < tied else 0.0
        found.append(float(better < k) - missed)
    return np.array(found)


@pytest.mark.parametrize("levels", [2, 5, 1000])
@pytest.mark.parametrize("block", [1, 3, 7, 64])
def test_tiles_give_what_the_whole_table_gives_with_and_without_ties(levels, block):
    rng = np.random.default_rng(levels)
    pictures, owners = 17, np.repeat(np.arange(17), 5)[:83]
    table = rng.integers(levels, size=(pictures, len(owners))) / levels
    right = owners == np.arange(pictures)[:, None]
    found = recall_both_ways(lambda rows, columns: table[rows, columns], owners, pictures, block=block)
    for k in (1, 5, 10):
        np.testing.assert_allclose(found.texts[k], brute(table, right, k), atol=1e-12)
        np.testing.assert_allclose(found.pictures[k], brute(table.T, right.T, k), atol=1e-12)


def test_any_of_the_five_captions_counts_and_every_caption_asks():
    # two pictures of two captions: picture 0 finds its second one, picture 1 nothing at 1
    table = np.array([[0.1, 0.9, 0.5, 0.2], [0.8, 0.1, 0.3, 0.4]])
    found = recall_both_ways(lambda rows, columns: table[rows, columns], [0, 0, 1, 1], 2, at=(1, 2))
    assert found.texts[1].tolist() == [1, 0]
    assert found.texts[2].tolist() == [1, 1]
    assert found.pictures[1].tolist() == [0, 1, 0, 1]
    assert found.mean() == {"texts@1": 0.5, "texts@2": 1.0, "pictures@1": 0.5, "pictures@2": 1.0}


def test_a_likeness_that_says_nothing_finds_by_chance_alone():
    found = recall_both_ways(lambda r, c: np.zeros((r.stop - r.start, c.stop - c.start)), range(40), 40)
    assert found.mean()["texts@10"] == pytest.approx(10 / 40)
    assert found.mean()["pictures@1"] == pytest.approx(1 / 40)


def test_cosines_do_not_depend_on_lengths_of_vectors():
    rng = np.random.default_rng(0)
    seen, said = rng.normal(size=(6, 8)), rng.normal(size=(9, 8))
    plain = cosine(seen, said)(slice(0, 6), slice(0, 9))
    scaled = cosine(seen * 7, said * np.arange(1, 10)[:, None])(slice(0, 6), slice(0, 9))
    np.testing.assert_allclose(plain, scaled)
    assert np.abs(plain).max() <= 1


def test_memory_does_not_grow_with_the_number_of_pairs():
    def peak(pictures: int) -> int:
        owners = np.repeat(np.arange(pictures), 5)
        tracemalloc.start()
        recall_both_ways(lambda r, c: np.random.rand(r.stop - r.start, c.stop - c.start), owners, pictures)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    small, large = peak(600), peak(2400)  # sixteen times the pairs: 230 MB as a table of float64
    assert large < 2 * small < 100e6


def test_what_cannot_be_ranked_is_refused():
    with pytest.raises(DataError, match="each of 3 pictures, found 2"):
        recall_both_ways(lambda r, c: np.zeros((3, 2)), [0, 2], 3)
    with pytest.raises(DataError, match="finite likeness"):
        Ranking(1, 1).add(slice(0, 1), np.array([[math.nan]]), np.array([[True]]))
    with pytest.raises(DataError, match="other than 0"):
        cosine(np.zeros((2, 3)), np.ones((2, 3)))
