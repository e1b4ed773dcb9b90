"""Answers and judgements made on a Ray cluster, as stages of Ray Data over the same store.

Workers get an evaluation in plain words, load one system or one judge of it, and hand back what it said; this
process alone writes. Batches are those of a run here, so that answers are the same ones.
"""

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, Self

import torch

from danqing.device import resolve_device
from danqing.errors import ConfigError, ResourceError
from danqing.evaluation.items import Atom, Item, Judge
from danqing.evaluation.prices import Budget
from danqing.evaluation.run import Asked, Complain, Done, Plan, Tell, ToJudge, ask, batch_of, keep
from danqing.evaluation.store import Encoded, Store, Task, decoded, encoded
from danqing.evaluation.workers import Here, JudgeRole, SystemRole

if TYPE_CHECKING:
    from danqing.evaluation.request import EvaluateRequest

LOCAL: Final = "local"
"""The address of a cluster of this machine alone, started for the run."""
_LIVE: Final = "live"
"""Kind of systems that wait for a vendor and compute nothing here."""
_CHUNK: Final = 1 << 29  # bytes of answers handed out at a time
_BLOCKS: Final = 16  # parts for each worker, so that none waits long for another

Line = dict[str, Any]


class RayWorkers:
    """Actors on a cluster; use it in a `with` statement, which ends a cluster that it started."""

    def __init__(self, request: "EvaluateRequest", *, address: str = LOCAL, count: int | None = None) -> None:
        """`count` is of actors, by default as many as the cluster has GPUs, or CPUs.

        Raises ConfigError without Ray, ResourceError when there is no cluster at the address.
        """
        try:
            import ray
            import ray.data
        except ImportError:
            raise ConfigError("expected Ray, found none; pip install 'danqing[ray]'") from None
        self._request, self._threads = request, torch.get_num_threads()
        self._cuda = resolve_device(request.device).type == "cuda"
        self._started = not ray.is_initialized()
        if self._started:
            _connect(address)
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        self._count = count or _actors(ray.cluster_resources(), self._threads, cuda=self._cuda)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        if self._started:
            ray.shutdown()

    def answer(
        self,
        wanted: Sequence[Plan],
        store: Store,
        *,
        role: SystemRole,
        budget: Budget | None,
        tell: Tell | None,
    ) -> Done:
        """Make what plans of one system miss; vendors are asked from here, where what is paid is counted."""
        system = wanted[0].system
        missing = [task for plan in wanted for task in plan.missing]
        if not missing or budget is not None or system.settings.get("kind") == _LIVE:
            return Here().answer(wanted, store, role=role, budget=budget, tell=tell)
        for plan in wanted:
            store.add_tasks(system, plan.tasks)
        batches = [batch for plan in wanted for batch in _batches(plan.missing, batch_of(system))]
        lines = [
            {
                "number": number,
                "seed": tasks[0].seed,
                "items": json.dumps([one.item.to_json() for one in tasks]),
            }
            for number, tasks in enumerate(batches)
        ]
        total = sum(len(plan.tasks) for plan in wanted)
        done, finished = Done(), total - len(missing)
        for line in self._stage(_Answering, role, lines):
            _check_same(f"{system.name} {system.version}", line["who"])
            tasks = batches[line["number"]]
            for told in json.loads(line["outcomes"]):
                asked = Asked(**{**told, "places": tuple(told["places"])})
                some = [tasks[place] for place in asked.places]
                if asked.gap is not None:
                    done = keep(asked, some, store, done)
                    continue
                rows = [(task, _encoded(line, place)) for task, place in zip(some, asked.places, strict=True)]
                store.add_encoded(rows, asked.seconds)
                done = replace(done, made=done.made + len(rows))
            finished += len(tasks)
            if tell is not None:
                tell(finished, total, tasks[-1].item.row)
        return done

    def judge(
        self,
        pairs: Sequence[ToJudge],
        judge: Judge,
        store: Store,
        *,
        role: JudgeRole,
        complain: Complain,
        tell: Tell | None,
    ) -> int:
        """Judge answers; what a judge lacks is told for each of them."""
        judged = 0
        for chunk in _chunks(pairs, store):
            for line in self._stage(_Judging, role, [line for _, line in chunk]):
                _check_same(f"{judge.name} {judge.version}", line["who"])
                pair = chunk[line["number"]][0]
                if line["error"]:
                    complain(line["error"])
                    continue
                atoms = tuple(Atom(**atom) for atom in json.loads(line["atoms"]))
                store.add_scores(judge, [(pair.digest, pair.item.id, atoms)], line["seconds"])
                judged += 1
                if tell is not None:
                    tell(judged, len(pairs), pair.item.row)
        return judged

    def _stage(self, kind: type, role: SystemRole | JudgeRole, lines: Sequence[Line]) -> Iterator[Line]:
        """Yield what actors of a kind make of lines, as they finish."""
        import ray
        import ray.data

        if not lines:
            return
        count = min(self._count, len(lines))
        data = ray.data.from_items(list(lines), override_num_blocks=min(len(lines), count * _BLOCKS))
        made = data.map(
            kind,
            fn_constructor_args=(self._request, role, self._threads, str(Path.cwd())),
            compute=ray.data.ActorPoolStrategy(size=count),
            num_cpus=None if self._cuda else self._threads,
            num_gpus=1 if self._cuda else None,
        )
        try:
            yield from made.iter_rows()
        except ray.exceptions.RayError as error:
            said = str(error).strip().splitlines()[-1]
            raise ResourceError(f"Ray: expected workers that end their work, found: {said}") from None


class _Answering:
    """Answers batches of items with one system."""

    def __init__(self, request: "EvaluateRequest", role: SystemRole, threads: int, place: str) -> None:
        _settle(threads, place)
        self._system = request.system(role)
        self._who = f"{self._system.name} {self._system.version}"

    def __call__(self, line: Line) -> Line:
        items = [Item.from_json(one) for one in json.loads(line["items"])]
        outcomes, kept = [], dict[int, Encoded]()
        for asked in ask(self._system, items, int(line["seed"])):
            told = {"places": asked.places, "seconds": asked.seconds, "gap": asked.gap}
            outcomes.append({**told, "reason": asked.reason, "stops": asked.stops})
            if asked.gap is None:
                kept |= zip(asked.places, map(encoded, asked.made), strict=True)
        there = [kept.get(place) for place in range(len(items))]
        return {
            "number": line["number"],
            "who": self._who,
            "outcomes": json.dumps(outcomes),
            "digests": [one.digest if one else "" for one in there],
            "kinds": [one.kind if one else "" for one in there],
            "contents": [one.content if one else b"" for one in there],
            "notes": json.dumps([dict(one.notes) if one else {} for one in there], ensure_ascii=False),
        }


class _Judging:
    """Judges answers with one judge."""

    def __init__(self, request: "EvaluateRequest", role: JudgeRole, threads: int, place: str) -> None:
        _settle(threads, place)
        self._judge = request.judge(role)
        self._who = f"{self._judge.name} {self._judge.version}"

    def __call__(self, line: Line) -> Line:
        item = Item.from_json(json.loads(line["item"]))
        began = perf_counter()
        told = {"number": line["number"], "who": self._who}
        try:
            atoms = self._judge.judge(decoded(line["kind"], line["content"]), item)
        except ResourceError as error:
            return {**told, "atoms": "[]", "error": str(error), "seconds": 0.0}
        said = json.dumps([atom.to_json() for atom in atoms], ensure_ascii=False)
        return {**told, "atoms": said, "error": "", "seconds": perf_counter() - began}


def _connect(address: str) -> None:
    import ray

    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level="error",
            runtime_env={"env_vars": {"TOKENIZERS_PARALLELISM": "false"}},
            **({"include_dashboard": False} if address == LOCAL else {}),
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        said = str(error).strip().splitlines()[0]
        raise ResourceError(f"--ray: expected a cluster at {address}, found: {said}") from None


def _actors(resources: Mapping[str, float], threads: int, *, cuda: bool) -> int:
    if cuda:
        return max(1, int(resources.get("GPU", 0)))
    return max(1, int(resources.get("CPU", 1)) // threads)


def _settle(threads: int, place: str) -> None:
    """Compute as the process does that asks, and where its relative paths are right."""
    torch.set_num_threads(threads)
    if Path(place).is_dir():
        os.chdir(place)


def _batches(tasks: Sequence[Task], size: int) -> Iterator[list[Task]]:
    """Yield the batches that a run here would make."""
    for _, some in groupby(tasks, key=lambda task: task.seed):
        waiting = list(some)
        yield from (waiting[start : start + size] for start in range(0, len(waiting), size))


def _chunks(pairs: Sequence[ToJudge], store: Store) -> Iterator[list[tuple[ToJudge, Line]]]:
    """Yield answers with their contents, as many as may lie in memory together."""
    chunk: list[tuple[ToJudge, Line]] = []
    size = 0
    for pair in pairs:
        kept = store.kept(pair.key)
        told = {"number": len(chunk), "item": json.dumps(pair.item.to_json()), "kind": kept.kind}
        chunk.append((pair, {**told, "content": kept.content}))
        size += len(kept.content)
        if size >= _CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _encoded(line: Line, place: int) -> Encoded:
    notes = json.loads(line["notes"])[place]
    kind = line["kinds"][place]
    return Encoded(digest=line["digests"][place], content=line["contents"][place], kind=kind, notes=notes)


def _check_same(wanted: str, found: str) -> None:
    if wanted != found:
        raise ConfigError(f"Ray: expected workers with {wanted}, found {found}; install the same everywhere")
