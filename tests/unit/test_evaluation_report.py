"""The table says what the store holds: values, intervals, gaps, ceilings, floors, and who is better."""

import csv
import dataclasses
import io
import json

import pytest

from danqing.errors import DataError
from danqing.evaluation.report.report import make_report
from danqing.evaluation.results import Entrant, Row, mean_fact, read_results
from danqing.evaluation.run import plan, run, score
from danqing.evaluation.store import Store
from tests.evaluation_fakes import FakeJudge, FakePainter, colour_items

GOOD, POOR, PERFECT = FakePainter("good", wrong=0.2), FakePainter("poor", wrong=0.7), FakePainter("perfect")
ROWS = (Row(name="background", title="Background"), Row(name="other", value=mean_fact, counts=False))
ENTRANTS = (Entrant.of(GOOD, "model"), Entrant.of(POOR, "baseline"), Entrant.of(PERFECT, "ceiling"))
JUDGE = FakeJudge()
WHO = (JUDGE.name, JUDGE.version)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    items = [*colour_items(60), *colour_items(12, "other")]
    items[3] = dataclasses.replace(items[3], tags={"refuse": ""})
    with Store.open(tmp_path_factory.mktemp("store") / "store.sqlite") as opened:
        for system in (GOOD, POOR, PERFECT):
            run(plan(items, system, [0, 1], opened), opened, batch=40)
            score(items, system, [0, 1], JUDGE, opened)
        score(items, GOOD, [0, 1], JUDGE, opened, shuffled=True)
        yield opened


@pytest.fixture(scope="module")
def report(store):
    results = read_results(store, rows=ROWS, entrants=ENTRANTS, judges=[WHO])
    return make_report(results, title="Pages", commands=["danqing evaluate"], notes=["a note"])


def test_values_are_those_of_the_judge(report, store):
    row = report.rows[0]
    assert (row.title, row.items) == ("Background", 60)
    good, poor, perfect = (row.cells[name] for name in ("good", "poor", "perfect"))
    right = [one.value for one in _observations(store) if one.value is not None]
    assert good.interval.mean == pytest.approx(sum(right) / len(right))
    assert good.interval.low < good.interval.mean < good.interval.high
    assert good.interval.mean > 0.7 > 0.4 > poor.interval.mean
    assert perfect.interval.mean == 1
    assert row.floor.mean < 0.1


def test_what_was_refused_is_told_and_counted_in_each_view(report):
    cell = report.rows[0].cells["good"]
    assert (cell.expected, cell.judged, cell.refused, cell.failed) == (120, 118, 2, 0)
    assert cell.zero == pytest.approx(cell.interval.mean * 118 / 120)
    assert cell.common == pytest.approx(cell.interval.mean)
    assert "(118/120)" in str(report)
    assert "142 of 144 judged, 2 refused" not in str(report)  # `other` is not part of the mean
    assert "118 of 120 judged, 2 refused" in str(report)


def test_a_better_system_is_separated_and_an_equal_one_is_not(report, store):
    assert report.rows[0].comparisons["poor"].separated
    assert report.rows[0].comparisons["poor"].common == 59
    twin = dataclasses.replace(ENTRANTS[0], label="twin", role="baseline")
    same = make_report(
        read_results(store, rows=ROWS, entrants=[ENTRANTS[0], twin], judges=[WHO]), title="Twins"
    )
    assert not same.rows[0].comparisons["twin"].separated
    assert "+0.000 [+0.000, +0.000], not separated" in str(same)


def test_p_values_allow_for_the_number_of_rows(report, store):
    alone = read_results(store, rows=ROWS, entrants=ENTRANTS, judges=[WHO], items=colour_items(12, "other"))
    single = make_report(alone, title="One row").rows[0].comparisons["poor"]
    among = report.rows[1].comparisons["poor"]
    assert (single.difference, single.low) == (among.difference, among.low)
    assert single.p <= among.p <= min(1, 2 * single.p)


def test_the_mean_takes_the_rows_that_count(report):
    assert report.mean.cells["good"].interval.mean == report.rows[0].cells["good"].interval.mean
    assert report.mean.items == 60


def test_a_report_can_be_of_some_items_and_seeds(store):
    some = read_results(store, rows=ROWS, entrants=ENTRANTS, judges=[WHO], items=colour_items(2), seeds=[1])
    report = make_report(some, title="Some")
    assert [row.name for row in report.rows] == ["background"]
    assert report.rows[0].cells["good"].expected == 2


def test_a_value_over_all_seeds_of_an_item(store):
    def agreement(answers):
        return float(len({answer.atoms[0].seen for answer in answers}) == 1)

    rows = (dataclasses.replace(ROWS[0], over_seeds=agreement), ROWS[1])
    results = read_results(store, rows=rows, entrants=ENTRANTS, judges=[WHO])
    assert len(results.observations(ENTRANTS[0], rows[0])) == 60
    row = make_report(results, title="Agreement").rows[0]
    assert row.cells["perfect"].interval.mean == 1
    assert row.cells["poor"].interval.mean < 0.7
    assert row.floor is None


def test_a_row_in_a_unit_sees_the_same_answers_and_stays_out_of_the_mean(store):
    def level(answer):
        return None if answer.item.prompt.startswith("page 1 ") else -20.0 * (1 - answer.atoms[0].value)

    rows = (*ROWS, Row(name="level", of="background", title="Level", unit="dB", value=level, counts=False))
    found = make_report(read_results(store, rows=rows, entrants=ENTRANTS, judges=[WHO]), title="Levels")
    row = found.rows[-1]
    shares = [
        one.value
        for one in _observations(store)
        if one.value is not None and one.item != colour_items(2)[1].id  # page 1 says nothing of a level
    ]
    good = row.cells["good"]
    assert good.interval.mean == pytest.approx(-20 * (1 - sum(shares) / len(shares)))
    assert good.interval.low < good.interval.mean < good.interval.high
    assert good.zero is None
    assert row.cells["perfect"].interval.low == row.cells["perfect"].interval.high == 0  # no share, no bounds
    assert row.floor is None
    assert (
        found.mean
        == make_report(read_results(store, rows=ROWS, entrants=ENTRANTS, judges=[WHO]), title="Levels").mean
    )
    assert "Level (dB)" in str(found)
    with pytest.raises(DataError, match="stay out of the mean"):
        Row(name="level", unit="dB")


def test_a_floor_of_its_own_takes_the_place_of_other_prompts(store):
    entrants = [*ENTRANTS[:1], dataclasses.replace(ENTRANTS[1], role="floor"), *ENTRANTS[2:]]
    found = make_report(read_results(store, rows=ROWS, entrants=entrants, judges=[WHO]), title="Floors")
    assert [column.label for column in found.columns] == ["good", "perfect"]
    poor = make_report(read_results(store, rows=ROWS, entrants=ENTRANTS, judges=[WHO]), title="Columns")
    assert found.rows[0].floor == poor.rows[0].cells["poor"].interval
    assert "poor" not in str(found)


def test_programs_read_the_report_as_json_and_csv(report):
    told = json.loads(report.to_json())
    assert told["rows"][0]["cells"]["good"]["refused"] == 2
    assert told["columns"][0]["settings"] == {"size": [16, 16], "wrong": 0.2}
    assert told["columns"][0]["seconds"] > 0
    lines = list(csv.DictReader(io.StringIO(report.to_csv())))
    assert len(lines) == 3 * 3
    assert float(lines[0]["mean"]) == pytest.approx(report.rows[0].cells["good"].interval.mean, abs=1e-4)
    assert lines[-1]["floor"] != ""


def test_what_does_not_fit_is_refused(store):
    with pytest.raises(DataError, match="rows background, found other"):
        read_results(store, rows=ROWS[:1], entrants=ENTRANTS, judges=[WHO])
    with pytest.raises(DataError, match="a label of their own"):
        read_results(store, rows=ROWS, entrants=[ENTRANTS[0]] * 2, judges=[WHO])
    with pytest.raises(DataError, match="expected a system of this store"):
        read_results(store, rows=ROWS, entrants=[dataclasses.replace(ENTRANTS[0], version="9")], judges=[WHO])
    wrong = (dataclasses.replace(ROWS[0], value=lambda answer: 2.0), ROWS[1])
    with pytest.raises(DataError, match="expected a value from 0 to 1, found 2"):
        make_report(read_results(store, rows=wrong, entrants=ENTRANTS, judges=[WHO]), title="Wrong")


def test_what_is_not_judged_yet_is_no_answer(store):
    results = read_results(store, rows=ROWS, entrants=ENTRANTS, judges=[("another judge", "1")])
    report = make_report(results, title="Unjudged")
    assert report.rows[0].cells["good"].judged == 0
    assert report.rows[0].cells["good"].interval is None
    assert str(report).count(" - ") >= 3


def _observations(store):
    return read_results(store, rows=ROWS, entrants=ENTRANTS, judges=[WHO]).observations(ENTRANTS[0], ROWS[0])
