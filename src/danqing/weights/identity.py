"""Which weights a part of a checkpoint has, told from names, sizes, times and headers of its files."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from danqing.models.lora import Adapted
from danqing.weights.file_names import Part
from danqing.weights.headers import read_header
from danqing.weights.layouts import Folder
from danqing.weights.store import Shards


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a loaded part was made from."""

    files: str
    """The same for the same files in the same state."""
    tensors: int | None
    """State of the tensors after loading; None where they come and go."""

    def of(self, module: nn.Module) -> str | None:
        """Return what the part was made from, and of which kinds of layers; None where it was changed since.

        Training, merged adapters and other weights loaded into the module are changes; adapters beside its
        layers are not.
        """
        if self.tensors is not None and self.tensors != _state(module):
            return None
        kinds = sorted({type(part).__name__ for _, part in _own_modules(module)})
        return " ".join((self.files, *kinds))


def identity_of(
    folder: Folder, part: Part, dtype: torch.dtype, module: nn.Module, *, streamed: bool
) -> Identity:
    """Return the identity of a part that has just been loaded; `streamed` where its tensors come and go."""
    given = folder.given.source(part, folder.path / part, dtype)
    source = Shards.open(given) if isinstance(given, Path) else given
    said = [_weights(file) for file in sorted({info.file for info in source.tensors.values()})]
    if part == "text_encoder":
        said += [_seen(file) for file in sorted(folder.tokenizer.iterdir()) if file.is_file()]
    return Identity(files=_digest(said), tensors=None if streamed else _state(module))


def _weights(file: Path) -> str:
    header = read_header(file)
    entries = sorted((name, *entry) for name, entry in header.tensors.items())
    return f"{_seen(file)} {_digest([entries, sorted(header.metadata.items())])}"


def _seen(file: Path) -> str:
    found = file.stat()
    return f"{file.name} {found.st_size} {found.st_mtime_ns}"


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode("utf-8")).hexdigest()


def _state(module: nn.Module) -> int:
    """Return a number that changes with any tensor of a module that is written to or replaced."""
    return hash(tuple((name, id(one), one._version) for name, one in _own_tensors(module)))


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for path, part in _own_modules(module):
        for name, tensor in (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)):
            yield f"{path}.{name}", tensor


def _own_modules(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules without adapters, and without what adapters consist of."""
    adapted: tuple[str, ...] = ()
    for path, part in module.named_modules():
        if isinstance(part, Adapted):
            adapted = (*adapted, f"{path}.deltas")
            yield path, part.base
        elif not path.startswith(adapted or ("\0",)):
            yield path, part
