"""Steps of the denoisers at true shape on an accelerator: milliseconds, share of a bare product, memory.

    python benchmarks/cuda_step.py
    python benchmarks/cuda_step.py --release qwen-image --size 1328 --repeats 20 --json cuda.json
    python benchmarks/cuda_step.py --device cpu --blocks 1 --size 256        # rehearses the command

Random weights are made on the device in bf16. Layers of modulation are left out: sampling evaluates them once
a schedule and keeps a table. A step is guided: 1.x runs both branches in one forward, 2.1 one after the
other, each against the keys and values of its prompt, which are read once a picture. The rate counts matrix
products and attention, nothing else; the bare product is the largest of the denoiser's own, timed in the same
run in turns with the step.

Then, on CUDA, the largest square that is drawn exactly within `--budget` GB: the process is held to it, less
what the driver took for its context, and sides grow until memory runs out.
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from measuring import in_turns, machine, origin, parser, spread, tell, told

if TYPE_CHECKING:
    import torch
    from torch import nn

RELEASES = ("qwen-image", "2.1")
AIM = 0.6
"""Share of a bare product's rate that a step is to reach."""
SIDES = (512, 768, 1024, 1328, 1536, 1792, 2048, 2560, 3072)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A denoiser and how its guided step is taken at any size."""

    model: "nn.Module"
    parameters: int
    """On the device; the modulation layers are not there."""
    widest: tuple[int, int]
    """Inputs and outputs of its largest product."""
    prepared: Callable[[int], Callable[[], "torch.Tensor"]]
    """From the side of a picture in pixels to its step."""
    work: Callable[[int], float]
    """From the side of a picture to the floating-point operations of a step."""


def main() -> None:
    """Measure each release; print the numbers, then JSON."""
    options = parse()
    import torch

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    results = {}
    print(f"{origin(options.threads)}, on {described(options.device)}")
    with torch.no_grad():
        for release in options.release or RELEASES:
            results[release] = measure(options, CASES[release](options))
            print(lines(release, options, results[release]), flush=True)
            if options.device != "cpu":
                torch.cuda.empty_cache()
    report = {
        "benchmark": "cuda_step",
        "device": described(options.device),
        "size": options.size,
        "text_tokens": options.text,
        "blocks": options.blocks,
        "guidance": 4.0,
        "repeats": options.repeats,
        "threads": options.threads,
        "machine": machine(),
        "releases": results,
    }
    tell(report, options.json)


def parse() -> argparse.Namespace:
    """Read the command line."""
    made = parser(__doc__)
    made.add_argument("--release", action="append", choices=RELEASES, help="default: both")
    made.add_argument("--device", default="cuda", help="cuda or cpu (default: %(default)s)")
    made.add_argument("--size", type=int, default=1024, help="side of the picture (default: %(default)s)")
    made.add_argument("--text", type=int, default=64, help="tokens of a prompt (default: %(default)s)")
    made.add_argument("--blocks", type=int, help="default: all of a release")
    made.add_argument("--heads", type=int, help="width / 128; default: a release's own")
    made.add_argument("--repeats", type=int, default=10, help="default: %(default)s")
    made.add_argument("--threads", type=int, default=1, help="of the host (default: %(default)s)")
    made.add_argument("--budget", type=float, default=32, help="GB for the search (default: %(default)s)")
    return made.parse_args()


def described(device: str) -> str:
    """Return the name of a device."""
    import torch

    return torch.cuda.get_device_name(device) if device != "cpu" else "the CPU"


def measure(options: argparse.Namespace, case: Case) -> dict:
    """Time a step and the bare product in turns; then look for the largest square."""
    import torch

    on_cuda = options.device != "cpu"
    wait = torch.cuda.synchronize if on_cuda else None
    step = case.prepared(options.size)
    check(step())
    if on_cuda:
        torch.cuda.reset_peak_memory_stats()
        step()
    memory = torch.cuda.max_memory_allocated() if on_cuda else None
    inner, outer = case.widest
    rows = 2 * (options.size // 16) ** 2
    a = torch.randn(rows, inner, device=options.device, dtype=torch.bfloat16)
    b = torch.randn(outer, inner, device=options.device, dtype=torch.bfloat16)
    runs = in_turns({"step": step, "product": lambda: torch.mm(a, b.t())}, options.repeats, wait=wait)
    del a, b
    rate = case.work(options.size) / spread(runs["step"]["wall"])["median"]
    bare = 2 * rows * inner * outer / spread(runs["product"]["wall"])["median"]
    return {
        "parameters": case.parameters,
        "ms_a_step": {key: 1000 * value for key, value in spread(runs["step"]["wall"]).items()},
        "cpu_seconds": spread(runs["step"]["cpu"]),
        "teraflops": rate / 1e12,
        "product_teraflops": bare / 1e12,
        "share_of_product": rate / bare,
        "peak_bytes": memory,
        "largest_side": largest_side(options, case) if on_cuda else None,
    }


def largest_side(options: argparse.Namespace, case: Case) -> int | None:
    """Return the largest side of a square whose step fits into the budget together with the weights."""
    import torch

    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    context = total - free - torch.cuda.memory_reserved()  # others who use the device count as ours
    torch.cuda.set_per_process_memory_fraction(min((options.budget * 1e9 - context) / total, 1.0))
    found = None
    for side in SIDES:
        try:
            check(case.prepared(side)())
        except torch.OutOfMemoryError:
            break
        found = side
        torch.cuda.empty_cache()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1.0)
    return found


def lines(release: str, options: argparse.Namespace, result: dict) -> str:
    """Return the numbers of a release for reading."""
    size = f"{options.size}x{options.size}"
    ms = [result["ms_a_step"][key] for key in ("median", "low", "high")]
    told_lines = [
        f"{release}: {result['parameters'] / 1e9:.2f} B parameters on the device, {size}, "
        f"{options.text} text tokens, bf16, guidance 4",
        f"  step {told(ms, 'ms')}, {result['teraflops']:.2f} TFLOP/s",
        f"  bare product {result['product_teraflops']:.2f} TFLOP/s: "
        f"the step reaches {result['share_of_product']:.0%} of it, aim {AIM:.0%}",
    ]
    if result["peak_bytes"] is not None:
        told_lines.append(f"  peak {result['peak_bytes'] / 1e9:.2f} GB allocated")
        told_lines.append(f"  largest square within {options.budget:g} GB: {result['largest_side']}")
    return "\n".join(told_lines)


def qwen_image(options: argparse.Namespace) -> Case:
    """Return the denoiser of 1.x."""
    import torch

    from danqing.models.mmdit import MMDiT, MMDiTConfig, ModulationTable, is_modulation
    from danqing.models.rope import GridShape
    from danqing.sampling.guidance import guided

    config = MMDiTConfig(
        num_layers=options.blocks or MMDiTConfig().num_layers,
        num_attention_heads=options.heads or MMDiTConfig().num_attention_heads,
    )
    dim, device = config.dim, options.device
    model = on_device(lambda: MMDiT(config), is_modulation, device)
    draw = partial(torch.randn, device=device, dtype=torch.bfloat16)
    row = ModulationTable(
        draw(1, config.num_layers, 1, 6 * dim) / 4, draw(1, config.num_layers, 6 * dim) / 4, draw(1, 2 * dim)
    )
    txt = draw(2, options.text, config.joint_attention_dim)

    def prepared(side: int) -> Callable[[], torch.Tensor]:
        grid = side // 16
        img = draw(1, grid * grid, config.in_channels).repeat(2, 1, 1)
        layout = model.layout([GridShape(1, grid, grid)], options.text, device=img.device)

        def step() -> torch.Tensor:
            velocity = model(img, txt, row, layout=layout).float()
            return guided(velocity[:1], velocity[1:], 4.0)

        return step

    def work(side: int) -> float:
        tokens = (side // 16) ** 2 + options.text
        return 2.0 * config.num_layers * (2 * 12 * dim * dim * tokens + 4 * tokens * tokens * dim)

    return Case(model=model, parameters=present(model), widest=(dim, 4 * dim), prepared=prepared, work=work)


def version_21(options: argparse.Namespace) -> Case:
    """Return the denoiser of 2.1."""
    import torch

    from danqing.models.rope import GridShape
    from danqing.models.single_stream import (
        SharedModulation,
        SingleStream,
        SingleStreamConfig,
        is_modulation,
    )
    from danqing.sampling.guidance import guided

    config = SingleStreamConfig(
        num_layers=options.blocks or SingleStreamConfig().num_layers,
        num_attention_heads=options.heads or SingleStreamConfig().num_attention_heads,
    )
    dim, device = config.dim, options.device
    model = on_device(lambda: SingleStream(config), is_modulation, device)
    draw = partial(torch.randn, device=device, dtype=torch.bfloat16)
    row = SharedModulation(draw(1, 4 * dim) / 4, draw(1, 4 * dim) / 4, draw(1, dim) / 4)
    prompts = [draw(1, options.text, config.context_in_dim) for _ in range(2)]
    prefixes = [model.prefix(prompt, row) for prompt in prompts]

    def prepared(side: int) -> Callable[[], torch.Tensor]:
        grid = side // 16
        img = draw(1, grid * grid, config.in_channels)
        pairs = [(prefix, model.layout(prefix, GridShape(1, grid, grid))) for prefix in prefixes]

        def step() -> torch.Tensor:
            cond, uncond = (model(img, prefix, row, layout=layout).float() for prefix, layout in pairs)
            return guided(cond, uncond, 4.0, rescale=False)

        return step

    def work(side: int) -> float:
        tokens = (side // 16) ** 2
        linear = (4 + 3 * config.mlp_ratio) * dim * dim
        return 2.0 * config.num_layers * (2 * linear * tokens + 4 * tokens * (tokens + options.text) * dim)

    return Case(
        model=model,
        parameters=present(model),
        widest=(dim, config.mlp_ratio * dim),
        prepared=prepared,
        work=work,
    )


def on_device(make: Callable[[], "nn.Module"], left_out: Callable[[str], bool], device: str) -> "nn.Module":
    """Return a module with random bf16 weights on a device; those left out stay without memory."""
    import torch
    from torch import nn

    with torch.device("meta"):
        module = make().to(torch.bfloat16)
    for name, parameter in list(module.named_parameters()):
        if left_out(name):
            continue
        owner = module.get_submodule(name.rpartition(".")[0])
        value = torch.empty(parameter.shape, dtype=torch.bfloat16, device=device)
        if parameter.dim() == 2:
            bound = math.sqrt(3 / parameter.shape[1])
            value.uniform_(-bound, bound)
        else:
            value.fill_(0.0 if name.endswith(("bias", "text_norm.weight")) else 1.0)
        setattr(owner, name.rpartition(".")[2], nn.Parameter(value, requires_grad=False))
    return module.eval()


def present(module: "nn.Module") -> int:
    """Return the parameters that have memory."""
    return sum(parameter.numel() for parameter in module.parameters() if not parameter.is_meta)


def check(velocity: "torch.Tensor") -> None:
    """Stop where velocities are not finite or all the same."""
    if not bool(velocity.isfinite().all()) or float(velocity.std()) == 0:
        raise SystemExit("expected finite velocities that differ, found others")


CASES: dict[str, Callable[[argparse.Namespace], Case]] = {"qwen-image": qwen_image, "2.1": version_21}

if __name__ == "__main__":
    main()
