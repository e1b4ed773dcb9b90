"""What ComfyUI and others store beside weights of few bits: found and checked without torch."""

import json
import math
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

from danqing.errors import CheckpointError
from danqing.weights.file_names import SCALES
from danqing.weights.headers import Header

FP8 = ("F8_E4M3", "F8_E5M2")
_FP8_FORMATS = ("float8_e4m3fn", "float8_e5m2")
WHOLE_FORMATS = ("int8_tensorwise", "danqing_int4")
"""Weights in whole numbers, whose layers say more than the format; see `danqing.weights.quantise`."""
_SCALE_TYPES = {"F32": "<f", "F16": "<e", "F64": "<d"}
_MAX_SCALES = 2**20  # rows of a weight
_MAX_NOTE = 2**16  # bytes of JSON about one layer


def scale_name(header: Header, name: str) -> str | None:
    """Return the name of a weight's scale, where it has one."""
    stem = name.removesuffix("weight")
    return next((stem + end for end in SCALES if stem != name and stem + end in header.tensors), None)


def check_scales(header: Header, names: Mapping[str, str]) -> dict[str, bytes]:
    """Return what a file says of layers in whole numbers, as JSON by stored name; for names see `own_names`.

    Raises CheckpointError for packed weights whose numbers would come out wrong. Scales of whole numbers are
    looked at when they are read: there are millions of them.
    """
    notes = _said_notes(header)
    with header.file.open("rb") as stream:
        for own, name in names.items():
            if own.endswith(".comfy_quant"):
                notes[name.removesuffix(".comfy_quant")] = _note(header, stream, name)
        formats = {layer: _format(header, layer, note) for layer, note in notes.items()}
        for own, name in names.items():
            entry, scale = header.tensors[name], scale_name(header, name)
            layer = name.removesuffix(".weight")
            if formats.get(layer) in WHOLE_FORMATS:
                continue
            if scale is not None:
                _check_scale(header, stream, name, scale)
                continue
            marked = "scaled_fp8" in names or layer in formats
            if marked and entry.dtype in FP8 and own.endswith("weight") and len(entry.shape) == 2:
                raise CheckpointError(
                    f"{header.file}: {name}: expected an fp8 weight with its scale, found none; "
                    "the file is incomplete"
                )
    return {
        layer: json.dumps(note).encode() for layer, note in notes.items() if formats[layer] in WHOLE_FORMATS
    }


def _format(header: Header, layer: str, note: Mapping[str, Any]) -> str:
    known = (*_FP8_FORMATS, *WHOLE_FORMATS)
    kind = note.get("format", WHOLE_FORMATS[0] if "convrot" in note else None)
    if kind not in known:
        raise CheckpointError(
            f"{header.file}: {layer}: expected one of {', '.join(known)}, found {kind!r}; "
            "take a bf16, fp8, int8 or GGUF file"
        )
    return str(kind)


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


def _said_notes(header: Header) -> dict[str, dict[str, Any]]:
    """Return what the file's metadata says of layers."""
    said = header.metadata.get("_quantization_metadata")
    if not isinstance(said, str):
        return {}
    try:
        return {str(layer): dict(note) for layer, note in json.loads(said)["layers"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(
            f"{header.file}: expected formats of layers in _quantization_metadata, found something else"
        ) from None


def _note(header: Header, stream: BinaryIO, name: str) -> dict[str, Any]:
    entry = header.tensors[name]
    try:
        if entry.dtype != "U8" or entry.end - entry.start > _MAX_NOTE:
            raise ValueError
        stream.seek(entry.start)
        found = json.loads(stream.read(entry.end - entry.start))
        if not isinstance(found, dict):
            raise ValueError
        return found
    except (ValueError, RecursionError):
        raise CheckpointError(f"{header.file}: {name}: expected a format in JSON, found none") from None
