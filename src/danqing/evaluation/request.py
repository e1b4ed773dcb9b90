"""An evaluation as people write it: names of benchmarks, systems and judges, as the command line has them."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Final

from PIL import Image

from danqing.data.atlas import packaged_atlas
from danqing.errors import RequestError
from danqing.evaluation import benchmarks
from danqing.evaluation.benchmarks.benchmark import Variant
from danqing.evaluation.evaluate import STORE, Evaluation, plans
from danqing.evaluation.evaluate import evaluate as run_evaluation
from danqing.evaluation.exam import Entered, Exam, Profile, benchmark_exam
from danqing.evaluation.items import Item, Judge, System
from danqing.evaluation.judges.names import looks_named
from danqing.evaluation.prices import Budget
from danqing.evaluation.remote.names import system_named
from danqing.evaluation.report.architectures import cards
from danqing.evaluation.report.page import LIMIT
from danqing.evaluation.report.published import PublishedSystem, lookup, same_system
from danqing.evaluation.report.report import Report
from danqing.evaluation.run import Plan, Tell
from danqing.evaluation.store import Store
from danqing.evaluation.systems import ModelSystem, SourceOf
from danqing.evaluation.workers import JudgeRole, SystemRole, Workers
from danqing.evaluation.world.asked import Profile as WorldProfile
from danqing.evaluation.world.exam import WORLD, World, silent, world_exam
from danqing.model import load
from danqing.scoring.looking import Looks

VARIABLE: Final = "DANQING_BENCHMARKS"
"""Names the folder of the files of benchmarks, each in a folder of its own name."""
_PUBLISHED: Final = "published:"
_WORLD_PROFILE: Final[dict[Profile, WorldProfile]] = {"smoke": "smoke", "lite": "smoke", "official": "full"}


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateRequest:
    """One evaluation in plain words, so that a worker elsewhere can make the same of it."""

    benchmarks: tuple[str, ...]
    """Names of benchmarks, "world" among them."""
    systems: tuple[str, ...]
    """Names as `remote.names` reads them; the first is what the report is about."""
    folder: Path
    """Keeps answers, scores and report."""
    profile: Profile = "smoke"
    variants: tuple[Variant, ...] = ()
    """Scores of benchmarks that have several; empty for each one's first."""
    judges: tuple[str, ...] = ()
    """Who looks at pictures, as `judges.names` reads it."""
    second_judges: tuple[str, ...] = ()
    """Who looks at them too, to see how far the two agree."""
    data: Path | None = None
    """Holds the files of benchmarks; `default_data()` by default."""
    device: str = "auto"
    precision: str = "auto"
    baselines: bool = True
    """Whether a checkpoint of danqing that comes first is also asked without a prompt."""
    floor: bool = True
    title: str = ""
    page_limit: int = LIMIT
    """Bytes of pictures in the page."""

    def prepare(self) -> Evaluation:
        """Return what the names mean; models are loaded, judges when they are needed.

        Raises RequestError for a name that means nothing, and what loading or reading raises.
        """
        if not self.benchmarks:
            raise RequestError(f"expected benchmarks of {', '.join(known_benchmarks())}, found none")
        for name in self.benchmarks:
            if name != WORLD:
                benchmarks.benchmark(name)  # a name that means nothing is told before anything is loaded
        published, notes = self._published()
        exams: list[Exam] = []
        systems = [self._system(name, _pictures(lambda: exams)) for name in self.answering]
        if not systems:
            raise RequestError("expected a system that answers, found none; name one with --system")
        exams += self._all_exams([system for system in systems if isinstance(system, ModelSystem)])
        entered = [
            Entered(system=system, role="model" if number == 0 else "baseline")
            for number, system in enumerate(systems)
        ]
        if self.baselines and isinstance(systems[0], ModelSystem):
            entered.append(silent(systems[0], _pictures(lambda: exams)))
        told = ", ".join(dict.fromkeys(exam.benchmark or exam.name for exam in exams))
        return Evaluation(
            exams=tuple(exams),
            entered=tuple(entered),
            folder=self.folder,
            title=self.title or f"{systems[0].name} on {told}, {self.profile}",
            published=tuple(published),
            floor=self.floor,
            notes=(*notes, *_not_run(self.benchmarks)),
            page_limit=self.page_limit,
        )

    @property
    def answering(self) -> tuple[str, ...]:
        """The names of systems that answer; the others were published."""
        return tuple(name for name in self.systems if not name.startswith(_PUBLISHED))

    def system(self, role: SystemRole) -> System:
        """Return one system of the evaluation, loading no more than it takes."""
        if role.number < len(self.answering):
            own: list[ModelSystem] = []
            exams = cache(lambda: self._all_exams(own))  # read when the first picture is asked for
            system = self._system(self.answering[role.number], _pictures(exams))
            own += [system] if isinstance(system, ModelSystem) else []
            return system
        evaluation = self.prepare()
        exam = next(one for one in evaluation.exams if one.name == role.exam)
        return evaluation.of(exam)[role.number].system

    def judge(self, role: JudgeRole) -> Judge:
        """Return one judge of the evaluation, loading no more than it takes."""
        first = [self._system(name, None) for name in self.answering[:1] if role.exam == WORLD]
        own = [system for system in first if isinstance(system, ModelSystem)]
        exam = next(one for one in self._all_exams(own, only=role.exam) if one.name == role.exam)
        judges = exam.second if role.second else exam.judges
        assert judges is not None  # who asks for a second judge has one
        return judges()[role.ability]

    def _system(self, name: str, source_of: SourceOf | None) -> System:
        return system_named(name, source_of=source_of, device=self.device, precision=self.precision)

    def _all_exams(self, own: Sequence[ModelSystem], *, only: str | None = None) -> tuple[Exam, ...]:
        """Return the exams of all benchmarks, or of the one that has an exam of this name."""
        first, second = self._looks(self.judges), self._looks(self.second_judges)
        names = [name for name in self.benchmarks if only is None or _has_exam(name, only)]
        return tuple(exam for name in names for exam in self._exams(name, own, first, second))

    def _exams(
        self, name: str, own: Sequence[ModelSystem], first: "_Lookers", second: "_Lookers"
    ) -> list[Exam]:
        """Return a benchmark as exams, one a variant."""
        if name == WORLD:
            model = own[0].model if own else load("nano", device=self.device, precision=self.precision)
            version = own[0].version if own else ""
            profile = _WORLD_PROFILE[self.profile]
            return [world_exam(World(model=model, atlas=packaged_atlas(), profile=profile, version=version))]
        chosen = benchmarks.benchmark(name)
        variants = [one for one in self.variants if one in chosen.variants] or [chosen.variants[0]]
        return [
            benchmark_exam(
                chosen,
                (self.data or default_data()) / name,
                profile=self.profile,
                variant=variant,
                looks=first.load,
                roles=first.roles,
                second=second.load if second.roles else None,
            )
            for variant in variants
        ]

    def _looks(self, names: tuple[str, ...]) -> "_Lookers":
        precision = None if self.precision == "auto" else self.precision
        chosen = looks_named(names, device=self.device, precision=precision, kept=self.folder / "judges")
        return _Lookers(roles=chosen.roles, load=cache(chosen.looks))

    def _published(self) -> tuple[list[str], list[str]]:
        """Return the systems of which published scores are wanted, and what is said of those without any."""
        names = [name.removeprefix(_PUBLISHED) for name in self.systems if name.startswith(_PUBLISHED)]
        notes = []
        for name in names:
            if not lookup(system=name):
                if not any(same_system(name, card.system) for card in cards()):
                    PublishedSystem(name)  # says which ones are known
                notes.append(f"{name}: no published score was found on any benchmark of the table")
        return names, notes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lookers:
    """Models that look at pictures, loaded once for all benchmarks."""

    roles: frozenset[str]
    load: Callable[[], Looks]


def evaluate(
    *benchmarks: str,
    systems: Sequence[str],
    folder: Path | str,
    profile: Profile = "smoke",
    variants: Sequence[Variant] = (),
    judges: Sequence[str] = (),
    second_judges: Sequence[str] = (),
    data: Path | str | None = None,
    device: str = "auto",
    precision: str = "auto",
    baselines: bool = True,
    floor: bool = True,
    title: str = "",
    page_limit: int = LIMIT,
    max_cost: float | None = None,
    ray: str | None = None,
    tell: Tell | None = None,
    command: str = "",
) -> Report:
    """Measure systems on benchmarks; what is in `folder` already is not made or judged again.

    Args:
        benchmarks: names, as `danqing evaluate list` prints them.
        systems: names such as "nano" or "openai:gpt-image-2"; the report is about the first.
        folder: keeps answers and scores, report.json and report.html.
        profile: "smoke", "lite" or "official".
        variants: "official", "fixed" or both, for benchmarks that have several scores.
        judges, second_judges: who looks at pictures, as in "clip=pinned" or "vqa=vlm:FOLDER", and who too.
        data: holds a folder of files for each benchmark; by default where `danqing evaluate fetch` puts them.
        device, precision: of checkpoints and judges.
        baselines: also ask a checkpoint of danqing that comes first without a prompt.
        floor: also judge the first system's answers for other prompts.
        title, command, page_limit: of the report, what it says to type, and bytes of pictures in its page.
        max_cost: in US dollars; nothing is asked when it may cost more.
        ray: address of a Ray cluster, or "local"; answers are made and judged there.
        tell: is told how many are done, of how many, and the row in hand.

    Raises RequestError for names that mean nothing, ResourceError when it may cost more than allowed.
    """
    request = EvaluateRequest(
        benchmarks=benchmarks,
        systems=tuple(systems),
        folder=Path(folder),
        profile=profile,
        variants=tuple(variants),
        judges=tuple(judges),
        second_judges=tuple(second_judges),
        data=None if data is None else Path(data),
        device=device,
        precision=precision,
        baselines=baselines,
        floor=floor,
        title=title,
        page_limit=page_limit,
    )
    budget = None if max_cost is None else Budget(max_cost)
    said = command or _python(request)
    with nullcontext() if ray is None else _ray_workers(request, ray) as workers:
        return run_evaluation(request.prepare(), command=said, budget=budget, workers=workers, tell=tell)


def _ray_workers(request: EvaluateRequest, address: str) -> AbstractContextManager[Workers]:
    from danqing.evaluation.ray_run import RayWorkers

    return RayWorkers(request, address=address)


def _pictures(exams: Callable[[], Sequence[Exam]]) -> SourceOf:
    """Return what gives the picture that an item of any of the exams is about."""

    @cache
    def known() -> Mapping[str, SourceOf]:
        found = [(exam.source_of, exam.items) for exam in exams()]
        return {item.source: of for of, items in found if of is not None for item in items if item.source}

    def source_of(item: Item) -> Image.Image:
        if item.source not in known():
            raise RequestError(f"expected a picture named {item.source!r}, found none in the benchmarks")
        return known()[item.source](item)

    return source_of


def _has_exam(name: str, exam: str) -> bool:
    """Return whether an exam is one of a benchmark, or of a variant of its score."""
    return exam in (name, f"{name}-official", f"{name}-fixed")


def planned(request: EvaluateRequest) -> list[Plan]:
    """Return what each system still has to answer; nothing is asked."""
    evaluation = request.prepare()
    path = evaluation.folder / STORE
    evaluation.folder.mkdir(parents=True, exist_ok=True)
    with Store.open(path) as store:
        return plans(evaluation, store)


def default_data() -> Path:
    """Return the folder of the files of benchmarks: that of DANQING_BENCHMARKS, or one of the user's."""
    told = os.environ.get(VARIABLE, "")
    return Path(told).expanduser() if told else Path.home() / ".cache" / "danqing" / "benchmarks"


def known_benchmarks() -> tuple[str, ...]:
    """Return the names of all benchmarks."""
    return (WORLD, *(one.name for one in benchmarks.BENCHMARKS))


def _not_run(names: Sequence[str]) -> list[str]:
    """Say which benchmarks of the package were not asked."""
    left = [name for name in known_benchmarks() if name not in names]
    return [f"not run: {', '.join(left)}"] if left else []


def _python(request: EvaluateRequest) -> str:
    """Return the call that makes the same request: all that is not as it is by default."""
    names = ", ".join(repr(name) for name in request.benchmarks)
    told = []
    for field in fields(request):
        value = getattr(request, field.name)
        if field.name == "benchmarks" or value == field.default:
            continue
        if isinstance(value, Path):
            value = str(value)
        told.append(f"{field.name}={list(value) if isinstance(value, tuple) else value!r}")
    return f"danqing.evaluate({', '.join([names, *told])})"
