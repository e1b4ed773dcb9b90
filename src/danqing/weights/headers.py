"""Headers of safetensors and GGUF files, read without a byte of their data.

A header comes from a stranger: every length is compared with the file and with a limit before anything is
allocated, and what the header says must agree with itself. What does not is a CheckpointError of one line.

Source: the format descriptions of safetensors and of GGUF (versions 2 and 3).
"""

import json
import math
import os
import re
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, NoReturn

from danqing.errors import CheckpointError

GGUF_TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8),
    28: ("F64", 1, 8), 29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
}  # fmt: skip
"""Number in a GGUF header → name of the type, values in a block, bytes of a block."""
SAFETENSORS_BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
}
"""Name of a type in a safetensors header → bits of a value."""
_MAX_HEADER = 32 * 2**20  # that of a 20B checkpoint has 0.3 MB; a tokenizer inside a GGUF file about 6 MB
_MAX_RANK = 8
_MAX_VALUES = 2**48
_SHOWN = 60  # characters of a name in an error

Value = str | int | float | bool | tuple[int, ...]


class Entry(NamedTuple):
    """One tensor: `shape` as torch has it, its type by name, and its bytes in the file."""

    shape: tuple[int, ...]
    dtype: str
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a file of tensors says about itself."""

    file: Path
    format: Literal["safetensors", "gguf"]
    size: int
    """Bytes of the whole file."""
    tensors: Mapping[str, Entry]
    metadata: Mapping[str, Value]
    """Texts and numbers; of lists those of a few whole numbers."""


def read_header(file: Path) -> Header:
    """Read the header of a safetensors or GGUF file, told apart by their first bytes.

    Raises CheckpointError for what is missing, no such file, truncated, or contradicts itself.
    """
    with _opened(file) as stream:
        gguf = stream.read(4) == b"GGUF"
        stream.seek(0)
        return _read_gguf(file, stream) if gguf else _read_safetensors(file, stream)


def read_safetensors_header(file: Path) -> Header:
    """Read the header of a safetensors file; errors as in `read_header`."""
    with _opened(file) as stream:
        return _read_safetensors(file, stream)


def shard_path(index: Path, name: str) -> Path:
    """Return the file that an index names: one beside it, reached through no link that leads elsewhere.

    Links into the blobs of a hub's cache are what such a cache consists of, and are followed.
    """
    folder = index.parent
    if Path(name).name != name or not name.endswith(".safetensors") or "\0" in name or "\\" in name:
        raise CheckpointError(f"{index}: expected safetensors files of this folder, found {_short(name)}")
    home, file = folder.resolve(), (folder / name).resolve()
    caches = [parent.parent for parent in home.parents if parent.name == "snapshots"]
    blobs = [cache / "blobs" for cache in caches]
    blobs += [cache.parent / "blobs" / file.name[:2] for cache in caches]  # where all repositories share them
    if file.parent != home and file.parent not in blobs:
        raise CheckpointError(
            f"{index}: expected files of this folder, found {_short(name)}, a link that leads out of it; "
            "copy the file here"
        )
    return folder / name


def _opened(file: Path) -> BinaryIO:
    try:
        descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise CheckpointError(f"{file}: expected a safetensors file, found none") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: expected a file of tensors, cannot open it ({error})") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise CheckpointError(f"{file}: expected a safetensors or GGUF file, found a folder or a device")
    return os.fdopen(descriptor, "rb")


# ------------------------------------------------------------------------------------------ safetensors


def _read_safetensors(file: Path, stream: BinaryIO) -> Header:
    size = os.fstat(stream.fileno()).st_size
    if size < 8:
        _broken(file, "safetensors", f"{size} bytes")
    (length,) = struct.unpack("<Q", stream.read(8))
    if not 2 <= length <= min(size - 8, _MAX_HEADER):
        _broken(file, "safetensors", f"a header of {length} bytes in {size}")
    raw = stream.read(length)
    try:
        values = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        _broken(file, "safetensors", f"a header that is no JSON: {_short(error)}")
    if not isinstance(values, dict):
        _broken(file, "safetensors", "a header that is no JSON object")
    metadata = values.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(one, str) for one in metadata.values()):
        _broken(file, "safetensors", "metadata that are no texts")
    begin = 8 + length
    tensors = {name: _safetensors_entry(file, name, value, begin) for name, value in values.items()}
    end = begin
    for name, entry in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.start != end:
            kind = "overlaps the one before" if entry.start < end else "leaves a hole before it"
            _broken(file, "safetensors", f"{_short(name)} {kind}")
        end = entry.end
    if end != size:
        kind = "truncated" if end > size else "with bytes that belong to no tensor"
        _broken(file, "safetensors", f"{kind}: tensors end at {end}, the file at {size}")
    return Header(file=file, format="safetensors", size=size, tensors=tensors, metadata=metadata)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a name that occurs twice")
    return values


def _constant(text: str) -> NoReturn:
    raise ValueError(f"{text} in place of a number")


def _safetensors_entry(file: Path, name: str, value: Any, begin: int) -> Entry:
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        _broken(file, "safetensors", f"{_short(name)} without dtype, shape and data_offsets alone")
    kind, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(kind, str) or kind not in SAFETENSORS_BITS:
        _broken(file, "safetensors", f"{_short(name)} of unknown type {_short(kind)}")
    if not _is_counts(shape) or len(shape) > _MAX_RANK or math.prod(shape) > _MAX_VALUES:
        _broken(file, "safetensors", f"{_short(name)} of shape {_short(shape)}")
    if not _is_counts(offsets) or len(offsets) != 2:
        _broken(file, "safetensors", f"{_short(name)} at {_short(offsets)}")
    needed = math.prod(shape) * SAFETENSORS_BITS[kind]
    if offsets[1] - offsets[0] != needed // 8 or needed % 8:
        _broken(
            file,
            "safetensors",
            f"{_short(name)}: {kind} {shape} takes {needed / 8:g} bytes, found {offsets[1] - offsets[0]}",
        )
    return Entry(tuple(shape), kind, begin + offsets[0], begin + offsets[1])


def _is_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(one) is int and 0 <= one < 2**63 for one in values)


# ------------------------------------------------------------------------------------------------- gguf

_SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_STRING, _ARRAY = 8, 9
_MAX_COUNT = 2**17  # tensors, or entries of metadata
_MAX_DEPTH = 3
_KEPT = 16  # longest list of whole numbers that is kept


@dataclass(slots=True)
class _Cursor:
    """Bytes of a GGUF header in their order, never more than it may have."""

    file: Path
    stream: BinaryIO
    left: int

    def take(self, count: int) -> bytes:
        self.left -= count
        if self.left < 0:
            _broken(self.file, "GGUF", "a header longer than the file or than 32 MiB")
        if len(taken := self.stream.read(count)) != count:
            _broken(self.file, "GGUF", "it shrinks while it is read")
        return taken

    def number(self, code: str) -> Any:
        (value,) = struct.unpack(code, self.take(struct.calcsize(code)))
        return value

    def text(self) -> str:
        try:
            return self.take(self.number("<Q")).decode("utf-8")
        except UnicodeDecodeError:
            _broken(self.file, "GGUF", "a text that is no UTF-8")

    def count(self, what: str, most: int, least_bytes: int) -> int:
        value: int = self.number("<Q")
        if value > most or value * least_bytes > self.left:
            _broken(self.file, "GGUF", f"{value} {what}")
        return value

    def value(self, kind: int, depth: int = 0) -> Value | None:
        """Read one value of metadata; lists that nobody asks for are skipped and give None."""
        if kind == _STRING:
            return self.text()
        if kind in _SCALARS:
            read: Value = self.number(_SCALARS[kind])
            return read
        if kind != _ARRAY or depth == _MAX_DEPTH:
            _broken(self.file, "GGUF", f"metadata of unknown type {kind}")
        inner: int = self.number("<I")
        width = struct.calcsize(_SCALARS[inner]) if inner in _SCALARS else 8
        length = self.count("values in a list", _MAX_HEADER, width)
        if inner in _SCALARS and (length > _KEPT or inner in (6, 7, 12)):
            self.take(length * width)
            return None
        values = [self.value(inner, depth + 1) for _ in range(length)]
        return tuple(values) if all(type(one) is int for one in values) else None  # type: ignore[arg-type]


def _read_gguf(file: Path, stream: BinaryIO) -> Header:
    size = os.fstat(stream.fileno()).st_size
    cursor = _Cursor(file, stream, min(size, _MAX_HEADER))
    cursor.take(4)
    if (version := cursor.number("<I")) not in (2, 3):
        kind = "big-endian" if version & 0xFFFF == 0 else f"version {version}"
        raise CheckpointError(f"{file}: expected little-endian GGUF of version 2 or 3, found {kind}")
    num_tensors = cursor.count("tensors", _MAX_COUNT, 24)
    metadata: dict[str, Value] = {}
    seen: set[str] = set()
    for _ in range(cursor.count("entries of metadata", _MAX_COUNT, 13)):
        key = cursor.text()
        if key in seen:
            _broken(file, "GGUF", f"{_short(key)} twice in its metadata")
        seen.add(key)
        if (value := cursor.value(cursor.number("<I"))) is not None:
            metadata[key] = value
    listed: dict[str, tuple[tuple[int, ...], int, int]] = {}
    for _ in range(num_tensors):
        name = cursor.text()
        if name in listed:
            _broken(file, "GGUF", f"{_short(name)} twice")
        if (rank := cursor.number("<I")) > _MAX_RANK:
            _broken(file, "GGUF", f"{_short(name)} with {rank} dimensions")
        shape = tuple(reversed([cursor.number("<Q") for _ in range(rank)]))
        listed[name] = (shape, cursor.number("<I"), cursor.number("<Q"))
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 8 <= alignment <= 2**20 or alignment & (alignment - 1):
        _broken(file, "GGUF", f"an alignment of {_short(alignment)}")
    begin = -(-stream.tell() // alignment) * alignment
    tensors = {
        name: _gguf_entry(file, name, shape, kind, begin, offset, alignment)
        for name, (shape, kind, offset) in listed.items()
    }
    end = begin
    for name, entry in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.start < end:
            _broken(file, "GGUF", f"{_short(name)} overlaps the one before")
        end = entry.end
    if tensors and end > size:
        _broken(file, "GGUF", f"truncated: tensors end at {end}, the file at {size}")
    return Header(file=file, format="gguf", size=size, tensors=tensors, metadata=metadata)


def _gguf_entry(
    file: Path, name: str, shape: tuple[int, ...], kind: int, begin: int, offset: int, alignment: int
) -> Entry:
    if kind not in GGUF_TYPES:
        _broken(file, "GGUF", f"{_short(name)} of unknown type {kind}")
    label, values, width = GGUF_TYPES[kind]
    if max(shape, default=0) > _MAX_VALUES or math.prod(shape) > _MAX_VALUES:
        _broken(file, "GGUF", f"{_short(name)} of shape {_short(list(shape))}")
    if (shape[-1] if shape else 1) % values:
        _broken(file, "GGUF", f"{_short(name)}: {label} has blocks of {values}, found {list(shape)}")
    if offset % alignment:
        _broken(file, "GGUF", f"{_short(name)} at {offset}, no multiple of {alignment}")
    start = begin + offset
    return Entry(shape, label, start, start + math.prod(shape) // values * width)


def _broken(file: Path, kind: str, why: str) -> NoReturn:
    raise CheckpointError(
        f"{file}: expected a whole {kind} file, found a broken one ({why}); download it again"
    )


def _short(value: object) -> str:
    """Return a value of a stranger for an error: one line, and not long."""
    text = re.sub(r"\s", " ", str(value)[: 2 * _SHOWN])
    text = "".join(one if one.isprintable() else "?" for one in text)
    return repr(text[:_SHOWN] + "…") if len(text) > _SHOWN else repr(text)
