"""Adapter files: LoRA, LoKr and LoHa in the dialects that programs write, read and written.

Everything is checked against the model from the file's header before a tensor is read. How names are spelt is
in `danqing.weights.adapter_names`.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from danqing.errors import CheckpointError, RequestError
from danqing.log import logger
from danqing.models.lora import (
    Adapter,
    Delta,
    Difference,
    Hadamard,
    Kronecker,
    LowRank,
    attach,
    merge,
    strengths,
)
from danqing.weights.adapter_layouts import adapter_file, changes_of, scale_of
from danqing.weights.adapter_names import TEXT_ENCODER_PREFIXES, WRITTEN
from danqing.weights.store import open_safetensors, write_safetensors

Dialect = Literal["diffusers", "comfyui", "kohya"]
_STEPS = re.compile(r"(?<![0-9])([1-9][0-9]?)[-_ ]?steps?(?![a-z])", re.IGNORECASE)


def load_adapter(path: Path, model: nn.Module, *, dtype: torch.dtype = torch.float32) -> dict[str, Delta]:
    """Read an adapter for `model`: a safetensors file in any dialect, or a PEFT folder.

    Raises CheckpointError, one line, for tensors that fit no layer, wrong sizes, values that are not finite
    and methods other than LoRA, LoKr, LoHa and whole differences. The text encoder's share is left out with
    a warning.
    """
    file, config = adapter_file(path)
    adapter: dict[str, Delta] = {}
    with open_safetensors(file) as handle:
        for change in changes_of(file, handle, config, model):
            tensors = {
                name: _finite(file, factor.key, handle.get_tensor(factor.key))
                for name, factor in change.factors.items()
            }
            delta = delta_of(tensors, scale_of(change, tensors.get("alpha")))
            parts = zip(change.layers, split_delta(file, delta, len(change.layers)), strict=True)
            adapter |= {layer: part.to(dtype).requires_grad_(False) for layer, part in parts}
        texts = sum(key.startswith(TEXT_ENCODER_PREFIXES) for key in handle.keys())  # noqa: SIM118
    if texts:
        logger.warning(
            f"{file}: {texts} tensors for the text encoder are left out; only the denoiser is adapted"
        )
    return adapter


def check_adapter(path: Path, model: nn.Module) -> None:
    """Raise CheckpointError where an adapter does not fit `model`, which may be on meta; reads its header."""
    file, config = adapter_file(path)
    with open_safetensors(file) as handle:
        changes_of(file, handle, config, model)


def adapt(
    model: nn.Module,
    files: Sequence[tuple[Path, float]],
    *,
    dtype: torch.dtype = torch.float32,
    merged: bool = False,
) -> dict[str, float]:
    """Attach the adapters of files at their strengths, or merge them; return the strengths by name.

    An adapter is called what its file is called. Merging adds all of them in fp32 and rounds once. Nothing
    is changed where a file does not fit.
    """
    precision = torch.float32 if merged else dtype
    loaded = [(load_adapter(path, model, dtype=precision), strength) for path, strength in files]
    named: dict[str, float] = {}
    for path, strength in files:
        named[_free_name(path.stem, {*named, *strengths(model)})] = strength
    if merged:
        merge(model, loaded)
        return named
    for (adapter, strength), name in zip(loaded, named, strict=True):
        attach(model, adapter, name=name, strength=strength)
    return named


def save_adapter(
    path: Path,
    adapter: Adapter,
    dialect: Dialect = "diffusers",
    *,
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write an adapter as one safetensors file that programs of the dialect read.

    "diffusers" files have no alpha, so a scale goes into the up matrix; its pipelines read LoRA alone, and
    anything else raises RequestError. "comfyui" and "kohya" keep alpha. `dtype` None keeps the precision of
    the adapter.
    """
    if dialect not in WRITTEN:
        raise RequestError(f"dialect: expected one of {', '.join(WRITTEN)}, found {dialect!r}")
    if not adapter:
        raise RequestError(f"{path}: expected an adapter that changes something, found an empty one")
    tensors = {}
    for layer, delta in adapter.items():
        start = written_layer(layer, dialect)
        for end, tensor in written_tensors(path, delta, dialect).items():
            keep = dtype is None or end == "alpha"
            tensors[f"{start}.{end}"] = tensor if keep else tensor.to(dtype)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(path, tensors, {"format": "pt", **(metadata or {})})


def lightning_steps(path: Path) -> int | None:
    """Return the steps that a distilled adapter was made for, if its name or header says so."""
    if found := _STEPS.search(path.stem):
        return int(found[1])
    file, _ = adapter_file(path)
    with open_safetensors(file) as handle:
        said = (handle.metadata() or {}).get("num_inference_steps", "")
    return int(said) if re.fullmatch("[1-9][0-9]?", said) else None


def delta_of(tensors: Mapping[str, Tensor], scale: float) -> Delta:
    """Return the change that the factors of a layer make, by their names in `adapter_names`."""
    bias = tensors.get("bias")
    if "down" in tensors:
        if "up_bias" in tensors:
            bias = scale * tensors["up_bias"] + (0 if bias is None else bias)
        return LowRank(tensors["down"], tensors["up"], scale=scale, bias=bias)
    if "diff" in tensors:
        return Difference(tensors["diff"], bias=bias)
    if "h1_a" in tensors:
        ups, downs = (tensors["h1_a"], tensors["h2_a"]), (tensors["h1_b"], tensors["h2_b"])
        return Hadamard(ups, downs, scale=scale)
    first = tensors["w1"] if "w1" in tensors else tensors["w1_a"] @ tensors["w1_b"]
    if "w2" in tensors:
        second = tensors["w2"]
    elif "t2" in tensors:
        second = tensors["w2_a"].T @ tensors["t2"] @ tensors["w2_b"]
    else:
        second = tensors["w2_a"] @ tensors["w2_b"]
    return Kronecker(first, second, scale=scale)


def written_layer(layer: str, dialect: Dialect) -> str:
    """Return what a dialect calls a layer."""
    return WRITTEN[dialect]["layer"].format(layer=layer, flat=layer.replace(".", "_"))


def _finite(file: Path, key: str, tensor: Tensor) -> Tensor:
    tensor = tensor.float()
    if not tensor.isfinite().all():
        raise CheckpointError(f"{file}: {key}: expected finite numbers, found others; the file is broken")
    return tensor


def split_delta(file: Path, delta: Delta, parts: int) -> list[Delta]:
    """Return the change of a fused layer as those of its equal parts; raise where it has none."""
    if parts == 1:
        return [delta]
    biases = [None] * parts if delta.bias is None else delta.bias.detach().chunk(parts)
    if isinstance(delta, LowRank):
        ups = zip(delta.up.detach().chunk(parts), biases, strict=True)
        return [LowRank(delta.down.detach(), up, scale=delta.scale, bias=bias) for up, bias in ups]
    if isinstance(delta, Difference):
        rows = zip(delta.full.detach().chunk(parts), biases, strict=True)
        return [Difference(full, bias=bias) for full, bias in rows]
    if isinstance(delta, Hadamard):
        one, two = (up.detach().chunk(parts) for up in delta.ups)
        downs = (delta.downs[0].detach(), delta.downs[1].detach())
        return [Hadamard(pair, downs, scale=delta.scale) for pair in zip(one, two, strict=True)]
    first, second = delta.first.detach(), delta.second.detach()
    if first.shape[0] % parts == 0:
        return [Kronecker(rows, second, scale=delta.scale) for rows in first.chunk(parts)]
    if first.shape[0] == 1:
        return [Kronecker(first, rows, scale=delta.scale) for rows in second.chunk(parts)]
    raise CheckpointError(
        f"{file}: expected a LoKr of a fused layer to fall into {parts} parts, found {list(first.shape)}"
    )


def written_tensors(path: Path, delta: Delta, dialect: Dialect) -> dict[str, Tensor]:
    """Return the tensors of one layer by the ends of their names; raise for what a dialect cannot say."""
    if isinstance(delta, LowRank):
        down, up = WRITTEN[dialect]["down"], WRITTEN[dialect]["up"]
        if dialect == "diffusers":
            scaled = delta.up if delta.scale == 1 else (delta.scale * delta.up.float()).to(delta.up.dtype)
            return {down: delta.down, up: scaled} | _bias("lora_B.bias", delta)
        alpha = torch.tensor(delta.scale * delta.down.shape[0])
        return {down: delta.down, up: delta.up, "alpha": alpha} | _bias("diff_b", delta)
    if dialect == "diffusers":
        raise RequestError(
            f"{path}: expected a LoRA, which is all that diffusers loads; choose comfyui or kohya"
        )
    if isinstance(delta, Difference):
        return {"diff": delta.full} | _bias("diff_b", delta)
    if isinstance(delta, Hadamard):
        alpha = torch.tensor(delta.scale * delta.downs[0].shape[0])
        sides = {f"hada_w{n}_a": up for n, up in enumerate(delta.ups, 1)}
        return sides | {f"hada_w{n}_b": down for n, down in enumerate(delta.downs, 1)} | {"alpha": alpha}
    # Both factors are whole, where LyCORIS takes no alpha: the scale goes into the smaller.
    first = (delta.scale * delta.first.float()).to(delta.first.dtype)
    return {"lokr_w1": first, "lokr_w2": delta.second}


def _bias(end: str, delta: LowRank | Difference) -> dict[str, Tensor]:
    return {} if delta.bias is None else {end: delta.bias}


def _free_name(stem: str, taken: set[str]) -> str:
    names = (stem if number == 1 else f"{stem}-{number}" for number in range(1, len(taken) + 2))
    return next(name for name in names if name not in taken)
