"""The one place where modules meet weights: construct without memory, then fill tensor by tensor."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from danqing.errors import CheckpointError
from danqing.weights.store import DTYPES, DirectSource, Shards, Source, in_file_order

M = TypeVar("M", bound=nn.Module)
Adapt = Callable[[str, Tensor], Tensor | None]
_NAMED = 3  # tensors named in an error


def build(
    make: Callable[[], M],
    source: Path | Source,
    *,
    device: torch.device | Callable[[str], torch.device],
    dtype: torch.dtype,
    adapt: Adapt | None = None,
    unused: tuple[str, ...] = (),
) -> M:
    """Return the module of `make` with the weights of a folder or of other files, ready to run.

    `device` may be a function of a parameter's name. `adapt` changes a stored tensor into the form the module
    keeps (None drops it); stored tensors whose name starts with one of `unused` are left on disk. Submodules
    may have a class attribute `stored_dtypes`, of types that stay as they are; all else becomes `dtype`.
    Raises CheckpointError naming the first missing, unexpected or misshapen tensors, before anything large is
    read. Takes no more memory than the module and the tensor that is read, or its two forms where it changes.
    """
    module, tensors = empty(make, source, dtype=dtype, adapt=adapt, unused=unused)
    place = device if callable(device) else lambda _: device
    wanted = dict((*module.named_parameters(), *module.named_buffers()))
    if adapt is None and isinstance(tensors, DirectSource):
        # Room for all that stays in host memory comes first, so that nothing lies between what is cast.
        here = [name for name in wanted if place(name).type == "cpu"]
        room = {name: torch.empty(wanted[name].shape, dtype=wanted[name].dtype) for name in here}
        tensors.read_into(room)
        for name in here:
            assign(module, name, room.pop(name))
            del wanted[name]
    for name, stored in tensors.read(in_file_order(tensors, wanted)):
        value = stored if adapt is None else adapt(name, stored)
        assert value is not None  # checked above: the name is wanted
        assign(module, name, value.to(device=place(name), dtype=wanted[name].dtype).contiguous())
        del stored, value
    return module.eval().requires_grad_(False)


def empty(
    make: Callable[[], M],
    source: Path | Source,
    *,
    dtype: torch.dtype,
    adapt: Adapt | None = None,
    unused: tuple[str, ...] = (),
) -> tuple[M, Source]:
    """Return the module of `make` without memory, its tensors of the types they are to have, and its source.

    Errors as in `build`.
    """
    with torch.device("meta"):
        module = make()
    tensors = Shards.open(source) if isinstance(source, Path) else source
    where = source if isinstance(source, Path) else tensors.where
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        assign(module, name, torch.empty_like(tensor, dtype=_kept_dtype(module, name) or dtype))
    wanted = dict((*module.named_parameters(), *module.named_buffers()))
    stored = {
        name: info.shape for name, info in tensors.tensors.items() if not name.startswith(unused or ("\0",))
    }
    if adapt is not None:
        stored = _adapted_shapes(stored, adapt)
    _check(where, {name: tuple(tensor.shape) for name, tensor in wanted.items()}, stored)
    _check_types(
        where, {name: (tensor.dtype, tensors.tensors[name].dtype) for name, tensor in wanted.items()}
    )
    return module.eval().requires_grad_(False), tensors


def assign(module: nn.Module, name: str, value: Tensor) -> None:
    """Put a tensor in the place of a parameter or a buffer of a module."""
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    if leaf in owner._parameters:
        owner._parameters[leaf] = nn.Parameter(value, requires_grad=False)
    else:
        owner._buffers[leaf] = value


def _kept_dtype(module: nn.Module, name: str) -> torch.dtype | None:
    path, _, leaf = name.rpartition(".")
    kept: Mapping[str, torch.dtype] = getattr(module.get_submodule(path), "stored_dtypes", {})
    return kept.get(leaf)


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


def _check_types(where: Path | str, types: Mapping[str, tuple[torch.dtype, str]]) -> None:
    """Refuse integers where others are wanted: quantised weights whose scales nobody would apply."""
    wrong = []
    for name, (wanted, stored) in types.items():
        floating = stored.startswith(("F", "BF"))
        if not floating if wanted.is_floating_point else DTYPES.get(stored) != wanted:
            wrong.append(f"{name} {stored}")
    if wrong:
        shown = ", ".join(wrong[:_NAMED]) + (", …" if len(wrong) > _NAMED else "")
        raise CheckpointError(
            f"{where}: expected floating-point weights, and whole numbers in quantised layers alone, found "
            f"{len(wrong)} others ({shown})"
        )
