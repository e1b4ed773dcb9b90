"""Save everything a run needs to go on bit for bit, and restore it. Safetensors and JSON only."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from danqing.errors import CheckpointError
from danqing.training.optim import EMA
from danqing.weights.store import open_safetensors, write_safetensors

_STATE, _PROGRESS = "state.safetensors", "progress.json"


def save_state(
    folder: Path,
    *,
    model: nn.Module,
    ema: EMA,
    optimizers: list[torch.optim.Optimizer],
    progress: dict[str, Any],
) -> None:
    """Write weights, averages, optimizer moments and progress; a crash leaves the previous state whole."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"ema.{name}": value for name, value in ema.weights.items()}
    for name, key, value in _moments(model, optimizers):
        tensors[f"optimizer.{key}.{name}"] = value
    write_safetensors(folder / _STATE, tensors, {"progress": json.dumps(progress)})
    (folder / _PROGRESS).write_text(json.dumps(progress, indent=1) + "\n")


def load_state(
    folder: Path, *, model: nn.Module, ema: EMA, optimizers: list[torch.optim.Optimizer]
) -> dict[str, Any] | None:
    """Restore a saved run in place and return its progress; None where the folder holds no state."""
    path = folder / _STATE
    if not path.exists():
        return None
    tensors, progress = _read(path)
    _check_fits(path, tensors, "model.", model.state_dict())
    _check_fits(path, tensors, "ema.", ema.weights)
    model.load_state_dict({name: tensors["model." + name] for name in model.state_dict()})
    ema.weights = {name: tensors["ema." + name].to(value.device) for name, value in ema.weights.items()}
    names = {parameter: name for name, parameter in model.named_parameters()}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                optimizer.state[parameter] = _stored_moments(
                    path, tensors, names[parameter], optimizer, parameter
                )
    return progress


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return all tensors of a state file and its progress."""
    with open_safetensors(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        progress = (file.metadata() or {}).get("progress")
    if progress is None:
        raise CheckpointError(f"{path}: expected the progress of a run, found none; use a new run folder")
    return tensors, json.loads(progress)


def _check_fits(path: Path, tensors: Mapping[str, Tensor], kind: str, wanted: Mapping[str, Tensor]) -> None:
    found = {name: value.shape for name, value in tensors.items() if name.startswith(kind)}
    if found != {kind + name: value.shape for name, value in wanted.items()}:
        raise CheckpointError(
            f"{path}: expected the state of this recipe's model, found another; use a new run folder"
        )


def _stored_moments(
    path: Path, tensors: Mapping[str, Tensor], name: str, optimizer: torch.optim.Optimizer, parameter: Tensor
) -> dict[str, Tensor]:
    """Return a parameter's moments; none are stored before its first step."""
    moments = {
        key: value if key == "step" else value.to(parameter.device)
        for key in ("step", "exp_avg", "exp_avg_sq", "momentum_buffer")
        if (value := tensors.get(f"optimizer.{key}.{name}")) is not None
    }
    muon = isinstance(optimizer, torch.optim.Muon)
    if moments and ("momentum_buffer" in moments) != muon:
        raise CheckpointError(
            f"{path}: expected moments of {'muon' if muon else 'adamw'}, found others; use a new run folder"
        )
    return moments


def load_average(folder: Path) -> dict[str, Tensor]:
    """Return the averaged weights of a saved run, with the names of its model."""
    path = folder / _STATE
    if not path.exists():
        raise CheckpointError(f"{path}: expected the state of a finished stage, found none; train it first")
    tensors, _ = _read(path)
    averaged = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
    return averaged | {k.removeprefix("ema."): v for k, v in tensors.items() if k.startswith("ema.")}


def _moments(model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> list[tuple[str, str, Tensor]]:
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return [
        (names[parameter], key, value)
        for optimizer in optimizers
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if isinstance(value, Tensor)
    ]
