"""Distances of sets of vectors: by hand, by another way, and stable where covariances are singular."""

import numpy as np
import pytest

from danqing.errors import DataError
from danqing.scoring.frechet import KernelSums, Moments, cmmd, distance_name, frechet_distance


def vectors(seed: int, count: int = 200, size: int = 12, shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, size)) @ rng.normal(size=(size, size)) + shift


def reference(first: np.ndarray, second: np.ndarray) -> float:
    """Return the distance from the eigenvalues of the product, which is not symmetric."""
    one, two = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    root = np.sqrt(np.linalg.eigvals(one @ two).astype(complex)).real.sum()
    apart = np.square(first.mean(0) - second.mean(0)).sum()
    return float(apart + np.trace(one + two) - 2 * root)


@pytest.mark.parametrize("size", [1, 7, 300, 1000])
def test_moments_are_the_same_in_batches_of_any_size(size):
    found = vectors(0, 1000)
    moments = Moments.of(found[start : start + size] for start in range(0, 1000, size))
    assert moments.count == 1000
    np.testing.assert_allclose(moments.mean, found.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.covariance, np.cov(found, rowvar=False), rtol=1e-10)


def test_a_mean_far_away_costs_no_digits():
    found = vectors(1, 500)
    far = Moments.of(np.array_split(found + 1e6, 20))
    np.testing.assert_allclose(far.covariance, np.cov(found, rowvar=False), rtol=1e-7)


def test_moments_of_parts_merge_into_those_of_the_whole():
    found = vectors(2)
    whole, part = Moments.of([found[:80]]), Moments.of([found[80:]])
    whole.merge(part)
    whole.merge(Moments(12))
    np.testing.assert_allclose(whole.covariance, np.cov(found, rowvar=False), rtol=1e-10)


def test_the_distance_of_numbers_is_that_of_two_normal_curves():
    rng = np.random.default_rng(3)
    one, two = rng.normal(0, 2, size=(50, 1)), rng.normal(3, 5, size=(60, 1))
    by_hand = (one.mean() - two.mean()) ** 2 + (one.std(ddof=1) - two.std(ddof=1)) ** 2
    assert frechet_distance(Moments.of([one]), Moments.of([two])) == pytest.approx(by_hand)


def test_the_distance_is_that_of_a_matrix_root():
    one, two = vectors(4), vectors(5, shift=0.3)
    found = frechet_distance(Moments.of([one]), Moments.of([two]))
    assert found == pytest.approx(reference(one, two), rel=1e-9)
    assert found == pytest.approx(frechet_distance(Moments.of([two]), Moments.of([one])))


def test_fewer_vectors_than_dimensions_are_no_trouble():
    one, two = vectors(6, 20, 64), vectors(7, 30, 64)
    singular = frechet_distance(Moments.of([one]), Moments.of([two]))
    rotated = np.linalg.qr(np.random.default_rng(8).normal(size=(64, 64)))[0]
    turned = frechet_distance(Moments.of([one @ rotated]), Moments.of([two @ rotated]))
    assert singular == pytest.approx(turned, rel=1e-9)
    assert frechet_distance(Moments.of([one]), Moments.of([one])) == pytest.approx(0, abs=1e-8)
    moved = Moments.of([one + np.eye(64)[0] * 3])
    assert frechet_distance(Moments.of([one]), moved) == pytest.approx(9, rel=1e-9)


def test_cmmd_is_the_mean_over_all_pairs():
    rng = np.random.default_rng(9)
    one, two = rng.normal(size=(7, 5)), rng.normal(size=(4, 5)) + 1
    one /= np.linalg.norm(one, axis=1, keepdims=True)
    two /= np.linalg.norm(two, axis=1, keepdims=True)

    def mean(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean([[np.exp(-np.square(x - y).sum() / 200) for y in b] for x in a]))

    by_hand = 1000 * (mean(one, one) + mean(two, two) - 2 * mean(one, two))
    assert cmmd(one, two) == pytest.approx(by_hand, rel=1e-9)
    assert cmmd(one * 3, two) == pytest.approx(by_hand, rel=1e-9)
    assert cmmd(one, one) == pytest.approx(0, abs=1e-9)


def test_groups_of_vectors_can_be_left_out():
    rng = np.random.default_rng(11)
    one, two = [rng.normal(size=(count, 4)) for count in (3, 5, 4)], list(rng.normal(size=(3, 6, 4)) + 1)
    sums = KernelSums(one, two)
    assert sums.cmmd([0, 1, 2]) == pytest.approx(cmmd(np.concatenate(one), np.concatenate(two)))
    assert sums.cmmd([0, 2]) == pytest.approx(cmmd(np.concatenate(one[::2]), np.concatenate(two[::2])))


def test_cmmd_of_many_vectors_is_that_of_their_blocks():
    one = np.random.default_rng(10).normal(size=(2500, 3))
    assert cmmd(one, one[::-1]) == pytest.approx(0, abs=1e-9)


def test_what_has_no_distance_is_refused():
    with pytest.raises(DataError, match="two vectors or more"):
        frechet_distance(Moments.of([np.zeros((1, 2))]), Moments.of([np.zeros((5, 2))]))
    with pytest.raises(DataError, match="one size, found 2 and 3"):
        frechet_distance(Moments.of([np.zeros((3, 2))]), Moments.of([np.zeros((3, 3))]))
    with pytest.raises(DataError, match="found none"):
        Moments.of([])
    with pytest.raises(DataError, match="finite vectors"):
        Moments(2).add(np.array([[0.0, np.nan]]))
    with pytest.raises(DataError, match="other than 0"):
        cmmd(np.zeros((2, 2)), np.ones((2, 2)))


def test_the_name_says_network_and_resizing():
    assert distance_name("CMMD", "clip", "bicubic to 336") == "CMMD (clip, bicubic to 336)"
