"""A tiny random checkpoint of our own classes, for tests without a peer."""

import dataclasses
from pathlib import Path

import torch
from torch import nn

from danqing.conditioning.tokenizer_training import train_tokenizer
from danqing.models.mmdit import MMDiT, MMDiTConfig
from danqing.models.vae import VAE, VAEConfig
from danqing.models.vlm import VLM
from danqing.models.vlm_config import VisionConfig, VLMConfig
from danqing.sampling.schedule import ScheduleConfig
from danqing.weights.layouts import CheckpointInfo, write_folder

TRANSFORMER = MMDiTConfig(
    num_layers=2,
    attention_head_dim=16,
    num_attention_heads=2,
    joint_attention_dim=32,
    axes_dims_rope=(4, 6, 6),
)
AUTOENCODER = VAEConfig(base_dim=4, num_res_blocks=1)
INFO = CheckpointInfo(
    name="tiny", licence="Apache-2.0", size=(64, 48), min_side=32, max_side=96, steps=3, guidance=3.0
)


def text_encoder(vocab_size: int, special: dict[str, int]) -> VLMConfig:
    """Return the config of a conditioner of width 32 with our special tokens."""
    return VLMConfig(
        vocab_size=vocab_size,
        dim=32,
        hidden_dim=48,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        mrope_section=(2, 1, 1),
        vision=VisionConfig(
            dim=16, hidden_dim=24, num_layers=2, num_heads=2, out_dim=32, full_attention_layers=(1,)
        ),
        **special,
    )


def randomized(module: nn.Module, seed: int) -> nn.Module:
    """Give every parameter a telling value of about the right size."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if p.squeeze().dim() > 1:
                p.copy_(noise / p[0].numel() ** 0.5)
            else:
                p.copy_(0.1 * noise + (not name.endswith("bias")))
    return module.eval().requires_grad_(False)


def write_tiny(folder: Path, *, folded_vae: bool = False) -> Path:
    """Write the checkpoint and return its folder."""
    tokenizer = train_tokenizer(["a red apple on a blue table"], 900)
    names = {"image_token": "image_pad", "video_token": "video_pad", "pad_token": "endoftext"}
    names |= {"vision_start_token": "vision_start", "vision_end_token": "vision_end", "eos_token": "im_end"}
    special = {key: tokenizer.token_id(f"<|{name}|>") for key, name in names.items()}
    config = text_encoder(len(tokenizer), special)
    write_folder(
        folder,
        transformer=(TRANSFORMER, randomized(MMDiT(TRANSFORMER), 1).state_dict()),
        vae=(AUTOENCODER, randomized(VAE(AUTOENCODER), 2).state_dict()),
        text_encoder=(config, randomized(VLM(config), 3).state_dict()),
        schedule=ScheduleConfig(),
        info=INFO,
        folded_vae=folded_vae,
    )
    tokenizer.save(folder / "tokenizer")
    return folder


def with_batch(model, batch_size: int):
    """Return the model denoising `batch_size` pictures together."""
    return type(model)(dataclasses.replace(model.components, batch_size=batch_size))
