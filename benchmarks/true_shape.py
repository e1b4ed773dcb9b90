"""Proof that a checkpoint of true shape draws within a budget of memory, and the same picture in each.

    python benchmarks/true_shape.py --folder DISK                        # 34 GB of disk, one after the other
    python benchmarks/true_shape.py --folder DISK --release qwen-image --memory 16GB --memory 8GB
    python benchmarks/true_shape.py --folder DISK --blocks 2 --layers 2  # true width, few blocks: a rehearsal

Random weights take the place of the released ones: denoiser and conditioner of Qwen-Image in int8, of 2.1 in
bf16, the autoencoders in bf16, under the released names and in the released sizes. They are written as a
stream from a seed, after a look at the free disk, and removed when all is done, when something fails and when
the command is interrupted. Then the command line draws a picture from text, guided, as a user would, once for
each budget. The peak is that of the anonymous memory of its process, looked at from outside (Linux only):
pages of files, which the kernel takes back when it likes, do not count. Pictures have to be equal, byte by
byte, and not all of one colour; the peak has to be within the budget, and within 10 % or 300 MB of what the
plan said. The last lines are a table for docs/log.md; exit code 1 says that a check failed.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from measuring import AnonymousPeak, environment, machine, markdown, origin, parser, tell
from PIL import Image
from random_checkpoint import Random, check_space, like, plain, quantised, total_bytes, write_random

PROMPT = "a red apple on a blue table"
RELEASES = ("qwen-image", "2.1")
FREE = "free"
"""The budget that is the command line's own: what is free."""
NEAR, NEAR_BYTES = 0.10, 300 * 10**6
HEAD = ("release", "budget", "plan", "measured", "off by", "CPU", "wall", "picture")


def main() -> None:
    """Write, draw and remove one release after the other; print what was found."""
    options = parse()
    for name in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, lambda number, frame: sys.exit(128 + number))  # so that folders are removed
    print(origin(options.threads), flush=True)
    results = [prove(options, release) for release in options.release or RELEASES]
    report = {
        "benchmark": "true_shape",
        "blocks": options.blocks,
        "layers": options.layers,
        "tiny": options.tiny,
        "size": options.size,
        "steps": options.steps,
        "threads": options.threads,
        "machine": machine(),
        "releases": results,
    }
    if options.json is not None:
        tell(report, options.json)
    print(markdown(HEAD, [row for result in results for row in rows(result)]))
    failed = [failure for result in results for failure in result["failures"]]
    for failure in failed:
        print(f"failed: {failure}")
    sys.exit(1 if failed else 0)


def parse() -> argparse.Namespace:
    """Read the command line."""
    made = parser(__doc__)
    made.add_argument("--folder", type=Path, help="on a disk with room; default: that of temporary files")
    made.add_argument("--release", action="append", choices=RELEASES, help="default: both")
    made.add_argument(
        "--memory",
        action="append",
        metavar="BUDGET",
        help=f"as danqing takes it, or {FREE} for its default; repeatable (default: 16GB and 8GB)",
    )
    made.add_argument("--size", default="512x512", help="default: %(default)s")
    made.add_argument("--steps", type=int, default=2, help="default: %(default)s")
    made.add_argument("--blocks", type=int, help="of the denoiser; default: all")
    made.add_argument("--layers", type=int, help="of the conditioner's language tower; default: all")
    made.add_argument("--tiny", action="store_true", help="everything narrow too, which proves no shape")
    made.add_argument("--threads", type=int, default=os.cpu_count(), help="default: %(default)s")
    return made.parse_args()


def prove(options: argparse.Namespace, release: str) -> dict[str, Any]:
    """Write one checkpoint, draw with every budget, and remove it."""
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="true-shape-") as place:
        folder = Path(place) / release
        checkpoint = (checkpoint_1 if release == "qwen-image" else checkpoint_21)(options)
        needed = total_bytes(checkpoint.tensors.values())
        check_space(Path(place), needed)
        began = time.perf_counter()
        write(folder, checkpoint)
        seconds = time.perf_counter() - began
        print(f"{release}: wrote {needed / 1e9:.2f} GB in {seconds:.0f} s", flush=True)
        runs = {}
        for budget in options.memory or ("16GB", "8GB"):
            runs[budget] = draw(options, folder, budget, Path(place) / f"{budget}.png")
            print(f"{release} {budget}: {json.dumps(runs[budget])}", flush=True)
        pictures = {budget: np.asarray(Image.open(Path(place) / f"{budget}.png")) for budget in runs}
    first = next(iter(pictures.values()))
    for budget, run in runs.items():
        run["deviation"] = float(pictures[budget].std())
        run["same"] = bool(np.array_equal(pictures[budget], first))
    return {
        "release": release,
        "bytes": needed,
        "write_seconds": seconds,
        "runs": runs,
        "failures": failures(release, runs),
    }


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Configs, and for each part of the released layout the tensors to be drawn."""

    transformer: Any
    vae: Any
    text_encoder: Any
    tensors: dict[str, dict[str, Random]]


def checkpoint_1(options: argparse.Namespace) -> Checkpoint:
    """Return Qwen-Image: the large matrices of denoiser and conditioner in int8."""
    import torch

    from danqing.models.mmdit import MMDiT, MMDiTConfig
    from danqing.models.quantised import large_layers
    from danqing.models.vae import VAE, VAEConfig, unfold
    from danqing.models.vlm import VLM
    from danqing.models.vlm_config import VisionConfig, VLMConfig

    transformer, vae, encoder = MMDiTConfig(), VAEConfig(), VLMConfig()
    if options.tiny:
        transformer = replace(transformer, num_attention_heads=2, joint_attention_dim=256, num_layers=2)
        vae = VAEConfig(base_dim=8)
        eyes = VisionConfig(dim=64, hidden_dim=64, num_layers=2, out_dim=256, full_attention_layers=(1,))
        encoder = replace(
            encoder, dim=256, hidden_dim=512, num_layers=2, num_heads=2, num_kv_heads=1, vision=eyes
        )
    transformer = replace(transformer, num_layers=options.blocks or transformer.num_layers)
    encoder = replace(encoder, num_layers=options.layers or encoder.num_layers)
    with torch.device("meta"):
        network, reader = plain(MMDiT(transformer)), plain(VLM(encoder))
        pixels = unfold(vae, VAE(vae).state_dict())
    small = [
        quantised(tensors, large_layers({name: tensor.shape for name, tensor in tensors.items()}))
        for tensors in (network, reader)
    ]
    return Checkpoint(
        transformer=transformer,
        vae=vae,
        text_encoder=encoder,
        tensors={
            "transformer": small[0],
            "vae": {name: like(name, tuple(tensor.shape)) for name, tensor in pixels.items()},
            "text_encoder": small[1],
        },
    )


def checkpoint_21(options: argparse.Namespace) -> Checkpoint:
    """Return Qwen-Image 2.1: everything in bf16."""
    import torch

    from danqing.models.qwen3_vl import Qwen3VL
    from danqing.models.qwen3_vl_config import Qwen3VisionConfig, Qwen3VLConfig
    from danqing.models.single_stream import SingleStream, SingleStreamConfig
    from danqing.models.vae21 import VAE21, VAE21Config, unfold

    transformer, vae, encoder = SingleStreamConfig(), VAE21Config(), Qwen3VLConfig()
    if options.tiny:
        transformer = replace(transformer, num_attention_heads=2, context_in_dim=256, num_layers=2)
        vae = VAE21Config(base_dim=8, decoder_base_dim=8)
        eyes = Qwen3VisionConfig(dim=64, hidden_dim=64, num_layers=2, out_dim=256, deepstack_layers=(0,))
        encoder = replace(
            encoder, dim=256, hidden_dim=512, num_layers=2, num_heads=2, num_kv_heads=1, vision=eyes
        )
    transformer = replace(transformer, num_layers=options.blocks or transformer.num_layers)
    layers, eyes = options.layers or encoder.num_layers, encoder.vision
    eyes = replace(eyes, deepstack_layers=eyes.deepstack_layers[:layers])  # each feeds a language layer
    encoder = replace(encoder, num_layers=layers, vision=eyes)
    with torch.device("meta"):
        network, reader = plain(SingleStream(transformer)), plain(Qwen3VL(encoder))
        pixels = unfold(vae, VAE21(vae).state_dict())
    return Checkpoint(
        transformer=transformer,
        vae=vae,
        text_encoder=encoder,
        tensors={
            "transformer": network,
            "vae": {name: like(name, tuple(tensor.shape)) for name, tensor in pixels.items()},
            "text_encoder": reader,
        },
    )


def write(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint in the released layout, with the tokenizer of nano, whose numbers are few enough."""
    from danqing.conditioning.pictures import save_processor
    from danqing.conditioning.tokenizer import Tokenizer
    from danqing.model import find_checkpoint
    from danqing.sampling.schedule import ScheduleConfig
    from danqing.weights.layouts import Folder, write_folder

    write_folder(
        folder,
        transformer=(checkpoint.transformer, {}),
        vae=(checkpoint.vae, {}),
        text_encoder=(checkpoint.text_encoder, {}),
        schedule=ScheduleConfig(),
        folded_vae=True,  # there is nothing to unfold: the weights come below
    )
    for empty in folder.rglob("*.safetensors"):
        empty.unlink()
    for seed, (part, tensors) in enumerate(checkpoint.tensors.items()):
        stem = "model" if part == "text_encoder" else "diffusion_pytorch_model"
        write_random(folder / part, stem, tensors, seed=seed)
    tokenizer = Tokenizer.load(find_checkpoint("nano").tokenizer)
    made = Folder(folder)
    if made.is_21:
        save_processor(made.tokenizer, tokenizer, checkpoint.text_encoder.vision)
    else:
        tokenizer.save(made.tokenizer)


def draw(options: argparse.Namespace, folder: Path, budget: str, out: Path) -> dict[str, Any]:
    """Draw with the command line in a process of its own; return its plan, its peak and its seconds."""
    command = [sys.executable, "-m", "danqing", "generate", PROMPT, "--model", str(folder)]
    command += ["--size", options.size, "--steps", str(options.steps), "--guidance", "4", "--seed", "7"]
    command += ["--device", "cpu", "--precision", "bf16", "--threads", str(options.threads)]
    command += [] if budget == FREE else ["--memory", budget]
    plan = planned([*command, "--dry-run", "--json"], options.threads)
    began = time.perf_counter()
    process = subprocess.Popen(
        [*command, "-o", str(out)], env=environment(options.threads), stdout=subprocess.DEVNULL
    )
    try:
        with AnonymousPeak(process.pid) as peak:
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    finally:
        if process.returncode is None:  # interrupted
            process.kill()
            process.wait()
    if process.returncode:
        raise SystemExit(f"expected a picture, found exit code {process.returncode}: {' '.join(command)}")
    return {
        "planned_bytes": plan["peak"],
        "budget_bytes": plan["budget"],
        "peak_bytes": peak.bytes,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "seconds": time.perf_counter() - began,
    }


def planned(command: list[str], threads: int) -> dict[str, Any]:
    """Return the plan that a command would follow."""
    done = subprocess.run(command, env=environment(threads), stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"expected a plan, found exit code {done.returncode}: {' '.join(command)}")
    plan: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return plan


def failures(release: str, runs: dict[str, dict[str, Any]]) -> list[str]:
    """Return what the runs of a release did not keep."""
    found = []
    for budget, run in runs.items():
        name, peak, plan = f"{release} {budget}", run["peak_bytes"], run["planned_bytes"]
        if run["deviation"] == 0:
            found.append(f"{name}: the picture is of one colour")
        if not run["same"]:
            found.append(f"{name}: the picture is another than with {next(iter(runs))}")
        if peak > run["budget_bytes"]:
            found.append(f"{name}: the peak of {peak / 1e9:.2f} GB is over the budget")
        if abs(peak - plan) > max(NEAR * peak, NEAR_BYTES):
            found.append(f"{name}: the plan said {plan / 1e9:.2f} GB, measured {peak / 1e9:.2f} GB")
    return found


def rows(result: dict[str, Any]) -> list[list[str]]:
    """Return the lines of a release for the table."""
    title = f"{result['release']}, {result['bytes'] / 1e9:.1f} GB"
    found = []
    for budget, run in result["runs"].items():
        peak, plan = run["peak_bytes"], run["planned_bytes"]
        sizes = [f"{plan / 1e9:.2f} GB", f"{peak / 1e9:.2f} GB", f"{(plan - peak) / peak:+.1%}"]
        times = [f"{run['cpu_seconds']:.0f} s", f"{run['seconds']:.0f} s"]
        found.append([title, budget, *sizes, *times, "equal" if run["same"] else "another"])
    return found


if __name__ == "__main__":
    main()
