"""Tiny random checkpoints in the released layouts, written by the reference library.

    python -m tests.parity.peers --out DIR                      # every checkpoint that can be built here
    python -m tests.parity.peers --out DIR --run                # + DIR/references/NAME.safetensors
    python -m tests.parity.peers --out DIR --run --only t2i edit
    python -m tests.parity.peers --out DIR --tokenizer qwen     # with the released vocabulary
    python -m tests.parity.peers --out DIR --run --stock        # edit positions as diffusers leaves them

Nothing is downloaded: everything comes from configs and seeds. The edit, layered and 2.1 pipelines need
torchvision.
"""

import argparse
import math
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from tests.parity import peer_parts as parts
from tests.parity.peer_cases import cases, run
from tests.parity.peer_tokenizers import TokenizerKind, make_tokenizer


class Peers:
    """A folder of tiny reference checkpoints; each is built when first asked for."""

    def __init__(self, folder: Path, kind: TokenizerKind) -> None:
        self.folder = folder
        self.kind = kind

    def checkpoint(self, name: str) -> Path:
        """Return the folder of the checkpoint `name`, one of CHECKPOINTS."""
        folder = self.folder / name
        if not folder.exists():
            if name in NEED_TORCHVISION and not parts.HAVE_TORCHVISION:
                raise LookupError(f"building {name} needs torchvision")
            CHECKPOINTS[name](self, folder)
        return folder

    @cached_property
    def tokenizer(self):
        """The transformers tokenizer inside every checkpoint."""
        return make_tokenizer(self.kind)

    @cached_property
    def components(self) -> dict[str, object]:
        """The parts of the text-to-image pipeline, shared by the edit pipelines."""
        import diffusers as d

        return {
            "scheduler": d.FlowMatchEulerDiscreteScheduler(**parts.SCHEDULER),
            "vae": parts.randomize(d.AutoencoderKLQwenImage(**parts.VAE), 21),
            "text_encoder": parts.text_encoder_25(self.tokenizer),
            "tokenizer": self.tokenizer,
            "transformer": parts.randomize(d.QwenImageTransformer2DModel(**parts.DIT), 31),
        }


def _text_to_image(peers: Peers, folder: Path) -> None:
    import diffusers as d

    d.QwenImagePipeline(**peers.components).save_pretrained(folder, safe_serialization=True)


def _controlnet(seed: int, extra: int) -> Callable[[Peers, Path], None]:
    def build(peers: Peers, folder: Path) -> None:
        import diffusers as d

        config = {**parts.DIT, "num_layers": 1, "extra_condition_channels": extra}
        parts.randomize(d.QwenImageControlNetModel(**config), seed).save_pretrained(folder)

    return build


def _edit(pipeline: str, zero_cond_t: bool = False) -> Callable[[Peers, Path], None]:
    def build(peers: Peers, folder: Path) -> None:
        import diffusers as d

        components = {**peers.components, "processor": parts.processor_25(peers.tokenizer)}
        if zero_cond_t:
            dit = d.QwenImageTransformer2DModel(**parts.DIT, zero_cond_t=True)
            components["transformer"] = parts.randomize(dit, 32)
        getattr(d, pipeline)(**components).save_pretrained(folder, safe_serialization=True)

    return build


def _layered(peers: Peers, folder: Path) -> None:
    import diffusers as d

    dit = d.QwenImageTransformer2DModel(**parts.DIT, use_layer3d_rope=True, use_additional_t_cond=True)
    components = {
        **peers.components,
        "scheduler": d.FlowMatchEulerDiscreteScheduler(**parts.LAYERED_SCHEDULER),
        "vae": parts.randomize(d.AutoencoderKLQwenImage(**parts.VAE, input_channels=4), 22),
        "transformer": parts.randomize(dit, 33),
        "processor": parts.processor_25(peers.tokenizer),
    }
    d.QwenImageLayeredPipeline(**components).save_pretrained(folder, safe_serialization=True)


def _version_21(turbo: bool) -> Callable[[Peers, Path], None]:
    def build(peers: Peers, folder: Path) -> None:
        import diffusers as d

        scheduler = parts.TURBO_SCHEDULER if turbo else parts.SCHEDULER
        pipeline = d.QwenImage21Pipeline(
            scheduler=d.FlowMatchEulerDiscreteScheduler(**scheduler),
            vae=parts.randomize(d.AutoencoderKLQwenImage21(**parts.VAE21), 23),
            text_encoder=parts.text_encoder_3(peers.tokenizer),
            processor=parts.processor_3(peers.tokenizer),
            transformer=parts.randomize(d.QwenImage21Transformer2DModel(**parts.DIT21), 34),
            **({"sample_sigmas": parts.TURBO_SIGMAS} if turbo else {}),
        )
        pipeline.save_pretrained(folder, safe_serialization=True)

    return build


def _loras(peers: Peers, folder: Path) -> None:
    """Write one random LoRA in the layouts found in the wild; all five mean the same update."""
    from safetensors.torch import save_file

    rank, alpha = 4, 8.0
    a, b, scale = ".lora_A.weight", ".lora_B.weight", alpha / rank
    pairs = _lora_pairs(peers.components["transformer"], rank)
    folder.mkdir(parents=True)

    def write(layout: str, key: Callable[[str], str], down: str, up: str, *, alphas: bool, gain: float = 1.0):
        tensors = {}
        for name, (lower, upper) in pairs.items():
            tensors[key(name) + down], tensors[key(name) + up] = lower * gain, upper.clone()
            if alphas:
                tensors[key(name) + ".alpha"] = torch.tensor(alpha)
        save_file(tensors, folder / f"{layout}.safetensors")

    kohya = ".lora_down.weight", ".lora_up.weight"
    peft = ".lora_A.default.weight", ".lora_B.default.weight"
    write("diffusers", lambda n: "transformer." + n, a, b, alphas=False, gain=scale)
    write("diffusion_model", lambda n: "diffusion_model." + n, a, b, alphas=True)
    write("comfy_lightning", lambda n: n, *kohya, alphas=True)
    write("kohya", lambda n: "lora_unet_" + n.replace(".", "_"), *kohya, alphas=True)
    write("peft_default", lambda n: n, *peft, alphas=False, gain=scale)


def _lora_pairs(dit, rank: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return down and up matrices for the usual targets of the denoiser."""
    generator = torch.Generator().manual_seed(51)
    targets = "to_q to_k to_v to_out.0 add_q_proj to_add_out img_mlp.net.2 img_mod.1"
    wanted = tuple(targets.split())
    pairs = {}
    for name, m in dit.named_modules():
        if isinstance(m, nn.Linear) and name.startswith("transformer_blocks") and name.endswith(wanted):
            down = torch.randn(rank, m.in_features, generator=generator) / math.sqrt(m.in_features)
            up = torch.randn(m.out_features, rank, generator=generator) / math.sqrt(rank)
            pairs[name] = (down, up)
    return pairs


CHECKPOINTS: dict[str, Callable[[Peers, Path], None]] = {
    "qwen-image": _text_to_image,
    "controlnet": _controlnet(41, 0),
    "controlnet-inpaint": _controlnet(42, 4),
    "loras": _loras,
    "qwen-image-edit": _edit("QwenImageEditPipeline"),
    "qwen-image-edit-2509": _edit("QwenImageEditPlusPipeline"),
    "qwen-image-edit-2511": _edit("QwenImageEditPlusPipeline", zero_cond_t=True),
    "qwen-image-layered": _layered,
    "qwen-image-2.1": _version_21(turbo=False),
    "qwen-image-2.1-turbo": _version_21(turbo=True),
}
NEED_TORCHVISION = frozenset(
    name
    for name in CHECKPOINTS
    if name.startswith("qwen-image-")  # their processors do
)


def main() -> None:
    """Write checkpoints, and references with --run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokenizer", choices=("tiny", "qwen"), default="tiny")
    parser.add_argument("--run", action="store_true", help="also write DIR/references")
    parser.add_argument("--only", nargs="*", help="names of the cases to run")
    parser.add_argument("--stock", action="store_true", help="leave the edit positions as diffusers has them")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    peers = Peers(args.out, args.tokenizer)
    can = [name for name in CHECKPOINTS if name not in NEED_TORCHVISION or parts.HAVE_TORCHVISION]
    for name in can:
        size = sum(f.stat().st_size for f in peers.checkpoint(name).rglob("*") if f.is_file())
        print(f"{name:22s} {size / 2**20:6.2f} MiB", flush=True)
    for name, case in cases().items() if args.run else ():
        if case.checkpoint in can and (not args.only or name in args.only):
            print(run(args.out, name, case, stock=args.stock), flush=True)


if __name__ == "__main__":
    main()
