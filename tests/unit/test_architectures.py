"""Cards tell only what has a source, and verdicts follow from published rows."""

import re

import pytest

from danqing.errors import DataError
from danqing.evaluation.report.architectures import NOT_PUBLISHED, card, cards, claims, columns
from danqing.evaluation.report.published import lookup, withdrawn


def test_every_cell_has_a_source_or_says_that_none_is_published():
    for one in cards():
        assert list(one.cells) == [key for key, _ in columns()], one.system
        for key, cell in one.cells.items():
            assert bool(cell.source) != (cell.value == NOT_PUBLISHED), (one.system, key)


def test_cards_and_withdrawals_agree():
    for one in cards():
        gone = withdrawn(one.system)
        assert one.withdrawn == ("" if gone is None else gone.date.isoformat()), one.system


def test_cards_are_found_by_names_as_people_write_them():
    assert card("DALL-E 3").withdrawn == "2026-05-12"
    assert "20.4 B" in card("qwen-image").cells["backbone"].value
    with pytest.raises(DataError, match="Imagen 2"):
        card("Midjourney")


def _verdicts(name):
    (claim,) = (one for one in claims() if one.name == name)
    return {one.rival: one.verdict for one in claim.judged if not one.nearest}


def test_the_benchmarks_that_the_article_names_have_no_public_comparison():
    nothing = dict.fromkeys(("DALL·E 3", "GPT-Image-1", "Imagen 2"), "no public source")
    for name in ("coco-captioning", "flickr30k", "t2i-compbench", "coherence"):
        assert _verdicts(name) == nothing


def test_other_claims_hold_in_part():
    assert _verdicts("faithfulness") == {
        "DALL·E 3": "supported",
        "GPT-Image-1": "mixed",
        "Imagen 2": "no public source",
    }
    assert _verdicts("detail")["GPT-Image-1"] == "mixed"
    assert _verdicts("languages")["GPT-Image-1"] == "supported"


def test_evidence_is_of_the_same_metric_and_protocol():
    pairs = [pair for claim in claims() for one in claim.judged for pair in one.evidence]
    assert len(pairs) > 20
    for pair in pairs:
        ours, theirs = pair.ours, pair.theirs
        assert (ours.benchmark, ours.metric, ours.protocol) == (
            theirs.benchmark,
            theirs.metric,
            theirs.protocol,
        )
        assert ours.system == "Qwen-Image"
        assert pair.same_source or theirs.system == "DALL·E 3"


def test_every_benchmark_that_a_claim_names_is_in_the_table():
    for claim in claims():
        assert claim.reading
    assert lookup(benchmark="T2I-CompBench++", metric="non_spatial")
    assert lookup(benchmark="Flickr30k retrieval", metric="i2t_R1")
    assert lookup(benchmark="COCO captioning", metric="CIDEr")


def test_dates_are_dates():
    for one in cards():
        assert re.fullmatch(r"20\d\d-\d\d(-\d\d)?", one.released), one.system
