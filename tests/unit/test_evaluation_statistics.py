"""Intervals that hold what they promise, differences that are told from luck."""

import numpy as np
import pytest

from danqing.evaluation.statistics import (
    Observation,
    Rate,
    cluster_interval,
    compare,
    compare_pooled,
    compare_rows,
    holm,
    mean_over_rows,
    missing_as_zero,
    only_common,
    pooled_interval,
    ranks,
)


def observed(values, per_cluster=1, prefix="") -> list[Observation]:
    return [Observation(f"{prefix}{i}", f"c{i // per_cluster}", value) for i, value in enumerate(values)]


def test_the_interval_holds_the_truth_as_often_as_it_says():
    """Four pictures a prompt, prompts of different difficulty: 95 in 100 intervals hold the true mean."""
    rng = np.random.default_rng(0)
    held = naive = 0
    for trial in range(300):
        ease = rng.beta(1.4, 0.6, size=60)  # mean 0.7
        drawn = rng.random((60, 4)) < ease[:, None]
        found = cluster_interval(observed(drawn.ravel().astype(float), 4), draws=500, seed=trial)
        held += found.low <= 0.7 <= found.high
        rate = Rate.of(int(drawn.sum()), drawn.size)
        naive += rate.low <= 0.7 <= rate.high
    assert 0.92 <= held / 300 <= 0.975
    assert naive / 300 < 0.85  # pictures of one prompt are not independent


def test_the_same_seed_gives_the_same_interval():
    values = observed(np.random.default_rng(1).random(50))
    assert cluster_interval(values) == cluster_interval(values)
    assert cluster_interval(values) == cluster_interval(values[::-1])
    assert cluster_interval(values) != cluster_interval(values, seed=1)


def test_perfect_and_hopeless_rows_are_not_certain():
    wilson = Rate.of(20, 20)
    found = cluster_interval(observed([1.0] * 80, 4))
    assert (found.mean, found.low, found.high) == (1, wilson.low, wilson.high)
    assert cluster_interval(observed([0.0] * 20)).high == Rate.of(0, 20).high
    alone = cluster_interval(observed([1.0, 0.0], 2))
    assert (alone.mean, alone.low, alone.high) == (0.5, 0, 1)
    assert cluster_interval([]) is None
    assert cluster_interval(observed([None])) is None


def test_every_row_weighs_the_same_in_the_mean_over_rows():
    easy, hard = observed([1.0] * 90), observed([0.0, 1.0] * 5, prefix="h")
    assert mean_over_rows([easy, hard, []]).mean == pytest.approx(0.75)


def test_rows_of_the_same_scenes_are_drawn_together():
    """Twelve languages of the same scenes tell no more than the scenes do."""
    values = observed((np.random.default_rng(2).random(100) < 0.5).astype(float))
    one, twelve = mean_over_rows([values]), mean_over_rows([values] * 12)
    assert (twelve.low, twelve.high) == pytest.approx((one.low, one.high))


def test_a_difference_on_common_prompts_is_found_where_two_intervals_overlap():
    rng = np.random.default_rng(3)
    ease = rng.random(200)
    weak = observed(ease)
    strong = observed(ease + 0.02 + 0.01 * rng.standard_normal(200))
    assert cluster_interval(weak).high > cluster_interval(strong).low
    found = compare(strong, weak)
    assert found.separated
    assert found.difference == pytest.approx(0.02, abs=0.003)
    assert found.low > 0
    back = compare(weak, strong)
    assert (back.difference, back.low) == pytest.approx((-found.difference, -found.high), abs=1e-3)


def test_equal_systems_are_rarely_separated():
    rng = np.random.default_rng(4)
    wrong = 0
    for trial in range(200):
        first, second = (observed((rng.random(60) < 0.6).astype(float)) for _ in range(2))
        wrong += compare(first, second, draws=400, seed=trial).separated
    assert wrong / 200 <= 0.08


def test_a_few_lucky_prompts_separate_nothing():
    found = compare(observed([1.0] * 4), observed([0.0] * 4))
    assert found.difference == 1
    assert not found.separated
    assert "not separated" in str(found)
    assert compare(observed([1.0] * 12), observed([0.0] * 12)).separated


def test_systems_are_compared_on_what_both_answered():
    first = observed([1.0, 1.0, 0.0, None])
    second = observed([0.0, None, 0.0, 1.0])
    found = compare(first, second)
    assert (found.common, found.difference) == (2, 0.5)
    assert compare(first, observed([1.0], prefix="other")) is None
    assert compare_rows([first, []], [second, []]) == found


def test_the_views_of_what_is_missing():
    first, second = observed([1.0, 0.0, None]), observed([1.0, None, None])
    assert cluster_interval(first).mean == 0.5
    assert cluster_interval(missing_as_zero(first)).mean == pytest.approx(1 / 3)
    assert [cluster_interval(one).mean for one in only_common([first, second])] == [1, 1]


def test_holm_adjusts_from_the_smallest():
    assert holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1, 1]


def test_a_pooled_share_weighs_long_texts_more():
    """Of 10 words 9 are right, of 90 none: pooled 9 of 100, where the mean over prompts is 0.45."""
    two = [Observation("a", "a", 0.9, weight=10), Observation("b", "b", 0.0, weight=90)]
    assert mean_over_rows([two]).mean == pytest.approx(0.09)
    nothing = Observation("c", "c", 1.0, weight=0)
    assert mean_over_rows([[*two, nothing]]).mean == pytest.approx(0.09)
    assert mean_over_rows([[nothing]]) is None
    assert compare(two, [one._replace(value=0.0) for one in two]).difference == pytest.approx(0.09)


def _harmonic(sums):
    """F1 of found, said and wanted words."""
    return 2 * sums[..., 0] / (sums[..., 1] + sums[..., 2])


def test_a_pooled_row_is_what_its_sums_come_to():
    rng = np.random.default_rng(5)

    def said(skill):
        hits = rng.binomial(10, skill, 80)
        return [Observation(str(i), str(i), 0.0, parts=(hit, 10, 10)) for i, hit in enumerate(hits)]

    weak, strong = said(0.4), said(0.7)
    shares = [one._replace(value=one.parts[0] / 10) for one in weak]
    found, same = pooled_interval(weak, _harmonic), cluster_interval(shares)
    assert (found.mean, found.low, found.high) == pytest.approx((same.mean, same.low, same.high))
    better = compare_pooled(strong, weak, _harmonic)
    assert better.separated
    assert better.low < 0.3 < better.high
    assert not compare_pooled(weak, weak, _harmonic).separated
    assert compare_pooled(weak, [], _harmonic) is None
    assert pooled_interval([], _harmonic) is None


def test_ranks_say_how_sure_an_order_is():
    rng = np.random.default_rng(6)
    ease = rng.random(100)
    clear = ranks({"a": [observed(ease + 0.3)], "b": [observed(ease)], "c": [observed(ease - 0.2)]})
    assert {label: (rank.place, rank.low, rank.high) for label, rank in clear.items()} == {
        "a": (1, 1, 1),
        "b": (2, 2, 2),
        "c": (3, 3, 3),
    }
    luck = ranks({str(i): [observed((rng.random(20) < 0.5).astype(float))] for i in range(4)})
    assert max(rank.high - rank.low for rank in luck.values()) == 3
    twins = ranks({"a": [observed(ease)], "b": [observed(ease)]})
    assert str(twins["a"]) == str(twins["b"]) == "1"
    assert ranks({"a": [observed(ease)]}) == {}
    assert ranks({"a": [observed([1.0])], "b": [observed([None])]}) == {}


def test_ranks_look_at_the_items_that_all_answered():
    easy = observed([1.0, 0.0, None])
    hard = observed([1.0, 0.0, 0.0])
    assert ranks({"easy": [easy], "hard": [hard]})["hard"].place == 1
