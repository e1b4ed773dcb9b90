"""Time and memory of decoding one picture: our VAE against AutoencoderKLQwenImage of diffusers.

    python benchmarks/vae_decode.py --size 512x512 --precision fp32 --precision bf16 --repeats 5
    python benchmarks/vae_decode.py --tile 16            # both sides decode in tiles

The released configuration with one set of random weights in both. Each repeat is a fresh process a side, the
sides alternate, and a side's number is the median of its repeats. CPU seconds are those of the decoding
process with `--threads` threads; they depend little on what else the machine does, wall-clock seconds much.
Memory is the peak of the resident set during the decode, less what was resident with the weights loaded
(Linux only). Pictures are compared with the reference's in fp32, in steps of 1/255.
"""

import argparse
import ctypes
import json
import statistics
import tempfile
import time
from pathlib import Path

from measuring import machine, parser, run_fresh, tell

SIDES = ("danqing", "diffusers")
PRECISIONS = ("fp32", "bf16")
MIB = 2**20


def main() -> None:
    """Compare both sides for every precision and print a table, then JSON."""
    options = parse()
    if options.side:
        print(json.dumps(decode(options)))
        return
    results = []
    with tempfile.TemporaryDirectory() as folder:
        options.folder = Path(folder)
        write_weights(options)
        for precision in options.precision or PRECISIONS:
            results.append(compare(options, precision))
            print(table(results[-1]))
    report = {
        "benchmark": "vae_decode",
        "size": options.size,
        "base_dim": options.base_dim,
        "tile": options.tile,
        "threads": options.threads,
        "repeats": options.repeats,
        "machine": machine(),
        "results": results,
    }
    tell(report, options.json)


def parse() -> argparse.Namespace:
    """Read the command line."""
    made = parser(__doc__)
    made.add_argument("--size", default="512x512", help="width x height in pixels (default: %(default)s)")
    made.add_argument("--precision", action="append", choices=PRECISIONS, help="default: both")
    made.add_argument("--tile", type=int, help="latents per side of a tile; default: whole")
    made.add_argument(
        "--repeats", type=int, default=5, help="processes a side and precision (default: %(default)s)"
    )
    made.add_argument("--threads", type=int, default=1, help="default: %(default)s")
    made.add_argument("--base-dim", type=int, default=96, help="width of the VAE (default: 96, as released)")
    made.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    made.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return made.parse_args()


def write_weights(options: argparse.Namespace) -> None:
    """Write random weights in the released layout, and latents, for both sides to read."""
    import torch
    from safetensors.torch import save_file

    from danqing.models.vae import VAE, VAEConfig, unfold

    torch.manual_seed(0)
    config = VAEConfig(base_dim=options.base_dim)
    state = unfold(config, VAE(config).state_dict())
    width, height = (int(side) // config.spatial_ratio for side in options.size.split("x"))
    latents = torch.randn(1, config.z_dim, height, width)
    save_file(
        {name: tensor.contiguous() for name, tensor in state.items()}, options.folder / "weights.safetensors"
    )
    save_file({"latents": latents}, options.folder / "latents.safetensors")


def compare(options: argparse.Namespace, precision: str) -> dict:
    """Run both sides alternately and return medians, ratios and the difference of the pictures."""
    runs: dict[str, list[dict]] = {side: [] for side in SIDES}
    for _ in range(options.repeats):
        for side in SIDES:
            runs[side].append(run_side(options, side, precision))
    medians = {
        side: {key: statistics.median(run[key] for run in some) for key in some[0]}
        for side, some in runs.items()
    }
    ours, theirs = (medians[side] for side in SIDES)
    return {
        "precision": precision,
        "median": medians,
        "peer_over_ours": {key: theirs[key] / ours[key] if ours[key] else None for key in ours},
        "largest_difference": {side: difference(options.folder, side, precision) for side in SIDES},
        "runs": runs,
    }


def run_side(options: argparse.Namespace, side: str, precision: str) -> dict:
    """Decode once in a fresh process."""
    arguments = ["--side", side, "--folder", str(options.folder), "--precision", precision]
    arguments += ["--threads", str(options.threads), "--base-dim", str(options.base_dim)]
    arguments += [] if options.tile is None else ["--tile", str(options.tile)]
    return run_fresh(__file__, arguments, threads=options.threads)


def decode(options: argparse.Namespace) -> dict:
    """Decode in this process and return seconds and bytes."""
    import torch
    from safetensors.torch import load_file, save_file

    torch.set_num_threads(options.threads)
    dtype = torch.float32 if options.precision[0] == "fp32" else torch.bfloat16
    weights = load_file(options.folder / "weights.safetensors")
    call = (ours if options.side == "danqing" else theirs)(options, weights, dtype)
    del weights
    latents = load_file(options.folder / "latents.safetensors")["latents"].to(dtype)
    with torch.no_grad():
        call(latents[..., :4, :4])  # libraries choose their kernels
        before = resident_peak(reset=True)
        cpu, wall = time.process_time(), time.perf_counter()
        pixels = call(latents)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        peak = resident_peak(reset=False)
    path = options.folder / f"{options.side}-{options.precision[0]}.safetensors"
    save_file({"pixels": pixels.float().contiguous()}, path)
    return {"cpu_seconds": cpu, "seconds": wall, "peak_bytes_over_weights": max(peak - before, 0)}


def ours(options, weights, dtype):
    """Return our decode as a function of normalised latents."""
    import torch

    from danqing.models.vae import VAE, VAEConfig, fold

    vae = VAE(VAEConfig(base_dim=options.base_dim))
    folded = {name: fold(name, tensor) for name, tensor in weights.items()}
    vae.load_state_dict({name: tensor for name, tensor in folded.items() if tensor is not None})
    vae = vae.to(dtype=dtype, memory_format=torch.channels_last).eval().requires_grad_(False)
    return lambda latents: vae.decode(latents, tile=options.tile)


def theirs(options, weights, dtype):
    """Return the reference's decode as a function of normalised latents."""
    import torch
    from diffusers import AutoencoderKLQwenImage

    vae = AutoencoderKLQwenImage(base_dim=options.base_dim)
    vae.load_state_dict(weights)
    vae = vae.to(dtype).eval().requires_grad_(False)
    if options.tile is not None:
        vae.enable_tiling()  # with tile sizes of its own
    shift, scale = (
        torch.tensor(values, dtype=dtype).view(1, -1, 1, 1, 1)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    return lambda latents: vae.decode(latents[:, :, None] * scale + shift, return_dict=False)[0][:, :, 0]


def resident_peak(*, reset: bool) -> int:
    """Return the peak of the resident set in bytes; `reset` first lowers it to what is resident now."""
    if reset:
        ctypes.CDLL(None).malloc_trim(0)  # what was freed is not resident any more
        Path("/proc/self/clear_refs").write_text("5")
    line = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def difference(folder: Path, side: str, precision: str) -> float | None:
    """Return how far a side's last picture is from the reference's in fp32, in steps of 1/255."""
    from safetensors.torch import load_file

    reference = folder / "diffusers-fp32.safetensors"
    if not reference.is_file():
        return None
    first, second = (
        load_file(path)["pixels"] for path in (folder / f"{side}-{precision}.safetensors", reference)
    )
    return float((first - second).abs().max()) * 127.5


def table(result: dict) -> str:
    """Return one precision's numbers for reading."""
    lines = [f"{result['precision']}: {'':10}{'cpu s':>9}{'wall s':>9}{'peak over weights':>20}"]
    for side, row in result["median"].items():
        memory = f"{row['peak_bytes_over_weights'] / MIB:,.0f} MiB"
        lines.append(f"      {side:10}{row['cpu_seconds']:9.2f}{row['seconds']:9.2f}{memory:>20}")
    times = {key: f"{value:.2f}x" if value else "-" for key, value in result["peer_over_ours"].items()}
    ratios = f"{times['cpu_seconds']:>9}{times['seconds']:>9}{times['peak_bytes_over_weights']:>20}"
    lines.append(f"      {'ratio':10}{ratios}")
    for side, steps in result["largest_difference"].items():
        if steps is not None:
            lines.append(f"      {side:10} at most {steps:.4f}/255 from the reference in fp32")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
