"""What answers of vendors cost: a dated table, an estimate before anything is asked, a limit that holds.

Estimates are the most that the table allows: a quality or size that is left to the vendor counts as its
dearest. What was really used, where a vendor says so in tokens, replaces the estimate afterwards.
"""

import ipaddress
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib import resources
from typing import Any, Final
from urllib.parse import urlsplit

from danqing.errors import ConfigError, ResourceError
from danqing.evaluation.items import Item, Made, System
from danqing.evaluation.remote.answers import notes_of

_PAID: Final = ("openai", "gemini", "openai-compatible", "gemini-compatible")
"""Vendors, in the settings of a system, that send a bill."""
_INPUT_PICTURE: Final = 65 + 4 * 129 + 6240
"""Most tokens of a picture that is sent along: base, four tiles, high fidelity (OpenAI's guide to vision)."""
_BYTES_A_TOKEN: Final = 3  # of a prompt, rather too few than too many
_MILLION: Final = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a number of answers of one system may cost."""

    system: str
    answers: int
    amount: float | None
    """US dollars at most; None when nobody can tell before the bill."""
    basis: str
    """Where the number comes from, in words."""

    def __str__(self) -> str:
        if self.amount is None:
            return f"{self.system}: {self.answers} answers, cost unknown: {self.basis}"
        told = f"about {self.amount:,.2f} USD" if self.amount else "no cost"
        return f"{self.system}: {self.answers} answers, {told} ({self.basis})"


class Budget:
    """A limit on what is spent in one run, counted batch by batch."""

    def __init__(self, limit: float) -> None:
        """`limit` is in US dollars; raises ConfigError when it is below zero."""
        if not limit >= 0:
            raise ConfigError(f"--max-cost: expected an amount of 0 or more, found {limit}")
        self.limit, self.spent = limit, 0.0

    def check(self, costs: Sequence[Cost]) -> None:
        """Raise ResourceError when these costs, on top of what is spent, would pass the limit.

        A cost that nobody can tell passes every limit; `price=` in the name of a system tells it.
        """
        if unknown := [one for one in costs if one.amount is None]:
            raise ResourceError(f"--max-cost: expected costs that are known, found {unknown[0]}")
        planned = sum(one.amount or 0.0 for one in costs)
        if self.spent + planned > self.limit + 1e-9:
            spent = f" after {self.spent:,.2f} USD are spent" if self.spent else ""
            raise ResourceError(
                f"--max-cost: expected at most {self.limit:,.2f} USD, found about {planned:,.2f} USD"
                f"{spent}; ask for fewer answers or raise the limit"
            )

    def pay(self, system: System, items: Sequence[Item], made: Sequence[Made]) -> float:
        """Count answers that were made, and return what they cost; estimates where no tokens are told."""
        paid = sum(_billed(system, item, one) for item, one in zip(items, made, strict=True))
        self.spent += paid
        return paid


def cost(system: System, items: Sequence[Item]) -> Cost:
    """Return what answers to `items` may cost, an item that is asked with two seeds given twice."""
    return cost_with(system.settings, items, name=system.name)


def cost_with(settings: Mapping[str, Any], items: Sequence[Item], *, name: str) -> Cost:
    """Return the same of a system of which a store holds the settings."""
    if settings.get("vendor") not in _PAID:
        return Cost(system=name, answers=len(items), amount=0.0, basis="runs on this machine")
    each, basis = _each(settings)
    describing = [item for item in items if item.ability == "describe"]
    if describing and settings.get("price") is None and each != 0:
        each, basis = None, "prices of answers in words are not in the table; give price="
    amount = None if each is None else each * len(items)
    if amount is not None and settings.get("price") is None and each:
        amount += sum(_input_cost(settings, item) for item in items)
    return Cost(system=name, answers=len(items), amount=amount, basis=basis)


def billed(settings: Mapping[str, Any], made: Made) -> float | None:
    """Return what one answer cost by the tokens its vendor told; None where it told none."""
    return billed_by(settings, notes_of(made))


def billed_by(settings: Mapping[str, Any], notes: Mapping[str, Any]) -> float | None:
    """Return the same by the notes of an answer, as a store keeps them."""
    row, usage = _row(settings), notes.get("usage", {})
    details = usage.get("input_tokens_details") or {}
    if row is None or "output_tokens" not in usage:
        return None
    rates, counted = row["tokens"], float(usage["output_tokens"]) * row["tokens"]["image_out"]
    counted += float(details.get("image_tokens", 0)) * rates.get("image_in", 0.0)
    return (counted + float(details.get("text_tokens", 0)) * rates.get("text_in", 0.0)) / _MILLION


def prices_as_of() -> date:
    """Return the day on which the table of prices was last checked."""
    return date.fromisoformat(_table()["as_of"])


def _billed(system: System, item: Item, made: Made) -> float:
    told = billed(system.settings, made)
    return told if told is not None else cost(system, [item]).amount or 0.0


def _each(settings: Mapping[str, Any]) -> tuple[float | None, str]:
    """Return the price of one answer without what is sent along, and where it comes from."""
    if (own := settings.get("price")) is not None:
        return float(own), f"{float(own):g} USD each, as given"
    if _is_local(settings.get("endpoint", "")):
        return 0.0, "an endpoint on this machine"
    row, model = _row(settings), settings["model"]
    if row is None:
        return None, f"{model} is not in the table of {_table()['as_of']}; give price="
    found = _pictures(row, settings)
    if not found:
        rate = row["tokens"]["image_out"]
        said = f"its vendor prints {rate:g} USD a million tokens of pictures alone; give price="
        return None, f"{said} ({row['source']})"
    dearest = max(found.values())
    chosen = next(name for name, price in found.items() if price == dearest)
    most = "at most " if len(found) > 1 else ""
    return dearest, f"{most}{dearest:g} USD each, {model} {chosen}; {row['source']}"


def _pictures(row: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, float]:
    """Return the prices that fit the settings, by quality and size."""
    quality, size = settings.get("quality"), settings.get("size", row.get("default_size"))
    return {
        f"{one} {area}".strip(): price
        for one, sizes in row["pictures"].items()
        for area, price in sizes.items()
        if one in (quality, "") or quality in (None, "auto")
        if size in (area, None, "auto")
    }


def _input_cost(settings: Mapping[str, Any], item: Item) -> float:
    rates = (_row(settings) or {"tokens": {}})["tokens"]
    words = len(item.prompt.encode()) / _BYTES_A_TOKEN * rates.get("text_in", 0.0)
    picture = _INPUT_PICTURE * rates.get("image_in", 0.0) if item.ability == "edit" else 0.0
    return float(words + picture) / _MILLION


def _row(settings: Mapping[str, Any]) -> Mapping[str, Any] | None:
    vendor, model = settings.get("vendor"), settings.get("model")
    rows = _table()["models"]
    return next((row for row in rows if row["vendor"] == vendor and model in row["models"]), None)


def _is_local(endpoint: str) -> bool:
    host = urlsplit(endpoint).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@cache
def _table() -> dict[str, Any]:
    file = resources.files("danqing.evaluation") / "prices.json"
    table: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return table
