"""Costs are known before anything is asked, never below the bill, and a limit stops in time."""

import json
from importlib import resources

import pytest
from PIL import Image

from danqing.errors import ConfigError, ResourceError
from danqing.evaluation.items import Item
from danqing.evaluation.prices import Budget, billed, cost, prices_as_of
from danqing.evaluation.remote.answers import noted
from danqing.evaluation.remote.gemini_api import GeminiOptions, GeminiSystem
from danqing.evaluation.remote.openai_api import OpenAIOptions, OpenAISystem
from tests.evaluation_fakes import FakePainter, colour_items

HUNDRED = colour_items(100)


def openai(model="gpt-image-1.5", *, endpoint=None, **options):
    return OpenAISystem(model, OpenAIOptions(**options), endpoint=endpoint)


def test_the_table_has_a_source_and_positive_prices_everywhere():
    table = json.loads((resources.files("danqing.evaluation") / "prices.json").read_text())
    assert prices_as_of().year >= 2026
    for row in table["models"]:
        assert row["source"]
        assert row["tokens"]["image_out"] > 0
        assert all(price > 0 for sizes in row["pictures"].values() for price in sizes.values())


def test_a_hundred_pictures_cost_a_hundred_prices_and_a_few_words():
    told = cost(openai(quality="high", size="1024x1024"), HUNDRED)
    assert 13.3 <= told.amount < 13.4
    assert "December 2025" in told.basis
    assert "about 13.30 USD" in str(told)
    gemini = cost(GeminiSystem("gemini-3.1-flash-image", GeminiOptions(size="2K")), HUNDRED)
    assert gemini.amount == pytest.approx(10.1)


def test_what_is_left_to_the_vendor_counts_as_its_dearest():
    left = cost(openai(), HUNDRED)
    named = cost(openai(quality="high", size="1024x1536"), HUNDRED)
    assert left.amount == named.amount
    assert "at most" in left.basis


def test_edits_cost_what_they_send_along():
    edits = [Item(row="e", prompt="x", ability="edit", source="s")]
    draws = [Item(row="e", prompt="x")]
    asked = openai(quality="low", size="1024x1024")
    assert cost(asked, edits).amount > 2 * cost(asked, draws).amount


def test_what_runs_here_is_free_and_what_nobody_knows_is_said():
    assert cost(FakePainter(), HUNDRED).amount == 0
    assert cost(openai("any", endpoint="http://127.0.0.1:8000/v1"), HUNDRED).amount == 0
    elsewhere = cost(openai("any", endpoint="https://example.com/v1"), HUNDRED)
    assert elsewhere.amount is None
    assert "price=" in str(elsewhere)
    assert cost(openai("any", endpoint="https://example.com/v1", price=0.5), HUNDRED).amount == 50
    assert cost(openai("gpt-image-2.6-flare"), HUNDRED).amount is None


def test_a_plan_beyond_the_limit_is_refused_before_anything_is_spent():
    costs = [cost(openai(quality="high", size="1024x1024"), HUNDRED)]
    Budget(14).check(costs)
    with pytest.raises(ResourceError, match="expected at most 13"):
        Budget(13).check(costs)
    with pytest.raises(ResourceError, match="cost unknown"):
        Budget(1000).check([cost(openai("gpt-image-2.6-flare"), HUNDRED)])
    with pytest.raises(ConfigError):
        Budget(-1)


def test_a_run_stops_before_the_batch_that_would_pass_the_limit():
    asked, budget = openai(quality="high", size="1024x1024"), Budget(1.0)
    paid = []

    def spend():
        for start in range(0, 100, 4):
            batch = HUNDRED[start : start + 4]
            budget.check([cost(asked, batch)])
            paid.append(budget.pay(asked, batch, [Image.new("RGB", (8, 8))] * len(batch)))

    with pytest.raises(ResourceError, match=r"after 0\.53 USD are spent"):
        spend()
    assert len(paid) == 1
    assert budget.spent == sum(paid) <= budget.limit


def test_tokens_that_a_vendor_tells_replace_the_estimate():
    usage = {
        "input_tokens_details": {"text_tokens": 1000, "image_tokens": 2000},
        "output_tokens": 4000,
    }
    asked, made = openai(quality="high"), noted(Image.new("RGB", (8, 8)), {"usage": usage})
    real = (1000 * 5 + 2000 * 8 + 4000 * 32) / 1e6
    assert billed(asked.settings, made) == pytest.approx(real)
    budget = Budget(10)
    assert budget.pay(asked, HUNDRED[:1], [made]) == pytest.approx(real)
    assert budget.spent == pytest.approx(real)
