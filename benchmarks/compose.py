"""Scenes a second of the renderer and of the batched compositor, side by side on the same scenes.

    python benchmarks/compose.py
    python benchmarks/compose.py --atlas atlas.safetensors --count 4096 --size 256 --json compose.json

Seconds are CPU seconds of this process with one thread, so other work on the machine counts little. Each is
the median over rounds; both draw the same scenes, and their largest difference is printed too. On CUDA, give
`--device cuda`: seconds are then wall time after a round that does not count.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from measuring import machine, parser, tell

from danqing.data.atlas import Atlas, packaged_atlas
from danqing.data.world import Scene, render, sample_scene
from danqing.data.world.compose import compose


def main() -> None:
    """Time sampling, rendering and composing; print a table, then JSON."""
    options = parse()
    torch.set_num_threads(1)
    atlas = packaged_atlas() if options.atlas is None else Atlas.load(options.atlas)
    batches = [
        scenes(atlas, number, min(options.batch, options.count))
        for number in range(-(-options.count // options.batch))
    ]

    def composed() -> None:
        for batch in batches:
            compose(batch, atlas, options.size, device=options.device)
        if options.device != "cpu":
            torch.cuda.synchronize()

    first = compose(batches[0], atlas, options.size, device=options.device).cpu().permute(0, 2, 3, 1).numpy()
    truth = np.stack([render(scene, atlas, options.size) for scene in batches[0]])
    clock = time.process_time if options.device == "cpu" else time.perf_counter
    total = sum(map(len, batches))
    rates = {
        "sample": rate(lambda: [scenes(atlas, 0, len(b)) for b in batches], total, options.rounds, clock),
        "render": rate(
            lambda: [render(s, atlas, options.size) for b in batches for s in b], total, options.rounds, clock
        ),
        "compose": rate(composed, total, options.rounds, clock),
    }
    report = {
        "benchmark": "compose",
        "size": options.size,
        "sprites": atlas.size,
        "scenes": total,
        "device": options.device,
        "machine": machine(),
        "scenes_per_second": {name: round(value, 1) for name, value in rates.items()},
        "compose_over_render": round(rates["compose"] / rates["render"], 2),
        "largest_difference": int(np.abs(first.astype(int) - truth.astype(int)).max()),
    }
    for name, value in rates.items():
        print(f"{name:8} {value:8.0f} scenes/s")
    print(
        f"compose is {report['compose_over_render']} times as fast; differs by {report['largest_difference']}"
    )
    tell(report, options.json)


def scenes(atlas: Atlas, seed: int, count: int) -> list[Scene]:
    """Draw scenes of the default mix."""
    rng = np.random.default_rng(seed)
    return [sample_scene(rng, atlas) for _ in range(count)]


def rate(work: Callable[[], object], count: int, rounds: int, clock: Callable[[], float]) -> float:
    """Return scenes a second, the median over rounds after one that fills caches."""
    work()
    seconds = []
    for _ in range(rounds):
        started = clock()
        work()
        seconds.append(clock() - started)
    return count / statistics.median(seconds)


def parse() -> argparse.Namespace:
    """Read the command line."""
    made = parser(__doc__)
    made.add_argument("--atlas", type=Path, metavar="FILE", help="default: the package's")
    made.add_argument("--count", type=int, default=1024, help="scenes (default: %(default)s)")
    made.add_argument("--batch", type=int, default=64, help="default: %(default)s")
    made.add_argument("--size", type=int, default=128, help="default: %(default)s")
    made.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    made.add_argument("--device", default="cpu", help="default: %(default)s")
    return made.parse_args()


if __name__ == "__main__":
    main()
