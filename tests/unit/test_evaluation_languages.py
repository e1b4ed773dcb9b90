"""What is lost from English to other languages: paired by meaning, over rows that differ in that alone."""

import dataclasses

import pytest

from danqing.evaluation.report.languages import ALL, language_changes
from danqing.evaluation.report.report import make_report
from danqing.evaluation.results import Entrant, Row, read_results
from danqing.evaluation.run import plan, run, score
from danqing.evaluation.store import Store
from tests.evaluation_fakes import FakeJudge, FakePainter, colour_items

JUDGE = FakeJudge()
COUNT = 40


class Monoglot(FakePainter):
    """Paints what is asked for in English, and in German half of it."""

    def _paint(self, item, seed):
        self._wrong = 0.5 if item.language == "de" else 0.0
        return super()._paint(item, seed)


def items(row, language, count=COUNT):
    return [
        dataclasses.replace(
            one, prompt=f"{language}: {one.prompt}", language=language, row=row, cluster=f"scene {number}"
        )
        for number, one in enumerate(colour_items(count))
    ]


def results(tmp_path, asked, rows):
    painter = Monoglot("monoglot")
    store = Store.open(tmp_path / "store.sqlite")
    run(plan(asked, painter, [0], store), store, batch=16)
    score(asked, painter, [0], JUDGE, store)
    entrants = [Entrant.of(painter, "model")]
    who = [(JUDGE.name, JUDGE.version)]
    return read_results(store, rows=rows, entrants=entrants, judges=who, items=asked, name="pages")


def test_a_language_is_compared_with_english_meaning_by_meaning(tmp_path):
    names = [f"language-{language}" for language in ("en", "de", "fr")]
    asked = [one for name in names for one in items(name, name[-2:])]
    found = results(tmp_path, asked, [Row(name=name) for name in names])
    changes = {one.language: one.comparison for one in language_changes(found)}
    assert list(changes) == ["de", "fr", ALL]
    wrong = [one for one in found.observations(found.entrants[0], found.rows[1]) if one.value == 0]
    assert changes["de"].difference == pytest.approx(-len(wrong) / COUNT) != 0
    assert changes["de"].separated
    assert changes["de"].common == COUNT
    assert changes["fr"].difference == 0
    assert not changes["fr"].separated
    assert changes[ALL].difference == pytest.approx(changes["de"].difference / 2)
    report = make_report(found, title="Languages")
    assert "monoglot, all minus en: -0." in str(report)
    assert report.languages == tuple(language_changes(found))


def test_several_languages_in_one_row_and_rows_without_a_twin(tmp_path):
    both = [*items("pages", "en"), *items("pages", "de", COUNT // 2)]
    other = items("other", "zh")
    found = results(tmp_path, [*both, *other], [Row(name="pages"), Row(name="other")])
    (change,) = language_changes(found)  # Chinese asks for other things than any English prompt does
    assert (change.language, change.comparison.common) == ("de", COUNT // 2)
    assert change.comparison.difference < 0


def test_english_alone_says_nothing(tmp_path):
    assert language_changes(results(tmp_path, items("pages", "en"), [Row(name="pages")])) == []
