"""What the page says that was not measured is marked so: published scores, withdrawn systems, claims."""

import re
from functools import cache

import pytest

from danqing.evaluation.benchmarks import benchmark
from danqing.evaluation.evaluate import Evaluation, evaluate
from danqing.evaluation.exam import Entered, Exam
from danqing.evaluation.report.table import MEAN
from danqing.evaluation.results import Row
from tests.evaluation_fakes import FakeJudge, FakePainter, colour_items
from tests.unit.test_evaluation_page import outline

NAMES = ("DALL·E 3", "GPT-Image-1", "Imagen 2", "Qwen-Image")
ROWS = tuple(Row(name=row.name, title=row.title) for row in benchmark("geneval").rows("official")[:2])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    exam = Exam(
        name="geneval",
        benchmark="geneval",
        title="GenEval",
        items=tuple(item for row in ROWS for item in colour_items(8, row.name)),
        rows=ROWS,
        judges=cache(lambda: {"draw": FakeJudge()}),
        about={"Asked here": "16 of 553 prompts"},
    )
    systems = (FakePainter("ours", wrong=0.3), FakePainter("old", wrong=0.7))
    entered = tuple(
        Entered(system=system, role=role) for system, role in zip(systems, ("model", "baseline"), strict=True)
    )
    wanted = Evaluation(exams=(exam,), entered=entered, folder=folder, title="Published", published=NAMES)
    report = evaluate(wanted, command="danqing evaluate run geneval")
    return report, (folder / "report.html").read_text(encoding="utf-8")


def test_published_scores_are_hollow_marks_with_their_protocol(made):
    report, page = made
    marks = [attrs for attrs in outline(page).all("i") if "hollow" in attrs["class"] and "title" in attrs]
    assert len([one for one in report.rows[0].published if one.system == "DALL·E 3"]) == 1
    assert len(marks) > len(report.rows[0].published)
    assert all(re.search(r"published\. .+; .+", mark["title"]) for mark in marks)
    assert {mark["class"] for mark in marks} == {"hollow", "hollow chosen"}
    assert any("DALL·E 3 0.96, published. 553 prompts" in mark["title"] for mark in marks)
    bars = outline(page).all("svg")
    assert len(bars) == 3 * 2  # only what was measured has a bar


def test_published_and_measured_stand_under_their_own_protocols(made):
    _, page = made
    against = page[page.index("Against GenEval") : page.index("All published scores")]
    assert "Here: 16 of 553 prompts; judged by fake judge 1." in against
    assert against.count('<tr class="measured">') == 3 * 2
    assert "measured here" in against
    assert "read in the source itself" in against


def test_systems_without_a_score_are_there_and_withdrawn_ones_said_so(made):
    report, page = made
    assert report.published == NAMES
    assert not [one for one in report.scores if one.system.startswith("Imagen 2")]
    assert '<th scope="col" class="number">Imagen 2</th>' in page
    assert "Imagen 2: withdrawn by Google on 2025-09-24" in page
    assert "DALL·E 3: withdrawn by OpenAI on 2026-05-12" in page
    assert "Qwen-Image: withdrawn" not in page


def test_every_cell_of_an_architecture_has_a_source_or_is_not_published(made):
    _, page = made
    section = page[page.index('id="architectures"') : page.index('id="claims"')]
    assert all(f'<th scope="row">{name}<small>' in section for name in NAMES)
    cells = re.findall(r"<td>(.*?)</td>", section)
    assert len(cells) == 8 * len(NAMES)
    assert [cell for cell in cells if "cite" not in cell and cell != "not published"] == []
    numbers = {int(number) for number in re.findall(r"\[(\d+)\]", section)}
    assert numbers == set(range(1, section.count("<li>") + 1))


def test_claims_are_judged_by_the_published_rows(made):
    _, page = made
    claims = page[page.index('id="claims"') : page.index('id="methods"')]
    verdicts = re.findall(
        r'<li class="(yes|no|open)"><b>([^<]+)</b>\s*(supported|contradicted|mixed|no public)', claims
    )
    assert ("open", "DALL·E 3", "no public") in verdicts
    assert ("yes", "DALL·E 3", "supported") in verdicts
    assert all((mark == "yes") == (verdict == "supported") for mark, _, verdict in verdicts)


def test_the_mean_has_its_published_scores_and_the_page_loads_nothing(made):
    report, page = made
    assert report.mean.name == MEAN
    assert {one.metric for one in report.mean.published} == {"overall"}
    found = outline(page)
    links = [attrs[name] for _, attrs in found.found for name in ("src", "href") if name in attrs]
    assert [link for link in links if not link.startswith(("data:", "#"))] == []
    ids = [attrs["id"] for _, attrs in found.found if "id" in attrs]
    assert {link["href"][1:] for link in found.all("a") if link["href"].startswith("#")} <= set(ids)


def test_a_page_without_published_systems_says_nothing_of_architectures(tmp_path):
    exam = Exam(
        name="pages",
        title="Pages",
        items=tuple(colour_items(2, "page")),
        rows=(Row(name="page"),),
        judges=cache(lambda: {"draw": FakeJudge()}),
    )
    entered = (Entered(system=FakePainter("ours"), role="model"),)
    evaluate(Evaluation(exams=(exam,), entered=entered, folder=tmp_path), command="")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r'id="(published|architectures|claims)"', page)
