"""Any set of benchmarks with any set of systems, from plan to report; every part resumes where it was."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from danqing.errors import ConfigError, RequestError
from danqing.evaluation.exam import Entered, Exam
from danqing.evaluation.items import Item
from danqing.evaluation.page import write_page, write_text
from danqing.evaluation.prices import Budget
from danqing.evaluation.published import PublishedSystem
from danqing.evaluation.report import Report, make_report
from danqing.evaluation.results import Entrant, Results, read_results
from danqing.evaluation.run import Plan, Tell, plan, run, score
from danqing.evaluation.store import Store
from danqing.evaluation.systems import SourceOf

STORE: Final = "store.sqlite"
REPORT: Final = "report.json"
PAGE: Final = "report.html"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What is measured, with what, and where it is kept."""

    exams: tuple[Exam, ...]
    entered: tuple[Entered, ...]
    """Who answers all of them; the first is what the report is about."""
    folder: Path
    """Holds `store.sqlite`, `report.json` and `report.html`."""
    title: str = ""
    published: tuple[PublishedSystem, ...] = ()
    """Systems of which the report shows what others printed."""
    floor: bool = True
    """Whether answers of the first system are judged for other prompts too."""
    notes: tuple[str, ...] = field(default=())
    """What else the report is to say."""

    def __post_init__(self) -> None:
        names = [exam.name for exam in self.exams]
        if not names or len(set(names)) != len(names) or not self.entered:
            raise ConfigError(
                f"expected benchmarks, each once, and a system, found {', '.join(names) or 'no benchmark'}"
            )

    def of(self, exam: Exam) -> tuple[Entered, ...]:
        """Return all who answer one of the exams."""
        return (*self.entered, *exam.own)

    def asked(self, exam: Exam) -> tuple[Item, ...]:
        """Return the items of an exam that a system of the evaluation can answer."""
        able = {item.id for entered in self.entered for item in entered.part(exam.items)}
        return tuple(item for item in exam.items if item.id in able)


def any_source(exams: Sequence[Exam]) -> SourceOf | None:
    """Return what gives the picture that an item of any exam is about; None where no item is about one."""
    sources = {item.source: exam.source_of for exam in exams for item in exam.items if item.source}
    if not sources:
        return None

    def source_of(item: Item):  # type: ignore[no-untyped-def]
        found = sources.get(item.source)
        if found is None:
            raise RequestError(f"expected a picture named {item.source!r}, found none in the benchmarks")
        return found(item)

    return source_of


def plans(evaluation: Evaluation, store: Store) -> list[Plan]:
    """Return what each system still has to answer."""
    return [
        plan(part, entered.system, seeds, store)
        for exam in evaluation.exams
        for entered in evaluation.of(exam)
        for seeds, _, part in exam.parts(entered.part(evaluation.asked(exam)))
    ]


def evaluate(
    evaluation: Evaluation, *, command: str, budget: Budget | None = None, tell: Tell | None = None
) -> Report:
    """Make what is missing, judge it, and write report and page; returns the report.

    Raises ResourceError before anything is asked when it may cost more than the budget, ConfigError when a
    key or a client library is missing.
    """
    evaluation.folder.mkdir(parents=True, exist_ok=True)
    with Store.open(evaluation.folder / STORE) as store:
        _check(plans(evaluation, store), budget)
        results, notes = [], list(evaluation.notes)
        for exam in evaluation.exams:
            _keep_sources(exam, evaluation.asked(exam), store)
            for entered in evaluation.of(exam):
                stopped = _answer(evaluation, exam, entered, store, budget, tell)
                notes += [f"{entered.system.name} stopped in {exam.title}: {stopped}"] if stopped else []
            results.append(_read(evaluation, exam, store))
            notes += exam.notes(results[-1])
        report = make_report(
            results,
            title=evaluation.title,
            commands=[command],
            notes=notes,
            published=evaluation.published,
        )
        write_text(evaluation.folder / REPORT, report.to_json() + "\n")
        write_page(report, results, evaluation.folder / PAGE)
    return report


def _check(wanted: Sequence[Plan], budget: Budget | None) -> None:
    """Raise before the first answer what would be raised after it."""
    missing = [one for one in wanted if one.missing]
    if budget is not None:
        budget.check([one.cost for one in missing])
    for system in {id(one.system): one.system for one in missing}.values():
        check = getattr(system, "check", None)
        if check is not None:
            check()


def _answer(
    evaluation: Evaluation,
    exam: Exam,
    entered: Entered,
    store: Store,
    budget: Budget | None,
    tell: Tell | None,
) -> str:
    """Let one system answer an exam and judge what it said; returns why it stopped early, if it did."""
    stopped = ""
    system = entered.system
    for seeds, ability, items in exam.parts(entered.part(evaluation.asked(exam))):
        if not stopped:
            stopped = run(plan(items, system, seeds, store), store, budget=budget, tell=tell).stopped
        judge = exam.judges()[ability]
        score(items, system, seeds, judge, store, tell=tell)
        if evaluation.floor and entered is evaluation.entered[0] and ability in exam.shuffled:
            score(items, system, seeds, judge, store, shuffled=True, tell=tell)
    return stopped


def _read(evaluation: Evaluation, exam: Exam, store: Store) -> Results:
    asked = evaluation.asked(exam)
    taking = [entered for entered in evaluation.of(exam) if entered.part(asked)]
    judges = {(judge.name, judge.version): None for judge in exam.judges().values()}
    return read_results(
        store,
        rows=exam.rows,
        entrants=[Entrant.of(entered.system, entered.role) for entered in taking],
        judges=list(judges),
        items=asked,
        seeds={item.id: seeds for seeds, _, items in exam.parts(asked) for item in items},
        name=exam.name,
        benchmark=exam.benchmark,
        title=exam.title,
        about=exam.about,
    )


def _keep_sources(exam: Exam, asked: Sequence[Item], store: Store) -> None:
    """Put the pictures that items are about into the store, for the page and for whoever reads it later."""
    there = store.sources()
    missing: Mapping[str, Item] = {one.source: one for one in asked if one.source}
    source_of = exam.source_of
    if source_of is not None:
        store.add_sources({name: source_of(item) for name, item in missing.items() if name not in there})
