"""Every release at its true width, two blocks, random weights: seconds and memory of a 256x256 picture.

    python benchmarks/family.py
    python benchmarks/family.py --only edit --threads 2 --json edit.json

A row is a process of its own, so its peak is its own: Python and torch, the weights in bf16 (two blocks of
60, or of 32 in 2.1, and the autoencoder), and all that happens. Timed are the modulation of a whole schedule,
computed once a picture; in 2.1 the prefix, once a picture too; one step of the denoiser with no guidance and
64 text tokens; and decoding. Seconds are CPU seconds, which depend little on what else the machine does. What
a further block costs is the difference of two runs with other --blocks.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from measuring import machine, parser, peak_bytes, run_fresh, tell

if TYPE_CHECKING:
    import torch
    from torch import nn

SIDE = 256
TEXT = 64
STAGES = ("modulation", "prefix", "step", "decode")
T = TypeVar("T")
M = TypeVar("M", bound="nn.Module")


def main() -> None:
    """Measure every row in its own process; print a table, then JSON."""
    options = parse()
    if options.row:
        print(json.dumps(measure(options.row, options)))
        return
    rows = {}
    print(f"{'':12}{'parameters':>12}" + "".join(f"{stage:>12}" for stage in STAGES) + f"{'peak':>12}")
    for name in options.only or ROWS:
        arguments = ["--row", name, "--blocks", str(options.blocks), "--threads", str(options.threads)]
        rows[name] = run_fresh(__file__, arguments, threads=options.threads)
        print(table_row(name, rows[name]), flush=True)
    report = {
        "benchmark": "family",
        "size": [SIDE, SIDE],
        "text_tokens": TEXT,
        "blocks": options.blocks,
        "threads": options.threads,
        "machine": machine(),
        "rows": rows,
    }
    tell(report, options.json)


def parse() -> argparse.Namespace:
    """Read the command line."""
    made = parser(__doc__)
    made.add_argument("--only", action="append", choices=ROWS, help="default: every row; repeatable")
    made.add_argument("--blocks", type=int, default=2, help="of the denoiser (default: %(default)s)")
    made.add_argument("--threads", type=int, default=1, help="default: %(default)s")
    made.add_argument("--row", choices=ROWS, help=argparse.SUPPRESS)
    return made.parse_args()


def table_row(name: str, row: dict) -> str:
    """Return a row's numbers for reading."""
    cells = [f"{row['seconds'][stage]:.2f} s" if stage in row["seconds"] else "" for stage in STAGES]
    cells = [f"{row['parameters'] / 1e6:,.0f} M", *cells, f"{row['peak_bytes'] / 2**20:,.0f} MiB"]
    return f"{name:12}" + "".join(f"{cell:>12}" for cell in cells)


@dataclass
class Run:
    """What is measured in this process."""

    blocks: int
    seconds: dict[str, float] = field(default_factory=dict)
    wall_seconds: dict[str, float] = field(default_factory=dict)
    parameters: int = 0

    def timed(self, stage: str, work: Callable[[], T]) -> T:
        """Return what `work` returns, and keep how long it took."""
        cpu, wall = time.process_time(), time.perf_counter()
        result = work()
        self.seconds[stage] = time.process_time() - cpu
        self.wall_seconds[stage] = time.perf_counter() - wall
        return result

    def filled(self, make: Callable[[], M]) -> M:
        """Return a module with random weights in bf16, which never exists in fp32."""
        import torch

        with torch.device("meta"):
            module = make().to(torch.bfloat16)
        module = module.to_empty(device="cpu").eval().requires_grad_(False)
        generator = torch.Generator().manual_seed(0)
        for parameter in module.parameters():
            parameter.uniform_(-0.03, 0.03, generator=generator)
            self.parameters += parameter.numel()
        return module


def measure(name: str, options: argparse.Namespace) -> dict:
    """Run one row in this process."""
    import torch

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    run = Run(options.blocks)
    with torch.no_grad():
        ROWS[name](run)
    return {
        "parameters": run.parameters,
        "seconds": run.seconds,
        "wall_seconds": run.wall_seconds,
        "peak_bytes": peak_bytes(),
    }


def qwen_image(run: Run) -> None:
    """Draw with Qwen-Image or 2512."""
    first_family(run)


def edit(run: Run) -> None:
    """Edit one picture with Edit-2511."""
    first_family(run, frames=2, zero_cond_t=True)


def layered(run: Run) -> None:
    """Take a picture apart into two layers: the whole and two layers are drawn, the picture is looked at."""
    first_family(run, frames=4, layers=2, use_additional_t_cond=True, use_layer3d_rope=True)


def controlnet(run: Run) -> None:
    """Draw, steered by the Union ControlNet with as many blocks as the denoiser."""
    first_family(run, steered=True)


def first_family(run: Run, *, frames: int = 1, layers: int = 0, steered: bool = False, **flags: bool) -> None:
    """Run the denoiser of 1.x over `frames` pictures, then decode the drawn one, or each layer."""
    import torch

    from danqing.models.controlnet import ControlNet, ControlNetConfig, Residuals
    from danqing.models.mmdit import MMDiT, MMDiTConfig
    from danqing.models.rope import GridShape
    from danqing.models.vae import VAE, VAEConfig

    config = MMDiTConfig(num_layers=run.blocks, **flags)
    model = run.filled(lambda: MMDiT(config))
    net = run.filled(lambda: ControlNet(ControlNetConfig(num_layers=run.blocks))) if steered else None
    shape = GridShape(1, SIDE // 16, SIDE // 16)
    tokens = shape.height * shape.width
    img, control = noise(1, frames * tokens, 64), noise(1, tokens, 64)
    txt = noise(1, TEXT, config.joint_attention_dim)
    sigmas = torch.linspace(1, 0.02, 50)
    additional = 0 if config.use_additional_t_cond else None
    table, own = run.timed(
        "modulation",
        lambda: (model.modulation_table(sigmas, additional), net and net.modulation_table(sigmas)),
    )

    def step() -> torch.Tensor:
        steer = None
        if net is not None and own is not None:
            steer = Residuals(net(img, txt, control, own.at(0), shape=shape), run.blocks)
        return model(img, txt, table.at(0), shapes=[shape] * frames, residual=steer)

    check(run.timed("step", step), (1, frames * tokens, 64))
    vae = run.filled(lambda: VAE(VAEConfig(input_channels=4 if layers else 3)))
    decode(run, vae, [noise(1, 16, SIDE // 8, SIDE // 8) for _ in range(layers or 1)])


def version_21(run: Run) -> None:
    """Draw with 2.1."""
    second_family(run, references=0)


def version_21_edit(run: Run) -> None:
    """Draw with 2.1 from one reference."""
    second_family(run, references=1)


def second_family(run: Run, *, references: int) -> None:
    """Read text and references once, run a step of 2.1's denoiser, then decode."""
    import torch

    from danqing.models.rope import GridShape
    from danqing.models.single_stream import SingleStream, SingleStreamConfig
    from danqing.models.vae21 import VAE21, VAE21Config

    config = SingleStreamConfig(num_layers=run.blocks)
    model = run.filled(lambda: SingleStream(config))
    shape = GridShape(1, SIDE // 16, SIDE // 16)
    tokens = shape.height * shape.width
    table = run.timed("modulation", lambda: model.modulation_table(torch.linspace(1, 0.02, 40)))
    seen = noise(1, references * tokens, 64) if references else None
    txt = noise(1, TEXT, config.context_in_dim)
    places = tuple(range(8, 8 + references))
    prefix = run.timed(
        "prefix",
        lambda: model.prefix(txt, table, references=seen, shapes=[shape] * references, before=places),
    )
    img = noise(1, tokens, 64)
    check(run.timed("step", lambda: model(img, prefix, table.at(0), shape=shape)), (1, tokens, 64))
    vae = run.filled(lambda: VAE21(VAE21Config()))
    decode(run, vae, [noise(1, 64, shape.height, shape.width)])


def decode(run: Run, vae: "nn.Module", latents: Sequence["torch.Tensor"]) -> None:
    """Decode pictures one by one, as every task does."""
    import torch

    torch.nn.utils.convert_conv2d_weight_memory_format(vae, torch.channels_last)
    for pixels in run.timed("decode", lambda: [vae.decode(one) for one in latents]):
        check(pixels, (1, pixels.shape[1], SIDE, SIDE))


def noise(*shape: int) -> "torch.Tensor":
    """Return Gaussian numbers in bf16."""
    import torch

    return torch.randn(shape).bfloat16()


def check(found: "torch.Tensor", shape: tuple[int, ...]) -> None:
    """Stop where a result has another shape, is not finite, or is all the same."""
    if tuple(found.shape) != shape or not bool(found.isfinite().all()) or float(found.float().std()) == 0:
        raise SystemExit(f"expected finite numbers of shape {shape}, found {tuple(found.shape)}: {found}")


ROWS: dict[str, Callable[[Run], None]] = {
    "qwen-image": qwen_image,
    "edit": edit,
    "layered": layered,
    "controlnet": controlnet,
    "2.1": version_21,
    "2.1-edit": version_21_edit,
}

if __name__ == "__main__":
    main()
