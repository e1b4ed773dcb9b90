"""Save everything a run needs to go on bit for bit, and restore it. Safetensors and JSON only."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from danqing.errors import CheckpointError
from danqing.training.optim import EMA

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
    temporary = folder / (_STATE + ".part")
    save_file(
        {name: value.detach().contiguous().cpu() for name, value in tensors.items()},
        temporary,
        metadata={"progress": json.dumps(progress)},
    )
    os.replace(temporary, folder / _STATE)
    (folder / _PROGRESS).write_text(json.dumps(progress, indent=1) + "\n")


def load_state(
    folder: Path, *, model: nn.Module, ema: EMA, optimizers: list[torch.optim.Optimizer]
) -> dict[str, Any] | None:
    """Restore a saved run in place and return its progress; None where the folder holds no state."""
    path = folder / _STATE
    if not path.exists():
        return None
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        progress = json.loads(file.metadata()["progress"])
    weights = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    if {name: tuple(value.shape) for name, value in weights.items()} != expected:
        raise CheckpointError(
            f"{path}: expected the state of this recipe's model, found another; use a new run folder"
        )
    model.load_state_dict(weights)
    ema.weights = {name: tensors[f"ema.{name}"].to(value.device) for name, value in ema.weights.items()}
    names = {parameter: name for name, parameter in model.named_parameters()}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                suffix = "." + names[parameter]
                moments: dict[str, Tensor] = {}
                for key in ("step", "exp_avg", "exp_avg_sq", "momentum_buffer"):
                    if (value := tensors.get(f"optimizer.{key}{suffix}")) is not None:
                        moments[key] = value if key == "step" else value.to(parameter.device)
                optimizer.state[parameter] = moments
    return progress


def load_average(folder: Path) -> dict[str, Tensor]:
    """Return the averaged weights of a saved run, with the names of its model."""
    path = folder / _STATE
    if not path.exists():
        raise CheckpointError(f"{path}: expected the state of a finished stage, found none; train it first")
    tensors = load_file(path)
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
