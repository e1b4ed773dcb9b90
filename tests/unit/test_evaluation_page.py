"""The page: one file that loads nothing, shows failures first, and can be read without seeing."""

import base64
import dataclasses
import json
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from danqing.evaluation.items import Clause, Item
from danqing.evaluation.report.page import render_page, write_page
from danqing.evaluation.report.report import make_report
from danqing.evaluation.results import Entrant, Row, read_results
from danqing.evaluation.run import plan, run, score
from danqing.evaluation.store import Store
from tests.evaluation_fakes import FakeJudge, FakePainter, colour_items, said_items

PAINTER, POOR, PERFECT = FakePainter("ours", wrong=0.4), FakePainter("old", wrong=0.7), FakePainter("truth")
JUDGE = FakeJudge()
ROWS = (Row(name="background", title="Background"), Row(name="strange", about="Prompts that look like HTML."))
EMPTY = {"meta", "img", "line", "rect", "path", "br", "link"}


class Outline(HTMLParser):
    """Collects the elements of a page and checks that they nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.found if name == tag]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    items = colour_items(30)
    items[4] = dataclasses.replace(items[4], tags={"refuse": ""})
    items.append(
        Item(
            row="strange", prompt='<b>أحمر</b> & "quotes"', language="ar", include=(Clause(background="red"),)
        )
    )
    with Store.open(tmp_path_factory.mktemp("store") / "store.sqlite") as store:
        for system in (PAINTER, POOR, PERFECT):
            run(plan(items, system, [0], store), store, batch=31)
            score(items, system, [0], JUDGE, store)
        score(items, PAINTER, [0], JUDGE, store, shuffled=True)
        entrants = [
            Entrant.of(PAINTER, "model"),
            Entrant.of(POOR, "baseline"),
            Entrant.of(PERFECT, "ceiling"),
        ]
        results = read_results(store, rows=ROWS, entrants=entrants, judges=[(JUDGE.name, JUDGE.version)])
        yield make_report(results, title="Pages & colours", commands=["danqing evaluate"]), results


@pytest.fixture(scope="module")
def page(made):
    return render_page(*made)


def outline(page: str) -> Outline:
    found = Outline()
    found.feed(page)
    assert found.open == []
    return found


def test_the_page_loads_nothing(page):
    found = outline(page)
    links = [attrs[name] for _, attrs in found.found for name in ("src", "href") if name in attrs]
    assert links
    assert [link for link in links if not link.startswith(("data:", "#"))] == []
    assert not re.search(r"https?://|url\(|@import|<script", page)
    assert found.all("script") == found.all("link") == []


def test_every_anchor_leads_somewhere_and_ids_are_unique(page):
    found = outline(page)
    ids = [attrs["id"] for _, attrs in found.found if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {link["href"][1:] for link in found.all("a") if link["href"].startswith("#")} <= set(ids)


def test_a_link_to_a_row_opens_its_pictures(page):
    """Browsers open a closed `details` for a target inside it, not for itself."""
    assert re.search(r"</summary>\s*<div class=\"inside\" id=\"pictures-1\">", page)
    assert page.count('href="#pictures-1"') == 1


def test_pictures_and_bars_are_described(page):
    found = outline(page)
    assert all(attrs["alt"].strip() for attrs in found.all("img"))
    bars = [attrs["aria-label"] for attrs in found.all("svg")]
    assert re.fullmatch(
        r"ours 0\.\d+, 95 % interval 0\.\d+ to 0\.\d+; ceiling truth 1\.000; floor 0\.\d+", bars[0]
    )
    assert len(bars) == 3 * 2  # two rows and their mean; the ceiling is a mark


def test_failures_come_first_and_truth_stands_beside(page):
    pictures = page[page.index('id="pictures"') :]
    figures = re.findall(r'<figure class="(met|missed)">(.*?)</figure>', pictures, re.DOTALL)
    row = [kind for kind, _ in figures[:24]]
    assert row == sorted(row, reverse=True)
    assert set(row) == {"met", "missed"}
    assert "refused" in figures[0][1]
    assert "the painter does not paint this" in figures[0][1]
    assert figures[0][1].count("<img") == 0  # the truth refused it too
    assert {body.count("<img") for _, body in figures[1:]} == {2}
    assert re.search(r"wanted <bdi>\w+</bdi>, saw <bdi>\w+</bdi>", figures[1][1])


def test_prompts_are_text_whatever_they_hold(page):
    assert "&lt;b&gt;أحمر&lt;/b&gt; &amp; &#34;quotes&#34;" in page
    assert "<b>أحمر" not in page
    assert any(attrs.get("lang") == "ar" and attrs.get("dir") == "auto" for attrs in outline(page).all("p"))


def test_the_report_is_inside_to_be_saved(page, made):
    links = {attrs["download"]: attrs["href"] for attrs in outline(page).all("a") if "download" in attrs}
    content = {name: base64.b64decode(link.split(",", 1)[1]).decode() for name, link in links.items()}
    assert json.loads(content["report.json"]) == json.loads(made[0].to_json())
    assert content["report.csv"] == made[0].to_csv()


@pytest.fixture
def about(tmp_path):
    """A page about two edits and two texts."""
    edits = [
        dataclasses.replace(item, ability="edit", source=f"page-{index}", row="edit")
        for index, item in enumerate(colour_items(2))
    ]
    items = [*edits, *said_items(2)]
    rows = (
        Row(name="edit"),
        Row(name="said"),
        Row(name="level", of="edit", unit="dB", value=lambda _: -2.5, counts=False),
    )
    with Store.open(tmp_path / "store.sqlite") as store:
        store.add_sources({f"page-{index}": Image.new("RGB", (16, 16), "red") for index in range(2)})
        for system in (PAINTER, PERFECT):
            run(plan(items, system, [0], store), store)
            score(items, system, [0], JUDGE, store)
        entrants = [Entrant.of(PAINTER, "model"), Entrant.of(PERFECT, "ceiling")]
        results = read_results(store, rows=rows, entrants=entrants, judges=[(JUDGE.name, JUDGE.version)])
        yield render_page(make_report(results, title="About pages"), results)


def test_an_edit_stands_between_its_source_and_the_truth(about):
    figures = re.findall(r"<figure.*?</figure>", about, re.DOTALL)
    assert len(figures) == 4  # a row in a unit shows no answers of its own
    assert [body.count("<img") for body in figures] == [3, 3, 1, 1]
    assert 'alt="The picture that is meant by: page 0 in red"' in about


def test_what_was_said_is_text_beside_its_picture(about):
    said = re.findall(r'<p class="said" lang="en" dir="auto">(\w+)</p>', about)
    assert len(said) == 2
    assert about.count('<p class="wanted">truth: ') == 2


def test_a_row_in_a_unit_has_numbers_and_no_bar(about):
    assert "<b>−2.500</b> <small>dB</small>" in about
    assert len(outline(about).all("svg")) == 3  # two rows and their mean


def test_pictures_are_few_and_small(made):
    few = outline(render_page(*made, per_row=4)).all("figure")
    assert len(few) == 4 + 1
    small = outline(render_page(*made, limit=3000))
    assert sum(len(attrs["src"]) for attrs in small.all("img")) <= 3000
    assert small.all("img")


def test_the_file_is_the_page(made, page, tmp_path):
    write_page(*made, tmp_path / "out" / "page.html")
    assert (tmp_path / "out" / "page.html").read_text(encoding="utf-8") == page
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["page.html"]
