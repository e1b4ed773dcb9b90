"""The official `openai` client, opened safely, and what its errors mean."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from danqing.errors import ConfigError, DanqingError, DataError, RequestError
from danqing.retry import PASSING, PassingError, asked_pause
from danqing.scoring.vendors import ENDPOINT_KEY, TIMED_OUT, reason

if TYPE_CHECKING:
    import openai

KEY: Final = "OPENAI_API_KEY"
"""Variable with the key of OpenAI."""
_REFUSALS: Final = frozenset(
    {
        "content_policy_violation",
        "moderation_blocked",
        "content_filter",
        "contentFilter",
        "data_inspection_failed",
        "DataInspectionFailed",
    }
)
"""Codes of refusals: OpenAI's, Azure's, Alibaba's."""
_UNPAID: Final = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})


def check_own() -> None:
    """Raise ConfigError where the environment would send OpenAI's requests, and its key, elsewhere."""
    if os.environ.get("OPENAI_BASE_URL"):
        raise ConfigError(
            "expected OpenAI's own address, found OPENAI_BASE_URL; name another server as "
            "openai-compatible:ADDRESS#MODEL"
        )


def opened(endpoint: str | None, seconds: float) -> "openai.OpenAI":
    """Return a client of OpenAI, or of an endpoint of its shape, that gives up an attempt after `seconds`.

    Raises ConfigError without the library, or without OpenAI's key.
    """
    try:
        import openai
    except ImportError:
        raise ConfigError("expected the openai client, found none; pip install 'danqing[remote]'") from None
    key = os.environ.get(KEY if endpoint is None else ENDPOINT_KEY, "")
    if not key and endpoint is None:
        raise ConfigError(f"expected a key in {KEY}, found none; set it in the environment")
    client = openai.OpenAI(api_key=key or "none", base_url=endpoint, timeout=seconds, max_retries=0)
    if endpoint is not None:  # who pays OpenAI is nobody else's business
        client.organization = client.project = None
    return client


def vendor_of(endpoint: str | None) -> str:
    """Return what errors call the server."""
    return "OpenAI" if endpoint is None else "the endpoint"


def explained(error: Exception, seconds: float, vendor: str, key: str) -> DanqingError | PassingError:
    """Return what an error of the client means: a refusal, a failure, or something that may pass."""
    import openai

    if isinstance(error, openai.APITimeoutError):
        return PassingError(f"{TIMED_OUT} after {seconds:g} seconds")
    if isinstance(error, openai.APIConnectionError):
        return PassingError(f"cannot reach {vendor}")
    if not isinstance(error, openai.APIStatusError):
        return DataError(f"{vendor}: {reason(error, [key])}")
    status, code = error.status_code, error.code or error.type or ""
    if code in _REFUSALS or (status == 400 and "safety system" in _message(error, key)):
        return RequestError(f"refused ({code}): {_message(error, key)}")
    if code in _UNPAID:
        return ConfigError(f"{vendor}: expected an account with credit, found {code}")
    if status in PASSING:
        return PassingError(f"{vendor} answered {status}", wait=asked_pause(error.response.headers))
    if status == 401:
        variable = KEY if vendor == "OpenAI" else ENDPOINT_KEY
        return ConfigError(f"{vendor} answered 401: expected a valid key in {variable}")
    if status in (403, 404):
        return ConfigError(f"{vendor} answered {status}: {_message(error, key)}")
    return DataError(f"{vendor} answered {status}: {_message(error, key)}")


def _message(error: "openai.APIStatusError", key: str) -> str:
    body = error.body if isinstance(error.body, Mapping) else {}
    return reason(body.get("message") or "no reason given", [key])
