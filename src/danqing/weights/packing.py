"""Number formats on the way out: which tensors take fewer bits, and how their bytes are made.

An item is what is made together: one tensor of a file to be, or a weight with its scale. Small tensors, and
those before and after the blocks, keep what they have: they are few, and errors in them are errors
everywhere.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from danqing.errors import CheckpointError, RequestError, ResourceError
from danqing.models.quantised import group_size, large_layers, rotation_block
from danqing.weights.file_names import Cut
from danqing.weights.headers import GGUF_TYPES, SAFETENSORS_BITS
from danqing.weights.quantise import Kept, describe, quantised_tensors

Precision = Literal["keep", "fp32", "bf16", "fp16", "fp8", "int8", "int4", "q8_0", "q4_0"]
FORMATS: dict[str, tuple[Precision, ...]] = {
    "folder": ("keep", "fp32", "bf16", "fp16", "int8", "int4"),
    "file": ("keep", "fp32", "bf16", "fp16", "fp8", "int8", "int4"),
    "gguf": ("keep", "bf16", "fp16", "q8_0", "q4_0"),
    "lora": ("keep", "fp32", "bf16", "fp16"),
}
"""What may be written into each kind of target."""
KINDS = {"fp32": "F32", "bf16": "BF16", "fp16": "F16", "q8_0": "Q8_0", "q4_0": "Q4_0"}
"""What headers call a precision."""
PACKED = ("fp8", "int8", "int4")
_TORCH = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_E4M3 = torch.finfo(torch.float8_e4m3fn).max
_SMALL = 1024  # values of a tensor that GGUF files keep in fp32 whatever its shape
_AT_ONCE = 2**22  # values packed at a time: the library's temporaries are many times as large
_BLOCK = 32  # values of a row that share a scale in Q8_0 and Q4_0
_BLOCKS = ("transformer_blocks.", "blk.")
_FINE = ("token_embd.weight", "output.weight")  # of which 4 bits are too few
_BLOCK_SIZES = {name: (values, width) for name, values, width in GGUF_TYPES.values()}

Made = Sequence[Tensor | np.ndarray]


class Slot(NamedTuple):
    """A tensor as it lies in a file."""

    name: str
    kind: str
    """F32, BF16, Q8_0 and so on, as the headers call it."""
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        if self.kind in SAFETENSORS_BITS:
            return math.prod(self.shape) * SAFETENSORS_BITS[self.kind] // 8
        values, width = _BLOCK_SIZES[self.kind]
        return math.prod(self.shape) // values * width


class Item(NamedTuple):
    """Slots that are filled together, from tensors that are read."""

    sources: tuple[str, ...]
    slots: tuple[Slot, ...]
    make: Callable[[Sequence[Tensor]], Made]


class Wanted(NamedTuple):
    """A tensor of a file: what it is made of, its shape, and its kind where it keeps its precision."""

    cut: Cut
    shape: tuple[int, ...]
    kind: str


def check_precision(target: str, precision: str) -> None:
    """Raise RequestError for a precision that a kind of target does not have."""
    if precision not in FORMATS[target]:
        known = ", ".join(FORMATS[target])
        raise RequestError(f"precision: expected one of {known} for a {target}, found {precision!r}")


def kept_kind(stored: str) -> str:
    """Return what a tensor is written as when it keeps its precision; packed weights become bf16."""
    return {"F64": "F32"}.get(stored, stored if stored in _TORCH else "BF16")


def wanted(
    cuts: Mapping[str, Cut], shapes: Mapping[str, tuple[int, ...]], kinds: Mapping[str, str]
) -> dict[str, Wanted]:
    """Return the tensors of a file, given what each is made of, and shapes and kinds by released name."""
    return {
        name: Wanted(cut, _cut_shape(cut, [shapes[one] for one in cut.sources]), kinds[cut.sources[0]])
        for name, cut in cuts.items()
    }


def safetensors_items(tensors: Mapping[str, Wanted], precision: Precision, *, prefix: str = "") -> list[Item]:
    """Return the items of a part in a safetensors file, each name behind `prefix`.

    In fp8, int8 and int4 the matrices of blocks are packed with scales, as ComfyUI and danqing read them, and
    the rest keeps its precision.
    """
    large = large_layers({name: one.shape for name, one in tensors.items()}) if precision in PACKED else ()
    packed = {f"{layer}.weight" for layer in large}
    items = []
    for name, one in tensors.items():
        if name not in packed:
            items.append(plain_item(prefix + name, one.cut, one.shape, KINDS.get(precision, one.kind)))
        elif precision == "fp8":
            items.append(_fp8_item(prefix + name, one))
        else:
            items.append(_int_item(prefix + name, one, "int8" if precision == "int8" else "int4"))
    return items


def gguf_items(tensors: Mapping[str, Wanted], precision: Precision) -> list[Item]:
    """Return the items of a GGUF file, with types as the files of others have them.

    In fp32: vectors, whatever is small, and convolutions. Packed: the matrices of blocks whose rows fall into
    32s, and the two large tables of a conditioner, in 8 bits at least. The rest is as it was.
    """
    items = []
    for name, one in tensors.items():
        kind = _gguf_kind(name, one, precision)
        item = plain_item if kind in _TORCH else _packed_item
        items.append(item(name, one.cut, one.shape, kind))
    return items


def plain_item(name: str, cut: Cut, shape: tuple[int, ...], kind: str) -> Item:
    """Return a tensor in fp32, bf16 or fp16."""

    def make(tensors: Sequence[Tensor]) -> Made:
        return [cast(name, _cut_tensor(cut, tensors), kind)]

    return Item(cut.sources, (Slot(name, kind, shape),), make)


def marker(name: str) -> Item:
    """Return an empty tensor, which says something by being there."""
    return Item((), (Slot(name, "F32", (0,)),), lambda _: [torch.empty(0)])


def cast(name: str, tensor: Tensor, kind: str) -> Tensor:
    """Return a tensor in a plain kind; raise CheckpointError where its numbers do not fit."""
    changed = tensor.to(_TORCH[kind])
    if kind == "F16" and tensor.dtype != torch.float16 and not changed.isfinite().all():
        raise CheckpointError(
            f"{name}: expected numbers that fp16 holds, found some beyond 65,504; write bf16"
        )
    return changed


def import_gguf() -> Any:
    """Return the gguf library; raise ResourceError where it is missing."""
    try:
        import gguf
    except ImportError:
        raise ResourceError(
            "expected the gguf library to write GGUF files, found none; pip install 'danqing[gguf]'"
        ) from None
    return gguf


def _fp8_item(name: str, one: Wanted) -> Item:
    """Return a matrix in e4m3 whose largest value is the largest that e4m3 has."""
    layer = name.removesuffix(".weight")
    note = torch.tensor(list(json.dumps({"format": "float8_e4m3fn"}).encode()), dtype=torch.uint8)
    slots = (
        Slot(name, "F8_E4M3", one.shape),
        Slot(f"{layer}.weight_scale", "F32", ()),
        Slot(f"{layer}.comfy_quant", "U8", tuple(note.shape)),
    )

    def make(tensors: Sequence[Tensor]) -> Made:
        weight = _finite(name, _cut_tensor(one.cut, tensors).float())
        largest = weight.abs().max()
        scale = largest / _E4M3 if largest > 0 else torch.ones(())
        return [(weight / scale).clamp_(-_E4M3, _E4M3).to(torch.float8_e4m3fn), scale, note]

    return Item(one.cut.sources, slots, make)


def _int_item(name: str, one: Wanted, format: Literal["int8", "int4"]) -> Item:
    layer, (dim_out, dim_in) = name.removesuffix(".weight"), one.shape
    note = describe(Kept(format, rotation_block(dim_in)), dim_in)
    if format == "int8":
        slots = [Slot(name, "I8", one.shape), Slot(f"{layer}.weight_scale", "F32", (dim_out, 1))]
    else:
        groups = dim_in // group_size(dim_in)
        slots = [
            Slot(name, "U8", (dim_out, dim_in // 2)),
            Slot(f"{layer}.weight_scale", "F16", (dim_out, groups)),
        ]
    slots.append(Slot(f"{layer}.comfy_quant", "U8", (len(note.encode()),)))

    def make(tensors: Sequence[Tensor]) -> Made:
        made = quantised_tensors(layer, _finite(name, _cut_tensor(one.cut, tensors)), format)
        return [made[slot.name] for slot in slots]

    return Item(one.cut.sources, tuple(slots), make)


def _gguf_kind(name: str, one: Wanted, precision: Precision) -> str:
    if len(one.shape) != 2 or math.prod(one.shape) <= _SMALL:
        return "F32"
    if precision in ("bf16", "fp16"):
        return KINDS[precision]
    packed = name.startswith(_BLOCKS) or name in _FINE
    if precision == "keep" or one.shape[-1] % _BLOCK or not packed:
        return one.kind
    return "Q8_0" if name in _FINE else KINDS[precision]


def _packed_item(name: str, cut: Cut, shape: tuple[int, ...], kind: str) -> Item:
    def make(tensors: Sequence[Tensor]) -> Made:
        return [_packed(_finite(name, _cut_tensor(cut, tensors)), kind)]

    return Item(cut.sources, (Slot(name, kind, shape),), make)


def _packed(weight: Tensor, kind: str) -> np.ndarray:
    """Return the bytes of a matrix as the library packs it, a few rows at a time."""
    gguf = import_gguf()
    values, width = _BLOCK_SIZES[kind]
    rows, columns = weight.shape
    out = np.empty((rows, columns // values * width), np.uint8)
    step = max(1, _AT_ONCE // columns)
    for start in range(0, rows, step):
        part = weight[start : start + step].float().contiguous().numpy()
        out[start : start + step] = gguf.quantize(part, gguf.GGMLQuantizationType[kind])
    return out


def _cut_shape(cut: Cut, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Return the shape of what is made of tensors of these shapes."""
    first = shapes[0]
    if cut.how == "rows":
        return (sum(one[0] for one in shapes), *first[1:])
    if cut.how == "third":
        return (first[0] // 3, *first[1:])
    return (*first[:2], *first[3:]) if cut.how == "tap" else first


def _cut_tensor(cut: Cut, tensors: Sequence[Tensor]) -> Tensor:
    """Return the stored tensor out of released ones."""
    if cut.how == "rows":
        return torch.cat(list(tensors))
    if cut.how == "third":
        return tensors[0].chunk(3)[cut.number]
    return tensors[0][:, :, cut.number] if cut.how == "tap" else tensors[0]


def _finite(name: str, tensor: Tensor) -> Tensor:
    if not tensor.isfinite().all():
        raise CheckpointError(f"{name}: expected finite numbers, found others; the weights are broken")
    return tensor
