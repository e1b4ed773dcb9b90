"""What runs in how much memory: plans for checkpoints of true shape, from headers without weights.

    python benchmarks/fits.py                     # the tables of docs/memory.md
    python benchmarks/fits.py --memory 10 --memory 20 --json fits.json

Nothing is loaded and nothing is drawn. Peaks are those of the plans that drawing follows; seconds are
estimates from operations and nominal rates, never measurements.
"""

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measuring
import torch
from measuring import markdown, parser, tell
from true_shapes import write_sparse

from danqing.errors import ResourceError
from danqing.pipelines.effort import Effort, Speed, effort, work
from danqing.pipelines.memory import plan_memory, sizes_of
from danqing.pipelines.wishes import Wishes
from danqing.weights.layouts import Folder
from danqing.weights.plan import Format, MemoryPlan, Placement

BUDGETS = (4, 8, 12, 16, 24, 32, 48, 80)
BASE = 300 * 10**6
"""What a process holds before it loads anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where it would run, by name and nominal rates."""

    name: str
    device: str
    speed: Speed


MACHINES = (
    Machine(
        name="CPU of 16 cores with AMX, NVMe disk",
        device="cpu",
        speed=Speed(compute=8e12, reading=3e9),
    ),
    Machine(
        name="RTX 4090-class GPU, NVMe disk",
        device="cuda",
        speed=Speed(compute=100e12, reading=5e9),
    ),
)
CASES = {
    "Qwen-Image": Wishes(size=(1024, 1024), steps=50, guided=True),
    "Qwen-Image-Edit-2511": Wishes(
        size=(1024, 1024),
        steps=40,
        guided=True,
        tasks=("edit",),
        references=((1024, 1024),),
        seen=((384, 384),),
    ),
    "Qwen-Image-2.1": Wishes(size=(1024, 1024), steps=40, guided=False),
}


def main() -> None:
    """Print a table for each kind of machine."""
    options = parse()
    report: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        folders = {name: Folder(write_sparse(Path(place) / name, name)) for name in CASES}
        for machine in MACHINES:
            rows = []
            for budget in options.memory or BUDGETS:
                cells = [f"{budget:g} GB"]
                for name, folder in folders.items():
                    found = fit(folder, CASES[name], budget, machine, options.format)
                    report.append({"machine": machine.name, "release": name, "memory": budget, **found})
                    cells.append(told(found))
                rows.append(cells)
            print(f"**{machine.name}**\n")
            print(markdown(("memory", *CASES), rows) + "\n")
    if options.json is not None:
        tell({"benchmark": "fits", "machine": measuring.machine(), "plans": report}, options.json)


def parse() -> argparse.Namespace:
    """Read the command line."""
    made = parser(__doc__)
    made.add_argument("--memory", type=float, action="append", metavar="GB", help="repeatable")
    made.add_argument("--format", choices=("plain", "int8", "int4"), help="only this one (default: all)")
    return made.parse_args()


def fit(
    folder: Folder, wishes: Wishes, budget: float, machine: Machine, only: Format | None
) -> dict[str, Any]:
    """Return what a plan within `budget` GB says, or the least that would do."""
    formats: tuple[Format, ...] = ("plain", "int8", "int4") if only is None else (only,)
    try:
        plan = plan_memory(
            folder,
            wishes,
            budget=int(budget * 1e9),
            device=torch.device(machine.device),
            dtype=torch.bfloat16,
            formats=formats,
            base=BASE if machine.device == "cpu" else None,
            speed=machine.speed,
        )
    except ResourceError as error:
        return {"fits": False, "why": str(error)}
    sizes = sizes_of(folder, wishes, torch.bfloat16, plan.transformer.format)
    found = effort(work(folder, sizes, wishes, [plan.vae_tile]), sizes, wishes, plan, machine.speed)
    return {
        "fits": True,
        "peak": plan.peak,
        "how": ", ".join(measures(plan)) or "all in memory",
        "seconds": seconds(found),
        "quantised": plan.quantised,
    }


def seconds(found: Effort) -> dict[str, float]:
    """Return the estimates."""
    return {"step": found.step, "picture": found.picture}


def measures(plan: MemoryPlan) -> Iterator[str]:
    """Yield what a plan does to fit."""
    if plan.quantised:
        yield plan.quantised
    blocks = plan.transformer.blocks
    if blocks is not None:
        yield f"blocks streamed, {blocks} stay"
    elif not plan.transformer.kept:
        yield "denoiser after conditioner"
    if not plan.modulation_kept:
        yield "table"
    if plan.text_encoder.blocks is not None:
        yield "conditioner streamed"
    elif plan.text_encoder != Placement(format=plan.text_encoder.format):
        yield "conditioner dropped"
    if plan.vae_tile is not None:
        yield f"tiles of {plan.vae_tile}"


def told(found: dict[str, Any]) -> str:
    """Return one cell."""
    if not found["fits"]:
        return "no"
    times = found["seconds"]
    return f"{found['how']}: {found['peak'] / 1e9:.1f} GB, about {times['step']:.2g} s a step"


if __name__ == "__main__":
    main()
