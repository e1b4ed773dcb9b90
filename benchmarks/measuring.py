"""What the benchmarks share: processes of their own, where numbers are from, how they are told."""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser that shows `doc` as it stands and knows --json."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here")
    return made


def environment(threads: int) -> dict[str, str]:
    """Return the environment of a measured process."""
    return {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}


def run_fresh(script: str, arguments: Sequence[str], *, threads: int) -> dict[str, Any]:
    """Run a script in a fresh process and return the JSON object on its last line."""
    command = [sys.executable, script, *arguments]
    done = subprocess.run(command, env=environment(threads), stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def peak_bytes(usage: resource.struct_rusage | None = None) -> int:
    """Return the peak of the resident set of this process, or of the one that `usage` is about."""
    unit = 1 if sys.platform == "darwin" else 1024
    return (usage or resource.getrusage(resource.RUSAGE_SELF)).ru_maxrss * unit


def machine() -> dict[str, Any]:
    """Say where the numbers are from."""
    return {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "torch": version("torch"),
    }


def tell(report: dict[str, Any], path: Path | None) -> None:
    """Write a report to `path`, or print it."""
    text = json.dumps(report, indent=1)
    if path is None:
        print(text)
    else:
        path.write_text(text + "\n", encoding="utf-8")
