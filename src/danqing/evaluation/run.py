"""Plan, run, score: what is missing is made, what is made is judged, nothing is done twice.

Each part can be stopped at any point, with kill -9 too, and goes on where it was: the store holds what is
done.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Final

from danqing.errors import ConfigError, DanqingError, DataError, RequestError, ResourceError
from danqing.evaluation.items import Ability, Item, Judge, Made, System
from danqing.evaluation.prices import Budget, Cost, cost
from danqing.evaluation.remote.answers import INVALID, TIMED_OUT
from danqing.evaluation.store import Gap, Store, Task, answer_key

Tell = Callable[[int, int, str], None]
"""Is told how many are done, of how many, and the row in hand."""

Complain = Callable[[str], None]
"""Is told why an answer could not be judged."""

BATCH: Final = 4
PATIENCE: Final = 3
"""Times in a row that a judge may fail in a row of items before it is given up there."""
_COMMIT: Final = 16  # judgements a transaction; a killed program loses no more


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a system is to answer, and how much of it is missing."""

    system: System
    tasks: tuple[Task, ...]
    missing: tuple[Task, ...]
    """Tasks to do; of several with the same request, the first."""
    there: int
    """Tasks that have an answer."""
    refused: int
    """Tasks that the system refused; they are not tried again."""
    absent: int
    """Tasks that the system has no answer to, and is not asked: pictures that a folder lacks."""
    seconds: float | None
    """Mean seconds an answer of this system took so far; None before the first."""
    benchmark: str = ""
    """Title of what is asked."""

    @property
    def cost(self) -> Cost:
        """What making the missing ones may cost."""
        return cost(self.system, [task.item for task in self.missing])

    def __str__(self) -> str:
        told = f"{self.benchmark}: " if self.benchmark else ""
        told += f"{self.system.name}, {len(self.tasks)} answers wanted, {self.there} there"
        told += f", {self.refused} refused" if self.refused else ""
        told += f", {self.absent} not in it" if self.absent else ""
        told += f", {len(self.missing)} to make"
        if self.missing and self.seconds is not None:
            told += f" (about {self.seconds * len(self.missing):.0f} seconds)"
        return told


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What one run did."""

    made: int = 0
    refused: int = 0
    failed: int = 0
    """Failures, time-outs and invalid pictures."""
    stopped: str = ""
    """Why it ended before its time: nothing further could be asked, or paid."""

    def and_then(self, other: "Done") -> "Done":
        """Return what this run and the one after it did together."""
        return Done(
            made=self.made + other.made,
            refused=self.refused + other.refused,
            failed=self.failed + other.failed,
            stopped=self.stopped or other.stopped,
        )


def plan(items: Sequence[Item], system: System, seeds: Sequence[int], store: Store) -> Plan:
    """Return what it takes to have an answer to every item with every seed; nothing is made or written.

    Items that ask for what the system cannot do are left out. What failed is wanted again, what was refused
    is not, nor what the system has no answer to.
    """
    if len({item.id for item in items}) != len(items) or len(set(seeds)) != len(seeds):
        raise DataError("expected every item and every seed once, found some twice; leave out the copies")
    items = able(system, items)
    tasks = []
    for seed in seeds:
        for item in items:
            request = system.request(item, seed)
            tasks.append(Task(item=item, seed=seed, key=answer_key(system, request), request=request))
    keys = list(dict.fromkeys(task.key for task in tasks))
    there, last = store.digests(keys), store.last_attempts(keys)
    refused = {key for key, attempt in last.items() if attempt.state == "refused"} - there.keys()
    first = {task.key: task for task in reversed(tasks)}
    absent = {key for key, task in first.items() if key not in there and not _has(system, task)}
    done = there.keys() | refused | absent
    taken = store.seconds(keys)
    return Plan(
        system=system,
        tasks=tuple(tasks),
        missing=tuple(first[key] for key in keys if key not in done),
        there=sum(task.key in there for task in tasks),
        refused=sum(task.key in refused for task in tasks),
        absent=sum(task.key in absent for task in tasks),
        seconds=sum(taken) / len(taken) if taken else None,
    )


def plan_together(benchmark: str, parts: Sequence[Plan]) -> Plan:
    """Return one plan of the parts of a benchmark that one system answers."""
    timed = [part.seconds for part in parts if part.seconds is not None]
    return Plan(
        system=parts[0].system,
        tasks=tuple(task for part in parts for task in part.tasks),
        missing=tuple(task for part in parts for task in part.missing),
        there=sum(part.there for part in parts),
        refused=sum(part.refused for part in parts),
        absent=sum(part.absent for part in parts),
        seconds=sum(timed) / len(timed) if timed else None,
        benchmark=benchmark,
    )


def run(
    wanted: Plan,
    store: Store,
    *,
    batch: int | None = None,
    budget: Budget | None = None,
    tell: Tell | None = None,
) -> Done:
    """Make what is missing, `batch` answers at a time; each batch is kept before the next begins.

    A refusal and a failure are kept with their reason, and the rest is made. Where nothing further can come
    of asking, with a wrong key or an unknown model, or where the budget would be passed, the rest stays
    missing and `Done.stopped` says why. `batch` is 4 by default, or as many as the system answers at once.
    """
    system = wanted.system
    store.add_tasks(system, wanted.tasks)
    size = batch or batch_of(system)
    done, finished, total = Done(), len(wanted.tasks) - len(wanted.missing), len(wanted.tasks)
    for seed, tasks in groupby(wanted.missing, key=lambda task: task.seed):
        waiting = list(tasks)
        for start in range(0, len(waiting), size):
            part = waiting[start : start + size]
            there = store.digests([task.key for task in part])  # another program may have made it
            left = [task for task in part if task.key not in there]
            try:
                if budget is not None:
                    budget.check([cost(system, [task.item for task in left])])
            except ResourceError as error:
                return replace(done, stopped=str(error))
            for asked in ask(system, [task.item for task in left], seed):
                done = keep(asked, [left[place] for place in asked.places], store, done)
                if budget is not None and not asked.gap:
                    budget.pay(system, [left[place].item for place in asked.places], asked.made)
            if done.stopped:
                return done
            finished += len(part)
            if tell is not None:
                tell(finished, total, part[-1].item.row)
    return done


def score(
    items: Sequence[Item],
    system: System,
    seeds: Sequence[int],
    judge: Judge,
    store: Store,
    *,
    shuffled: bool = False,
    tell: Tell | None = None,
) -> int:
    """Judge every answer that is there and not judged yet; return how many judgements were made.

    With `shuffled`, answers are judged for the item that `shuffle` gives instead of their own, which tells
    the floor.
    """
    pairs = to_judge(items, system, seeds, judge, store, shuffled=shuffled)
    return judge_pairs(pairs, judge, store, tell=tell)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToJudge:
    """One answer, and the item that it is judged for."""

    digest: str
    key: str
    item: Item


def to_judge(
    items: Sequence[Item],
    system: System,
    seeds: Sequence[int],
    judge: Judge,
    store: Store,
    *,
    shuffled: bool = False,
) -> list[ToJudge]:
    """Return the answers that are there and that a judge has not judged yet."""
    items = able(system, items)
    asked = shuffle(items) if shuffled else {item.id: item for item in items}
    keys = {
        (item.id, seed): answer_key(system, system.request(item, seed))
        for item in items
        if item.id in asked
        for seed in seeds
    }
    digests = store.digests(list(dict.fromkeys(keys.values())))
    known = store.scores(judge.name, judge.version)
    missing = {
        (digest, asked[item].id): ToJudge(digest=digest, key=key, item=asked[item])
        for (item, _), key in keys.items()
        if (digest := digests.get(key)) is not None and (digest, asked[item].id) not in known
    }
    return list(missing.values())


def judge_pairs(
    pairs: Sequence[ToJudge],
    judge: Judge,
    store: Store,
    *,
    complain: Complain | None = None,
    tell: Tell | None = None,
) -> int:
    """Judge answers and keep what was said; return how many were judged.

    With `complain`, what a judge lacks, a model or a connection, is told, the answer stays unjudged, and
    after `PATIENCE` times in a row the rest of its row does too; without it is raised.
    """
    judged, failures = 0, dict[str, int]()
    for start in range(0, len(pairs), _COMMIT):
        part = pairs[start : start + _COMMIT]
        began = time.perf_counter()
        said = []
        for one in part:
            if failures.get(one.item.row, 0) >= PATIENCE:
                if complain is not None:
                    complain("given up in its row")
                continue
            try:
                said.append((one.digest, one.item.id, judge.judge(store.kept(one.key).made, one.item)))
                failures[one.item.row] = 0
            except ResourceError as error:
                if complain is None:
                    raise
                complain(str(error))
                failures[one.item.row] = failures.get(one.item.row, 0) + 1
        store.add_scores(judge, said, time.perf_counter() - began)
        judged += len(said)
        if tell is not None:
            tell(start + len(part), len(pairs), part[-1].item.row)
    return judged


def shuffle(items: Sequence[Item]) -> dict[str, Item]:
    """Return, by id, another item of the same row and language for each item, always the same one.

    It is of another cluster and asks for something else; items that have no such partner are left out.
    """
    partners: dict[str, Item] = {}
    groups: dict[tuple[str, str], list[Item]] = {}
    for item in items:
        groups.setdefault((item.row, item.language), []).append(item)
    for group in groups.values():
        ring = sorted(group, key=lambda item: item.id)  # ids are as good as random
        for index, item in enumerate(ring):
            others = ring[index + 1 :] + ring[:index]
            partner = next((other for other in others if _differs(item, other)), None)
            if partner is not None:
                partners[item.id] = partner
    return partners


def _differs(item: Item, other: Item) -> bool:
    if item.cluster == other.cluster:
        return False
    return bool(item.answer) or _truth(item) != _truth(other)


def _truth(item: Item) -> tuple[Any, ...]:
    """Return what a right answer is judged by; the prompt itself where nothing else is said."""
    told = (item.include, item.exclude, item.readings, dict(item.details))
    return told if any(told) else (item.prompt,)


def able(system: System, items: Sequence[Item]) -> Sequence[Item]:
    """Return the items that ask for what a system can do; one that does not say can do everything."""
    abilities: frozenset[Ability] | None = getattr(system, "abilities", None)
    return items if abilities is None else [item for item in items if item.ability in abilities]


def gap_of(error: DanqingError) -> Gap:
    """Return why there is no answer, as the store keeps it."""
    if isinstance(error, RequestError):
        return "refused"
    said = str(error)
    return "timeout" if said.startswith(TIMED_OUT) else "invalid" if said.startswith(INVALID) else "failed"


def _has(system: System, task: Task) -> bool:
    has = getattr(system, "has", None)
    return has is None or has(task.item, task.seed)


def batch_of(system: System) -> int:
    """Return how many items a system is asked for together."""
    return max(BATCH, getattr(system, "concurrency", 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What came of asking for some items."""

    places: tuple[int, ...]
    """Which of the items; one alone where there is no answer."""
    made: tuple[Made, ...] = ()
    seconds: float = 0.0
    gap: Gap | None = None
    reason: str = ""
    stops: bool = False
    """Whether nothing can come of asking further."""


def ask(system: System, items: Sequence[Item], seed: int) -> Iterator[Asked]:
    """Ask for items together, and one by one when one of them is refused or fails."""
    if not items:
        return
    began = time.perf_counter()
    try:
        made = tuple(system.answer(items, seed))
    except DanqingError as error:
        if len(items) == 1:
            stops = isinstance(error, ConfigError)
            yield Asked(places=(0,), gap=gap_of(error), reason=str(error), stops=stops)
            return
        for place, item in enumerate(items):
            (one,) = ask(system, [item], seed)
            yield replace(one, places=(place,))
            if one.stops:
                return
        return
    if len(made) != len(items):
        raise DataError(f"{system.name}: expected {len(items)} answers, found {len(made)}")
    yield Asked(places=tuple(range(len(items))), made=made, seconds=time.perf_counter() - began)


def keep(asked: Asked, tasks: Sequence[Task], store: Store, done: Done) -> Done:
    """Keep what came of tasks, and count it."""
    if asked.gap is None:
        store.add_answers(list(zip(tasks, asked.made, strict=True)), asked.seconds)
        return replace(done, made=done.made + len(tasks))
    store.add_refusal(tasks[0], asked.gap, asked.reason)
    refused = asked.gap == "refused"
    stopped = asked.reason if asked.stops else done.stopped
    return replace(done, refused=done.refused + refused, failed=done.failed + (not refused), stopped=stopped)
