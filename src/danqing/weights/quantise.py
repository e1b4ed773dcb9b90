"""Weights of 8 and 4 bits: how files hold them, and how they come out of plain weights and back.

On disk a quantised layer is three tensors:

* `NAME.weight`: int8 (dim_out, dim_in), or uint8 (dim_out, dim_in / 2) with two numbers in a byte;
* `NAME.weight_scale`: fp32 (dim_out, 1), or fp16 (dim_out, dim_in / 32); times it, the numbers are weights;
* `NAME.comfy_quant`: the bytes of a JSON object that says how: `{"format": "int8_tensorwise", "convrot":
  true, "convrot_groupsize": 256}` is 8 bits behind a rotation in blocks of 256, `"danqing_int4"` our 4 bits
  (see `quantise_int4`).

The 8-bit form is ComfyUI's, so its files open here and ours there; the 4-bit form is our own.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from danqing.errors import CheckpointError, ConfigError
from danqing.models.quantised import (
    BLOCKS,
    Int4Linear,
    Int8Linear,
    QuantisedLinear,
    dequantise_int4,
    dequantise_int8,
    group_size,
    large_layers,
    quantise_int4,
    quantise_int8,
    rotation_block,
)
from danqing.weights.plan import Format
from danqing.weights.scales import WHOLE_FORMATS
from danqing.weights.store import DirectSource, Source, TensorInfo

M = TypeVar("M", bound=nn.Module)
NOTE = "comfy_quant"
_FORMATS: Mapping[str, Format] = dict(zip(WHOLE_FORMATS, ("int8", "int4"), strict=True))
_STORED_TYPES: Mapping[Format, tuple[str, str]] = {"int8": ("I8", "F32"), "int4": ("U8", "F16")}
_MAX_NOTE = 2**16  # bytes of JSON about one layer


class Kept(NamedTuple):
    """How the numbers of a layer are kept: their format, and the block its input is rotated in (1: not)."""

    format: Format
    block: int


def quantised_tensors(name: str, weight: Tensor, format: Format) -> dict[str, Tensor]:
    """Return the tensors a file keeps instead of the plain weight of the layer `name`."""
    kept = Kept(format, rotation_block(weight.shape[1]))
    values, scale = _quantised(weight, kept)
    note = torch.tensor(list(describe(kept, weight.shape[1]).encode()), dtype=torch.uint8)
    return {f"{name}.weight": values, f"{name}.weight_scale": scale, f"{name}.{NOTE}": note}


def describe(kept: Kept, dim_in: int) -> str:
    """Return the JSON that says in a file how a layer is kept."""
    said: dict[str, Any] = {"format": next(key for key, value in _FORMATS.items() if value == kept.format)}
    if kept.block > 1:
        said |= {"convrot": True, "convrot_groupsize": kept.block}
    if kept.format == "int4":
        said["group_size"] = group_size(dim_in)
    return json.dumps(said)


def stored_layers(source: Source) -> dict[str, Kept]:
    """Return the layers that a source holds quantised; empty for plain files.

    Raises CheckpointError for forms that are not known and tensors that do not fit each other.
    """
    notes = [name for name in source.tensors if name.endswith(f".{NOTE}")]
    for name in notes:
        info = source.tensors[name]
        if info.dtype != "U8" or math.prod(info.shape) > _MAX_NOTE:
            raise CheckpointError(f"{info.file}: {name}: expected a format in JSON, found none")
    found = {}
    for name, note in source.read(notes):
        layer = name.removesuffix(f".{NOTE}")
        file = source.tensors[name].file
        found[layer] = kept = read_note(bytes(note.tolist()), f"{file}: {layer}")
        _check_stored(source, layer, kept)
    return found


def chosen_layers(source: Source, format: Format) -> dict[str, Kept]:
    """Return the layers to run quantised so that all large ones have at most the bits of `format`.

    Those within blocks that are stored in as few bits already run as they are stored; with "plain" no
    others do. Other stored ones (embeddings, say) are unpacked when they are read.
    """
    stored = stored_layers(source)
    shapes = {name: info.shape for name, info in Quantised(source, {}, stored).tensors.items()}
    chosen = {}
    for layer in large_layers(shapes):
        kept = stored.get(layer)
        if kept is not None and (format != "int4" or kept.format == "int4"):
            chosen[layer] = kept
        elif format != "plain":
            chosen[layer] = Kept(format, rotation_block(shapes[f"{layer}.weight"][1]))
    return chosen


def with_quantised(model: M, layers: Mapping[str, Format | Kept]) -> M:
    """Replace linear layers of a model by quantised ones, in place; return the model.

    Works on meta, for `build`; layers that have weights are quantised from them. Layers that the model does
    not have (eyes, where it is to read only) are left out. Raises ConfigError for those that are not linear.
    """
    modules = dict(model.named_modules())
    for name, wanted in layers.items():
        plain = modules.get(name)
        if plain is None:
            continue
        if not isinstance(plain, nn.Linear):
            raise ConfigError(f"{name}: expected a linear layer to quantise, found {type(plain).__name__}")
        kept = wanted if isinstance(wanted, Kept) else Kept(wanted, rotation_block(plain.in_features))
        if wanted != "plain":
            model.set_submodule(name, _quantised_linear(plain, kept))
    return model


class Quantised:
    """A source whose tensors are those of the given quantised layers and of plain ones, whatever is stored.

    Weights are quantised, unpacked or passed on when they are read, one layer in memory at a time.
    """

    def __init__(
        self,
        source: Source,
        layers: Mapping[str, Format | Kept],
        stored: Mapping[str, Kept] | None = None,
    ) -> None:
        self._source = source
        self._stored = stored_layers(source) if stored is None else dict(stored)
        plain = {
            layer: _plain_shape(self._stored.get(layer), source.tensors[f"{layer}.weight"].shape)
            for layer in {*self._stored, *(one for one in layers if f"{one}.weight" in source.tensors)}
        }
        self._layers = {
            layer: kept if isinstance(kept, Kept) else Kept(kept, rotation_block(plain[layer][1]))
            for layer, kept in layers.items()
            if layer in plain and kept != "plain"
        }
        self.tensors: dict[str, TensorInfo] = {}
        for name, info in source.tensors.items():
            layer, _, leaf = name.rpartition(".")
            if layer in plain and leaf == "weight":
                self.tensors |= _infos(layer, info, plain[layer], self._layers.get(layer))
            elif layer not in self._stored or leaf == "bias":
                self.tensors[name] = info

    @property
    def where(self) -> str:
        """The files, for errors."""
        return self._source.where

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """Yield the named tensors; a weight that changes and its scale come together."""
        wanted = dict.fromkeys(names)
        asked: dict[str, None] = {}
        for name in wanted:
            layer = self._changing(name)
            if layer is None:
                asked[name] = None
            else:
                asked |= dict.fromkeys(self._needed(layer))
        waiting: dict[str, dict[str, Tensor]] = {}
        for name, tensor in self._source.read(asked):
            layer = self._changing(name)
            if layer is None:
                yield name, self._checked(name, tensor)
                continue
            found = waiting.setdefault(layer, {})
            found[name] = tensor
            needed = self._needed(layer)
            if len(found) == len(needed):
                del waiting[layer], tensor
                for end, value in self._turned(layer, *(found.pop(one) for one in needed)).items():
                    if f"{layer}.{end}" in wanted:
                        yield f"{layer}.{end}", value

    def read_into(self, targets: Mapping[str, Tensor]) -> None:
        """Fill contiguous tensors in host memory, of the shapes of `tensors`, by name.

        Bytes that are kept as they are stored go straight into them.
        """
        direct: dict[str, Tensor] = {}
        if isinstance(self._source, DirectSource):
            direct = {
                name: target
                for name, target in targets.items()
                if self._changing(name) is None and not name.endswith(".weight_scale")
            }
            self._source.read_into(direct)
        for name, value in self.read(name for name in targets if name not in direct):
            targets[name].copy_(value)

    def read_rows(self, name: str, rows: Sequence[int]) -> Tensor:
        """Return some rows of a matrix, and read no others; quantised tables are unpacked."""
        layer, _, leaf = name.rpartition(".")
        if not isinstance(self._source, DirectSource):
            return next(iter(self.read([name])))[1][list(rows)]
        if leaf != "weight" or layer not in self._stored or layer in self._layers:
            return self._source.read_rows(name, rows)
        scale = f"{layer}.weight_scale"
        if math.prod(self._source.tensors[scale].shape) == 1:
            scales = next(iter(self._source.read([scale])))[1]
        else:
            scales = self._source.read_rows(scale, rows)
        return self._turned(layer, scales, self._source.read_rows(name, rows))["weight"]

    def _changing(self, name: str) -> str | None:
        """Return the layer whose weight a tensor is part of, if that is kept otherwise than it is stored."""
        layer, _, leaf = name.rpartition(".")
        changes = self._stored.get(layer) != self._layers.get(layer)
        return layer if changes and leaf in ("weight", "weight_scale") else None

    def _needed(self, layer: str) -> tuple[str, ...]:
        """Return what is read for a layer's weight, the scale first: it is the smaller one to hold."""
        return (f"{layer}.weight_scale",) * (layer in self._stored) + (f"{layer}.weight",)

    def _checked(self, name: str, tensor: Tensor) -> Tensor:
        layer, _, leaf = name.rpartition(".")
        if layer not in self._stored or leaf != "weight_scale":
            return tensor
        return _whole_scale(
            tensor, self.tensors[name].shape[0], self._stored[layer], f"{self.where}: {layer}"
        )

    def _turned(self, layer: str, *found: Tensor) -> dict[str, Tensor]:
        """Return what is kept of a layer out of its stored weight, its scale before it if it has one."""
        stored, kept = self._stored.get(layer), self._layers.get(layer)
        *scales, weight = found
        if stored is not None:
            scale = _whole_scale(scales[0], len(weight), stored, f"{self.where}: {layer}")
            unpack = dequantise_int8 if stored.format == "int8" else dequantise_int4
            weight = unpack(weight, scale, stored.block)
        if kept is None:
            return {"weight": weight}
        values, scale = _quantised(weight, kept)
        return {"weight": values, "weight_scale": scale}


def read_note(text: bytes, where: str) -> Kept:
    """Return what a layer's JSON says; anything not known is a CheckpointError that starts with `where`."""
    try:
        said = json.loads(text)
        name = said.get("format", "int8_tensorwise" if "convrot" in said else None)
        block = int(said.get("convrot_groupsize", BLOCKS[0])) if said.get("convrot") else 1
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        raise CheckpointError(f"{where}: expected a format in JSON, found none") from None
    if not isinstance(name, str) or name not in _FORMATS:
        raise CheckpointError(
            f"{where}: expected one of {', '.join(_FORMATS)}, found {name!r}; "
            "take a bf16, fp8, int8 or GGUF file"
        )
    return Kept(_FORMATS[name], block)


def _quantised(weight: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
    return (quantise_int8 if kept.format == "int8" else quantise_int4)(weight, kept.block)


def _quantised_linear(plain: nn.Linear, kept: Kept) -> QuantisedLinear:
    make = Int8Linear if kept.format == "int8" else Int4Linear
    with torch.device(plain.weight.device):
        layer = make(
            plain.in_features, plain.out_features, bias=plain.bias is not None, block=kept.block
        ).train(plain.training)
    if plain.bias is not None:
        layer.bias = nn.Parameter(plain.bias.detach(), requires_grad=False)
    if not plain.weight.is_meta:
        layer.weight.data, layer.weight_scale.data = _quantised(plain.weight.detach(), kept)
    return layer


def _plain_shape(stored: Kept | None, shape: Sequence[int]) -> tuple[int, ...]:
    return (shape[0], 2 * shape[1]) if stored is not None and stored.format == "int4" else tuple(shape)


def _infos(
    layer: str, stored: TensorInfo, shape: tuple[int, ...], kept: Kept | None
) -> dict[str, TensorInfo]:
    """Return the tensors that are kept of a layer; `shape` is that of its plain weight."""
    if kept is None:
        kind = stored.dtype if stored.dtype.startswith(("F", "BF")) else "F32"
        return {f"{layer}.weight": stored._replace(shape=shape, dtype=kind)}
    dim_out, dim_in = shape
    weight, scale = _STORED_TYPES[kept.format]
    sizes = (dim_in, 1) if kept.format == "int8" else (dim_in // 2, dim_in // group_size(dim_in))
    return {
        f"{layer}.weight": stored._replace(shape=(dim_out, sizes[0]), dtype=weight),
        f"{layer}.weight_scale": stored._replace(shape=(dim_out, sizes[1]), dtype=scale),
    }


def _check_stored(source: Source, layer: str, kept: Kept) -> None:
    weight, scale = (source.tensors.get(f"{layer}.{end}") for end in ("weight", "weight_scale"))
    if weight is None or scale is None:
        raise CheckpointError(f"{source.where}: {layer}: expected a weight and its scale, found one or none")
    kinds = _STORED_TYPES[kept.format]
    dim_in = _plain_shape(kept, weight.shape)[1] if len(weight.shape) == 2 else 0
    if weight.dtype != kinds[0] or not dim_in or dim_in % kept.block or kept.block not in (1, 4, *BLOCKS):
        raise CheckpointError(
            f"{weight.file}: {layer}: expected a matrix of {kinds[0]} in blocks of 1, 4, 16, 64 or 256, "
            f"found {weight.dtype} {list(weight.shape)} and {kept.block}"
        )
    rows, count = weight.shape[0], math.prod(scale.shape)
    whole = scale.dtype in ("F32", "F16", "BF16") and (
        count in (1, rows) if kept.format == "int8" else scale.shape == (rows, dim_in // group_size(dim_in))
    )
    if not whole:
        raise CheckpointError(
            f"{scale.file}: {layer}: expected a scale for each row, found {scale.dtype} {list(scale.shape)}"
        )


def _whole_scale(scale: Tensor, rows: int, stored: Kept, where: str) -> Tensor:
    if not bool(torch.isfinite(scale).all()):
        raise CheckpointError(f"{where}: expected finite scales, found others; the file is broken")
    if stored.format == "int4":
        return scale.half()
    return scale.float().reshape(-1, 1).expand(rows, 1).contiguous()
