"""Who makes and judges answers: this process, or workers elsewhere that hand back what they made."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from danqing.evaluation.items import Ability, Judge
from danqing.evaluation.prices import Budget
from danqing.evaluation.run import Complain, Done, Plan, Tell, ToJudge, judge_pairs, run
from danqing.evaluation.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemRole:
    """Which system of an evaluation is meant, told apart without having it."""

    exam: str
    number: int
    """Its place in `Evaluation.of`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeRole:
    """Which judge of an evaluation is meant."""

    exam: str
    ability: Ability
    second: bool


class Workers(Protocol):
    """Makes and judges answers; only whoever calls it writes into the store."""

    def answer(
        self,
        wanted: Sequence[Plan],
        store: Store,
        *,
        role: SystemRole,
        budget: Budget | None,
        tell: Tell | None,
    ) -> Done:
        """Make what plans of one system miss, as `run` does."""

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
        """Judge answers, as `judge_pairs` does."""


class Here:
    """This process."""

    def answer(
        self,
        wanted: Sequence[Plan],
        store: Store,
        *,
        role: SystemRole,
        budget: Budget | None,
        tell: Tell | None,
    ) -> Done:
        """Make what plans of one system miss, one after the other."""
        done = Done()
        for one in wanted:
            if not done.stopped:
                done = done.and_then(run(one, store, budget=budget, tell=tell))
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
        """Judge answers."""
        return judge_pairs(pairs, judge, store, complain=complain, tell=tell)
