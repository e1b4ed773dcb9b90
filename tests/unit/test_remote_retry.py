"""Back-off: doubling, capped, jittered, and never shorter than a server asks."""

from datetime import UTC, datetime

import numpy as np
import pytest

from danqing.errors import DataError, ResourceError
from danqing.retry import PassingError, Retry, asked_pause, retried
from danqing.scoring.vendors import reason

RNG = np.random.default_rng(0)


def test_pauses_double_up_to_a_cap_and_keep_at_least_half():
    retry = Retry(first=1.0, most=10.0)
    for attempt, longest in enumerate((1, 2, 4, 8, 10, 10), 1):
        pauses = [retry.pause(attempt, None, RNG) for _ in range(200)]
        assert longest / 2 <= min(pauses) < 0.6 * longest
        assert 0.9 * longest < max(pauses) <= longest


def test_what_a_server_asks_for_is_the_least_and_the_cap_the_most():
    retry = Retry(first=1.0, most=30.0)
    pauses = [retry.pause(3, 8.0, RNG) for _ in range(200)]
    assert 8 <= min(pauses) < max(pauses) <= 10
    assert retry.pause(1, 3600.0, RNG) == 30


def test_retry_after_is_read_as_seconds_milliseconds_or_a_date():
    assert asked_pause({"retry-after": "2.5"}) == 2.5
    assert asked_pause({"retry-after-ms": "1500", "retry-after": "2"}) == 1.5
    now = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
    assert asked_pause({"retry-after": "Mon, 23 Nov 2026 12:00:30 GMT"}, now=now) == 30
    assert asked_pause({"retry-after": "Mon, 23 Nov 2026 11:00:00 GMT"}, now=now) == 0
    assert asked_pause({"retry-after": "soon"}) is None
    assert asked_pause({}) is None


def test_only_what_passes_is_tried_again_and_not_for_ever():
    tried = []

    def ask(errors):
        tried.append(errors)
        if errors:
            raise errors.pop(0)
        return "made"

    retry = Retry(attempts=3, sleep=lambda _: None)
    passing = [PassingError("busy"), PassingError("busy")]
    assert retried(lambda: ask(passing), retry, RNG) == "made"
    assert len(tried) == 3
    with pytest.raises(ResourceError, match=r"^busy \(3 attempts\)$"):
        retried(lambda: ask([PassingError("busy")] * 3), retry, RNG)
    with pytest.raises(DataError, match=r"^broken$"):
        retried(lambda: ask([DataError("broken")]), retry, RNG)


def test_reasons_are_one_short_line_without_secrets():
    text = "Denied for sk-proj-abcdef123456\nat https://example.com/x?token=1&b=2 (req_0a1b2c) Bearer abc"
    said = reason(text + " words" * 100, ["words words"])
    for secret in ("abcdef", "token=", "req_", "Bearer abc", "\n", "words words"):
        assert secret not in said
    assert len(said) <= 300
    assert reason("a skateboard and a keyboardist") == "a skateboard and a keyboardist"
