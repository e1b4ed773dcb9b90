"""Any set of benchmarks with any set of systems, from plan to report; every part resumes where it was."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from danqing.errors import ConfigError
from danqing.evaluation.exam import Entered, Exam
from danqing.evaluation.items import Ability, Item, Judge
from danqing.evaluation.judges.agreement import Agreement, agreement
from danqing.evaluation.prices import Budget
from danqing.evaluation.report.page import LIMIT, write_page
from danqing.evaluation.report.report import Report, make_report
from danqing.evaluation.report.table import shown
from danqing.evaluation.results import Entrant, Results, read_results
from danqing.evaluation.run import Plan, Tell, ToJudge, plan, plan_together, to_judge
from danqing.evaluation.store import Store
from danqing.evaluation.workers import Here, JudgeRole, SystemRole, Workers
from danqing.files import write_whole

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
    published: tuple[str, ...] = ()
    """Systems of which the report shows what others printed, if anything."""
    floor: bool = True
    """Whether answers of the first system are judged for other prompts too."""
    notes: tuple[str, ...] = ()
    """What else the report is to say."""
    page_limit: int = LIMIT
    """Bytes of pictures in the page."""

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
        """Return the items of an exam that a system of the evaluation can answer.

        Where none can answer any, those that its ceilings can: what the judge sees is told all the same.
        """
        for several in (self.entered, exam.own):
            able = {item.id for entered in several for item in entered.part(exam.items)}
            if able:
                break
        return tuple(item for item in exam.items if item.id in able)

    @property
    def unable(self) -> tuple[str, ...]:
        """What is to be said of exams that no system of the evaluation can answer."""
        names, told = ", ".join(entered.system.name for entered in self.entered), []
        for exam in self.exams:
            if not any(entered.part(exam.items) for entered in self.entered):
                asked = " or ".join(sorted({item.ability for item in exam.items}))
                told.append(f"{exam.title}: refused, {names} cannot {asked}")
        return tuple(told)


def plans(evaluation: Evaluation, store: Store) -> list[Plan]:
    """Return what each system still has to answer, one plan a benchmark."""
    found = []
    for exam in evaluation.exams:
        for entered in evaluation.of(exam):
            parts = exam.parts(entered.part(evaluation.asked(exam)))
            if parts:
                plan_of = [plan(part, entered.system, seeds, store) for seeds, _, part in parts]
                found.append(plan_together(exam.title, plan_of))
    return found


def evaluate(
    evaluation: Evaluation,
    *,
    command: str,
    budget: Budget | None = None,
    workers: Workers | None = None,
    tell: Tell | None = None,
) -> Report:
    """Make what is missing, judge it, and write report and page; returns the report.

    With `workers` answers are made and judged by them, the same ones as here. Raises ResourceError before
    anything is asked when it may cost more than the budget, ConfigError when a key or a client library is
    missing.
    """
    evaluation.folder.mkdir(parents=True, exist_ok=True)
    chosen: Workers = Here() if workers is None else workers
    with Store.open(evaluation.folder / STORE) as store:
        _check(plans(evaluation, store), budget)
        for exam in evaluation.exams:
            _keep_sources(exam, evaluation.asked(exam), store)
        notes = [*evaluation.notes, *evaluation.unable, *_answer_all(evaluation, store, budget, chosen, tell)]
        notes += _judge_all(evaluation, store, chosen, tell)
        results = [_read(evaluation, exam, store) for exam in evaluation.exams]
        notes += [
            note for exam, one in zip(evaluation.exams, results, strict=True) for note in exam.notes(one)
        ]
        report = make_report(
            results,
            title=evaluation.title,
            commands=[command],
            notes=notes,
            published=evaluation.published,
            agreements=_agreements(evaluation, results, store),
        )
        write_whole(evaluation.folder / REPORT, report.to_json() + "\n")
        write_page(report, results, evaluation.folder / PAGE, limit=evaluation.page_limit)
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


def _answer_all(
    evaluation: Evaluation, store: Store, budget: Budget | None, workers: Workers, tell: Tell | None
) -> list[str]:
    """Let every system answer every exam; returns which stopped early, and why."""
    notes, stopped = [], set[str]()
    for exam in evaluation.exams:
        for number, entered in enumerate(evaluation.of(exam)):
            system, role = entered.system, SystemRole(exam=exam.name, number=number)
            parts = exam.parts(entered.part(evaluation.asked(exam)))
            wanted = [plan(items, system, seeds, store) for seeds, _, items in parts]
            if system.name in stopped:
                for one in wanted:
                    store.add_tasks(system, one.tasks)  # what is missing is counted
            if system.name in stopped or not wanted:
                continue
            done = workers.answer(wanted, store, role=role, budget=budget, tell=tell)
            if done.stopped:
                stopped.add(system.name)
                notes.append(f"{system.name} stopped in {exam.title}: {done.stopped}")
    return notes


def _judge_all(evaluation: Evaluation, store: Store, workers: Workers, tell: Tell | None) -> list[str]:
    """Judge every answer that is there; returns what could not be judged, and why."""
    complaints: Counter[str] = Counter()

    def complain(why: str) -> None:
        complaints[why] += 1

    for exam in evaluation.exams:
        for second, judges in enumerate((exam.judges, exam.second)):
            if judges is None:
                continue
            for ability in sorted({item.ability for item in evaluation.asked(exam)}):
                judge = judges()[ability]
                pairs = _pairs(evaluation, exam, ability, judge, store, floor=not second)
                role = JudgeRole(exam=exam.name, ability=ability, second=bool(second))
                workers.judge(pairs, judge, store, role=role, complain=complain, tell=tell)
    return [f"{count} answers not judged: {why}" for why, count in complaints.items()]


def _pairs(
    evaluation: Evaluation, exam: Exam, ability: Ability, judge: Judge, store: Store, *, floor: bool
) -> list[ToJudge]:
    """Return what a judge has to judge; with `floor`, answers of the first system for other prompts too."""
    pairs: dict[tuple[str, str], ToJudge] = {}
    for entered in evaluation.of(exam):
        first = entered is evaluation.entered[0]
        shuffled = (
            (False, True) if floor and first and evaluation.floor and ability in exam.shuffled else (False,)
        )
        for seeds, able, items in exam.parts(entered.part(evaluation.asked(exam))):
            for other in shuffled if able == ability else ():
                found = to_judge(items, entered.system, seeds, judge, store, shuffled=other)
                pairs |= {(one.digest, one.item.id): one for one in found}
    return list(pairs.values())


def _agreements(evaluation: Evaluation, several: Sequence[Results], store: Store) -> list[Agreement]:
    """Return how far first and second judges agree, where there are two."""
    found = []
    for exam, results in zip(evaluation.exams, several, strict=True):
        if exam.second is None:
            continue
        systems = {entrant.label: _judged_keys(results, entrant, store) for entrant in shown(results)}
        pairs = zip(_each(exam.judges()), _each(exam.second()), strict=True)
        for first, second in pairs:
            one, other = (store.scores(judge.name, judge.version) for judge in (first, second))
            if one.keys() & other.keys():
                names = (_told(first), _told(second))
                if names[0] == names[1]:
                    names = (f"{names[0]} {first.version}", f"{names[1]} {second.version}")
                found.append(agreement(one, other, judges=names, systems=systems))
    return found


def _judged_keys(results: Results, entrant: Entrant, store: Store) -> list[tuple[str, str]]:
    """Return digest and item of the answers of a system."""
    answers = [one for row in results.rows for one in results.of(entrant, row)]
    digests = store.digests(list({one.key for one in answers}))
    return list({(digests[one.key], one.item.id): None for one in answers if one.key in digests})


def _each(judges: Mapping[Ability, Judge]) -> list[Judge]:
    return list({(judge.name, judge.version): judge for judge in judges.values()}.values())


def _told(judge: Judge) -> str:
    """Return the name of a judge with the models in it."""
    models = getattr(judge, "models", {})
    return f"{judge.name} ({', '.join(models.values())})" if models else judge.name


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
        about=_about(exam),
    )


def _about(exam: Exam) -> dict[str, str]:
    """Return what is told of an exam, and which models looked at its answers."""
    models = {
        role: model for judge in _each(exam.judges()) for role, model in getattr(judge, "models", {}).items()
    }
    looked = ", ".join(f"{role}: {model}" for role, model in models.items())
    return {**exam.about, **({"Models that looked": looked} if looked else {})}


def _keep_sources(exam: Exam, asked: Sequence[Item], store: Store) -> None:
    """Put the pictures that items are about into the store, for the page and for whoever reads it later."""
    there = store.sources()
    missing: Mapping[str, Item] = {one.source: one for one in asked if one.source}
    source_of = exam.source_of
    if source_of is not None:
        store.add_sources({name: source_of(item) for name, item in missing.items() if name not in there})
