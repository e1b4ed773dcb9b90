"""In which precision, and by which memory plan, a checkpoint is held."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from danqing.device import PRECISIONS, memory_report, resolve_precision
from danqing.errors import RequestError
from danqing.pipelines.memory import FORMATS, free_budget, parse_bytes, plan_memory, usual_precision
from danqing.pipelines.wishes import Wishes
from danqing.weights.layouts import Folder
from danqing.weights.plan import Format, MemoryPlan

QUANTISED: Final[Mapping[str, Format]] = {"int8": "int8", "int4": "int4"}
NAMES: Final = ("auto", *PRECISIONS, *QUANTISED)
"""Precisions that can be asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """How a checkpoint is held."""

    dtype: torch.dtype
    """In which it computes."""
    plan: MemoryPlan


def hold(
    folder: Folder,
    wishes: Wishes,
    *,
    device: torch.device,
    precision: str = "auto",
    memory: str | int | None = None,
    controlnet: Path | None = None,
    adapters: Sequence[Path] = (),
) -> Holding:
    """Choose how to hold a checkpoint for what is wished.

    `precision` is one of NAMES: fp32 and bf16 hold weights as the computation wants them, int8 and int4 hold
    the large ones quantised, and auto quantises only where nothing else fits. `memory` is bytes or a text
    like 6GB or 50%; by default what is free. Raises ResourceError with the least memory that would do.
    """
    if precision not in NAMES:
        raise RequestError(f"precision is one of {', '.join(NAMES)}, found {precision!r}")
    formats: Sequence[Format] = ("plain",) if precision in PRECISIONS else FORMATS
    if precision in QUANTISED:
        formats = (QUANTISED[precision],)
    dtype = (
        resolve_precision(precision, device) if precision in PRECISIONS else usual_precision(folder, device)
    )
    if isinstance(memory, str):
        memory = parse_bytes(memory, whole=memory_report(device).total)
    plan = plan_memory(
        folder,
        wishes,
        budget=free_budget(device) if memory is None else memory,
        device=device,
        dtype=dtype,
        formats=formats,
        controlnet=controlnet,
        adapters=adapters,
    )
    return Holding(dtype=dtype, plan=plan)
