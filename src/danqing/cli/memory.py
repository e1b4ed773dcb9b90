"""`--memory` and `--dry-run`: how much memory drawing may take, and what it will take."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from danqing.cli.inventory import megabytes

if TYPE_CHECKING:
    from danqing.pipelines.plan_report import PlanReport

F = TypeVar("F", bound=Callable[..., Any])
_OPTIONS = (
    click.option(
        "--memory",
        metavar="SIZE",
        help="Most memory to use: 6GB, 5.5GiB, 800MB or 50%.  [default: what is free]",
    ),
    click.option("--dry-run", is_flag=True, help="Print how the model would be held, and stop."),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryWish:
    """What flags say about memory."""

    memory: str | None = None
    dry_run: bool = False


def memory_options(command: F) -> F:
    """Add the flags that limit memory."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def named_memory(fields: dict[str, Any]) -> MemoryWish:
    """Take what flags say about memory out of `fields`."""
    return MemoryWish(memory=fields.pop("memory"), dry_run=fields.pop("dry_run"))


def plan_lines(report: "PlanReport") -> list[str]:
    """Return a plan for people: parts, stages, the peak, times, and what would help."""
    plan = report.plan
    lines = ["part            format     in use        where"]
    for part in report.parts:
        lines.append(f"{part.name:<14}  {part.format:<9}  {megabytes(part.bytes):>10}    {part.where}")
    lines += ["", "stage                  weights     working       total"]
    for stage in plan.stages:
        sizes = (stage.weights, stage.working, plan.base + stage.total)
        lines.append(f"{stage.name:<19}" + "".join(f"{megabytes(size):>11} " for size in sizes))
    lines += [
        "",
        f"Peak {megabytes(plan.peak)} of {megabytes(plan.budget)}, "
        f"of which {megabytes(plan.base)} before loading.",
        f"Estimated {seconds(report.effort.step)} a step, {seconds(report.effort.picture)} a picture"
        + (f"; {megabytes(report.effort.streamed)} read each step." if report.effort.streamed else "."),
        *(f"{way[0].upper()}{way[1:]}." for way in report.advice),
    ]
    return lines


def seconds(count: float) -> str:
    """Return a time for people."""
    if count < 100:
        return f"{count:.2g} s"
    return f"{count / 60:.0f} min" if count < 100 * 60 else f"{count / 3600:.0f} h"
