"""Two systems of one evaluation or of two, compared on what both answered; pictures written for others."""

import dataclasses
import json
from functools import cache

import pytest

from danqing.errors import DataError
from danqing.evaluation import finished
from danqing.evaluation.evaluate import Evaluation, evaluate
from danqing.evaluation.exam import Entered, Exam
from danqing.evaluation.finished import export_finished, read_finished
from danqing.evaluation.frozen import FrozenSystem
from danqing.evaluation.report.compare import compare_sides, side
from danqing.evaluation.results import Row
from tests.evaluation_fakes import FakeJudge, FakePainter, colour_items

ROWS = (Row(name="page"), Row(name="leaf", title="Leaves"), Row(name="sheet", counts=False))
ITEMS = tuple(item for row in ROWS for item in colour_items(24, row.name))


@pytest.fixture(scope="module", autouse=True)
def rows():
    """The rows of a benchmark that the package does not have."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finished, "section_rows", lambda section, name: ROWS)
        yield


def run(folder, *systems, judge=FakeJudge, items=ITEMS):
    exam = Exam(name="pages", title="Pages", items=items, rows=ROWS, judges=cache(lambda: {"draw": judge()}))
    roles = ["model", *["baseline"] * (len(systems) - 1)]
    entered = tuple(Entered(system=one, role=role) for one, role in zip(systems, roles, strict=True))
    wanted = Evaluation(exams=(exam,), entered=entered, folder=folder, floor=False)
    return evaluate(wanted, command="danqing evaluate run pages")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("both")
    run(place, FakePainter("good", wrong=0.1), FakePainter("poor", wrong=0.8), FakePainter("fair", wrong=0.5))
    return place


def test_two_systems_of_a_folder_are_compared_in_every_row(folder):
    found = compare_sides(side(str(folder), None), side("poor", folder))
    (pages,) = found.benchmarks
    assert [row.name for row in pages.rows] == ["page", "leaf", "sheet", "mean over rows"]
    assert all(row.comparison.separated for row in pages.rows)
    assert pages.rows[0].comparison.common == 24
    assert {label: rank.place for label, rank in pages.ranks.items()} == {"good": 1, "fair": 2, "poor": 3}
    told = str(found)
    assert told.startswith("good minus poor, on what both answered\n\nPages")
    assert "ranks: good 1, poor 3, fair 2" in told
    assert json.loads(found.to_json())["benchmarks"][0]["rows"][0]["comparison"]["common"] == 24


def test_the_comparison_is_that_of_the_report(folder):
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    (pages,) = compare_sides(side(str(folder), None), side("poor", folder)).benchmarks
    for row, told in zip(pages.rows, [*report["rows"], *report["means"]], strict=True):
        assert dataclasses.asdict(row.comparison) == told["comparisons"]["poor"]


def test_systems_of_two_folders_are_compared_on_the_items_of_both(folder, tmp_path):
    run(tmp_path, FakePainter("new", wrong=0.1), items=ITEMS[:12])
    found = compare_sides(side(str(tmp_path), None), side(f"{folder}:poor", None))
    (pages,) = found.benchmarks
    assert pages.rows[0].comparison.common == 12
    assert [row.name for row in pages.rows] == ["page", "mean over rows"]
    assert list(pages.ranks) == ["new (first)", "poor (second)"]


def test_what_different_judges_said_is_not_compared(folder, tmp_path):
    class FakeStricter(FakeJudge):
        version = "2"

    run(tmp_path, FakePainter("new"), judge=FakeStricter)
    with pytest.raises(DataError, match=r"the same judges judged, found none .*different judges"):
        compare_sides(side(str(tmp_path), None), side(str(folder), None))


def test_names_that_mean_nothing_are_refused(folder, tmp_path):
    with pytest.raises(DataError, match="expected a system of good, poor, fair, found 'best'"):
        side("best", folder)
    with pytest.raises(DataError, match="expected FOLDER, FOLDER:LABEL, or --folder"):
        side("best", None)
    with pytest.raises(DataError, match=r"expected an evaluation with report\.json, found none"):
        side("best", tmp_path)
    (tmp_path / "report.json").write_text('{"rows": []}')
    with pytest.raises(DataError, match="a report of this version"):
        read_finished(tmp_path)


def test_pictures_that_are_exported_are_those_of_the_store(folder, tmp_path):
    assert export_finished(folder, tmp_path, "manifest", system="fair") == 72
    frozen = FrozenSystem(tmp_path)
    fair = FakePainter("fair", wrong=0.5)
    assert frozen.answer([ITEMS[5]], 0)[0].tobytes() == fair.answer([ITEMS[5]], 0)[0].tobytes()
    with pytest.raises(DataError, match="expected a benchmark of pages, found 'words'"):
        export_finished(folder, tmp_path, "manifest", section="words")
