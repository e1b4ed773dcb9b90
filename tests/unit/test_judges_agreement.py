"""Two judges of the same answers: raw agreement, kappa beyond chance, order of systems."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danqing.errors import DataError
from danqing.evaluation.items import Atom
from danqing.evaluation.judges.agreement import agreement, cohen_kappa, spearman


def atom(value, name="object", wanted="an apple"):
    return Atom(name=name, value=value, wanted=wanted, seen="")


def test_kappa_is_that_of_cohens_formula():
    # 20 both met, 15 both not, 5 and 10 apart: raw 0.7, chance 0.5, kappa 0.4
    first = [True] * 20 + [True] * 5 + [False] * 10 + [False] * 15
    second = [True] * 20 + [False] * 5 + [True] * 10 + [False] * 15
    assert cohen_kappa(first, second) == pytest.approx(0.4)
    assert cohen_kappa(second, first) == pytest.approx(0.4)
    assert cohen_kappa([True, False], [True, False]) == 1
    assert cohen_kappa([True, False], [False, True]) == -1
    assert cohen_kappa([True, True], [True, True]) is None
    assert cohen_kappa([True, True], [True, False]) == 0


def test_spearman_ranks_and_shares_ties():
    assert spearman([1, 2, 3], [10, 30, 200]) == pytest.approx(1)
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert spearman([1, 2, 2, 4], [1, 3, 2, 4]) == pytest.approx(0.9486833)  # ranks 0 1.5 1.5 3 and 0 2 1 3
    assert spearman([1, 1], [1, 2]) is None
    assert spearman([1], [2]) is None


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_kappa_never_exceeds_one_and_agrees_with_raw_agreement_at_the_ends(pairs):
    first, second = zip(*pairs, strict=True)
    kappa = cohen_kappa(first, second)
    if kappa is None:
        assert first == second
    else:
        assert -1 <= kappa <= 1
        assert (kappa == 1) == (first == second)


def test_facts_are_paired_by_kind_and_wanted_and_told_by_kind():
    first = {("a", "1"): [atom(1.0), atom(0.0, "colour", "red")], ("b", "1"): [atom(1.0)]}
    second = {("a", "1"): [atom(1.0, "colour", "red"), atom(0.8)], ("b", "1"): [atom(0.4)], ("c", "1"): []}
    found = agreement(first, second, judges=("A", "B"))
    assert found.answers == 2
    assert found.whole.count == 3
    assert found.whole.raw == pytest.approx(1 / 3)
    assert [(kind.name, kind.count, kind.raw) for kind in found.kinds] == [
        ("object", 2, 0.5),
        ("colour", 1, 0.0),
    ]
    assert found.kinds[0].first == 1
    assert found.kinds[0].second == 0.5
    assert found.unmatched == 0
    assert found.spearman is None


def test_equal_facts_are_paired_in_order_and_what_one_left_out_counts_nowhere():
    first = {("a", "1"): [atom(1.0), atom(0.0), atom(1.0, "words", "hello")]}
    second = {("a", "1"): [atom(1.0), atom(0.0)]}
    found = agreement(first, second, judges=("A", "B"))
    assert (found.whole.raw, found.whole.kappa, found.unmatched) == (1.0, 1.0, 1)
    with pytest.raises(DataError, match="A and B both judged, found none"):
        agreement(first, {("b", "1"): [atom(1.0)]}, judges=("A", "B"))


def test_the_order_of_systems_is_compared():
    keys = {name: [(name, str(index)) for index in range(4)] for name in ("good", "fair", "poor")}
    shares = {"good": (4, 3), "fair": (2, 2), "poor": (1, 0)}
    first, second = (
        {
            key: [atom(float(index < shares[name][side]))]
            for name, found in keys.items()
            for index, key in enumerate(found)
        }
        for side in (0, 1)
    )
    found = agreement(first, second, judges=("A", "B"), systems={**keys, "absent": [("x", "0")]})
    assert [(one.name, one.first, one.second) for one in found.systems] == [
        ("good", 1.0, 0.75),
        ("fair", 0.5, 0.5),
        ("poor", 0.25, 0.0),
    ]
    assert found.spearman == pytest.approx(1)
    assert json.loads(json.dumps(found.to_json()))["whole"]["count"] == 12
    assert str(found) == (
        "A and B, 12 answers: all: 83.3% of 12 facts, kappa 0.68\n"
        "  object: 83.3% of 12 facts, kappa 0.68\n"
        "  order of 3 systems: Spearman 1.00"
    )
