"""What a memory plan says to people and programs: parts, stages, times, and what would help."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from danqing.pipelines.effort import Effort, Speed, effort, work
from danqing.pipelines.memory import sizes_of
from danqing.pipelines.part_sizes import PARTS, PartSizes
from danqing.pipelines.wishes import Wishes
from danqing.weights.file_names import Part
from danqing.weights.layouts import Folder
from danqing.weights.plan import Format, MemoryPlan, Placement

NAMES: Mapping[Part, str] = {"transformer": "denoiser", "text_encoder": "conditioner", "vae": "autoencoder"}
_PRECISIONS = {torch.float32: "fp32", torch.bfloat16: "bf16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PartReport:
    """How one part is held."""

    name: str
    where: str
    format: str
    bytes: int
    """In memory while it is used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanReport:
    """A plan, told."""

    plan: MemoryPlan
    parts: tuple[PartReport, ...]
    effort: Effort
    """Seconds, estimated."""
    quantised: Format | None
    """The format of weights that had to be quantised, or were asked to be; pictures are other ones then."""
    advice: tuple[str, ...]


def report_plan(
    folder: Folder, wishes: Wishes, plan: MemoryPlan, *, dtype: torch.dtype, speed: Speed
) -> PlanReport:
    """Return what there is to say about a plan; times are estimates at `speed`."""
    sizes = sizes_of(folder, wishes, dtype, plan.transformer.format)
    quantised = plan.quantised
    parts = [_part(sizes, plan, part, quantised or _PRECISIONS.get(dtype, str(dtype))) for part in PARTS]
    if sizes["transformer"].modulation:
        kept = "in memory" if plan.modulation_kept else "read for each table of noise levels"
        parts.insert(
            1,
            PartReport(
                name="its modulation",
                where=kept,
                format=parts[0].format,
                bytes=sizes["transformer"].table_layers.memory if plan.modulation_kept else 0,
            ),
        )
    found = effort(work(folder, sizes, wishes, [plan.vae_tile]), sizes, wishes, plan, speed)
    return PlanReport(
        plan=plan,
        parts=tuple(parts),
        effort=found,
        quantised=quantised,
        advice=tuple(_advice(sizes, plan, found, quantised)),
    )


def report_json(report: PlanReport) -> dict[str, Any]:
    """Return a plan as a JSON object: `peak` and `budget` in bytes, times in seconds and estimated."""
    plan = report.plan
    return {
        "plan": {part: asdict(getattr(plan, part)) for part in PARTS}
        | {"modulation_kept": plan.modulation_kept, "vae_tile": plan.vae_tile},
        "budget": plan.budget,
        "base": plan.base,
        "peak": plan.peak,
        "stages": [asdict(stage) | {"total": plan.base + stage.total} for stage in plan.stages],
        "parts": [asdict(part) for part in report.parts],
        "estimated_seconds": {
            "step": round(report.effort.step, 3),
            "picture": round(report.effort.picture, 3),
        },
        "read_each_step": report.effort.streamed,
        "quantised": report.quantised,
        "advice": list(report.advice),
    }


def _part(sizes: Mapping[Part, PartSizes], plan: MemoryPlan, part: Part, format: str) -> PartReport:
    placement: Placement = getattr(plan, part)
    size = sizes[part].in_stage(placement, modulation_kept=True) - sizes[part].table_layers.memory
    blocks, stay = len(sizes[part].blocks), placement.blocks
    where = "in memory" if placement.kept else "read when it is used, then dropped"
    if stay is not None:
        where = f"{stay} of {blocks} blocks stay while it is used, {blocks - stay} are streamed"
    if part == "vae" and plan.vae_tile is not None:
        where += f"; pictures in tiles of {plan.vae_tile} latents"
    plain = part == "vae" or placement.format == "plain"
    return PartReport(name=NAMES[part], where=where, format=_told(format, plain), bytes=size)


def _told(format: str, plain: bool) -> str:
    return "as stored" if plain and format.startswith("int") else format


def _advice(
    sizes: Mapping[Part, PartSizes], plan: MemoryPlan, found: Effort, quantised: Format | None
) -> list[str]:
    """Return what would make drawing faster, or pictures better."""
    ways = []
    if found.streamed:
        more = sizes["transformer"].whole.memory - sizes["transformer"].in_stage(
            plan.transformer, modulation_kept=False
        )
        ways.append(f"about {more / 1e9:.1f} GB more would keep all blocks in memory between steps")
    if quantised and found.streamed:
        ways.append("`danqing convert` to this format once spares quantising blocks at each step")
    if quantised:
        ways.append(f"weights are {quantised}: pictures differ from those of the weights as stored")
    elif found.streamed:
        ways.append("--precision int8 holds twice as many blocks, and draws slightly other pictures")
    return ways
