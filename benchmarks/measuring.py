"""What the benchmarks share: processes of their own, turns, where numbers are from, how they are told."""

import argparse
import ctypes
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any

PEERS = ("diffusers", "transformers", "safetensors", "stable-diffusion-cpp-python")


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser that shows `doc` as it stands and knows --json."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here")
    return made


def environment(threads: int) -> dict[str, str]:
    """Return the environment of a measured process, which finds no results of earlier ones."""
    own = {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "DANQING_CACHE": "off"}
    return {**os.environ, **own}


def run_fresh(script: str, arguments: Sequence[str], *, threads: int) -> dict[str, Any]:
    """Run a script in a fresh process and return the JSON object on its last line."""
    command = [sys.executable, script, *arguments]
    done = subprocess.run(command, env=environment(threads), stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def run_timed(command: Sequence[str], *, threads: int) -> dict[str, float]:
    """Run a command, its output thrown away; return its wall and CPU seconds and the peak of its memory."""
    started = time.perf_counter()
    process = subprocess.Popen(
        command, env=environment(threads), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"expected exit code 0, found {process.returncode}: {' '.join(command)}")
    return {
        "seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_bytes": peak_bytes(usage),
    }


def peak_bytes(usage: resource.struct_rusage | None = None) -> int:
    """Return the peak of the resident set of this process, or of the one that `usage` is about."""
    unit = 1 if sys.platform == "darwin" else 1024
    return (usage or resource.getrusage(resource.RUSAGE_SELF)).ru_maxrss * unit


def resident_peak(*, reset: bool) -> int:
    """Return the peak of the resident set; `reset` first lowers it to what is resident now; bytes (Linux)."""
    if reset:
        ctypes.CDLL(None).malloc_trim(0)  # what was freed is not resident any more
        Path("/proc/self/clear_refs").write_text("5")
    return kilobytes("self", "VmHWM") * 1024


def kilobytes(process: int | str, key: str) -> int:
    """Return a number of `/proc/PROCESS/status`; 0 where the process has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{key}:")), 0)


class AnonymousPeak:
    """Watches the anonymous memory of another process from outside, every few milliseconds (Linux).

    Pages of files, which the kernel takes back when it likes, are not in it.
    """

    def __init__(self, process: int, *, every: float = 0.01) -> None:
        self.bytes = 0
        self._process, self._every = process, every
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "AnonymousPeak":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(self._every):
            self.bytes = max(self.bytes, kilobytes(self._process, "RssAnon") * 1024)


def in_turns(
    works: Mapping[str, Callable[[], object]], repeats: int, *, wait: Callable[[], object] | None = None
) -> dict[str, dict[str, list[float]]]:
    """Run each work once uncounted, then all of them in turns; return CPU and wall seconds of each.

    What else the machine does then meets all of them alike. `wait` returns when the device is idle.
    """
    wait = wait or (lambda: None)
    runs: dict[str, dict[str, list[float]]] = {name: {"cpu": [], "wall": []} for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            wait()
            cpu, wall = time.process_time(), time.perf_counter()
            work()
            wait()
            if turn:
                runs[name]["cpu"].append(time.process_time() - cpu)
                runs[name]["wall"].append(time.perf_counter() - wall)
    return runs


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median of repeats with the lowest and the highest."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def told(values: Sequence[float], unit: str = "s") -> str:
    """Return repeats for reading: median and range."""
    some = spread(values)
    return f"{some['median']:.3f} {unit} ({some['low']:.3f} to {some['high']:.3f})"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table for a Markdown page."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine() -> dict[str, Any]:
    """Say where the numbers are from: the processor and the versions of what is compared."""
    versions = {}
    for package in PEERS:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": version("torch"),
        **versions,
    }


def origin(threads: int) -> str:
    """Return `machine` and the threads as a line for reading."""
    return ", ".join(f"{key} {value}" for key, value in (*machine().items(), ("threads", threads)))


def _processor() -> str:
    cpus = Path("/proc/cpuinfo")
    if cpus.is_file():
        names = [line.split(":", 1)[1] for line in cpus.read_text().splitlines() if "model name" in line]
        if names:
            return names[0].strip()
    return platform.processor() or platform.machine()


def tell(report: dict[str, Any], path: Path | None) -> None:
    """Write a report to `path`, or print it."""
    text = json.dumps(report, indent=1)
    if path is None:
        print(text)
    else:
        path.write_text(text + "\n", encoding="utf-8")
