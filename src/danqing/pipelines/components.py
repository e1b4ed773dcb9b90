"""What a pipeline works with: the parts of one checkpoint, on one device, in one precision."""

from dataclasses import dataclass

import torch

from danqing.conditioning.tokenizer import Tokenizer
from danqing.models.mmdit import MMDiT
from danqing.models.vae import VAE
from danqing.models.vlm import VLM
from danqing.sampling.schedule import ScheduleConfig
from danqing.weights.layouts import CheckpointInfo, Folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Components:
    """A loaded checkpoint."""

    info: CheckpointInfo
    transformer: MMDiT
    vae: VAE
    vlm: VLM
    tokenizer: Tokenizer
    schedule: ScheduleConfig
    device: torch.device
    dtype: torch.dtype
    batch_size: int
    """Pictures denoised together. On a CPU one at a time, which keeps results bit-equal and costs nothing."""


def load_components(folder: Folder, *, device: torch.device, dtype: torch.dtype) -> Components:
    """Load everything that drawing from text needs."""
    return Components(
        info=folder.info(),
        # The modulation of a schedule is computed once, so its layers need no room on the device.
        transformer=folder.transformer(device, dtype, modulation=torch.device("cpu")),
        vae=folder.vae(device, dtype),
        vlm=folder.vlm(device, dtype),
        tokenizer=Tokenizer.load(folder.path / "tokenizer"),
        schedule=folder.schedule(),
        device=device,
        dtype=dtype,
        batch_size=1 if device.type == "cpu" else 4,
    )
