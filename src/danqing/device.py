"""Where to compute, in which precision, and how much memory there is."""

import ctypes
import os
import platform
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from danqing.errors import RequestError, ResourceError

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}

_UNLIMITED = 2**60  # cgroup v1 writes a huge number for "no limit"
_CGROUPS = (  # (limit, use, statistics, key of the file cache that the kernel gives back on demand)
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        "total_inactive_file",
    ),
)


def resolve_device(name: str = "auto") -> torch.device:
    """Return the device called `name`; "auto" is the first of cuda, mps and cpu that is here."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if kind not in DEVICES[1:] or (index and not (kind == "cuda" and index.isdecimal())):
        raise RequestError(f"device is one of {', '.join(DEVICES)} or cuda:N, found {name!r}")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ResourceError(
            f"{name} needs CUDA device {index or 0}, found {count} of them; try --device auto"
        )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ResourceError(
            "mps needs an Apple GPU and a PyTorch built for it, found neither; try --device auto"
        )
    return torch.device(kind, int(index)) if index else torch.device(kind)


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype called `name`; "auto" is bf16 where `device` has it in hardware and fp32 elsewhere."""
    if name == "auto":
        return torch.bfloat16 if _has_bf16(device) else torch.float32
    if name not in PRECISIONS:
        raise RequestError(f"precision is one of auto, {', '.join(PRECISIONS)}, found {name!r}")
    return PRECISIONS[name]


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "mps"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryReport:
    """Memory of one device, in bytes."""

    device: torch.device
    total: int
    """What the device has, or what the container allows."""
    available: int
    """What can be allocated now without taking it from others."""
    used: int
    """What this process holds now."""
    peak: int
    """The most this process has held; mps keeps no record, there it is `used`."""


def memory_report(device: torch.device | None = None) -> MemoryReport:
    """Return the memory of `device`, by default of the host."""
    device = device or torch.device("cpu")
    if device.type == "cuda":
        available, total = torch.cuda.mem_get_info(device)
        used, peak = torch.cuda.memory_reserved(device), torch.cuda.max_memory_reserved(device)
        return MemoryReport(device=device, total=total, available=available, used=used, peak=peak)
    if device.type == "mps":
        total, used = torch.mps.recommended_max_memory(), torch.mps.driver_allocated_memory()
        return MemoryReport(device=device, total=total, available=max(total - used, 0), used=used, peak=used)
    return _host_memory(device)


def keep_freed_memory() -> bool:
    """Let the C library keep what it frees; return whether it could be told so.

    A training step allocates and frees the same buffers again and again. By default glibc returns each large
    one
    to the kernel and has it zeroed anew: half of the time of a small step on a CPU.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mmap_threshold, trim_threshold, top_pad = -3, -1, -2  # M_* in malloc.h
    settings = {mmap_threshold: 2**30, trim_threshold: 2**31 - 1, top_pad: 2**28}
    libc = ctypes.CDLL(None)
    told = [libc.mallopt(option, value) == 1 for option, value in settings.items()]
    return all(told)


def give_back_memory() -> None:
    """Return what was freed to the system: the C library and CUDA's allocator keep some of it for later."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


class Upload:
    """Copies from host memory to a CUDA device while it computes; no test runs this without such a device."""

    def __init__(self, device: torch.device, size: int) -> None:
        self.staging = torch.empty(size, dtype=torch.uint8, pin_memory=True)
        self._stream = torch.cuda.Stream(device)

    def free_when_done(self) -> None:
        """Let copies from here on wait for what the device has been told to compute so far."""
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))

    def send(self, target: torch.Tensor) -> None:
        """Fill a buffer on the device with the staging area's first bytes; return when they are there."""
        with torch.cuda.stream(self._stream):
            target.copy_(self.staging[: len(target)], non_blocking=True)
        self._stream.synchronize()


def _host_memory(device: torch.device) -> MemoryReport:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    used, available = peak, total - peak  # macOS reports no more than this without a foreign library
    if sys.platform == "linux":
        used = _kilobytes(Path("/proc/self/status"), "VmRSS")
        available = _kilobytes(Path("/proc/meminfo"), "MemAvailable")
        total, available = _within_container(total, available)
    return MemoryReport(
        device=device, total=total, available=max(available, 0), used=used, peak=max(peak, used)
    )


def _kilobytes(path: Path, key: str) -> int:
    """Return the value of the line `key:   123 kB` in bytes."""
    for line in path.read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise ResourceError(f"{path} has no line {key!r}; this kernel does not report its memory")


def _within_container(total: int, available: int, root: Path = Path("/sys/fs/cgroup")) -> tuple[int, int]:
    """Lower the host's numbers to the limit of the container's control group, if it has one."""
    for limit_name, use_name, statistics_name, cache_key in _CGROUPS:
        if not (root / limit_name).is_file():
            continue
        limit = (root / limit_name).read_text().strip()
        if limit == "max" or int(limit) >= _UNLIMITED:
            continue
        statistics = dict(line.split() for line in (root / statistics_name).read_text().splitlines())
        use = int((root / use_name).read_text()) - int(statistics.get(cache_key, 0))
        return min(total, int(limit)), min(available, int(limit) - use)
    return total, available
