"""Seconds a picture with a small checkpoint: the cold command, where its time goes, and a warm model.

    python benchmarks/nano.py --repeats 5
    python benchmarks/nano.py --model FOLDER --steps 8 --threads 1 --json nano.json

The cold command is `python -m danqing PROMPT` as a user types it, in a fresh process each time, with the peak
of its memory. The split comes from fresh processes too, which do the same work stage by stage. Warm pictures
are drawn by one loaded model, after one that does not count. All numbers are medians.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from measuring import machine, parser, run_fresh, run_timed, tell

PROMPT = "a red apple on a blue background"
STAGES = ("import", "load", "encode", "denoise", "decode")


def main() -> None:
    """Measure the command, its stages and a warm model; print a table, then JSON."""
    options = parse()
    if options.probe:
        print(json.dumps(probe(options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        commands = [run_command(options, Path(folder) / f"{n}.png") for n in range(options.repeats)]
    probes = [run_probe(options) for _ in range(options.repeats)]
    report = {
        "benchmark": "nano",
        "model": options.model,
        "prompt": PROMPT,
        "steps": options.steps,
        "size": probes[0]["size"],
        "threads": options.threads,
        "repeats": options.repeats,
        "machine": machine(),
        "command": medians(commands),
        "cold_stages": medians([one["cold"] for one in probes]),
        "warm_stages": medians([warm for one in probes for warm in one["warm"]]),
        "runs": {"commands": commands, "probes": probes},
    }
    print(table(report))
    tell(report, options.json)


def parse() -> argparse.Namespace:
    """Read the command line."""
    made = parser(__doc__)
    made.add_argument("--model", default="nano", help="shipped name or folder (default: %(default)s)")
    made.add_argument("--repeats", type=int, default=5, help="default: %(default)s")
    made.add_argument("--steps", type=int, help="default: the checkpoint's own")
    made.add_argument("--threads", type=int, default=1, help="default: %(default)s")
    made.add_argument("--probe", action="store_true", help=argparse.SUPPRESS)
    return made.parse_args()


def run_command(options: argparse.Namespace, out: Path) -> dict:
    """Time the command as a user types it, in a fresh process."""
    command = [sys.executable, "-m", "danqing", "generate", PROMPT, "--model", options.model]
    command += ["--seed", "7", "-o", str(out)]
    command += [] if options.steps is None else ["--steps", str(options.steps)]
    done = run_timed(command, threads=options.threads)
    if not out.is_file():
        raise SystemExit(f"expected a picture, found none: {' '.join(command)}")
    return done


def run_probe(options: argparse.Namespace) -> dict:
    """Time the stages in a fresh process."""
    arguments = ["--probe", "--model", options.model]
    arguments += ["--repeats", str(options.repeats), "--threads", str(options.threads)]
    arguments += [] if options.steps is None else ["--steps", str(options.steps)]
    return run_fresh(__file__, arguments, threads=options.threads)


def probe(options: argparse.Namespace) -> dict:
    """Import, load and draw in this process, then draw again, timing each stage."""
    started = time.perf_counter()
    import torch

    import danqing
    from danqing.model import load

    torch.set_num_threads(options.threads)
    imported = time.perf_counter()
    model = load(options.model)
    loaded = time.perf_counter()
    cold = {"import": imported - started, "load": loaded - imported, **draw(model, options.steps, 7)}
    cold["seconds"] = sum(cold.values())
    assert danqing.__version__
    warm = [draw(model, options.steps, 8 + repeat) for repeat in range(options.repeats)]
    for row in warm:
        row["seconds"] = sum(row.values())
    return {"cold": cold, "warm": warm, "size": list(model.info.size)}


def draw(model, steps: int | None, seed: int) -> dict[str, float]:
    """Draw one picture; the stages end where the text encoder returns and where the VAE begins."""
    marks: dict[str, float] = {}
    parts = model.components
    hooks = [
        parts.vlm.register_forward_hook(lambda *_: marks.__setitem__("encoded", time.perf_counter())),
        parts.vae.post_quant_conv.register_forward_pre_hook(
            lambda *_: marks.__setitem__("denoised", time.perf_counter())
        ),
    ]
    started = time.perf_counter()
    model.generate(PROMPT, seed=seed, steps=steps)
    ended = time.perf_counter()
    for hook in hooks:
        hook.remove()
    return {
        "encode": marks["encoded"] - started,
        "denoise": marks["denoised"] - marks["encoded"],
        "decode": ended - marks["denoised"],
    }


def medians(rows: list[dict]) -> dict[str, float]:
    """Return the median of every number."""
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}


def table(report: dict) -> str:
    """Return the numbers for reading."""
    command = report["command"]
    lines = [
        f"cold command  {command['seconds']:.2f} s  ({command['cpu_seconds']:.2f} s CPU, "
        f"peak {command['peak_bytes'] / 2**20:,.0f} MiB)",
        f"{'':14}" + "".join(f"{stage:>9}" for stage in (*STAGES, "sum")),
    ]
    for name, row in (("cold stages", report["cold_stages"]), ("warm stages", report["warm_stages"])):
        cells = [f"{row[stage]:9.3f}" if stage in row else f"{'':9}" for stage in (*STAGES, "seconds")]
        lines.append(f"{name:14}" + "".join(cells))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
