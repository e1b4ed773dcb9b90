"""Tiny random checkpoints of our own classes that take pictures apart, and ControlNets that steer them."""

import dataclasses
from pathlib import Path

import torch
from torch import nn

from danqing.files import write_json
from danqing.models.config import config_to_json
from danqing.models.controlnet import BlockwiseConfig, BlockwiseControlNet, ControlNet, ControlNetConfig
from danqing.models.mmdit import MMDiT
from danqing.models.vae import VAE
from danqing.models.vlm import VLM
from danqing.sampling.schedule import ScheduleConfig
from danqing.weights.layouts import Folder, write_folder
from danqing.weights.store import write_shards
from tests.tiny import AUTOENCODER, INFO, TRANSFORMER, randomized

LAYERED = dataclasses.replace(
    INFO, tasks=("layers",), min_side=32, max_side=2048, reference_area=96 * 64, guidance=2.0
)
UNION = ControlNetConfig(
    num_layers=1,
    attention_head_dim=16,
    num_attention_heads=2,
    joint_attention_dim=32,
    axes_dims_rope=(4, 6, 6),
)


def write_layered(tiny: Path, folder: Path) -> Path:
    """Write the tiny checkpoint with the layered release's denoiser, autoencoder and schedule."""
    transformer = dataclasses.replace(TRANSFORMER, use_layer3d_rope=True, use_additional_t_cond=True)
    autoencoder = dataclasses.replace(AUTOENCODER, input_channels=4)
    source = Folder(tiny)
    cpu = torch.device("cpu")
    vlm: VLM = source.vlm(cpu, torch.float32, vision=True, head=True)
    write_folder(
        folder,
        transformer=(transformer, randomized(MMDiT(transformer), 1).state_dict()),
        vae=(autoencoder, randomized(VAE(autoencoder), 2).state_dict()),
        text_encoder=(vlm.config, vlm.state_dict()),
        schedule=ScheduleConfig(shift_terminal=None, time_shift_type="linear"),
        info=LAYERED,
    )
    (folder / "tokenizer").mkdir()
    for file in (tiny / "tokenizer").iterdir():
        (folder / "tokenizer" / file.name).write_bytes(file.read_bytes())
    return folder


def write_controlnet(folder: Path, *, masked: bool = False) -> Path:
    """Write a ControlNet for the tiny denoiser in the layout of the InstantX releases."""
    config = dataclasses.replace(UNION, extra_condition_channels=4 if masked else 0)
    net = randomized(ControlNet(config), 4)
    write_shards(folder, "diffusion_pytorch_model", net.state_dict())
    write_json(
        folder / "config.json",
        {**config_to_json(config, class_name="QwenImageControlNetModel"), "pooled_projection_dim": 768},
    )
    return folder


def write_blockwise(folder: Path, *, num_layers: int = TRANSFORMER.num_layers) -> Path:
    """Write a blockwise ControlNet for the tiny denoiser: tensors alone, as DiffSynth releases them."""
    net: nn.Module = BlockwiseControlNet(BlockwiseConfig(num_layers=num_layers, dim=TRANSFORMER.dim))
    write_shards(folder, "model", randomized(net, 5).state_dict())
    return folder
