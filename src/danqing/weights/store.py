"""Tensors on disk: safetensors files, single or in shards. No pickle anywhere."""

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from danqing.errors import CheckpointError
from danqing.files import read_json, whole, write_json
from danqing.weights.headers import Entry, read_safetensors_header, shard_path

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "F32": torch.float32,
    "I64": torch.int64,
    "F64": torch.float64,
    "C64": torch.complex64,
}
"""Names of types in a safetensors header that tensors here can have."""
_AT_ONCE = 16 * 2**20  # bytes of one read, while the kernel is told to fetch the next ones
_AHEAD = 2 * _AT_ONCE


class TensorInfo(NamedTuple):
    """Where a tensor lies and how large it is, from the file's header alone."""

    file: Path
    shape: tuple[int, ...]
    dtype: str
    start: int = 0
    """First byte in the file; of what is put together from several, that of the first."""


class Source(Protocol):
    """Tensors of one component by name, whatever they lie in; nothing is read before it is asked for."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Where each is, and its shape and type once it is read."""

    @property
    def where(self) -> str:
        """The files or the folder, for errors."""

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """Yield the named tensors, one in memory at a time."""


@runtime_checkable
class DirectSource(Protocol):
    """A source that can do without tensors of its own."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """See `Source`."""

    def read_into(self, targets: Mapping[str, Tensor]) -> None:
        """Fill contiguous tensors in host memory, of the stored shapes and of any type, by name."""

    def read_rows(self, name: str, rows: Sequence[int]) -> Tensor:
        """Return some rows of a matrix, and read no others."""


class Shards:
    """All tensors of one component in safetensors files."""

    def __init__(self, tensors: Mapping[str, TensorInfo], where: str = "") -> None:
        self.tensors = dict(tensors)
        self.where = where
        """The folder, for errors."""

    @classmethod
    def open(cls, folder: Path) -> "Shards":
        """Read the headers of the safetensors files in `folder`: those its index names, or its only one."""
        indexes = sorted(folder.glob("*.safetensors.index.json"))
        files = sorted(folder.glob("*.safetensors"))
        if indexes:
            files = _files_of_index(indexes[0])
        elif len(files) != 1:
            found = ", ".join(file.name for file in files) or "none"
            raise CheckpointError(
                f"{folder}: expected one .safetensors file or an index of several, found {found}"
            )
        tensors: dict[str, TensorInfo] = {}
        for file in files:
            for name, entry in read_safetensors_header(file).tensors.items():
                if name in tensors:
                    raise CheckpointError(
                        f"{folder}: expected every tensor once, found {name} in {tensors[name].file.name} "
                        f"and {file.name}; remove the stale shards"
                    )
                tensors[name] = TensorInfo(file, entry.shape, entry.dtype, entry.start)
        return cls(tensors, str(folder))

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """Yield the named tensors file by file, one in memory at a time."""
        for file, chosen in self._by_file(names).items():
            with opened(file) as stream:
                for name in chosen:
                    yield name, read_tensor(stream, self.tensors[name])

    def read_into(self, targets: Mapping[str, Tensor]) -> None:
        """Fill tensors of the stored shapes: bytes go straight into those of the stored type."""
        for file, chosen in self._by_file(in_file_order(self, targets)).items():
            with opened(file) as stream:
                for name in chosen:
                    fill(stream, self.tensors[name], targets[name])

    def read_rows(self, name: str, rows: Sequence[int]) -> Tensor:
        """Return some rows of a matrix, and read no others."""
        with opened(self.tensors[name].file) as stream:
            return read_rows(stream, self.tensors[name], rows)

    def _by_file(self, names: Iterable[str]) -> dict[Path, list[str]]:
        by_file: dict[Path, list[str]] = {}
        for name in names:
            by_file.setdefault(self.tensors[name].file, []).append(name)
        return by_file

    @property
    def num_parameters(self) -> int:
        """Numbers stored, all tensors together."""
        return sum(math.prod(info.shape) for info in self.tensors.values())


def in_file_order(source: Source, names: Iterable[str]) -> list[str]:
    """Return names in the order in which their tensors lie in the files: a disk reads fastest forwards."""
    return sorted(names, key=lambda name: (source.tensors[name].file, source.tensors[name].start))


@contextmanager
def opened(file: Path) -> Iterator[FileIO]:
    """Open a file to be read from its front to its end; one that cannot be read is a CheckpointError."""
    try:
        with FileIO(file) as stream:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
            yield stream
    except FileNotFoundError:
        raise CheckpointError(f"{file}: expected a safetensors file, found none") from None
    except OSError as error:
        raise CheckpointError(f"{file}: expected a file that can be read, found {error}") from None


def read_tensor(stream: FileIO, entry: Entry | TensorInfo) -> Tensor:
    """Return one tensor of an open safetensors file, in the type it is stored in."""
    _check_type(stream, entry)
    tensor = torch.empty(entry.shape, dtype=DTYPES[entry.dtype])
    read_bytes(stream, entry.start, tensor)
    return tensor


def fill(stream: FileIO, entry: Entry | TensorInfo, target: Tensor) -> None:
    """Fill a contiguous tensor in host memory; one of another type than the stored one is cast."""
    if target.dtype == DTYPES.get(entry.dtype) and tuple(target.shape) == entry.shape:
        read_bytes(stream, entry.start, target)
    else:
        target.copy_(read_tensor(stream, entry))


def read_rows(stream: FileIO, entry: Entry | TensorInfo, rows: Sequence[int]) -> Tensor:
    """Return some rows of a matrix of an open safetensors file."""
    _check_type(stream, entry)
    table = torch.empty(len(rows), *entry.shape[1:], dtype=DTYPES[entry.dtype])
    width = math.prod(entry.shape[1:]) * table.dtype.itemsize
    for row, target in zip(rows, table, strict=True):
        read_bytes(stream, entry.start + row * width, target)
    return table


def read_bytes(stream: FileIO, start: int, target: Tensor) -> None:
    """Fill a contiguous tensor in host memory with the bytes of a file from `start` on.

    They go straight into the tensor's memory. Raises CheckpointError, before anything is read, for a file
    that ends earlier.
    """
    view = target.detach().reshape(-1).view(torch.uint8).numpy().data
    descriptor, size = stream.fileno(), os.fstat(stream.fileno()).st_size
    if start + len(view) > size:
        raise CheckpointError(
            f"{stream.name}: expected at least {start + len(view)} bytes, found {size}: the file has been "
            "truncated since it was opened; download it again"
        )
    stream.seek(start)
    done = 0
    while done < len(view):
        ahead = min(_AHEAD, len(view) - done - _AT_ONCE)
        if ahead > 0 and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, start + done + _AT_ONCE, ahead, os.POSIX_FADV_WILLNEED)
        count = stream.readinto(view[done : done + _AT_ONCE])
        if not count:
            raise CheckpointError(f"{stream.name}: expected {len(view)} bytes at {start}, found {done}")
        done += count


def open_safetensors(file: Path) -> Any:
    """Open a safetensors file for reading; a missing, truncated or malformed one is a CheckpointError."""
    try:
        return safe_open(file, framework="pt")
    except FileNotFoundError:
        raise CheckpointError(f"{file}: expected a safetensors file, found none") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file}: expected a whole safetensors file, found a broken one ({error})"
        ) from None


def write_safetensors(file: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write one file under a temporary name, then rename it; its mode is that of any new file."""
    host = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    with whole(file) as temporary:
        save_file(host, temporary, metadata=dict(metadata))
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # safetensors makes files that only their owner reads


def write_shards(
    folder: Path, stem: str, tensors: Mapping[str, Tensor], *, max_shard_bytes: int = 5 * 10**9
) -> None:
    """Write tensors as `stem.safetensors`, or as numbered shards with an index when they exceed one shard."""
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[dict[str, Tensor]] = [{}]
    room = max_shard_bytes
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        if size > room and shards[-1]:
            shards.append({})
            room = max_shard_bytes
        shards[-1][name] = tensor
        room -= size
    if len(shards) == 1:
        write_safetensors(folder / f"{stem}.safetensors", shards[0], {"format": "pt"})
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
        write_safetensors(folder / file, shard, {"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    write_json(
        folder / f"{stem}.safetensors.index.json",
        {"metadata": {"total_size": total}, "weight_map": weight_map},
    )


def _files_of_index(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: expected a weight_map of tensor names to files, found none")
    names = sorted({str(name) for name in weight_map.values()})
    return [shard_path(index, name) for name in names]


def _check_type(stream: FileIO, entry: Entry | TensorInfo) -> None:
    """Raise CheckpointError for a tensor of a type that none here can have."""
    if entry.dtype not in DTYPES:
        raise CheckpointError(f"{stream.name}: expected one of {', '.join(DTYPES)}, found {entry.dtype}")
