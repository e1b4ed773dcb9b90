"""Seconds to load a checkpoint from a cold disk against reading its files, and to start Python with danqing.

    python benchmarks/load.py --folder DISK
    python benchmarks/load.py --folder DISK --blocks 12 --repeats 5 --json load.json

The files hold blocks of Qwen-Image's denoiser at true shape in bf16 (0.68 GB each), random, and are removed
afterwards. Before each reading they are dropped from the page cache: `posix_fadvise` asks for that, and where
the process may write `/proc/sys/vm/drop_caches`, the whole cache goes. `dd` reads them to /dev/null; a fresh
process with danqing imported builds the module. They take turns, and turns in going first, for a disk may
remember what it has just read. Seconds are wall time, for the disk's time counts; the bytes that really came
from the disk are printed beside (Linux only). With --direct a `dd` past the page cache is there too.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from measuring import environment, machine, origin, parser, run_fresh, run_timed, spread, tell, told
from random_checkpoint import check_space, plain, total_bytes, write_random

AIM = 1.2
"""Times as long as `dd` that loading may take."""
STARTS = {
    "python": ["-c", "pass"],
    "import danqing": ["-c", "import danqing"],
    "danqing --help": ["-m", "danqing", "--help"],
}


def main() -> None:
    """Write the files, read them in turns, then time the starts; print a table, then JSON."""
    options = parse()
    if options.part is not None:
        print(json.dumps(load(options)))
        return
    print(origin(options.threads))
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        part = Path(folder)
        size = write(options, part)
        runs = readings(options, part)
    starts = started(options)
    report = {
        "benchmark": "load",
        "bytes": size,
        "threads": options.threads,
        "repeats": options.repeats,
        "machine": machine(),
        "readings": {name: {key: spread(v) for key, v in run.items()} for name, run in runs.items()},
        "load_over_dd": ratio(runs),
        "starts": {name: spread(values) for name, values in starts.items()},
    }
    print(f"{size / 1e9:.2f} GB")
    for name, run in runs.items():
        share = spread(run["bytes_from_disk"])["low"] / size
        print(f"{name:28}{told(run['seconds']):34}at least {share:.0%} from the disk")
    print(f"{'load over dd':28}{report['load_over_dd']:.2f}, aim {AIM}")
    for name, values in starts.items():
        print(f"{name:28}{told(values)}")
    tell(report, options.json)


def parse() -> argparse.Namespace:
    """Read the command line."""
    made = parser(__doc__)
    made.add_argument("--folder", type=Path, help="on the disk to measure; default: that of temporary files")
    made.add_argument("--blocks", type=int, default=3, help="default: %(default)s")
    made.add_argument("--heads", type=int, default=24, help="width / 128 (default: 24, as released)")
    made.add_argument("--direct", action="store_true", help="compare with dd iflag=direct too")
    made.add_argument("--repeats", type=int, default=4, help="default: %(default)s")
    made.add_argument("--threads", type=int, default=1, help="default: %(default)s")
    made.add_argument("--part", type=Path, help=argparse.SUPPRESS)
    return made.parse_args()


def write(options: argparse.Namespace, folder: Path) -> int:
    """Write the part of a checkpoint; return its bytes."""
    import torch

    from danqing.models.mmdit import MMDiT, MMDiTConfig

    config = MMDiTConfig(num_layers=options.blocks, num_attention_heads=options.heads)
    with torch.device("meta"):
        tensors = plain(MMDiT(config))
    check_space(folder, total_bytes([tensors]))
    write_random(folder, "diffusion_pytorch_model", tensors, seed=0)
    (folder / "config.json").write_text(json.dumps(dataclasses.asdict(config)), encoding="utf-8")
    return total_bytes([tensors])


def readings(options: argparse.Namespace, part: Path) -> dict[str, dict[str, list[float]]]:
    """Read the files with both, in turns, from a cold cache each time."""
    files = sorted(part.glob("*.safetensors"))
    arguments = ["--part", str(part), "--threads", str(options.threads)]
    works: dict[str, Callable[[], dict[str, float]]] = {
        "dd": lambda: read_with_dd(files),
        "danqing": lambda: run_fresh(__file__, arguments, threads=options.threads),
    }
    if options.direct:
        works["dd iflag=direct"] = lambda: read_with_dd(files, "iflag=direct")
    runs: dict[str, dict[str, list[float]]] = {name: {"seconds": [], "bytes_from_disk": []} for name in works}
    for turn in range(options.repeats):
        names = list(works)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            drop(files)
            for key, value in works[name]().items():
                runs[name][key].append(value)
    return runs


def drop(files: list[Path]) -> None:
    """Take files out of the page cache."""
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)  # pages that are still to be written would stay
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
    switch = Path("/proc/sys/vm/drop_caches")
    if os.access(switch, os.W_OK):
        switch.write_text("1")


def read_with_dd(files: list[Path], *flags: str) -> dict[str, float]:
    """Read files to nowhere; return seconds and bytes from the disk."""
    seconds, read = 0.0, 0
    for file in files:
        begun = time.perf_counter()
        command = ["dd", f"if={file}", "of=/dev/null", "bs=4M", *flags]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment(1))
        _, status, usage = os.wait4(process.pid, 0)
        seconds += time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"expected dd to read {file}, found exit code {process.returncode}")
        read += usage.ru_inblock * 512
    return {"seconds": seconds, "bytes_from_disk": read}


def load(options: argparse.Namespace) -> dict[str, float]:
    """Build the module in this process; return seconds and bytes from the disk."""
    import resource

    import torch

    from danqing.models.config import config_from_json
    from danqing.models.mmdit import MMDiT, MMDiTConfig
    from danqing.weights.build import build
    from danqing.weights.store import read_json

    torch.set_num_threads(options.threads)
    config = config_from_json(MMDiTConfig, read_json(options.part / "config.json"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_inblock
    begun = time.perf_counter()
    model = build(lambda: MMDiT(config), options.part, device=torch.device("cpu"), dtype=torch.bfloat16)
    seconds = time.perf_counter() - begun
    read = (resource.getrusage(resource.RUSAGE_SELF).ru_inblock - before) * 512
    if not all(bool(tensor.flatten()[-1].isfinite()) for tensor in model.parameters()):
        raise SystemExit("expected finite weights, found others")
    return {"seconds": seconds, "bytes_from_disk": read}


def ratio(runs: dict[str, dict[str, list[float]]]) -> float:
    """Return how many times as long as `dd` loading takes, by medians."""
    return spread(runs["danqing"]["seconds"])["median"] / spread(runs["dd"]["seconds"])["median"]


def started(options: argparse.Namespace) -> dict[str, list[float]]:
    """Start Python alone, with danqing and with its help, in turns; return the seconds over Python alone."""
    seconds: dict[str, list[float]] = {name: [] for name in STARTS}
    for turn in range(options.repeats + 1):
        for name, arguments in STARTS.items():
            run = run_timed([sys.executable, *arguments], threads=options.threads)
            if turn:
                seconds[name].append(run["seconds"])
    bare = spread(seconds["python"])["median"]
    over = {f"{name}, over bare": [v - bare for v in seconds[name]] for name in STARTS if name != "python"}
    return {"python": seconds["python"], **over}


if __name__ == "__main__":
    main()
