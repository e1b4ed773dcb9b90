"""Ask again what a vendor could not answer just now: exponential back-off with jitter, as servers ask for.

Used in place of the retries of the client libraries, so that every vendor is treated alike and a failure
says how often it was tried.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, TypeVar

import numpy as np

from danqing.errors import DanqingError, ResourceError

T = TypeVar("T")
PASSING: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Answers of HTTP after which the same request may succeed."""
_LEAST_SHARE: Final = 0.5  # of the back-off that jitter leaves


class PassingError(Exception):
    """Something that may be gone in a moment; whoever retries turns it into an error of ours."""

    def __init__(self, reason: str, *, wait: float | None = None) -> None:
        """`wait` is how many seconds the server asks to wait, where it says so."""
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often and how patiently a request is made again."""

    attempts: int = 5
    first: float = 1.0
    """Seconds before the second attempt; they double with each one."""
    most: float = 60.0
    """Seconds a pause takes at most, also where a server asks for more."""
    sleep: Callable[[float], None] = time.sleep

    def pause(self, attempt: int, asked: float | None, rng: np.random.Generator) -> float:
        """Return seconds to wait after attempt number `attempt`, from 1.

        What a server asked for is a floor and gets jitter on top, so that clients do not return together.
        """
        backoff = self.first * 2.0 ** (attempt - 1)
        if asked is None:
            return min(self.most, backoff) * rng.uniform(_LEAST_SHARE, 1.0)
        return min(self.most, asked + min(backoff, asked) * rng.uniform(0.0, _LEAST_SHARE))


def retried(call: Callable[[], T], retry: Retry, rng: np.random.Generator) -> T:
    """Return what `call` returns, called again after each PassingError.

    Raises ResourceError with the last reason after the last attempt; every other error at once.
    """
    for attempt in range(1, retry.attempts + 1):
        try:
            return call()
        except PassingError as error:
            if attempt == retry.attempts:
                raise ResourceError(_given_up(error, attempt)) from None
            retry.sleep(retry.pause(attempt, error.wait, rng))
    raise DanqingError(f"expected at least one attempt, found {retry.attempts}")


def asked_pause(headers: Mapping[str, str], *, now: datetime | None = None) -> float | None:
    """Return the seconds that `Retry-After` asks for, as a number or a date; None where it does not.

    `retry-after-ms`, which OpenAI sends besides, is finer and goes first.
    """
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        text = headers.get(name, "").strip()
        try:
            return max(0.0, float(text) / unit)
        except ValueError:
            continue
    try:
        when = parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    when = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
    return max(0.0, (when - (now or datetime.now(UTC))).total_seconds())


def _given_up(error: PassingError, attempts: int) -> str:
    return f"{error} ({attempts} attempts)" if attempts > 1 else str(error)
