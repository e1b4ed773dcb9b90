"""One guided step of the denoiser at its true width: ours against diffusers, and what matrix products cost.

    python benchmarks/step.py
    python benchmarks/step.py --threads 2 --repeats 5 --precision bf16 --precision int8 --json step.json

Two blocks of Qwen-Image with random weights, which both sides share, 1,024 picture tokens (512x512), prompts
of 64 tokens, classifier-free guidance. A step is what a pipeline does between two calls of its solver: ours
runs both branches in one forward and takes the modulation and the positions from tables made once a drawing;
diffusers runs two forwards and evaluates its modulation layers in each, as its pipeline does. Everything runs
in turns in one process, after a round that does not count.

The bare products are those of a block's picture stream for both branches: what a step could cost at best. In
int8 they are `torch._int_mm`, without quantising activations or scaling results. Differences are those of the
guided velocity from ours in fp32, as a share of its root mean square.
"""

import argparse
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from measuring import in_turns, machine, origin, parser, spread, tell, told

if TYPE_CHECKING:
    import torch

    from danqing.models.mmdit import MMDiT, MMDiTConfig

PRECISIONS = ("fp32", "bf16", "int8")
TARGETS = {"diffusers bf16 / danqing bf16": 1.3, "danqing bf16 / danqing int8": 1.4}
"""Ratios that the project wants to reach on a CPU."""
Step = Callable[[], "torch.Tensor"]


def main() -> None:
    """Run all sides in turns; print tables, then JSON."""
    options = parse()
    import torch

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    precisions = options.precision or list(PRECISIONS)
    with torch.no_grad():
        steps = sides(options, precisions)
        results = {name: step() for name, step in steps.items()}
        runs = in_turns(steps, options.repeats)
        bare = in_turns(products(options, precisions), options.repeats)
    report = {
        "benchmark": "step",
        "blocks": options.blocks,
        "width": options.heads * 128,
        "picture_tokens": options.tokens,
        "text_tokens": options.text,
        "threads": options.threads,
        "repeats": options.repeats,
        "machine": machine(),
        "seconds": {name: {clock: spread(v) for clock, v in run.items()} for name, run in runs.items()},
        "products": {name: {clock: spread(v) for clock, v in run.items()} for name, run in bare.items()},
        "ratios": ratios(runs, bare),
        "differences": differences(results),
    }
    print(origin(options.threads))
    print(table("guided step", runs, report["differences"]))
    print(table("bare products of a block", bare, {}))
    for name, ratio in report["ratios"].items():
        aim = f", aim {TARGETS[name]}" if name in TARGETS else ""
        print(f"{name:44}{ratio['cpu']:7.2f} (CPU){ratio['wall']:7.2f} (wall){aim}")
    tell(report, options.json)


def parse() -> argparse.Namespace:
    """Read the command line."""
    made = parser(__doc__)
    made.add_argument("--precision", action="append", choices=PRECISIONS, help="default: all; repeatable")
    made.add_argument(
        "--tokens", type=int, default=1024, help="of the picture, a square (default: %(default)s)"
    )
    made.add_argument("--text", type=int, default=64, help="tokens of a prompt (default: %(default)s)")
    made.add_argument("--blocks", type=int, default=2, help="default: %(default)s")
    made.add_argument("--heads", type=int, default=24, help="width / 128 (default: 24, as released)")
    made.add_argument("--repeats", type=int, default=3, help="default: %(default)s")
    made.add_argument("--threads", type=int, default=1, help="default: %(default)s")
    return made.parse_args()


def sides(options: argparse.Namespace, precisions: list[str]) -> dict[str, Step]:
    """Return the step of each side in each precision; the weights of a precision exist once."""
    import torch

    from danqing.models.mmdit import MMDiTConfig

    config = MMDiTConfig(num_layers=options.blocks, num_attention_heads=options.heads)
    full = filled(config)
    table = full.modulation_table(torch.tensor([0.7]))
    latents = torch.randn(1, options.tokens, config.in_channels)
    prompts = [torch.randn(1, options.text, config.joint_attention_dim) for _ in range(2)]
    steps: dict[str, Step] = {}
    for precision in precisions:
        dtype = torch.float32 if precision == "fp32" else torch.bfloat16
        given = (latents, [prompt.to(dtype) for prompt in prompts])
        model = full if dtype == torch.float32 else converted(full, dtype)
        if precision == "int8":
            steps["danqing int8"] = ours(quantised(model), *given, table)
            continue
        steps[f"danqing {precision}"] = ours(model, *given, table)
        steps[f"diffusers {precision}"] = theirs(config, model, *given)
    return steps


def filled(config: "MMDiTConfig") -> "MMDiT":
    """Return a denoiser of random weights in fp32 that keep activations of order one."""
    import torch

    from danqing.models.mmdit import MMDiT

    with torch.device("meta"):
        model = MMDiT(config)
    model = model.to_empty(device="cpu").eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            bound = (3 / parameter.shape[1]) ** 0.5
            parameter.uniform_(-bound, bound)
        else:
            parameter.uniform_(-0.1, 0.1).add_(0 if name.endswith("bias") else 1)
    return model


def converted(model: "MMDiT", dtype: "torch.dtype") -> "MMDiT":
    """Return a copy of a denoiser in another precision."""
    import torch

    from danqing.models.mmdit import MMDiT

    with torch.device("meta"):
        other = MMDiT(model.config)
    state = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}
    other.load_state_dict(state, assign=True)
    return other.eval().requires_grad_(False)


def quantised(model: "MMDiT") -> "MMDiT":
    """Return the denoiser with the matrices of its blocks in 8 bits, those of modulation left as they are."""
    from danqing.models.mmdit import is_modulation
    from danqing.models.quantised import large_layers
    from danqing.weights.quantise import with_quantised

    shapes = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
    layers = [name for name in large_layers(shapes) if not is_modulation(f"{name}.weight")]
    return with_quantised(model, dict.fromkeys(layers, "int8"))


def ours(model, latents, prompts, table) -> Step:
    """Return our step: both branches in one forward."""
    import torch

    from danqing.models.rope import GridShape
    from danqing.sampling.guidance import guided

    side = round(latents.shape[1] ** 0.5)
    dtype = prompts[0].dtype
    txt = torch.cat(prompts)
    row = type(table)(*(part.to(dtype) for part in table)).at(0)
    layout = model.layout([GridShape(1, side, side)], txt.shape[1], device=txt.device)

    def step() -> torch.Tensor:
        img = latents.to(dtype).repeat(2, 1, 1)
        velocity = model(img, txt, row, layout=layout).float()
        return guided(velocity[:1], velocity[1:], 4.0)

    return step


def theirs(config, model, latents, prompts) -> Step:
    """Return the step of the reference's pipeline, with the weights of our model."""
    import torch
    from diffusers import QwenImageTransformer2DModel
    from diffusers.models.transformers.transformer_qwenimage import QwenEmbedRope

    with torch.device("meta"):
        peer = QwenImageTransformer2DModel(
            num_layers=config.num_layers, num_attention_heads=config.num_attention_heads
        )
    peer.load_state_dict(model.state_dict(), assign=True)
    peer.pos_embed = QwenEmbedRope(theta=10000, axes_dim=list(config.axes_dims_rope), scale_rope=True)
    peer.eval().requires_grad_(False)
    side, dtype = round(latents.shape[1] ** 0.5), prompts[0].dtype

    def predicted(prompt: torch.Tensor) -> torch.Tensor:
        return peer(
            hidden_states=latents.to(dtype),
            timestep=torch.tensor([700.0]).to(dtype) / 1000,
            encoder_hidden_states=prompt,
            encoder_hidden_states_mask=None,
            img_shapes=[[(1, side, side)]],
            return_dict=False,
        )[0]

    def step() -> torch.Tensor:
        cond, uncond = (predicted(prompt) for prompt in prompts)
        both = uncond + 4.0 * (cond - uncond)
        return both * (torch.norm(cond, dim=-1, keepdim=True) / torch.norm(both, dim=-1, keepdim=True))

    return step


def products(options: argparse.Namespace, precisions: list[str]) -> dict[str, Callable[[], object]]:
    """Return the matrix products of a block's picture stream, both branches, in each precision."""
    import torch

    rows, width = 2 * options.tokens, options.heads * 128
    shapes = [(width, width)] * 4 + [(width, 4 * width), (4 * width, width)]
    works: dict[str, Callable[[], object]] = {}
    for precision in precisions:
        if precision == "int8":
            pairs = [
                (
                    torch.randint(-127, 128, (rows, inner), dtype=torch.int8),
                    torch.randint(-127, 128, (outer, inner), dtype=torch.int8).t(),
                )
                for inner, outer in shapes
            ]
            works["int8"] = lambda pairs=pairs: [torch._int_mm(a, b) for a, b in pairs]
            continue
        dtype = torch.float32 if precision == "fp32" else torch.bfloat16
        pairs = [
            (torch.randn(rows, inner).to(dtype), torch.randn(outer, inner).to(dtype).t())
            for inner, outer in shapes
        ]
        works[precision] = lambda pairs=pairs: [torch.mm(a, b) for a, b in pairs]
    return works


def ratios(runs: Mapping[str, dict], bare: Mapping[str, dict]) -> dict[str, dict[str, float]]:
    """Return how many times as long the first of two takes, by medians."""
    found = {}
    for some, pairs in (
        (runs, [("diffusers fp32", "danqing fp32"), ("diffusers bf16", "danqing bf16")]),
        (runs, [("danqing bf16", "danqing int8"), ("diffusers bf16", "danqing int8")]),
        (bare, [("fp32", "bf16"), ("bf16", "int8")]),
    ):
        for first, second in pairs:
            if first in some and second in some:
                label = f"{first} / {second}" if some is runs else f"bare products: {first} / {second}"
                found[label] = {
                    clock: spread(some[first][clock])["median"] / spread(some[second][clock])["median"]
                    for clock in ("cpu", "wall")
                }
    return found


def differences(results: Mapping[str, "torch.Tensor"]) -> dict[str, float]:
    """Return how far each velocity is from the first's, in root mean squares; stop where one is broken."""
    first = next(iter(results.values())).float()
    found = {}
    for name, velocity in results.items():
        if not bool(velocity.isfinite().all()) or float(velocity.float().std()) == 0:
            raise SystemExit(f"{name}: expected finite velocities that differ, found others")
        error = (velocity.float() - first).square().mean().sqrt()
        found[name] = float(error / first.square().mean().sqrt())
    return found


def table(title: str, runs: Mapping[str, dict], errors: Mapping[str, float]) -> str:
    """Return seconds for reading."""
    lines = [f"{title:28}{'CPU':32}{'wall':32}{'difference' if errors else ''}"]
    for name, run in runs.items():
        error = f"{errors[name]:.2e}" if name in errors else ""
        lines.append(f"{name:28}{told(run['cpu']):32}{told(run['wall']):32}{error}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
