"""Several benchmarks and systems in one store: what is asked, who judges, what is said of what went wrong."""

import csv
import dataclasses
import io
import json
from functools import cache

import pytest
from PIL import Image

from danqing.errors import ConfigError, RequestError, ResourceError
from danqing.evaluation.benchmarks import BENCHMARKS
from danqing.evaluation.benchmarks.benchmark import Benchmark
from danqing.evaluation.evaluate import Evaluation, evaluate, plans
from danqing.evaluation.exam import Entered, Exam, benchmark_exam, sample
from danqing.evaluation.prices import Budget
from danqing.evaluation.report.printed import MEAN, PRINTED, printed
from danqing.evaluation.results import Row
from danqing.evaluation.store import Store
from tests.evaluation_fakes import FakeJudge, FakePainter, colour_items, said_items

GOOD, POOR, PERFECT = FakePainter("good", wrong=0.2), FakePainter("poor", wrong=0.7), FakePainter("perfect")


class FakeStrict(FakeJudge):
    """Says that nothing red is met."""

    name, version = "strict judge", "1"

    def judge(self, made, item):
        return tuple(
            dataclasses.replace(atom, value=atom.value * (atom.wanted != "red"))
            for atom in super().judge(made, item)
        )


class FakeBlind(FakeJudge):
    """Lacks a model for some rows."""

    name = "blind judge"

    def judge(self, made, item):
        if item.row == "dark":
            raise ResourceError("expected a lamp, found none")
        return super().judge(made, item)


def exam(name, items, judge=FakeJudge, **options) -> Exam:
    judges = cache(lambda: dict.fromkeys(("draw", "edit", "describe"), judge()))
    rows = tuple(Row(name=row, title=row.title()) for row in dict.fromkeys(item.row for item in items))
    given = {"title": name.title(), "rows": rows, "judges": judges, **options}
    return Exam(name=name, items=tuple(items), **given)


def measured(folder, *exams, systems=(GOOD, POOR), **options) -> Evaluation:
    roles = ["model", *["baseline"] * (len(systems) - 1)]
    entered = [Entered(system=system, role=role) for system, role in zip(systems, roles, strict=True)]
    return Evaluation(exams=exams, entered=tuple(entered), folder=folder, title="Several", **options)


PAGES = exam(
    "pages",
    colour_items(20, "page"),
    seeds=(0, 1),
    about={"Licence": "none"},
    own=(Entered(system=PERFECT, role="ceiling"),),
)
SAID = exam("said", said_items(6), source_of=lambda item: Image.new("RGB", (16, 16), item.answer))


def test_each_benchmark_has_its_rows_its_mean_and_its_systems(tmp_path):
    wanted = measured(tmp_path, PAGES, SAID)
    report = evaluate(wanted, command="danqing evaluate run pages said")
    assert [(row.benchmark, row.name) for row in report.rows] == [("pages", "page"), ("said", "said")]
    assert [mean.benchmark for mean in report.means] == ["pages", "said"]
    assert [column.label for column in report.columns] == ["good", "poor", "perfect"]
    pages, said = report.rows
    assert pages.cells["good"].judged == 40
    assert said.cells["perfect"].expected == 0
    assert pages.comparisons["poor"].separated
    assert pages.ranks["good"].place == 1
    assert "Pages" in str(report)
    assert "Said" in str(report)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Side by side" in page
    told = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert told["sections"][0]["about"] == {"Licence": "none"}
    with Store.open(tmp_path / "store.sqlite") as store:
        assert all(not part.missing for part in plans(wanted, store))
        before = len(store.attempts())
        assert evaluate(wanted, command="again").rows == report.rows
        assert len(store.attempts()) == before


def test_every_row_has_three_views_of_what_was_answered(tmp_path):
    items = colour_items(10, "page")
    items[3] = dataclasses.replace(items[3], tags={"refuse": ""})

    class FakeBold(FakePainter):
        def answer(self, items, seed):
            return super().answer([dataclasses.replace(item, tags={}) for item in items], seed)

    systems = (FakePainter("shy"), FakeBold("bold", wrong=0.0))
    report = evaluate(measured(tmp_path, exam("pages", items), systems=systems), command="")
    lines = {line["system"]: line for line in csv.DictReader(io.StringIO(report.to_csv()))}
    assert [lines["shy"][view] for view in ("mean", "common", "missing_as_zero")] == [
        "1.0000",
        "1.0000",
        "0.9000",
    ]
    assert [lines["bold"][view] for view in ("mean", "common", "missing_as_zero")] == ["1.0000"] * 3
    assert lines["shy"]["refused"] == "1"
    assert report.rows[0].cells["shy"].gaps == "1 refused"


def test_a_folder_that_lacks_pictures_leaves_them_missing(tmp_path):
    class FakeFolder(FakePainter):
        def has(self, item, seed):
            return not item.prompt.startswith("page 1 ")

    report = evaluate(
        measured(tmp_path, exam("pages", colour_items(5, "page")), systems=(FakeFolder("folder"),)),
        command="",
    )
    cell = report.rows[0].cells["folder"]
    assert (cell.judged, cell.missing, cell.zero, cell.gaps) == (4, 1, 0.8, "1 missing")


def test_who_stops_early_stops_nobody_else(tmp_path):
    class FakeStranger(FakePainter):
        def answer(self, items, seed):
            raise ConfigError("expected a valid key, found another")

    systems = (GOOD, FakeStranger("stranger"))
    report = evaluate(measured(tmp_path, PAGES, SAID, systems=systems), command="")
    assert report.rows[1].cells["good"].judged == 6
    assert report.rows[1].cells["stranger"].missing == 6
    assert [note for note in report.notes if "stranger" in note] == [
        "stranger stopped in Pages: expected a valid key, found another"
    ]


def test_nothing_is_asked_when_it_may_cost_too_much(tmp_path):
    painter = FakePainter("dear")
    painter.settings = {"vendor": "openai-compatible", "model": "dear", "price": 0.1}
    with pytest.raises(ResourceError, match=r"expected at most 3.00 USD, found about 4.00 USD"):
        evaluate(measured(tmp_path, PAGES, systems=(painter,)), command="", budget=Budget(3))
    assert painter.calls == []
    report = evaluate(measured(tmp_path, PAGES, systems=(painter,)), command="", budget=Budget(4))
    assert report.columns[0].spent == pytest.approx(4)
    assert report.prices
    assert "4.00 USD" in str(report)


def test_two_judges_are_compared(tmp_path):
    second = cache(lambda: {"draw": FakeStrict()})
    report = evaluate(measured(tmp_path, dataclasses.replace(PAGES, second=second)), command="")
    (found,) = report.agreements
    assert found.judges == ("fake judge", "strict judge")
    assert found.answers > 60
    assert found.whole.raw < 1
    assert report.rows[0].cells["good"].judged == 40  # the table is the first one's
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Agreement of judges" in page
    assert "fake judge and strict judge" in str(report)


def test_what_a_judge_lacks_is_said_and_the_rest_is_judged(tmp_path):
    items = [*colour_items(6, "dark"), *colour_items(6, "light")]
    wanted = measured(tmp_path, exam("pages", items, FakeBlind), systems=(GOOD,), floor=False)
    report = evaluate(wanted, command="")
    assert [row.cells["good"].judged for row in report.rows] == [0, 6]
    assert "3 answers not judged: expected a lamp, found none" in report.notes
    assert "3 answers not judged: given up in its row" in report.notes


def test_a_benchmark_is_asked_once_and_of_somebody(tmp_path):
    with pytest.raises(ConfigError, match="each once, and a system, found pages, pages"):
        measured(tmp_path, PAGES, PAGES)
    with pytest.raises(ConfigError, match="found no benchmark"):
        measured(tmp_path)


def test_a_sample_is_the_same_part_of_every_row():
    items = [*colour_items(300, "many"), *colour_items(5, "few"), *colour_items(300, "more")]
    lite = sample(items, "lite")
    counts = {row: sum(item.row == row for item in lite) for row in ("many", "few", "more")}
    assert counts["few"] == 5
    assert counts["many"] + counts["more"] == 95
    assert abs(counts["many"] - counts["more"]) <= 1
    assert lite == [item for item in items if item in lite]
    assert sample(items[::-1], "lite") == lite[::-1]
    assert len(sample(items, "smoke")) == 10
    assert sample(items, "official") == items


def _benchmark(**options) -> Benchmark:
    def judge(looks, variant):
        if looks.clip is None:
            raise ResourceError("expected a model in the role 'clip'")
        return FakeJudge()

    given = {
        "name": "pages",
        "title": "Pages",
        "licence": "MIT",
        "source": "here",
        "seeds": (3, 4, 5),
        "variants": ("official", "fixed"),
        "judges": {"clip": "CLIP", "vqa": "BLIP"},
        "read": lambda folder: colour_items(30, "page"),
        "rows": lambda variant: (Row(name="page"),),
        "judge": judge,
    }
    return Benchmark(**{**given, **options})


def test_a_benchmark_is_an_exam_with_its_protocol_told(tmp_path):
    taken = benchmark_exam(_benchmark(), tmp_path, profile="official", variant="fixed", roles={"clip"})
    assert (taken.name, taken.benchmark, taken.title) == ("pages-fixed", "pages", "Pages, fixed")
    assert taken.seeds == (3, 4, 5)
    assert taken.about["Asked here"] == "30 of 30 prompts (official), seeds 3 to 5"
    assert taken.about["Without a judge here"] == "vqa"
    smoke = benchmark_exam(_benchmark(), tmp_path, roles={"clip", "vqa"})
    assert (smoke.name, len(smoke.items), smoke.seeds) == ("pages-official", 10, (3,))


def test_a_benchmark_that_nobody_can_judge_is_refused_before_anything_is_drawn(tmp_path):
    for roles in ((), {"vqa"}):
        with pytest.raises(RequestError, match=r"looks at pictures as clip \(CLIP\).*--judge clip=MODEL"):
            benchmark_exam(_benchmark(), tmp_path, roles=roles)
    with pytest.raises(RequestError, match="expected official, found 'fixed'"):
        benchmark_exam(_benchmark(variants=("official",)), tmp_path, variant="fixed")


def test_pictures_and_ceilings_of_a_benchmark_take_part(tmp_path):
    made = _benchmark(
        judges={},
        judge=lambda looks, variant: FakeJudge(),
        read=lambda folder: said_items(4),
        rows=lambda variant: (Row(name="said"),),
        picture=lambda folder, item: Image.new("RGB", (16, 16), item.answer),
        ceilings=lambda folder: [PERFECT],
    )
    report = evaluate(measured(tmp_path, benchmark_exam(made, tmp_path), systems=(POOR,)), command="")
    assert report.rows[0].cells["perfect"].interval.mean == 1
    with Store.open(tmp_path / "store.sqlite", readonly=True) as store:
        assert len(store.sources()) == 4


def test_published_scores_belong_to_rows_that_there_are():
    known = {one.name: one for one in BENCHMARKS}
    for name, rows in PRINTED.items():
        names = {row.name for row in known[name].rows(known[name].variants[0])} | {MEAN}
        assert set(rows) <= names, name
        for row in rows:
            assert printed(name, row), (name, row)
    assert [one.value for one in printed("geneval", MEAN)] == sorted(
        (one.value for one in printed("geneval", MEAN)), reverse=True
    )
    assert printed("world", "object") == ()


def test_a_weighted_row_and_a_pooled_one_say_what_their_sums_come_to(tmp_path):
    items = [
        dataclasses.replace(item, details={"words": 1 + 9 * (number % 2)})
        for number, item in enumerate(colour_items(40, "page"))
    ]
    rows = (
        Row(name="page", weight=lambda item: item.details["words"]),
        Row(
            name="pool",
            of="page",
            parts=lambda one: (one.atoms[0].value * one.item.details["words"], one.item.details["words"]),
            pool=lambda sums: sums[..., 0] / sums[..., 1],
            counts=False,
        ),
    )
    report = evaluate(measured(tmp_path, exam("pages", items, rows=rows)), command="")
    weighted, pooled = report.rows
    assert weighted.cells["good"].interval == pooled.cells["good"].interval
    assert weighted.cells["good"].common == pytest.approx(pooled.cells["good"].common)
    assert weighted.comparisons["poor"].difference == pytest.approx(pooled.comparisons["poor"].difference)
    assert pooled.cells["good"].zero is None
