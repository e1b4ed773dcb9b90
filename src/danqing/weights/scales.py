"""Scales that ComfyUI and others store beside fp8 weights: found and checked without torch."""

import json
import math
import struct
from collections.abc import Mapping
from typing import BinaryIO

from danqing.errors import CheckpointError
from danqing.weights.file_names import SCALES
from danqing.weights.headers import Header

FP8 = ("F8_E4M3", "F8_E5M2")
_FORMATS = ("float8_e4m3fn", "float8_e5m2")
_SCALE_TYPES = {"F32": "<f", "F16": "<e", "F64": "<d"}
_MAX_SCALES = 2**20  # rows of a weight
_MAX_NOTE = 2**16  # bytes of JSON about one layer


def scale_name(header: Header, name: str) -> str | None:
    """Return the name of a weight's scale, where it has one."""
    stem = name.removesuffix("weight")
    return next((stem + end for end in SCALES if stem != name and stem + end in header.tensors), None)


def check_scales(header: Header, names: Mapping[str, str]) -> None:
    """Raise CheckpointError for packed weights whose numbers would come out wrong; see `own_names`."""
    formats = _said_formats(header)
    with header.file.open("rb") as stream:
        for own, name in names.items():
            if own.endswith(".comfy_quant"):
                formats[name.removesuffix(".comfy_quant")] = _note(header, stream, name)
        for layer, kind in formats.items():
            if kind not in _FORMATS:
                raise CheckpointError(
                    f"{header.file}: {layer}: expected one of {', '.join(_FORMATS)}, found {kind!r}; "
                    "take a bf16, fp8 or GGUF file"
                )
        for own, name in names.items():
            entry, scale = header.tensors[name], scale_name(header, name)
            if scale is not None:
                _check_scale(header, stream, name, scale)
            elif entry.dtype in FP8 and own.endswith("weight") and len(entry.shape) == 2:
                marked = "scaled_fp8" in names or name.removesuffix(".weight") in formats
                if marked:
                    raise CheckpointError(
                        f"{header.file}: {name}: expected an fp8 weight with its scale, found none; "
                        "the file is incomplete"
                    )


def _check_scale(header: Header, stream: BinaryIO, name: str, scale: str) -> None:
    entry, weight = header.tensors[scale], header.tensors[name]
    count, rows = math.prod(entry.shape), weight.shape[0] if weight.shape else 1
    if entry.dtype not in (*_SCALE_TYPES, "BF16") or count not in (1, rows) or count > _MAX_SCALES:
        raise CheckpointError(
            f"{header.file}: {scale}: expected one number or {rows}, found {entry.dtype} {list(entry.shape)}"
        )
    values = _numbers(stream, entry.start, count, entry.dtype)
    if not all(math.isfinite(one) and one >= 0 for one in values):
        raise CheckpointError(f"{header.file}: {scale}: expected finite scales, found others; it is broken")
    if weight.dtype not in FP8 and any(one != 1 for one in values):
        raise CheckpointError(
            f"{header.file}: {scale}: expected the scale of an fp8 weight, found one of {weight.dtype}"
        )


def _numbers(stream: BinaryIO, start: int, count: int, kind: str) -> tuple[float, ...]:
    stream.seek(start)
    if kind == "BF16":  # the upper half of an fp32 number
        halves = struct.unpack(f"<{count}H", stream.read(2 * count))
        return struct.unpack(f"<{count}f", struct.pack(f"<{count}I", *(half << 16 for half in halves)))
    code = _SCALE_TYPES[kind]
    return struct.unpack(f"<{count}{code[1]}", stream.read(count * struct.calcsize(code)))


def _said_formats(header: Header) -> dict[str, str]:
    """Return the formats of layers that the file's metadata names."""
    said = header.metadata.get("_quantization_metadata")
    if not isinstance(said, str):
        return {}
    try:
        layers = json.loads(said)["layers"]
        return {str(layer): str(note["format"]) for layer, note in layers.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(
            f"{header.file}: expected formats of layers in _quantization_metadata, found something else"
        ) from None


def _note(header: Header, stream: BinaryIO, name: str) -> str:
    entry = header.tensors[name]
    try:
        if entry.dtype != "U8" or entry.end - entry.start > _MAX_NOTE:
            raise ValueError
        stream.seek(entry.start)
        return str(json.loads(stream.read(entry.end - entry.start))["format"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CheckpointError(f"{header.file}: {name}: expected a format in JSON, found none") from None
