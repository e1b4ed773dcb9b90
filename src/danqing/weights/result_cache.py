"""Results that depend on nothing but weights and a request: kept in memory and on disk, and used again.

A result is found by a key that says all it was made from, so it never has to be thrown away for being wrong,
only for room. Files are safetensors with a checksum of their numbers; one that does not check is made again.
"""

import hashlib
import json
import os
import shutil
import sys
import time
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from danqing import __version__
from danqing.errors import CheckpointError
from danqing.files import whole
from danqing.log import logger
from danqing.weights.headers import read_safetensors_header
from danqing.weights.store import opened, read_tensor

VARIABLE = "DANQING_CACHE"
"""Environment variable: a folder in place of the user's own, or `off`."""
DISK_BYTES = 2 * 2**30
MEMORY_BYTES = 64 * 2**20
_SPARE_BYTES = 2**30  # a disk is never filled beyond this
_STALE_SECONDS = 3600  # what a killed program was writing


def cache_folder() -> Path | None:
    """Return where results are kept between runs; None where $DANQING_CACHE says off."""
    told = os.environ.get(VARIABLE, "")
    if told.lower() in ("off", "0", "no"):
        return None
    if told:
        return Path(told).expanduser()
    if sys.platform == "win32":
        home = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        home = Path.home() / "Library" / "Caches"
    else:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "danqing" / "results"


def open_cache() -> "ResultCache | None":
    """Return a cache in the user's folder; None where $DANQING_CACHE says off."""
    folder = cache_folder()
    return None if folder is None else ResultCache(folder)


def result_key(device: torch.device, **made_from: Any) -> str:
    """Return the key of a result that was computed on a device from these values, which JSON can hold.

    The versions of danqing and torch and what decides how numbers are rounded are part of it: a result that
    is found is, bit for bit, what would be computed.
    """
    computer = [__version__, torch.__version__, device.type, torch.get_num_threads()]
    computer.append(torch.backends.cpu.get_cpu_capability())
    text = json.dumps([computer, made_from], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


class ResultCache:
    """Named tensors by kind and key: the last ones in memory, large ones on disk.

    Both are bounded, and what was not used for the longest time goes first. Tensors that are handed out must
    not be changed. Several processes may share a folder.
    """

    def __init__(
        self, folder: Path, *, disk_bytes: int = DISK_BYTES, memory_bytes: int = MEMORY_BYTES
    ) -> None:
        self.folder = folder
        self.disk_bytes, self.memory_bytes = disk_bytes, memory_bytes
        self._recent: OrderedDict[tuple[str, str], dict[str, Tensor]] = OrderedDict()

    def recall(self, kind: str, key: str) -> dict[str, Tensor] | None:
        """Return a result that is still in memory."""
        found = self._recent.get((kind, key))
        if found is not None:
            self._recent.move_to_end((kind, key))
        return found

    def remember(self, kind: str, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep a result in memory; one larger than all the room there is not kept."""
        if _bytes_of(tensors) > self.memory_bytes:
            return
        self._recent[kind, key] = dict(tensors)
        self._recent.move_to_end((kind, key))
        while sum(map(_bytes_of, self._recent.values())) > self.memory_bytes:
            self._recent.popitem(last=False)

    def load(self, kind: str, key: str) -> dict[str, Tensor] | None:
        """Return a result from disk, in host memory; warns of a broken file, whose place a new one takes."""
        file = self._file(kind, key)
        if not file.exists():
            return None
        try:
            tensors = _read(file)
        except CheckpointError as error:
            logger.warning("a kept result is computed again: %s", error)
            return None
        _touch(file)
        return tensors

    def store(self, kind: str, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep a result on disk, under a temporary name until it is whole; warns where it cannot be written.

        Nothing is written where it would fill the disk, or is larger than all the room there is.
        """
        file, size = self._file(kind, key), _bytes_of(tensors)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            if size > min(self.disk_bytes, shutil.disk_usage(file.parent).free - _SPARE_BYTES):
                return
            _write(file, tensors)
            self._make_room(file)
        except OSError as error:
            logger.warning("%s: expected to keep a result, found %s; see $%s", file, error, VARIABLE)

    def _file(self, kind: str, key: str) -> Path:
        return self.folder / kind / f"{key}.safetensors"

    def _make_room(self, newest: Path) -> None:
        """Remove the files that were used longest ago until the rest is within bounds."""
        for part in self.folder.glob("*/*.part"):
            if time.time() - _used(part)[0] > _STALE_SECONDS:
                part.unlink(missing_ok=True)
        files = sorted((*_used(file), file) for file in self.folder.glob("*/*.safetensors"))
        total = sum(size for _, size, _ in files)
        for _, size, file in files:
            if total <= self.disk_bytes:
                return
            if file != newest:
                file.unlink(missing_ok=True)
                total -= size


def _read(file: Path) -> dict[str, Tensor]:
    header = read_safetensors_header(file)
    with opened(file) as stream:
        tensors = {name: read_tensor(stream, entry) for name, entry in header.tensors.items()}
    if header.metadata.get("checksum") != _checksum(tensors):
        raise CheckpointError(f"{file}: expected the numbers that were kept, found others")
    return tensors


def _write(file: Path, tensors: Mapping[str, Tensor]) -> None:
    host = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with whole(file) as temporary:
        save_file(host, temporary, metadata={"checksum": _checksum(host)})


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(name.encode("utf-8"))
        found.update(tensor_bytes(tensors[name]))
    return found.hexdigest()


def tensor_bytes(tensor: Tensor) -> memoryview:
    """Return the bytes of a tensor, for a checksum."""
    host = tensor.detach().cpu().contiguous()
    return host.reshape(-1).view(torch.uint8).numpy().data


def _bytes_of(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _touch(file: Path) -> None:
    """Note that a file was used; where it cannot be noted, it goes earlier."""
    if os.access(file, os.W_OK):
        os.utime(file)


def _used(file: Path) -> tuple[float, int]:
    """Return when a file was used last, and its size; one that another process removed has none."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return 0.0, 0
    return found.st_mtime, found.st_size
