"""One part of a checkpoint out of files that other programs made: safetensors or GGUF, one tensor at a time.

Names become those of the released checkpoint, fp8 is multiplied by its scales, GGUF is unpacked. What would
give wrong pictures in silence (a missing scale, a format nobody here knows) is refused.
"""

import json
import math
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from danqing.errors import CheckpointError
from danqing.weights.file_names import SCALES, Part, Piece, own_names, released
from danqing.weights.gguf_file import PLAIN, QUANTISED, gguf_shape, read_gguf
from danqing.weights.headers import Header, read_header
from danqing.weights.store import TensorInfo, open_safetensors

_FP8 = ("F8_E4M3", "F8_E5M2")
_FP8_NAMES = ("float8_e4m3fn", "float8_e5m2")
_SCALE_TYPES = {"F32": "<f", "F16": "<e", "F64": "<d"}
_MAX_SCALES = 2**20  # rows of a weight
_MAX_NOTE = 2**16  # bytes of JSON about one layer


class PartFiles:
    """The tensors of one part by their released names; nothing is read before it is asked for."""

    def __init__(self, pieces: Mapping[str, tuple[Header, Piece]], dtype: torch.dtype) -> None:
        self.pieces = dict(pieces)
        self.dtype = dtype
        self.tensors = {
            name: TensorInfo(header.file, _shape(header, piece), _kind(header, piece))
            for name, (header, piece) in pieces.items()
        }

    @classmethod
    def open(cls, files: Sequence[Path], part: Part, *, dtype: torch.dtype = torch.float32) -> "PartFiles":
        """Read the headers of the files a part lies in; its tensors come as `dtype`.

        A conditioner in GGUF has its eyes in a file apart (`mmproj`). Raises CheckpointError for broken
        files, for scales that are missing or not finite and for formats that are not known.
        """
        pieces: dict[str, tuple[Header, Piece]] = {}
        for file in files:
            header = read_header(file)
            names = own_names(header.tensors, part)
            _check_scales(header, names)
            for name, piece in released(names, part).items():
                if name in pieces:
                    raise CheckpointError(f"{file}: expected every tensor once, found a second {name}")
                pieces[name] = (header, piece)
        if not pieces:
            raise CheckpointError(
                f"{', '.join(map(str, files))}: expected tensors of a {part}, found none; "
                "`danqing info FILE` says what a file holds"
            )
        return cls(pieces, dtype)

    @property
    def where(self) -> str:
        """The files, for errors."""
        return ", ".join(dict.fromkeys(str(info.file) for info in self.tensors.values()))

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """Yield the named tensors, one in memory at a time."""
        with ExitStack() as opened:
            streams: dict[Path, Any] = {}
            for name in names:
                header, piece = self.pieces[name]
                if header.file not in streams:
                    stream = header.file.open("rb") if header.format == "gguf" else _handle(header.file)
                    streams[header.file] = opened.enter_context(stream)
                found = streams[header.file]
                yield name, _put_together([self._one(header, found, one) for one in piece.sources], piece)

    def _one(self, header: Header, stream: Any, name: str) -> Tensor:
        if header.format == "gguf":
            return read_gguf(header, stream, name, self.dtype)
        tensor: Tensor = stream.get_tensor(name)
        scale = _scale_name(header, name)
        if scale is None or header.tensors[name].dtype not in _FP8:
            return tensor.to(self.dtype)
        factor = stream.get_tensor(scale).float()
        factor = factor.reshape(()) if factor.numel() == 1 else factor.reshape(-1, *[1] * (tensor.dim() - 1))
        return tensor.float().mul_(factor).to(self.dtype)


def _handle(file: Path) -> Any:
    return open_safetensors(file)


def _put_together(tensors: Sequence[Tensor], piece: Piece) -> Tensor:
    if piece.how == "rows":
        return torch.cat(list(tensors))
    if piece.how == "taps":
        return torch.stack(list(tensors), dim=2)
    if piece.how == "one":
        return tensors[0]
    return tensors[0].chunk(2)[0 if piece.how == "first" else 1]


def _shape(header: Header, piece: Piece) -> tuple[int, ...]:
    shapes = [
        gguf_shape(header, one) if header.format == "gguf" else header.tensors[one].shape
        for one in piece.sources
    ]
    first = shapes[0]
    if piece.how == "one":
        return first
    if piece.how == "rows":
        if not first or any(not one or one[1:] != first[1:] for one in shapes):
            raise CheckpointError(f"{header.file}: expected {piece.sources} of one width, found {shapes}")
        return (sum(one[0] for one in shapes), *first[1:])
    if piece.how == "taps":
        if len(first) < 2 or any(one != first for one in shapes):
            raise CheckpointError(f"{header.file}: expected {piece.sources} of one shape, found {shapes}")
        return (*first[:2], len(shapes), *first[2:])
    if not first or first[0] % 2:
        raise CheckpointError(f"{header.file}: expected {piece.sources[0]} of two halves, found {first}")
    return (first[0] // 2, *first[1:])


def _kind(header: Header, piece: Piece) -> str:
    """Return the type that a tensor has once it is read; that of a packed one is its stored name."""
    stored = header.tensors[piece.sources[0]].dtype
    return "F32" if header.format == "gguf" and stored in QUANTISED | PLAIN.keys() else stored


# ---------------------------------------------------------------------------------------------- scales


def _scale_name(header: Header, name: str) -> str | None:
    stem = name.removesuffix("weight")
    return next((stem + end for end in SCALES if stem != name and stem + end in header.tensors), None)


def _check_scales(header: Header, names: Mapping[str, str]) -> None:
    """Refuse packed weights whose numbers would come out wrong."""
    formats = _said_formats(header)
    with header.file.open("rb") as stream:
        for own, name in names.items():
            if own.endswith(".comfy_quant"):
                formats[name.removesuffix(".comfy_quant")] = _note(header, stream, name)
        for layer, kind in formats.items():
            if kind not in _FP8_NAMES:
                raise CheckpointError(
                    f"{header.file}: {layer}: expected one of {', '.join(_FP8_NAMES)}, found {kind!r}; "
                    "take a bf16, fp8 or GGUF file"
                )
        for own, name in names.items():
            entry, scale = header.tensors[name], _scale_name(header, name)
            if scale is not None:
                _check_scale(header, stream, name, scale)
            elif entry.dtype in _FP8 and own.endswith("weight") and len(entry.shape) == 2:
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
    if weight.dtype not in _FP8 and any(one != 1 for one in values):
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
