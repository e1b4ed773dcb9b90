"""Time and memory of the autoencoder on one picture: ours against AutoencoderKLQwenImage of diffusers.

    python benchmarks/vae.py
    python benchmarks/vae.py --size 512x512 --work decode --precision fp32 --repeats 5
    python benchmarks/vae.py --work decode --tile 16            # both sides decode in tiles

The released configuration with one set of random weights in both. Each repeat is a fresh process a side, the
sides alternate, and a side's number is the median of its repeats. CPU seconds are those of the measured call
with `--threads` threads; they depend little on what else the machine does, wall-clock seconds much. Memory is
the peak of the resident set during the call, less what was resident with the weights loaded (Linux only).
Results, the normalised mode of the latents or the picture, are compared with the reference's in fp32:
pictures in steps of 1/255, latents as they are.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from measuring import machine, origin, parser, resident_peak, run_fresh, spread, tell

SIDES = ("danqing", "diffusers")
PRECISIONS = ("fp32", "bf16")
WORKS = ("encode", "decode")
SIZES = ("512x512", "1024x1024")
TARGETS = {"decode": {"cpu_seconds": 2.2, "peak_bytes_over_weights": 2.5}}
"""How many times as much as ours diffusers is to need."""
MIB = 2**20


def main() -> None:
    """Compare both sides at every size, work and precision; print tables, then JSON."""
    options = parse()
    if options.side:
        print(json.dumps(measure(options)))
        return
    print(origin(options.threads))
    results = []
    with tempfile.TemporaryDirectory() as folder:
        options.folder = Path(folder)
        write_weights(options)
        for size in options.size or SIZES:
            write_inputs(options, size)
            for work in options.work or WORKS:
                for precision in options.precision or PRECISIONS:
                    results.append(compare(options, size, work, precision))
                    print(table(results[-1]), flush=True)
    report = {
        "benchmark": "vae",
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
    made.add_argument(
        "--size", action="append", help="width x height in pixels; default: 512 and 1024 squared"
    )
    made.add_argument("--work", action="append", choices=WORKS, help="default: both")
    made.add_argument("--precision", action="append", choices=PRECISIONS, help="default: both")
    made.add_argument("--tile", type=int, help="latents per side of a tile when decoding; default: whole")
    made.add_argument("--repeats", type=int, default=3, help="processes a side (default: %(default)s)")
    made.add_argument("--threads", type=int, default=1, help="default: %(default)s")
    made.add_argument("--base-dim", type=int, default=96, help="width of the VAE (default: 96, as released)")
    made.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    made.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return made.parse_args()


def write_weights(options: argparse.Namespace) -> None:
    """Write random weights in the released layout for both sides to read."""
    import torch
    from safetensors.torch import save_file

    from danqing.models.vae import VAE, VAEConfig, unfold

    torch.manual_seed(0)
    config = VAEConfig(base_dim=options.base_dim)
    state = unfold(config, VAE(config).state_dict())
    save_file(
        {name: tensor.contiguous() for name, tensor in state.items()}, options.folder / "weights.safetensors"
    )


def write_inputs(options: argparse.Namespace, size: str) -> None:
    """Write a picture and latents of a size."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(1)
    width, height = (int(side) for side in size.split("x"))
    inputs = {
        "encode": torch.rand(1, 3, height, width) * 2 - 1,
        "decode": torch.randn(1, 16, height // 8, width // 8),
    }
    save_file(inputs, options.folder / "inputs.safetensors")


def compare(options: argparse.Namespace, size: str, work: str, precision: str) -> dict:
    """Run both sides alternately and return medians, ratios and how far the results are apart."""
    runs: dict[str, list[dict]] = {side: [] for side in SIDES}
    for _ in range(options.repeats):
        for side in SIDES:
            runs[side].append(run_side(options, side, work, precision))
    told = {side: {key: spread([run[key] for run in some]) for key in some[0]} for side, some in runs.items()}
    mine, other = (told[side] for side in SIDES)
    return {
        "size": size,
        "work": work,
        "precision": precision,
        "runs": told,
        "peer_over_ours": {
            key: other[key]["median"] / mine[key]["median"] if mine[key]["median"] else None for key in mine
        },
        "largest_difference": {side: difference(options.folder, side, work, precision) for side in SIDES},
    }


def run_side(options: argparse.Namespace, side: str, work: str, precision: str) -> dict:
    """Encode or decode once in a fresh process."""
    arguments = ["--side", side, "--folder", str(options.folder), "--work", work, "--precision", precision]
    arguments += ["--threads", str(options.threads), "--base-dim", str(options.base_dim)]
    arguments += [] if options.tile is None else ["--tile", str(options.tile)]
    return run_fresh(__file__, arguments, threads=options.threads)


def measure(options: argparse.Namespace) -> dict:
    """Encode or decode in this process and return seconds and bytes."""
    import torch
    from safetensors.torch import load_file, save_file

    torch.set_num_threads(options.threads)
    work, precision = options.work[0], options.precision[0]
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    weights = load_file(options.folder / "weights.safetensors")
    call = (ours if options.side == "danqing" else theirs)(options, weights, dtype)[work]
    del weights
    given = load_file(options.folder / "inputs.safetensors")[work].to(dtype)
    with torch.no_grad():
        few = 32 if work == "encode" else 4
        call(given[..., :few, :few])  # libraries choose their kernels
        before = resident_peak(reset=True)
        cpu, wall = time.process_time(), time.perf_counter()
        result = call(given)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        peak = resident_peak(reset=False)
    save_file({"result": result.float().contiguous()}, kept(options.folder, options.side, work, precision))
    return {"cpu_seconds": cpu, "seconds": wall, "peak_bytes_over_weights": max(peak - before, 0)}


def ours(options, weights, dtype) -> dict[str, Callable]:
    """Return our two directions as functions of pixels and of normalised latents."""
    import torch

    from danqing.models.vae import VAE, VAEConfig, fold

    vae = VAE(VAEConfig(base_dim=options.base_dim))
    folded = {name: fold(name, tensor) for name, tensor in weights.items()}
    vae.load_state_dict({name: tensor for name, tensor in folded.items() if tensor is not None})
    vae = vae.to(dtype=dtype, memory_format=torch.channels_last).eval().requires_grad_(False)
    return {"encode": vae.encode, "decode": lambda latents: vae.decode(latents, tile=options.tile)}


def theirs(options, weights, dtype) -> dict[str, Callable]:
    """Return the reference's two directions as functions of pixels and of normalised latents."""
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

    def encode(pixels):
        return ((vae.encode(pixels[:, :, None]).latent_dist.mode() - shift) / scale)[:, :, 0]

    def decode(latents):
        return vae.decode(latents[:, :, None] * scale + shift, return_dict=False)[0][:, :, 0]

    return {"encode": encode, "decode": decode}


def kept(folder: Path, side: str, work: str, precision: str) -> Path:
    """Return where a side leaves its last result."""
    return folder / f"{side}-{work}-{precision}.safetensors"


def difference(folder: Path, side: str, work: str, precision: str) -> float | None:
    """Return how far a side's last result is from the reference's in fp32; pictures in steps of 1/255."""
    from safetensors.torch import load_file

    reference = kept(folder, "diffusers", work, "fp32")
    if not reference.is_file():
        return None
    first, second = (load_file(path)["result"] for path in (kept(folder, side, work, precision), reference))
    if first.shape != second.shape:  # the reference's is from another size
        return None
    return float((first - second).abs().max()) * (127.5 if work == "decode" else 1)


def table(result: dict) -> str:
    """Return the numbers of one comparison for reading."""
    title = f"{result['work']} {result['size']} {result['precision']}"
    lines = [f"{title:26}{'cpu s':>24}{'wall s':>24}{'peak over weights':>20}"]
    for side, row in result["runs"].items():
        times = "".join(
            f"{row[key]['median']:>10.2f} ({row[key]['low']:.2f}-{row[key]['high']:.2f})".rjust(24)
            for key in ("cpu_seconds", "seconds")
        )
        memory = f"{row['peak_bytes_over_weights']['median'] / MIB:,.0f} MiB"
        lines.append(f"  {side:24}{times}{memory:>20}")
    ratios = {key: f"{value:.2f}x" if value else "-" for key, value in result["peer_over_ours"].items()}
    aims = TARGETS.get(result["work"], {})
    aim = "".join(f", aim {value} {key.split('_')[0]}" for key, value in aims.items())
    lines.append(
        f"  {'diffusers over danqing':24}{ratios['cpu_seconds']:>24}{ratios['seconds']:>24}"
        f"{ratios['peak_bytes_over_weights']:>20}{aim}"
    )
    unit = "/255" if result["work"] == "decode" else ""
    for side, error in result["largest_difference"].items():
        if error is not None:
            lines.append(f"  {side:10} at most {error:.5f}{unit} from the reference in fp32")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
