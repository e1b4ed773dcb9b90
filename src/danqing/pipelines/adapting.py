"""A checkpoint with adapters: which are loaded, how strongly, and what a distilled one changes of its use."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from danqing.errors import CheckpointError, RequestError
from danqing.models.lora import Adapted, set_strength, strengths
from danqing.pipelines.components import Components
from danqing.sampling.schedule import LIGHTNING
from danqing.weights.adapters import adapt, check_adapter, lightning_steps
from danqing.weights.layouts import CheckpointInfo, Folder

MAX_STRENGTH = 100.0
_SCALED = re.compile(r"(.+):([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFiles:
    """Adapters to load with a checkpoint."""

    loras: tuple[tuple[Path, float], ...] = ()
    """Files in any dialect and their strengths; negative ones turn away."""
    merged: bool = False
    """Add them to the weights, which costs nothing to run; their strengths are then fixed."""
    lightning: Path | None = None
    """A Qwen-Image-Lightning adapter: few steps on its own schedule, without guidance."""
    lightning_steps: int | None = None
    """Steps it was made for, where its name does not say so."""

    def __post_init__(self) -> None:
        for path, strength in self.loras:
            if not -MAX_STRENGTH <= strength <= MAX_STRENGTH:
                raise RequestError(f"{path}: expected a scale from -100 to 100, found {strength}")
        for path, _ in self.chosen:
            if not path.exists():
                raise CheckpointError(f"{path}: expected an adapter, found no file")

    @property
    def chosen(self) -> tuple[tuple[Path, float], ...]:
        """All files and their strengths, the distilled one first."""
        return self.loras if self.lightning is None else ((self.lightning, 1.0), *self.loras)

    def settle(self, info: CheckpointInfo) -> CheckpointInfo:
        """Return how the checkpoint wants to be used with these adapters.

        Raises RequestError where a distilled adapter's steps are told nowhere.
        """
        if self.lightning is None:
            return info
        if not {"generate", "edit"} & set(info.tasks):
            raise RequestError(f"{info.name}: expected no --lightning, found one; there is none for layers")
        steps = lightning_steps(self.lightning) or self.lightning_steps
        if steps is None:
            raise RequestError(
                f"{self.lightning}: expected a name that says for how many steps it was made, like "
                "…-4steps-….safetensors, found none; say it with --steps"
            )
        return replace(info, steps=steps, guidance=1.0)


def parse_lora(text: str) -> tuple[Path, float]:
    """Return the file and the strength of FILE[:SCALE]; a file of that very name wins."""
    match = None if Path(text).exists() else _SCALED.fullmatch(text)
    return (Path(text), 1.0) if match is None else (Path(match[1]), float(match[2]))


def check_adapters(folder: Folder, files: AdapterFiles) -> None:
    """Raise for adapters that do not fit a checkpoint, from their headers, before anything large is read."""
    info = files.settle(folder.info())
    if files.lightning is not None and folder.is_21:
        raise RequestError(
            f"{info.name}: expected no --lightning, found one, whose schedule is for 1.x; an adapter of 2.1 "
            "for few steps is a --lora with --steps and --guidance 1"
        )
    if chosen := files.chosen:
        with torch.device("meta"):
            model = folder.new_transformer()
        for path, _ in chosen:
            check_adapter(path, model)


def with_adapters(components: Components, files: AdapterFiles) -> Components:
    """Return the checkpoint with adapters attached to its denoiser, or merged into it.

    The denoiser itself is changed. Raises CheckpointError for files that do not fit, RequestError for merging
    into weights that do not stay in memory; then nothing is changed.
    """
    residency = components.residencies.get("transformer")
    if files.chosen and files.merged and residency is not None and not residency.whole:
        raise RequestError(
            "merging adapters: expected a denoiser that stays in memory, found a plan that reads it when it "
            "runs; attach the adapters instead, or give more memory"
        )
    named = adapt(components.transformer, files.chosen, dtype=components.dtype, merged=files.merged)
    if residency is not None:
        for name, layer in components.transformer.named_modules():
            if isinstance(layer, Adapted):  # of a layer that is on disk they did not know where to go
                layer.deltas.to(residency.device_of(f"{name}.weight"))
    info = files.settle(components.info)
    schedule = components.schedule if files.lightning is None else LIGHTNING
    merged = {**components.merged_loras, **(named if files.merged else {})}
    return replace(components, info=info, schedule=schedule, merged_loras=merged)


def loras_of(components: Components) -> dict[str, float]:
    """Return the strengths of all adapters by name, merged ones first."""
    return {**components.merged_loras, **strengths(components.transformer)}


def set_loras(components: Components, wanted: Mapping[str, float]) -> None:
    """Weigh attached adapters anew, 0 being off; raises RequestError for names that are not attached."""
    known = strengths(components.transformer)
    for name, strength in wanted.items():
        if name not in known:
            merged = name in components.merged_loras
            why = "it is merged into the weights" if merged else f"known: {', '.join(known) or 'none'}"
            raise RequestError(f"adapter {name}: expected one that is attached, found none; {why}")
        if not -MAX_STRENGTH <= strength <= MAX_STRENGTH:
            raise RequestError(f"adapter {name}: expected a scale from -100 to 100, found {strength}")
    for name, strength in wanted.items():
        set_strength(components.transformer, name, strength)
