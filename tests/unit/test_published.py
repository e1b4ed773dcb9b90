"""Published scores: each with a source and a protocol, found by names as people write them."""

import csv
from datetime import date
from pathlib import Path

import pytest

from danqing.errors import DataError, RequestError
from danqing.evaluation.items import Item
from danqing.evaluation.report.published import PublishedSystem, lookup, published, withdrawn

COLLECTED = Path(__file__).parents[3] / "shared" / "evaldata" / "published_scores.csv"


def test_every_row_has_source_and_protocol_and_lies_within_its_scale():
    rows = published()
    assert len(rows) > 600
    for row in rows:
        assert row.source
        assert row.protocol
        assert row.share is None or 0 <= row.share <= 1, row


def test_no_score_is_there_twice():
    keys = [(row.benchmark, row.metric, row.system, row.protocol, row.source) for row in published()]
    assert len(set(keys)) == len(keys)


def test_names_are_found_as_people_write_them():
    (row,) = lookup(benchmark="t2i-compbench++", system="DALL-E 3", metric="color")
    assert (row.system, row.value, row.share) == ("DALL·E 3", 0.7785, 0.7785)
    assert {row.system for row in lookup(system="GPT-Image-1")} == {"GPT-Image-1", "GPT-Image-1 [High]"}
    assert {row.system for row in lookup(system="FLUX.1 [dev]")} == {"FLUX.1 [dev]"}
    assert {row.benchmark for row in lookup(benchmark="GenEval")} == {"GenEval"}


def test_percentages_become_shares():
    (row,) = lookup(benchmark="DPG-Bench", system="Qwen-Image", metric="overall")
    assert row.value == 88.32
    assert row.share == pytest.approx(0.8832)


def test_nobody_published_the_claim_of_the_article():
    """No T2I-CompBench, captioning or retrieval score of the systems it compares, DALL·E 3 aside."""
    compared = ("Qwen-Image", "GPT-Image-1", "Imagen 2", "Imagen 3", "Imagen 4")
    benches = {row.benchmark for name in compared for row in lookup(system=name)}
    assert not {name for name in benches if "CompBench" in name or "captioning" in name or "COCO" in name}
    assert lookup(benchmark="T2I-CompBench++", system="DALL·E 3")


def test_withdrawn_systems_are_known_by_name_and_by_id():
    gone = withdrawn("DALL-E 3")
    assert gone is not None
    assert gone.date == date(2026, 5, 12)
    assert withdrawn("imagen-4.0-ultra-generate-001") is not None
    assert withdrawn("gpt-image-1") is not None
    assert withdrawn("gpt-image-2") is None
    assert withdrawn("gpt-image-1.5", today=date(2026, 11, 23)) is None
    assert withdrawn("gpt-image-1.5", today=date(2026, 12, 1)) is not None


def test_a_published_system_has_rows_and_no_answers():
    system = PublishedSystem("Imagen 3")
    item = Item(row="page", prompt="a red page")
    assert {row.benchmark for row in system.rows} == {"OneIG-Bench EN"}
    assert system.settings["withdrawn"] == "2026-06-30"
    assert not system.has(item, 0)
    with pytest.raises(RequestError, match="published scores alone"):
        system.answer([item], 0)
    with pytest.raises(DataError, match="known: "):
        PublishedSystem("nobody's model")


@pytest.mark.skipif(not COLLECTED.is_file(), reason="the collected scores do not lie beside the checkout")
def test_no_score_of_the_collection_is_lost():
    with COLLECTED.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    values = [float(value) for row in rows for value in row["value"].split(" / ")]
    assert sorted(values) == sorted(row.value for row in published())
