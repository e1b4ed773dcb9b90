"""Tensors on disk: safetensors files, single or in shards. No pickle anywhere."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from danqing.errors import CheckpointError
from danqing.weights.headers import read_safetensors_header, shard_path

_MAX_INDEX_BYTES = 64 * 2**20


class TensorInfo(NamedTuple):
    """Where a tensor lies and how large it is, from the file's header alone."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


class Shards:
    """All tensors of one component, by name; nothing is read before it is asked for."""

    def __init__(self, tensors: Mapping[str, TensorInfo]) -> None:
        self.tensors = dict(tensors)

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
                tensors[name] = TensorInfo(file, entry.shape, entry.dtype)
        return cls(tensors)

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """Yield the named tensors file by file, one in memory at a time."""
        by_file: dict[Path, list[str]] = {}
        for name in names:
            by_file.setdefault(self.tensors[name].file, []).append(name)
        for file, chosen in by_file.items():
            with open_safetensors(file) as handle:
                for name in chosen:
                    yield name, handle.get_tensor(name)

    @property
    def num_parameters(self) -> int:
        """Numbers stored, all tensors together."""
        total = 0
        for info in self.tensors.values():
            size = 1
            for side in info.shape:
                size *= side
            total += size
        return total


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
    temporary = file.with_name(file.name + ".part")
    save_file(
        {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()},
        temporary,
        metadata=dict(metadata),
    )
    mask = os.umask(0)
    os.umask(mask)
    temporary.chmod(0o666 & ~mask)  # safetensors makes files that only their owner reads
    os.replace(temporary, file)


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


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object from a checkpoint folder; anything else is a CheckpointError."""
    try:
        if file.stat().st_size > _MAX_INDEX_BYTES:
            raise CheckpointError(
                f"{file}: expected at most {_MAX_INDEX_BYTES} bytes, found {file.stat().st_size}"
            )
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{file}: expected a file, found none") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: expected a JSON object, found something else ({error})") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{file}: expected a JSON object, found a {type(value).__name__}")
    return value


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object under a temporary name, then rename it into place."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(file.name + ".part")
    temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, file)


def _files_of_index(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: expected a weight_map of tensor names to files, found none")
    names = sorted({str(name) for name in weight_map.values()})
    return [shard_path(index, name) for name in names]
