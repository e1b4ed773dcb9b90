"""Choosing how a checkpoint is held, so that drawing stays within a budget of memory.

Measures that leave every picture as it is come first, and of those that fit the plan that draws fastest is
taken: the layers of the modulation table are read for each table, parts are dropped after use, pictures are
decoded in tiles, blocks are streamed from disk. Only where none of them is enough are weights quantised.
"""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from pathlib import Path

import torch

from danqing.device import memory_report, resolve_precision
from danqing.errors import RequestError, ResourceError
from danqing.pipelines.effort import NOMINAL, Speed, Work, effort, work
from danqing.pipelines.footprint import Footprint, decoding, footprint
from danqing.pipelines.part_sizes import PARTS, PartSizes, part_sizes
from danqing.pipelines.wishes import Wishes
from danqing.weights.file_names import Part
from danqing.weights.layouts import Folder
from danqing.weights.plan import Format, MemoryPlan, Placement, Stage
from danqing.weights.store import Shards

FORMATS: tuple[Format, ...] = ("plain", "int8", "int4")
"""In the order in which they are tried."""
_UNITS = {
    "": 1,
    "b": 1,
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgt", 1)},
    **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", 1)},
    **{letter: 1000**power for power, letter in enumerate("kmgt", 1)},
}
_STAGES: Mapping[Part, tuple[str, ...]] = {
    "transformer": ("modulation table", "denoising"),
    "text_encoder": ("reading the prompt",),
}
_TILES = (None, 96, 64, 48, 32, 24, 16, 12, 8)
_LARGE = 10**9  # numbers of a denoiser, from which fp32 is too slow to be the usual choice on a CPU
_SPARED = 0.95  # of what is free: other programs want some too
_FILLED = 0.98  # of a budget: predictions err
# On a CPU, over what tensors take: modules that are imported late, compiled kernels and their workspaces, the
# stacks of threads; and what the C library keeps of freed memory in blocks below 32 MB.
_PROCESS = 60 * 10**6
_KEPT_BACK = 120 * 10**6
_CONTEXT = 600 * 10**6  # of a CUDA device: its context and the libraries' workspaces
_ON_DEVICE = 4  # pictures denoised together elsewhere than on a CPU


def parse_bytes(text: str, *, whole: int | None = None) -> int:
    """Return the bytes of a text like 6GB, 5.5GiB, 800MB or, of a `whole`, 50%."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-z%]*)\s*", text.lower())
    if match is not None and match[2] == "%" and whole is not None and 0 < float(match[1]) <= 100:
        return int(whole * float(match[1]) / 100)
    if match is None or match[2] not in _UNITS or float(match[1]) == 0:
        raise RequestError(f"memory: expected a size like 6GB, 5.5GiB, 800MB or 50%, found {text!r}")
    return int(float(match[1]) * _UNITS[match[2]])


def free_budget(device: torch.device) -> int:
    """Return what drawing may use where nobody says: what is free, and what this process holds already."""
    report = memory_report(device)
    held = anonymous_bytes() if device.type == "cpu" else report.used
    return held + int(_SPARED * report.available)


def anonymous_bytes() -> int:
    """Return the memory of this process that is no file's: what plans count. Elsewhere than on Linux, all."""
    if sys.platform != "linux":
        return memory_report().used
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def usual_precision(folder: Folder, device: torch.device) -> torch.dtype:
    """Return the precision of a checkpoint where nobody asks for one; it depends on no free memory.

    On a GPU what the device computes fast. On a CPU fp32; for denoisers of a billion numbers and more that
    are not stored in fp32 it is bf16, where the CPU multiplies that in hardware.
    """
    if device.type != "cpu":
        return resolve_precision("auto", device)
    source = folder.given.source("transformer", folder.path / "transformer", torch.float32)
    tensors = (Shards.open(source) if isinstance(source, Path) else source).tensors.values()
    numbers = sum(prod(info.shape) for info in tensors)
    exact = sum(prod(info.shape) for info in tensors if info.dtype == "F32")
    large = numbers >= _LARGE and exact < numbers / 2
    return torch.bfloat16 if large and multiplies_bf16() else torch.float32


def multiplies_bf16() -> bool:
    """Return whether this CPU multiplies bf16 in hardware, as far as the system says."""
    if not (cpus := Path("/proc/cpuinfo")).is_file():
        return False
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", cpus.read_text(), re.MULTILINE)
    return flags is not None and not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags[1].split())


def plan_memory(
    folder: Folder,
    wishes: Wishes,
    *,
    budget: int,
    device: torch.device,
    dtype: torch.dtype,
    formats: Sequence[Format] = FORMATS,
    controlnet: Path | None = None,
    adapters: Sequence[Path] = (),
    base: int | None = None,
    speed: Speed | None = None,
) -> MemoryPlan:
    """Return the fastest plan of the first of `formats` of which one stays within `budget` bytes.

    Only headers and configs are read. `base` is what the process holds by now (default: measured). Plans are
    compared at `speed`, by default at nominal rates. On a GPU the budget is that of the device. Raises
    ResourceError where nothing fits, with the least that would.
    """
    extra = _extra_bytes(controlnet, adapters, dtype)
    if base is None:
        base = anonymous_bytes() if device.type == "cpu" else _CONTEXT
    least: list[tuple[int, Format]] = []
    for format in formats:
        choice = _Choice.of(folder, wishes, device, dtype, format, budget=budget, base=base, extra=extra)
        plans = [plan for plan in choice.plans() if plan.peak <= choice.room]
        if plans:
            rates = speed or NOMINAL.get(device.type, NOMINAL["cpu"])
            return min(plans, key=lambda plan: choice.rank(plan, rates))
        least.append((choice.least(), format))
    needed, format = min(least)
    needed = int(needed / _FILLED)
    raise ResourceError(_too_small(wishes, budget, needed, format, formats))


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """What the plans of one format are made from."""

    wishes: Wishes
    sizes: Mapping[Part, PartSizes]
    works: Footprint
    operations: Work
    decoded: Mapping[int | None, int]
    format: Format
    budget: int
    base: int
    extra: int
    over: int
    on_cpu: bool

    @property
    def room(self) -> int:
        """What plans may come to."""
        return int(_FILLED * self.budget)

    @classmethod
    def of(
        cls,
        folder: Folder,
        wishes: Wishes,
        device: torch.device,
        dtype: torch.dtype,
        format: Format,
        *,
        budget: int,
        base: int,
        extra: int,
    ) -> "_Choice":
        sizes = sizes_of(folder, wishes, dtype, format)
        on_cpu, vae = device.type == "cpu", folder.vae_config()
        batch = 1 if on_cpu else min(wishes.count, _ON_DEVICE)
        return cls(
            wishes=wishes,
            sizes=sizes,
            works=footprint(
                folder,
                wishes,
                batch=batch,
                dtype=dtype,
                device=device,
                formats=(sizes["transformer"].quantised, sizes["text_encoder"].quantised),
            ),
            operations=work(folder, sizes, wishes, _TILES),
            decoded={tile: decoding(vae, wishes.size, tile, dtype) for tile in _TILES},
            format=format,
            budget=budget,
            base=base,
            extra=extra,
            over=_PROCESS + _KEPT_BACK if on_cpu else 0,
            on_cpu=on_cpu,
        )

    def plans(self) -> Iterator[MemoryPlan]:
        """Yield plans, for each choice of what is dropped with as many blocks as fit."""
        has_layers = bool(self.sizes["transformer"].modulation) and self.on_cpu
        places = [Placement(kept=kept, format=self.format) for kept in (True, False)]
        vaes = [Placement(kept=kept) for kept in (True, False)]
        for transformer, encoder, vae, modulation_kept in product(
            places, places, vaes, (True, False) if has_layers else (True,)
        ):
            plan = MemoryPlan(
                budget=self.budget,
                transformer=transformer,
                text_encoder=encoder,
                vae=vae,
                modulation_kept=modulation_kept,
                base=self.base,
            )
            yield from self._fitted(plan)

    def least(self) -> int:
        """Return the peak of the smallest plan."""
        away = Placement(blocks=0, kept=False, format=self.format)
        least = MemoryPlan(
            budget=self.budget,
            transformer=away,
            text_encoder=away,
            vae=Placement(kept=False),
            modulation_kept=not self.on_cpu or not self.sizes["transformer"].modulation,
            base=self.base,
        )
        return min(self.staged(replace(least, vae_tile=tile)).peak for tile in self.decoded)

    def rank(self, plan: MemoryPlan, speed: Speed) -> tuple[float, int, int]:
        """Return what the best plan has least of: seconds, dropped parts, tiles."""
        seconds = effort(self.operations, self.sizes, self.wishes, plan, speed).picture
        dropped = [not plan.modulation_kept, *(not _placement(plan, part).kept for part in PARTS)]
        return round(seconds, 3), sum(dropped), len(_TILES) - _TILES.index(plan.vae_tile)

    def staged(self, plan: MemoryPlan) -> MemoryPlan:
        """Return the plan with what its stages hold."""
        kept = plan.modulation_kept if self.on_cpu else True
        always = {
            part: self.sizes[part].always(_placement(plan, part), modulation_kept=kept) for part in PARTS
        }
        if not self.on_cpu:  # the layers of the table stay in host memory
            always["transformer"] -= self.sizes["transformer"].table_layers.memory

        if not self.wishes.draws:
            always = {"text_encoder": always["text_encoder"]}

        def weights(part: Part) -> int:
            here = self.sizes[part].in_stage(_placement(plan, part), modulation_kept=kept)
            if not self.on_cpu and part == "transformer":
                here -= self.sizes["transformer"].table_layers.memory
            return self.extra + sum(size for name, size in always.items() if name != part) + here

        found = [
            ("reading the prompt", weights("text_encoder"), self.works.reading),
            ("looking at pictures", weights("vae"), self.works.looking),
            ("modulation table", weights("transformer") - self._later(plan), self.works.tabulating),
            ("denoising", weights("transformer"), self.works.denoising),
            ("decoding", weights("vae"), self.decoded[plan.vae_tile]),
        ]
        left_out = {"looking at pictures"} if not self.works.looking else set()
        if not self.on_cpu:
            left_out.add("modulation table")
        if not self.wishes.draws:
            left_out |= {name for name, _, _ in found[1:]}
        stages = (
            Stage(name=name, weights=held, working=working + self.over)
            for name, held, working in found
            if name not in left_out
        )
        return replace(plan, stages=tuple(stages))

    def _later(self, plan: MemoryPlan) -> int:
        """Return the blocks that are not read yet when the table is made."""
        if plan.transformer.kept:
            return 0
        return self.sizes["transformer"].staying(plan.transformer.blocks).memory

    def _fitted(self, plan: MemoryPlan) -> Iterator[MemoryPlan]:
        """Yield the plan with the largest tile and the most blocks that fit."""
        for tile in self.decoded:
            tiled = self.staged(replace(plan, vae_tile=tile))
            if tiled.peak <= self.room:
                yield tiled
                return
            parts = [part for part in _STAGES if not _placement(plan, part).kept]
            streamed = self._streamed(tiled, parts) if parts else None
            if streamed is not None:
                yield streamed
                return

    def _streamed(self, plan: MemoryPlan, parts: Sequence[Part]) -> MemoryPlan | None:
        """Return the plan with blocks of dropped parts streamed, as few as need be, or None."""

        def fits(tried: MemoryPlan, part: Part) -> bool:
            stages = (stage for stage in tried.stages if stage.name in _STAGES[part])
            return all(tried.base + stage.total <= self.room for stage in stages)

        for part in parts:
            if fits(plan, part):
                continue
            low, high, best = 0, len(self.sizes[part].blocks), None
            while low < high:  # the most blocks that fit
                count = (low + high) // 2
                tried = self.staged(_with(plan, part, replace(_placement(plan, part), blocks=count)))
                if fits(tried, part):
                    best, low = tried, count + 1
                else:
                    high = count
            if best is None:
                return None
            plan = best
        return plan if plan.peak <= self.room else None


def _placement(plan: MemoryPlan, part: Part) -> Placement:
    return {"transformer": plan.transformer, "text_encoder": plan.text_encoder, "vae": plan.vae}[part]


def _with(plan: MemoryPlan, part: Part, placement: Placement) -> MemoryPlan:
    if part == "transformer":
        return replace(plan, transformer=placement)
    return replace(plan, text_encoder=placement) if part == "text_encoder" else replace(plan, vae=placement)


def sizes_of(folder: Folder, wishes: Wishes, dtype: torch.dtype, format: Format) -> dict[Part, PartSizes]:
    """Return the units of every part that `wishes` need."""
    vision = not {"edit", "describe", "layers"}.isdisjoint(wishes.tasks)
    head = not {"describe", "layers", "enhance"}.isdisjoint(wishes.tasks)
    return {
        "transformer": part_sizes(folder, "transformer", dtype, format),
        "text_encoder": part_sizes(folder, "text_encoder", dtype, format, vision=vision, head=head),
        "vae": part_sizes(folder, "vae", dtype),
    }


def _extra_bytes(controlnet: Path | None, adapters: Sequence[Path], dtype: torch.dtype) -> int:
    """Return what stays in memory beside the parts."""
    files = sum(path.stat().st_size for path in adapters if path.is_file())
    if controlnet is None or not controlnet.is_dir():
        return files
    return files + Shards.open(controlnet).num_parameters * dtype.itemsize


def _too_small(wishes: Wishes, budget: int, needed: int, format: Format, formats: Sequence[Format]) -> str:
    width, height = wishes.size
    ways = ["a smaller --size"]
    if wishes.references:
        ways.append("fewer or smaller pictures to look at")
    if formats == ("plain",):
        ways.append("--precision int8")
    how = "" if format == "plain" else f" in {format}"
    return (
        f"memory: expected at least {needed / 1e9:.2f} GB to draw {width}x{height}{how}, "
        f"found {budget / 1e9:.2f} GB; give --memory {needed / 1e9 + 0.01:.2f}GB, or {' or '.join(ways)}"
    )
