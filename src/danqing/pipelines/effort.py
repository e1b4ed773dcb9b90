"""How long drawing will take, as an estimate: arithmetic over a rate, and bytes from disk over another."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch

from danqing.pipelines.footprint import decoded_share, tokens_of
from danqing.pipelines.part_sizes import PartSizes
from danqing.pipelines.wishes import Wishes
from danqing.weights.file_names import Part
from danqing.weights.layouts import Folder
from danqing.weights.plan import MemoryPlan

_SECONDS = 0.2
_READ = 256 * 2**20
_AT_ONCE = 16 * 2**20
# What networks reach of the rate of a bare product of matrices; norms, attention and gates take time too.
_REACHED = 0.8
# Reading beside computing takes bandwidth of memory and some of a core.
_LOST = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Rates of a machine."""

    compute: float
    """Operations a second of large matrix products in the precision of the plan."""
    reading: float
    """Bytes a second from the disk with the checkpoint to where it computes."""


NOMINAL: Mapping[str, Speed] = {
    "cpu": Speed(compute=0.5e12, reading=1e9),
    "cuda": Speed(compute=150e12, reading=3e9),
    "mps": Speed(compute=10e12, reading=3e9),
}
"""Rates by which plans are chosen, so that a plan does not depend on what else a machine does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """Seconds, as estimates."""

    step: float
    """One denoising step of one group of pictures."""
    picture: float
    """One more picture, the checkpoint being loaded: reading what was dropped, all steps, decoding."""
    streamed: int
    """Bytes that are read from disk in each step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Operations of what is wished for."""

    step: float
    """One step of one picture, both branches of guidance."""
    decode: Mapping[int | None, float]
    """Decoding one picture, by the side of the tiles."""


def work(
    folder: Folder, sizes: Mapping[Part, PartSizes], wishes: Wishes, tiles: Sequence[int | None]
) -> Work:
    """Count the operations of drawing one picture."""
    whole = decode_operations(folder, sizes["vae"], wishes)
    return Work(
        step=step_operations(folder, sizes["transformer"], wishes),
        decode={tile: whole * decoded_share(folder.vae_config(), wishes.size, tile) for tile in tiles},
    )


def effort(
    work: Work, sizes: Mapping[Part, PartSizes], wishes: Wishes, plan: MemoryPlan, speed: Speed
) -> Effort:
    """Estimate what a plan takes; what is streamed is read while the machine computes."""
    denoiser, encoder = sizes["transformer"], sizes["text_encoder"]
    streamed = denoiser.streamed(plan.transformer).disk
    computing, reading = work.step / speed.compute, streamed / speed.reading
    step = max(computing, reading) + _LOST * min(computing, reading)
    again = denoiser.read_again(plan.transformer) + encoder.read_again(plan.text_encoder)
    if not plan.modulation_kept:
        again += denoiser.table_layers.disk
    again += (2 if wishes.guided else 1) * encoder.streamed(plan.text_encoder).disk
    again += sizes["vae"].read_again(plan.vae) * (2 if wishes.references or wishes.starts else 1)
    decode = (wishes.layers or 1) * work.decode[plan.vae_tile] / speed.compute
    return Effort(step=step, picture=wishes.steps * step + again / speed.reading + decode, streamed=streamed)


def step_operations(folder: Folder, denoiser: PartSizes, wishes: Wishes) -> float:
    """Return the floating-point operations of one step of one picture, both branches of guidance.

    A token meets each weight of a block once: two operations a weight, half of them in 1.x, where text and
    picture have their own. Attention is 4 tokens x keys x width a block: 69.3 T for 1024 x 1024 and 64 tokens
    of text in Qwen-Image.
    """
    dim, layers = folder.transformer_config().dim, len(denoiser.blocks)
    vae = folder.vae_config()
    target = wishes.frames * tokens_of(vae, wishes.size)
    looked = sum(tokens_of(vae, size) for size in wishes.references)
    branches = 2 if wishes.guided else 1
    if folder.is_21:  # text and references are read once, not in each step
        keys = target + looked + wishes.prompt_tokens
        return branches * layers * (26.0 * dim**2 * target + 4.0 * target * keys * dim)
    tokens = target + looked + wishes.prompt_tokens
    return branches * layers * (24.0 * dim**2 * tokens + 4.0 * tokens**2 * dim)


def decode_operations(folder: Folder, vae: PartSizes, wishes: Wishes) -> float:
    """Return the operations of decoding one picture whole: two a weight and position."""
    latents = prod(wishes.size) / folder.vae_config().spatial_ratio ** 2
    found = 0.0
    for name, shape in vae.shapes.items():
        if not name.startswith("decoder.") or len(shape) != 4:
            continue
        level = int(name.split(".")[2]) if name.startswith("decoder.up_blocks.") else 0
        if name == "decoder.conv_out.weight":
            level = len(folder.vae_config().dim_mult) - 1
        found += 2 * prod(shape) * latents * 4**level
    return found


def measured_speed(folder: Folder, device: torch.device, dtype: torch.dtype) -> Speed:
    """Measure for a fraction of a second how fast this machine multiplies matrices and reads the checkpoint.

    What lies in the cache of the system is read faster than a disk could.
    """
    return Speed(compute=_REACHED * _product_rate(device, dtype), reading=_reading_rate(folder))


def _product_rate(device: torch.device, dtype: torch.dtype) -> float:
    side = 1024 if device.type == "cpu" else 4096
    left, right = (torch.full((side, side), 0.5, device=device, dtype=dtype) for _ in range(2))

    def run() -> None:
        torch.mm(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    run()
    done, began = 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < _SECONDS:
        run()
        done += 1
    return 2.0 * side**3 * done / passed


def _reading_rate(folder: Folder) -> float:
    files = sorted((folder.path / "transformer").glob("*.safetensors")) or [folder.path / "model_index.json"]
    largest: Path = max(files, key=lambda file: file.stat().st_size)
    buffer = bytearray(_AT_ONCE)
    descriptor = os.open(largest, os.O_RDONLY)
    try:
        began, read = time.perf_counter(), 0
        while read < _READ and time.perf_counter() - began < _SECONDS:
            found = os.preadv(descriptor, [buffer], read) if hasattr(os, "preadv") else 0
            if not found:
                break
            read += found
        passed = time.perf_counter() - began
    finally:
        os.close(descriptor)
    return read / passed if read >= _AT_ONCE else NOMINAL["cpu"].reading
