"""Tensors of a GGUF file, unpacked one by one into floating point."""

import math
from collections.abc import Sequence
from io import FileIO

import numpy as np
import torch
from torch import Tensor

from danqing.errors import CheckpointError, ResourceError
from danqing.weights.headers import GGUF_TYPES, Entry, Header
from danqing.weights.store import read_bytes

PLAIN = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_NOT_UNPACKED = {"Q8_1", "Q8_K", "Q1_0"}  # of activations, and one that the library only measures
QUANTISED = frozenset(
    name for name, values, _ in GGUF_TYPES.values() if values > 1 and name not in _NOT_UNPACKED
)
"""Types that the `gguf` library unpacks."""
_NUMBERS = {name: number for number, (name, _, _) in GGUF_TYPES.items()}
_AT_ONCE = 2**22  # values unpacked at a time: the library's temporaries are many times as large


def gguf_shape(header: Header, name: str) -> tuple[int, ...]:
    """Return the shape of a tensor; a flattened one has its true shape in the metadata."""
    shape = header.tensors[name].shape
    true = header.metadata.get(f"comfy.gguf.orig_shape.{name}")
    if not isinstance(true, tuple):
        return shape
    if min(true, default=1) < 0 or math.prod(true) != math.prod(shape):
        raise CheckpointError(
            f"{header.file}: {name}: expected a shape of {math.prod(shape)} values, found {list(true)}"
        )
    return true


def read_gguf(header: Header, stream: FileIO, name: str, dtype: torch.dtype) -> Tensor:
    """Return one tensor in `dtype`; `stream` is the file opened for reading.

    Raises CheckpointError where it holds numbers that are not finite or a type that nobody unpacks.
    """
    return _read(header, stream, name, header.tensors[name], dtype).view(gguf_shape(header, name))


def read_gguf_rows(
    header: Header, stream: FileIO, name: str, rows: Sequence[int], dtype: torch.dtype
) -> Tensor:
    """Return some rows of a matrix, and read no others; errors as in `read_gguf`."""
    entry = header.tensors[name]
    width = (entry.end - entry.start) // entry.shape[0]
    table = torch.empty(len(rows), *entry.shape[1:], dtype=dtype)
    for row, target in zip(rows, table, strict=True):
        start = entry.start + row * width
        one = Entry(entry.shape[1:], entry.dtype, start, start + width)
        target.copy_(_read(header, stream, name, one, dtype).view(one.shape))
    return table


def _read(header: Header, stream: FileIO, name: str, entry: Entry, dtype: torch.dtype) -> Tensor:
    packed = torch.empty(entry.end - entry.start, dtype=torch.uint8)
    read_bytes(stream, entry.start, packed)
    if not len(packed):
        return torch.empty(entry.shape, dtype=dtype)
    if entry.dtype in PLAIN:
        tensor = packed.view(PLAIN[entry.dtype]).to(dtype)
    elif entry.dtype in QUANTISED:
        tensor = _unpacked(packed, entry, dtype)
    else:
        raise CheckpointError(f"{header.file}: expected weights that can be unpacked, found {entry.dtype}")
    # Whatever is not finite makes the sum so, and a sum is read faster than a test of every number.
    if not tensor.sum(dtype=torch.float32).isfinite() and not tensor.isfinite().all():
        raise CheckpointError(f"{header.file}: {name}: expected finite numbers, found others; it is broken")
    return tensor


def _unpacked(raw: Tensor, entry: Entry, dtype: torch.dtype) -> Tensor:
    try:
        import gguf
    except ImportError:
        raise ResourceError(
            "expected the gguf library for quantised GGUF files, found none; pip install 'danqing[gguf]'"
        ) from None
    kind = gguf.GGMLQuantizationType(_NUMBERS[entry.dtype])
    columns = entry.shape[-1]
    packed = raw.numpy().reshape(math.prod(entry.shape) // columns, -1)
    out = torch.empty((packed.shape[0], columns), dtype=dtype)
    step = max(1, _AT_ONCE // columns)
    with np.errstate(all="ignore"):  # what is not finite is told afterwards
        for start in range(0, packed.shape[0], step):
            values = gguf.dequantize(packed[start : start + step], kind)
            out[start : start + step] = torch.from_numpy(np.ascontiguousarray(values, np.float32))
    return out.flatten()
