"""Linear layers whose weights have 8 or 4 bits, and what makes such weights out of plain ones.

Input features are rotated in blocks by a Hadamard matrix, which spreads an outlier over its whole block; the
weight is rotated once, when it is quantised. 8 bits: one scale for each output channel, and the tokens are
quantised too, each by a scale of its own, so the product is one of whole numbers. 4 bits: the weight alone,
one scale for every 32 inputs, unpacked a few rows at a time.

Sources: rotation: QuaRot, Ashkboos et al. (arXiv 2404.00456), section 3; the regular Hadamard matrix, whose
rows have equal sums: ConvRot (arXiv 2512.03673); scales per token and channel: LLM.int8, Dettmers et al.
(arXiv 2208.07339), section 2. Numbers agree with the `int8_tensorwise` layout of comfy-kitchen.
"""

import re
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int8, UInt8
from torch import Tensor, nn

from danqing.errors import ConfigError

BLOCKS = (256, 64, 16)
"""Sides of the rotations, the largest that divides the input is taken."""
_GROUPS = (32, 16)
_LARGE = re.compile(
    r"(?:^|\.)(?:transformer_blocks|model\.layers|language_model\.layers|visual\.blocks)\.\d+\."
)
_CACHED = 2**17  # fp32 numbers worked on at once by a core: what its cache holds twice
_PRODUCTS = 3 * 2**20  # products kept at once on a CPU, and at least those of so many tokens
_ROWS = 256
_ROWS_ELSEWHERE = 4096
_CHANNELS = 1024  # of a 4-bit weight unpacked at once
_TINY = 1e-30  # a scale of rows of zeros
_EXACT = 1024  # products of two bytes whose sum fp32 holds exactly


def rotation_block(dim_in: int) -> int:
    """Return the side of the rotation of a layer's input; 1 is none."""
    return next((block for block in BLOCKS if dim_in % block == 0), 1)


def large_layers(shapes: Mapping[str, Sequence[int]]) -> list[str]:
    """Return the layers worth quantising among tensors of these names and shapes, in their order.

    Those are the matrices within the blocks of a denoiser (attention, feed-forward, modulation) and of the
    language and vision towers of a conditioner; what comes before, between and after blocks stays plain.
    """
    return [
        name.removesuffix(".weight")
        for name, shape in shapes.items()
        if name.endswith(".weight")
        and len(shape) == 2
        and _LARGE.search(name)
        and rotation_block(shape[1]) > 1
    ]


class Int8Linear(nn.Module):
    """A linear layer with weights of 8 bits, which also quantises each token it reads.

    A token's output does not depend on its neighbours, bit for bit. Layers that read the very same tensor
    after each other (queries, keys and values) share its rotation and quantisation.
    """

    bits = 8
    stored_dtypes = MappingProxyType({"weight": torch.int8, "weight_scale": torch.float32})

    def __init__(self, dim_in: int, dim_out: int, *, bias: bool, block: int | None = None) -> None:
        super().__init__()
        self.in_features, self.out_features = dim_in, dim_out
        self.block = rotation_block(dim_in) if block is None else block
        _check_block(dim_in, self.block)
        self.weight = _parameter(torch.empty(dim_out, dim_in, dtype=torch.int8))
        self.weight_scale = _parameter(torch.empty(dim_out, 1))
        self.bias = _parameter(torch.empty(dim_out)) if bias else None

    def forward(self, x: Float[Tensor, "*batch dim_in"]) -> Float[Tensor, "*batch dim_out"]:
        """Return the layer's output in the precision of `x`; for its memory see `working_bytes`."""
        _refuse_gradients(x)
        tokens = _last.quantised(x, self.block)
        count, dim_out = len(tokens.values), self.out_features
        out = x.new_empty(count, dim_out)
        scale = self.weight_scale.float().reshape(1, -1)
        bias = None if self.bias is None else self.bias.float()
        step, inner = _products_at_once(dim_out, x.device), _rows_at_once(dim_out, x.device)
        products = torch.empty(min(step, count), dim_out, dtype=torch.int32, device=x.device)
        wide = torch.empty(min(inner, count), dim_out, device=x.device)
        for part in _runs(count, step):
            _int_matmul(tokens.values[part], self.weight, out=(block := products[: part.stop - part.start]))
            for rows in _runs(len(block), inner):
                some = torch.mul(block[rows], scale, out=wide[: rows.stop - rows.start])
                own = tokens.scale[part][rows]
                torch.mul(some, own, out=some) if bias is None else torch.addcmul(bias, some, own, out=some)
                out[part][rows] = some
        return out.unflatten(0, x.shape[:-1]) if x.dim() != 2 else out

    def plain_weight(self) -> Float[Tensor, "dim_out dim_in"]:
        """Return the weight as it stands for a plain layer; fp32."""
        return dequantise_int8(self.weight, self.weight_scale, self.block)

    def extra_repr(self) -> str:
        """Describe the layer in one line."""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, block={self.block}"


class Int4Linear(nn.Module):
    """A linear layer with weights of 4 bits, two in a byte; tokens keep their precision."""

    bits = 4
    stored_dtypes = MappingProxyType({"weight": torch.uint8, "weight_scale": torch.float16})

    def __init__(self, dim_in: int, dim_out: int, *, bias: bool, block: int | None = None) -> None:
        super().__init__()
        self.in_features, self.out_features = dim_in, dim_out
        self.block = rotation_block(dim_in) if block is None else block
        _check_block(dim_in, self.block)
        self.weight = _parameter(torch.empty(dim_out, dim_in // 2, dtype=torch.uint8))
        self.weight_scale = _parameter(
            torch.empty(dim_out, dim_in // group_size(dim_in), dtype=torch.float16)
        )
        self.bias = _parameter(torch.empty(dim_out)) if bias else None

    def forward(self, x: Float[Tensor, "*batch dim_in"]) -> Float[Tensor, "*batch dim_out"]:
        """Return the layer's output in the precision of `x`; for its memory see `working_bytes`."""
        _refuse_gradients(x)
        tokens = rotated(x.reshape(-1, self.in_features), self.block)
        out = x.new_empty(len(tokens), self.out_features)
        for rows in _runs(self.out_features, _CHANNELS):
            weight = _unpacked(self.weight[rows], self.weight_scale[rows], x.dtype)
            bias = None if self.bias is None else self.bias[rows].to(x.dtype)
            out[:, rows] = F.linear(tokens, weight, bias)
        return out.unflatten(0, x.shape[:-1]) if x.dim() != 2 else out

    def plain_weight(self) -> Float[Tensor, "dim_out dim_in"]:
        """Return the weight as it stands for a plain layer; fp32."""
        return dequantise_int4(self.weight, self.weight_scale, self.block)

    def extra_repr(self) -> str:
        """Describe the layer in one line."""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, block={self.block}"


QuantisedLinear = Int8Linear | Int4Linear


def working_bytes(layer: QuantisedLinear, tokens: int, dtype: torch.dtype, device: torch.device) -> int:
    """Return what a forward of so many tokens holds at most beside its input, its output and the weights.

    Of 8 bits, a byte for each number of the input is held on as long as the input is, for the next layer
    that reads it. Some kernels take up to 50 MB of a process once, the first times they run.
    """
    dim_in, dim_out = layer.in_features, layer.out_features
    rotation = 2 * 4 * dim_in * min(tokens, _rows_at_once(dim_in, device))
    if isinstance(layer, Int4Linear):
        channels = min(dim_out, _CHANNELS)
        part = channels * (dim_in * (dtype.itemsize + 1) + tokens * dtype.itemsize)
        return tokens * dim_in * dtype.itemsize + max(rotation, part)
    products = min(tokens, _products_at_once(dim_out, device)) + min(tokens, _rows_at_once(dim_out, device))
    return tokens * (dim_in + 4) + max(rotation, 4 * dim_out * products)


def quantise_int8(
    weight: Float[Tensor, "dim_out dim_in"], block: int
) -> tuple[Int8[Tensor, "dim_out dim_in"], Float[Tensor, "dim_out 1"]]:
    """Return a weight in whole numbers of -127 to 127 behind its rotation, and each row's scale."""
    rows = _quantised_rows(weight, block)
    return rows.values, rows.scale


def dequantise_int8(
    weight: Int8[Tensor, "dim_out dim_in"], scale: Float[Tensor, "dim_out 1"], block: int
) -> Float[Tensor, "dim_out dim_in"]:
    """Return the plain weight that `quantise_int8` stands for; fp32."""
    return rotated(weight * scale.float(), block)  # the rotation is its own inverse


def quantise_int4(
    weight: Float[Tensor, "dim_out dim_in"], block: int
) -> tuple[UInt8[Tensor, "dim_out half_in"], Float[Tensor, "dim_out groups"]]:
    """Return a weight in numbers of -8 to 7 behind its rotation, the first of a pair in the lower half.

    The scale of a group first maps its largest number to -8, then is fitted to the rounded ones by least
    squares.
    """
    dim_out, dim_in = weight.shape
    packed = torch.empty(dim_out, dim_in // 2, dtype=torch.uint8, device=weight.device)
    size = group_size(dim_in)
    scales = torch.empty(dim_out, dim_in // size, dtype=torch.float16, device=weight.device)
    for rows in _runs(dim_out, _CHANNELS):
        groups = rotated(weight[rows].float(), block).unflatten(1, (-1, size))
        largest = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))
        scale = largest / -8
        whole = (groups / torch.where(scale == 0, 1.0, scale)).round_().clamp_(-8, 7)
        fitted = (groups * whole).sum(-1, keepdim=True) / whole.square().sum(-1, keepdim=True).clamp_min(1)
        scales[rows] = fitted.squeeze(-1)
        scale = scales[rows].float().unsqueeze(-1)
        whole = (groups / torch.where(scale == 0, 1.0, scale)).round_().clamp_(-8, 7).add_(8)
        nibbles = whole.to(torch.uint8).flatten(1).unflatten(1, (-1, 2))
        packed[rows] = nibbles[..., 0] | (nibbles[..., 1] << 4)
    return packed, scales


def dequantise_int4(
    weight: UInt8[Tensor, "dim_out half_in"], scale: Float[Tensor, "dim_out groups"], block: int
) -> Float[Tensor, "dim_out dim_in"]:
    """Return the plain weight that `quantise_int4` stands for; fp32."""
    return rotated(_unpacked(weight, scale, torch.float32), block)


def group_size(dim_in: int) -> int:
    """Return how many inputs share a scale of a 4-bit weight."""
    found = next((size for size in _GROUPS if dim_in % size == 0), None)
    if found is None:
        raise ConfigError(f"4-bit layer: expected inputs in groups of {_GROUPS[-1]}, found {dim_in}")
    return found


def rotated(rows: Float[Tensor, "rows dim"], block: int) -> Float[Tensor, "rows dim"]:
    """Return rows rotated in blocks, in their own precision; twice is the identity."""
    if block == 1:
        return rows
    out = torch.empty_like(rows, memory_format=torch.contiguous_format)
    for part, wide in _rotated_parts(rows, block):
        out[part] = wide
    return out


class _Rows(NamedTuple):
    """Rows in whole numbers, and the scale of each."""

    values: Int8[Tensor, "rows dim"]
    scale: Float[Tensor, "rows 1"]


def _quantised_rows(rows: Float[Tensor, "rows dim"], block: int) -> _Rows:
    values = torch.empty(rows.shape, dtype=torch.int8, device=rows.device)
    scale = torch.empty(len(rows), 1, device=rows.device)
    for part, wide in _rotated_parts(rows, block):
        own = torch.maximum(wide.amax(1, keepdim=True), -wide.amin(1, keepdim=True))
        scale[part] = own = own.div_(127).clamp_min_(_TINY)
        values[part] = wide.div_(own).round_()
    return _Rows(values, scale)


def _rotated_parts(rows: Tensor, block: int) -> Iterator[tuple[slice, Tensor]]:
    """Yield the places of a few rows, and these rotated in fp32, valid until the next ones.

    A block is a small grid, turned from both sides. Each has a multiplication of its own, whose result
    cannot depend on how many blocks there are.
    """
    dim = rows.shape[1]
    step = max(1, min(_rows_at_once(dim, rows.device), len(rows)))
    inner = min(block, 16)
    sides = (block // inner, inner)
    given, turned = (torch.empty(step, dim, device=rows.device) for _ in range(2))
    for part in _runs(len(rows), step):
        count = part.stop - part.start
        wide = given[:count].copy_(rows[part])
        if block > 1:
            right = _hadamard(inner, rows.device).expand(count * dim // block, -1, -1)
            torch.bmm(wide.view(-1, *sides), right, out=turned[:count].view(-1, *sides))
            wide = turned[:count]
        if block > inner:
            left = _hadamard(block // inner, rows.device).expand(count * dim // block, -1, -1)
            torch.bmm(left, wide.view(-1, *sides), out=given[:count].view(-1, *sides))
            wide = given[:count]
        yield part, wide


@cache
def _hadamard(side: int, device: torch.device) -> Float[Tensor, "side side"]:
    """Return the regular Hadamard matrix of a power of 4: symmetric, orthogonal, its own inverse."""
    seed = torch.ones(4, 4) - 2 * torch.eye(4).flip(1)
    whole = seed / 2
    while len(whole) < side:
        whole = torch.kron(whole, seed / 2)
    return whole.to(device)


class _Read(NamedTuple):
    """Tokens, how often they had been written to, and their quantised form behind a rotation."""

    source: weakref.ref[Tensor]
    written: int
    block: int
    rows: _Rows


class _LastRead(threading.local):
    """What was quantised last, so that the layers which read the same tokens share the work.

    Two tensors are held: text and picture tokens take turns. What is held dies with the tokens, and is not
    used once they were written to.
    """

    def __init__(self) -> None:
        self.read: tuple[_Read, ...] = ()

    def quantised(self, x: Tensor, block: int) -> _Rows:
        if x.is_inference() or torch.compiler.is_compiling():  # no telling whether they were written to
            return _quantised_rows(x.reshape(-1, x.shape[-1]), block)
        for one in self.read:
            if one.source() is x and (one.written, one.block) == (x._version, block):
                return one.rows
        self.read = self.read[-1:]
        rows = _quantised_rows(x.reshape(-1, x.shape[-1]), block)
        self.read += (_Read(weakref.ref(x, self._forget), x._version, block, rows),)
        return rows

    def _forget(self, source: weakref.ref[Tensor]) -> None:
        self.read = tuple(one for one in self.read if one.source is not source)


_last = _LastRead()


def _int_matmul(
    tokens: Int8[Tensor, "rows dim_in"], weight: Int8[Tensor, "dim_out dim_in"], *, out: Tensor
) -> None:
    """Fill `out` with tokens times the transposed weight in int32, exactly, on every device."""
    rows, (dim_out, dim_in) = len(tokens), weight.shape
    if tokens.device.type == "cpu":
        torch._int_mm(tokens, weight.t(), out=out)
    elif tokens.device.type == "cuda" and dim_in % 8 == dim_out % 8 == 0:
        padded = F.pad(tokens, (0, 0, 0, max(32 - rows, 0)))  # the kernel wants more than 16 rows
        out.copy_(torch._int_mm(padded, weight.t())[:rows])
    else:
        _float_matmul(tokens, weight, out=out)


def _float_matmul(tokens: Tensor, weight: Tensor, *, out: Tensor) -> None:
    """Do the same where nobody multiplies bytes: in fp32, as many at once as it can add without rounding."""
    out.zero_()
    for part in _runs(weight.shape[1], _EXACT):
        out += (tokens[:, part].float() @ weight[:, part].float().t()).to(torch.int32)


def _unpacked(packed: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the rotated weight of some packed rows."""
    values = torch.empty(*packed.shape, 2, dtype=dtype, device=packed.device)
    values[..., 0] = packed & 15
    values[..., 1] = packed >> 4
    groups = values.view(*scale.shape, -1).sub_(8)
    return groups.mul_(scale.to(dtype).unsqueeze(-1)).flatten(1)


def _rows_at_once(dim: int, device: torch.device) -> int:
    return max(4, _CACHED // dim) if device.type == "cpu" else _ROWS_ELSEWHERE


def _products_at_once(dim_out: int, device: torch.device) -> int:
    return max(_ROWS, _PRODUCTS // dim_out) if device.type == "cpu" else _ROWS_ELSEWHERE


def _runs(length: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


def _parameter(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value, requires_grad=False)


def _check_block(dim_in: int, block: int) -> None:
    power_of_4 = block > 0 and block & (block - 1) == 0 and block.bit_length() % 2 == 1
    if not power_of_4 or block > BLOCKS[0] or dim_in % block:
        raise ConfigError(
            f"quantised layer: expected a rotation of 1, 4, 16, 64 or 256 that divides {dim_in} inputs, "
            f"found {block}"
        )


def _refuse_gradients(x: Tensor) -> None:
    if torch.is_grad_enabled() and x.requires_grad:
        raise ConfigError(
            "quantised layer: expected inputs without gradients, found some; train with plain weights"
        )
