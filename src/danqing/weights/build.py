"""The one place where modules meet weights: construct without memory, then fill tensor by tensor."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from danqing.errors import CheckpointError
from danqing.weights.single_file import PartFiles
from danqing.weights.store import Shards

M = TypeVar("M", bound=nn.Module)
Adapt = Callable[[str, Tensor], Tensor | None]
_NAMED = 3  # tensors named in an error


def build(
    make: Callable[[], M],
    source: Path | PartFiles,
    *,
    device: torch.device | Callable[[str], torch.device],
    dtype: torch.dtype,
    adapt: Adapt | None = None,
    unused: tuple[str, ...] = (),
) -> M:
    """Return the module of `make` with the weights of a folder or of other files, ready to run.

    `device` may be a function of a parameter's name. `adapt` changes a stored tensor into the form the module
    keeps (None drops it); stored tensors whose name starts with one of `unused` are left on disk. Raises
    CheckpointError naming the first missing, unexpected or misshapen tensors, before anything large is read.
    """
    with torch.device("meta"):
        module = make()
    shards = Shards.open(source) if isinstance(source, Path) else source
    folder = source if isinstance(source, Path) else source.where
    wanted = {name: tuple(p.shape) for name, p in (*module.named_parameters(), *module.named_buffers())}
    stored = {
        name: info.shape for name, info in shards.tensors.items() if not name.startswith(unused or ("\0",))
    }
    if adapt is not None:
        stored = _adapted_shapes(stored, adapt)
    _check(folder, wanted, stored)
    _check_types(folder, {name: shards.tensors[name].dtype for name in wanted})
    place = device if callable(device) else lambda _: device
    for name, tensor in shards.read(wanted):
        value = tensor if adapt is None else adapt(name, tensor)
        assert value is not None  # checked above: the name is wanted
        _assign(module, name, value.to(device=place(name), dtype=dtype).contiguous())
    return module.eval().requires_grad_(False)


def _adapted_shapes(stored: Mapping[str, tuple[int, ...]], adapt: Adapt) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for name, shape in stored.items():
        value = adapt(name, torch.empty(shape, device="meta"))
        if value is not None:
            shapes[name] = tuple(value.shape)
    return shapes


def _check(
    folder: Path | str, wanted: Mapping[str, tuple[int, ...]], stored: Mapping[str, tuple[int, ...]]
) -> None:
    problems = []
    for label, names, shapes in (
        ("missing", [name for name in wanted if name not in stored], wanted),
        ("unexpected", [name for name in stored if name not in wanted], stored),
    ):
        if names:
            shown = ", ".join(f"{name} {list(shapes[name])}" for name in names[:_NAMED])
            problems.append(f"{len(names)} {label} ({shown}{', …' if len(names) > _NAMED else ''})")
    wrong = [name for name, shape in wanted.items() if name in stored and stored[name] != shape]
    if wrong:
        shown = ", ".join(
            f"{name}: expected {list(wanted[name])}, found {list(stored[name])}" for name in wrong[:_NAMED]
        )
        problems.append(f"{len(wrong)} of another shape ({shown}{', …' if len(wrong) > _NAMED else ''})")
    if problems:
        raise CheckpointError(f"{folder}: the tensors do not fit this model: " + "; ".join(problems))


def _check_types(folder: Path | str, types: Mapping[str, str]) -> None:
    """Refuse integers, which are quantised weights whose scales nobody would apply."""
    wrong = [f"{name} {kind}" for name, kind in types.items() if not kind.startswith(("F", "BF"))]
    if wrong:
        shown = ", ".join(wrong[:_NAMED]) + (", …" if len(wrong) > _NAMED else "")
        raise CheckpointError(
            f"{folder}: expected floating-point weights, found {len(wrong)} others ({shown})"
        )


def _assign(module: nn.Module, name: str, value: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    if leaf in owner._parameters:
        owner._parameters[leaf] = nn.Parameter(value, requires_grad=False)
    else:
        owner._buffers[leaf] = value
