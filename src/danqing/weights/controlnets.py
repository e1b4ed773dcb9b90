"""ControlNets on disk: a folder beside the checkpoint they steer."""

import re
from pathlib import Path

import torch

from danqing.errors import CheckpointError
from danqing.files import read_json
from danqing.models.config import config_from_json
from danqing.models.controlnet import BlockwiseConfig, BlockwiseControlNet, ControlNet, ControlNetConfig
from danqing.models.mmdit import MMDiT, is_modulation
from danqing.weights.build import build
from danqing.weights.store import Shards

# Keys of released configs that say nothing about the network.
_STRAY = frozenset({"pooled_projection_dim", "guidance_embeds"})
_TOKEN = 64  # numbers in a 2x2 patch of latents


def load_controlnet(
    path: Path, device: torch.device, dtype: torch.dtype, *, modulation: torch.device | None = None
) -> ControlNet | BlockwiseControlNet:
    """Build the ControlNet in a folder: a released InstantX one, or a blockwise one of DiffSynth.

    The latter come without a config; their tensors tell the sizes. `modulation` is where the layers that
    depend on the noise level alone go.
    """
    if not path.is_dir():
        raise CheckpointError(f"expected the folder of a ControlNet, found {path}")
    if (path / "config.json").is_file():
        config = config_from_json(ControlNetConfig, read_json(path / "config.json"), ignored=_STRAY)

        def place(name: str) -> torch.device:
            return modulation if modulation is not None and is_modulation(name) else device

        return build(lambda: ControlNet(config), path, device=place, dtype=dtype)
    sizes = _blockwise_sizes(path)
    return build(lambda: BlockwiseControlNet(sizes), path, device=device, dtype=dtype)


def _blockwise_sizes(path: Path) -> BlockwiseConfig:
    tensors = Shards.open(path).tensors
    blocks = {int(found[1]) for name in tensors if (found := re.match(r"controlnet_blocks\.(\d+)\.", name))}
    if "img_in.weight" not in tensors or not blocks:
        raise CheckpointError(
            f"{path}: expected a ControlNet with config.json or the tensors of a blockwise one, found neither"
        )
    dim, channels = tensors["img_in.weight"].shape
    return BlockwiseConfig(
        num_layers=max(blocks) + 1, dim=dim, in_channels=_TOKEN, extra_condition_channels=channels - _TOKEN
    )


def check_fits(net: ControlNet | BlockwiseControlNet, model: MMDiT) -> None:
    """Raise CheckpointError where a ControlNet was made for another denoiser."""
    ours, theirs = _sizes(model), _sizes(net)
    if any(theirs[name] != ours[name] for name in theirs):
        known = {name: ours[name] for name in theirs}
        raise CheckpointError(f"expected a ControlNet for a denoiser of {known}, found one for {theirs}")


def _sizes(net: ControlNet | BlockwiseControlNet | MMDiT) -> dict[str, int]:
    sizes = {"channels": net.config.in_channels, "width": net.img_in.out_features}
    if not isinstance(net, ControlNet):
        sizes["blocks"] = net.config.num_layers
    if not isinstance(net, BlockwiseControlNet):
        sizes["text"] = net.config.joint_attention_dim
    return sizes
