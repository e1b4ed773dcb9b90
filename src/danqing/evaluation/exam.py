"""A benchmark as it takes part in an evaluation: what is asked, how often, who judges, who else answers."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

from danqing.errors import RequestError, ResourceError
from danqing.evaluation.benchmarks.benchmark import Benchmark, Variant
from danqing.evaluation.items import Ability, Item, Judge, System, content_key
from danqing.evaluation.results import Results, Role, Row
from danqing.evaluation.run import able
from danqing.evaluation.systems import TASKS, SourceOf
from danqing.scoring.looking import ROLES, Looks

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
    second: Callable[[], Mapping[Ability, Judge]] | None = None
    """Gives other judges of the same facts, to see how far they agree with the first."""
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
    second: Callable[[], Looks] | None = None,
) -> Exam:
    """Return a benchmark as an exam.

    Args:
        benchmark: which one.
        folder: where its files lie.
        profile: how much of it is asked; less than everything is no official score.
        variant: which score; the benchmark's first by default.
        looks: loads the models that look at pictures for its judge.
        roles: those that `looks` fills.
        second: loads the models of a second judge, to see how far the two agree.

    Raises DataError when files are missing, RequestError for an unknown variant and where models are missing
    without which nothing can be judged.
    """
    chosen = variant or benchmark.variants[0]
    if chosen not in benchmark.variants:
        raise RequestError(f"{benchmark.name}: expected {' or '.join(benchmark.variants)}, found {chosen!r}")
    _check_roles(benchmark, chosen, roles)
    every = benchmark.read(folder)
    items = sample(every, profile)
    seeds = benchmark.seeds if profile == "official" else benchmark.seeds[:1]
    picture, several = benchmark.picture, len(benchmark.variants) > 1
    known = () if benchmark.ceilings is None else benchmark.ceilings(folder)
    return Exam(
        name=f"{benchmark.name}-{chosen}" if several else benchmark.name,
        benchmark=benchmark.name,
        title=f"{benchmark.title}, {chosen}" if several else benchmark.title,
        items=tuple(items),
        rows=benchmark.rows(chosen),
        judges=_judges(benchmark, chosen, looks),
        second=None if second is None else _judges(benchmark, chosen, second),
        seeds=seeds,
        source_of=None if picture is None else lambda item: picture(folder, item),
        own=tuple(Entered(system=system, role="ceiling") for system in known),
        about=_about(benchmark, items, len(every), seeds, profile, roles),
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


def _judges(
    benchmark: Benchmark, variant: Variant, looks: Callable[[], Looks]
) -> Callable[[], Mapping[Ability, Judge]]:
    @cache
    def judges() -> Mapping[Ability, Judge]:
        return dict.fromkeys(TASKS, benchmark.judge(looks(), variant))

    return judges


@dataclass(frozen=True, slots=True, kw_only=True)
class _Promised:
    """Stands for a model that is not loaded yet, where only its name is asked for."""

    name: str
    version: str = ""


def _check_roles(benchmark: Benchmark, variant: Variant, roles: Collection[str]) -> None:
    """Raise before anything is drawn when there is nobody to look at it."""
    empty = [role for role in benchmark.judges if role not in roles]
    if not empty:
        return
    promised: dict[str, Any] = {
        ROLES[role]: _Promised(name=role) for role in benchmark.judges if role in roles
    }
    try:
        if promised:
            benchmark.judge(Looks(**promised), variant)
            return  # some of its items can be judged
    except ResourceError:
        pass
    officially = ", ".join(f"{role} ({benchmark.judges[role]})" for role in empty)
    raise RequestError(
        f"{benchmark.name}: expected a model that looks at pictures as {officially}, found none; name one "
        f"with --judge {empty[0]}=MODEL"
    )


def _about(
    benchmark: Benchmark,
    items: Sequence[Item],
    every: int,
    seeds: Sequence[int],
    profile: Profile,
    roles: Collection[str],
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
        "Without a judge here": ", ".join(role for role in benchmark.judges if role not in roles),
    }
    return {heading: line for heading, line in told.items() if line}


def _numbers(seeds: Sequence[int]) -> str:
    whole = list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))) and len(seeds) > 2
    return f"{seeds[0]} to {seeds[-1]}" if whole else ", ".join(map(str, seeds))
