"""Scores that others published, each with its source and protocol, and which systems can no longer be asked.

A row says what somebody printed, not what was measured here; `kind` tells whether it was read in the source
itself ("primary"), in somebody else's table ("quoted") or computed from answers that a benchmark released
("recomputed"). Rows of one benchmark with different protocols are not comparable.
"""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib import resources
from typing import Any, Final, Literal, get_args

from danqing.errors import DataError, RequestError
from danqing.evaluation.items import Ability, Item, Made, content_key

Kind = Literal["primary", "quoted", "recomputed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One published score."""

    benchmark: str
    metric: str
    system: str
    value: float
    scale: float | None
    """The most that the metric can be; None where it has no end, or is a difference."""
    protocol: str
    source: str
    kind: Kind
    note: str

    @property
    def share(self) -> float | None:
        """The value from 0 to 1, as this package measures; None without an end of the scale."""
        return None if self.scale is None else self.value / self.scale


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawn:
    """A system that its vendor no longer serves: its pictures are frozen, or its scores published."""

    system: str
    vendor: str
    date: date
    models: tuple[str, ...]
    """Ids that its API knew it by; a star stands for anything."""
    source: str

    def __str__(self) -> str:
        return f"{self.system}: withdrawn by {self.vendor} on {self.date.isoformat()} ({self.source})"


_OPENAI: Final = "OpenAI's page of deprecations"
_GOOGLE: Final = "Google Cloud's page of Vertex AI deprecations"
WITHDRAWN: Final = (
    Withdrawn(
        system="DALL·E 2", vendor="OpenAI", date=date(2026, 5, 12), models=("dall-e-2",), source=_OPENAI
    ),
    Withdrawn(
        system="DALL·E 3", vendor="OpenAI", date=date(2026, 5, 12), models=("dall-e-3",), source=_OPENAI
    ),
    Withdrawn(
        system="GPT-Image-1",
        vendor="OpenAI",
        date=date(2026, 10, 23),
        models=("gpt-image-1",),
        source=_OPENAI,
    ),
    Withdrawn(
        system="GPT-Image-1.5",
        vendor="OpenAI",
        date=date(2026, 12, 1),
        models=("gpt-image-1.5", "gpt-image-1.5-*"),
        source=_OPENAI,
    ),
    Withdrawn(
        system="GPT-Image-1-mini",
        vendor="OpenAI",
        date=date(2026, 12, 1),
        models=("gpt-image-1-mini", "gpt-image-1-mini-*", "chatgpt-image-latest"),
        source=_OPENAI,
    ),
    Withdrawn(
        system="Imagen 2",
        vendor="Google",
        date=date(2025, 9, 24),
        models=("imagegeneration@005", "imagegeneration@006"),
        source=_GOOGLE,
    ),
    Withdrawn(
        system="Imagen 3", vendor="Google", date=date(2026, 6, 30), models=("imagen-3*",), source=_GOOGLE
    ),
    Withdrawn(
        system="Imagen 4",
        vendor="Google",
        date=date(2026, 8, 17),
        models=("imagen-4*",),
        source="Google's page of Gemini API deprecations",
    ),
    Withdrawn(
        system="Gemini 2.5 Flash Image",
        vendor="Google",
        date=date(2026, 10, 2),
        models=("gemini-2.5-flash-image*",),
        source="Google's page of Gemini API deprecations",
    ),
)
"""Facts as of 2026-11-23; an announced date may lie ahead."""


@cache
def published() -> tuple[Published, ...]:
    """Return all rows of the table inside the package."""
    file = resources.files(__package__) / "published.csv"
    rows = csv.DictReader(file.read_text(encoding="utf-8").splitlines())
    return tuple(_row(number, row) for number, row in enumerate(rows, 2))


def lookup(
    *, benchmark: str | None = None, system: str | None = None, metric: str | None = None
) -> tuple[Published, ...]:
    """Return the rows of a benchmark, a system or a metric; None stands for all.

    Names match without case and punctuation. A system without brackets matches all its variants, so
    "GPT-Image-1" finds "GPT-Image-1 [High]", and "DALL-E 3" finds "DALL·E 3".
    """
    return tuple(
        row
        for row in published()
        if (benchmark is None or _plain(row.benchmark) == _plain(benchmark))
        and (metric is None or _plain(row.metric) == _plain(metric))
        and (system is None or same_system(system, row.system))
    )


def same_system(asked: str, name: str) -> bool:
    """Return whether a name that was asked for means a system or a variant of it."""
    return _plain(asked) in (_plain(name), _plain(re.sub(r"\s*\[.*\]$", "", name)))


def withdrawn(name: str, *, today: date | None = None) -> Withdrawn | None:
    """Return what is known of a system, or the id of a model, that its vendor withdrew by `today`.

    Without `today` announced dates count as well.
    """
    for one in WITHDRAWN:
        known = same_system(name, one.system) or any(_fits(name, model) for model in one.models)
        if known and (today is None or one.date <= today):
            return one
    return None


class PublishedSystem:
    """A system of which there are published scores alone: it answers nothing."""

    abilities: frozenset[Ability] = frozenset()

    def __init__(self, name: str) -> None:
        """Raises DataError when nothing was published of a system of this name."""
        self.rows = lookup(system=name)
        if not self.rows:
            known = ", ".join(sorted({row.system for row in published()}))
            raise DataError(f"expected a system with published scores, found {name!r}; known: {known}")
        self.name = name
        gone = withdrawn(name)
        self.settings: Mapping[str, Any] = {
            "kind": "published",
            **({"withdrawn": gone.date.isoformat(), "vendor": gone.vendor} if gone is not None else {}),
        }
        self.version = content_key({"rows": [[row.metric, row.value] for row in self.rows]})[:12]

    def has(self, item: Item, seed: int) -> bool:
        """Return False: there is no answer to any item."""
        return False

    def request(self, item: Item, seed: int) -> Mapping[str, Any]:
        """Return what would decide the answer."""
        return {"item": item.id, "seed": seed}

    def answer(self, items: Sequence[Item], seed: int) -> list[Made]:
        """Raise RequestError: a published score has no pictures."""
        raise RequestError(f"{self.name}: expected a system that answers, found published scores alone")


def _row(number: int, row: Mapping[str, str]) -> Published:
    try:
        kind = next(one for one in get_args(Kind) if one == row["kind"])
        return Published(
            benchmark=row["benchmark"],
            metric=row["metric"],
            system=row["system"],
            value=float(row["value"]),
            scale=float(row["scale"]) if row["scale"] else None,
            protocol=row["protocol"],
            source=row["source"],
            kind=kind,
            note=row["note"],
        )
    except (KeyError, ValueError, StopIteration):
        raise DataError(f"published.csv, line {number}: expected a published score, found another") from None


def _plain(name: str) -> str:
    """Return a name without case and punctuation, except the plus signs and dots that tell systems apart."""
    return re.sub(r"[^a-z0-9+.]", "", name.casefold())


def _fits(name: str, model: str) -> bool:
    return re.fullmatch(re.escape(model).replace(r"\*", ".*"), name) is not None
