"""A benchmark as it takes part in an evaluation: what is asked, how often, who judges, who else answers."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

from danqing.errors import RequestError
from danqing.evaluation.benchmarks.benchmark import Benchmark, Variant
from danqing.evaluation.items import Ability, Item, Judge, System, content_key
from danqing.evaluation.results import Results, Role, Row
from danqing.evaluation.run import able
from danqing.evaluation.systems import TASKS, SourceOf
from danqing.scoring.looking import Looks

Profile = Literal["smoke", "lite", "official"]
"""Ten prompts or two a row; a hundred in equal parts over the rows; all, with every seed of the protocol."""
_COUNTS: Final[Mapping[Profile, int]] = {"smoke": 10, "lite": 100}
_LEAST: Final = 2  # items a row, so that answers can be judged for other prompts
_ALL: Final = frozenset(TASKS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entered:
    """Who answers, in which role, and what of."""

    system: System
    role: Role
    abilities: frozenset[Ability] = _ALL

    def part(self, items: Sequence[Item]) -> list[Item]:
        """Return the items that it answers."""
        return [item for item in able(self.system, items) if item.ability in self.abilities]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exam:
    """What is asked in one benchmark, and all that it takes to make scores of the answers."""

    name: str
    """Of the benchmark, and of the variant of its score where there are several."""
    benchmark: str = ""
    """Name of the benchmark alone, where published scores may be compared."""
    title: str
    items: tuple[Item, ...]
    rows: tuple[Row, ...]
    judges: Callable[[], Mapping[Ability, Judge]]
    """Gives who judges pictures, edits and texts; called when there is something to judge."""
    seeds: tuple[int, ...] = (0,)
    seeds_of: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """By row of the items, where it has seeds of its own."""
    source_of: SourceOf | None = None
    """Gives the pictures that edits and questions are about."""
    own: tuple[Entered, ...] = ()
    """Ceilings and floors that know the answers of this benchmark alone."""
    shuffled: frozenset[Ability] = frozenset({"draw", "describe"})
    """What has the judgement for other prompts as its floor; of an edit it is the source, left as it was."""
    about: Mapping[str, str] = field(default_factory=dict)
    """What a reader must know of it, a line a heading."""
    notes: Callable[[Results], Sequence[str]] = lambda _: ()
    """Gives what else is to be said of its results."""

    def parts(self, items: Sequence[Item]) -> list[tuple[tuple[int, ...], Ability, list[Item]]]:
        """Divide items by the seeds they are answered with and by what they ask for."""
        parts: dict[tuple[tuple[int, ...], Ability], list[Item]] = {}
        for item in items:
            parts.setdefault((self.seeds_of.get(item.row, self.seeds), item.ability), []).append(item)
        return [(seeds, ability, part) for (seeds, ability), part in parts.items()]


def benchmark_exam(
    benchmark: Benchmark,
    folder: Path,
    *,
    profile: Profile = "smoke",
    variant: Variant | None = None,
    looks: Callable[[], Looks] = Looks,
    roles: Collection[str] = (),
) -> Exam:
    """Return a benchmark as an exam.

    Args:
        benchmark: which one.
        folder: where its files lie.
        profile: how much of it is asked; less than everything is no official score.
        variant: which score; the benchmark's first by default.
        looks: loads the models that look at pictures for its judge.
        roles: those that `looks` fills.

    Raises DataError when files are missing, RequestError for an unknown variant or a role that is empty.
    """
    chosen = variant or benchmark.variants[0]
    if chosen not in benchmark.variants:
        raise RequestError(f"{benchmark.name}: expected {' or '.join(benchmark.variants)}, found {chosen!r}")
    if empty := [role for role in benchmark.judges if role not in roles]:
        officially = ", ".join(f"{role} ({benchmark.judges[role]})" for role in empty)
        raise RequestError(
            f"{benchmark.name}: expected a model that looks at pictures as {officially}, found none; name "
            f"one with --judge {empty[0]}=MODEL"
        )
    every = benchmark.read(folder)
    items = sample(every, profile)
    seeds = benchmark.seeds if profile == "official" else benchmark.seeds[:1]

    @cache
    def judges() -> Mapping[Ability, Judge]:
        judge = benchmark.judge(looks(), chosen)
        return dict.fromkeys(TASKS, judge)

    return Exam(
        name=benchmark.name if len(benchmark.variants) == 1 else f"{benchmark.name}-{chosen}",
        benchmark=benchmark.name,
        title=benchmark.title if len(benchmark.variants) == 1 else f"{benchmark.title}, {chosen}",
        items=tuple(items),
        rows=benchmark.rows(chosen),
        judges=judges,
        seeds=seeds,
        about=_about(benchmark, items, len(every), seeds, profile),
        **_extras(benchmark, folder, items),
    )


def sample(items: Sequence[Item], profile: Profile) -> list[Item]:
    """Return the items of a profile in their order, always the same ones, in equal parts over the rows.

    Which ones of a row is decided by their ids, which are as good as random; items of one cluster may part.
    """
    if profile == "official":
        return list(items)
    rows: dict[str, list[Item]] = {}
    for item in sorted(items, key=lambda item: content_key({"sampled": item.id})):
        rows.setdefault(item.row, []).append(item)
    left, chosen = _COUNTS[profile], set[str]()
    for index, row in enumerate(sorted(rows.values(), key=len)):
        count = max(_LEAST, left // (len(rows) - index))
        chosen |= {item.id for item in row[:count]}
        left = max(0, left - min(count, len(row)))
    return [item for item in items if item.id in chosen]


def _about(
    benchmark: Benchmark, items: Sequence[Item], every: int, seeds: Sequence[int], profile: Profile
) -> dict[str, str]:
    width, height = benchmark.size or (0, 0)
    official = len(benchmark.seeds)
    pictures = f"{official} answer{'s' if official > 1 else ''} a prompt"
    sized = f", {width}x{height} pixels" if benchmark.size else ""
    told = {
        "Source": benchmark.source,
        "Licence": benchmark.licence or "none given",
        "Protocol of its authors": f"{every} prompts, {pictures}{sized}. {benchmark.protocol}".strip(),
        "Asked here": f"{len(items)} of {every} prompts ({profile}), seeds {_numbers(seeds)}",
        "Judges of its authors": ", ".join(f"{role}: {model}" for role, model in benchmark.judges.items()),
    }
    return {heading: line for heading, line in told.items() if line}


def _extras(benchmark: Benchmark, folder: Path, items: Sequence[Item]) -> dict[str, Any]:
    return {}


def _numbers(seeds: Sequence[int]) -> str:
    whole = list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))) and len(seeds) > 2
    return f"{seeds[0]} to {seeds[-1]}" if whole else ", ".join(map(str, seeds))
