"""Rows whose values need all answers: places among the others, and what a whole set comes to."""

import dataclasses

import pytest

from danqing.errors import DataError
from danqing.evaluation.report.report import make_report
from danqing.evaluation.results import Entrant, Row, read_results
from danqing.evaluation.run import plan, run, score
from danqing.evaluation.statistics import Interval
from danqing.evaluation.store import Store
from tests.evaluation_fakes import FakeJudge, FakePainter, colour_items

GOOD, PERFECT = FakePainter("good", wrong=0.3), FakePainter("perfect")
ENTRANTS = (Entrant.of(GOOD, "model"), Entrant.of(PERFECT, "ceiling"))
JUDGE = FakeJudge()


def _best(answers):
    """Return for each judged answer the share of all answers, those that are missing too, that it beats."""
    values = [one.atoms[0].value if one.atoms else 0.0 for one in answers]
    return [
        sum(value > other for other in values) / len(values) if one.atoms else None
        for one, value in zip(answers, values, strict=True)
    ]


def _apart(answers, true):
    """Return how much the right answers of two sets differ in number."""
    right, all_right = (sum(one.atoms[0].value for one in some) for some in (answers, true))
    return Interval(mean=all_right - right, low=0, high=len(true))


ROWS = (
    Row(name="background"),
    Row(name="beats", of="background", together=_best, counts=False),
    Row(name="apart", of="background", corpus=_apart, counts=False, unit="pictures"),
)


@pytest.fixture
def results(tmp_path):
    items = colour_items(40)
    items[3] = dataclasses.replace(items[3], tags={"refuse": ""})
    with Store.open(tmp_path / "store.sqlite") as store:
        for system in (GOOD, PERFECT):
            run(plan(items, system, [0, 1], store), store, batch=40)
            score(items, system, [0, 1], JUDGE, store)
        score(items, GOOD, [0, 1], JUDGE, store, shuffled=True)
        yield read_results(store, rows=ROWS, entrants=ENTRANTS, judges=[(JUDGE.name, JUDGE.version)])


def test_answers_are_looked_at_beside_those_of_the_same_seed(results):
    seen = results.observations(ENTRANTS[0], ROWS[1])
    assert len(seen) == 80
    assert sum(one.value is None for one in seen) == 2
    answers = results.of(ENTRANTS[0], ROWS[1])
    for seed in (0, 1):
        some = [one for one in answers if one.seed == seed]
        right = [one.atoms[0].value for one in some if one.atoms]
        wrong = 40 - sum(right)  # the one that was refused among them
        values = [one.value for one, at in zip(seen, answers, strict=True) if at.seed == seed]
        assert [one for one in values if one is not None] == [value * wrong / 40 for value in right]


def test_the_floor_of_such_a_row_is_that_of_answers_judged_for_other_prompts(results):
    floor = results.floor(ROWS[1])
    assert len(floor) == 78
    assert sum(one.value for one in floor) < sum(
        one.value or 0 for one in results.observations(ENTRANTS[0], ROWS[1])
    )


def test_a_whole_set_is_compared_with_the_true_answers(results):
    report = make_report(results, title="Whole")
    row = next(row for row in report.rows if row.name == "apart")
    good, perfect = row.cells["good"], row.cells["perfect"]
    right = sum(one.atoms[0].value for one in results.of(ENTRANTS[0], ROWS[2]) if one.atoms)
    assert good.interval.mean == 78 - right  # of all true answers there are
    assert good.common == 78 - right
    assert (good.zero, good.judged, good.expected) == (None, 78, 80)
    assert perfect.interval.mean == 0
    assert row.floor is None
    assert "apart (pictures)" in str(report)


def test_rows_come_to_their_value_in_one_way():
    with pytest.raises(DataError, match="have a unit"):
        Row(name="x", corpus=_apart)
    with pytest.raises(DataError, match="one way"):
        Row(name="x", corpus=_apart, together=_best, unit="y", counts=False)
