"""What a pipeline works with: the parts of one checkpoint, on one device, in one precision."""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from danqing.conditioning.pictures import PictureLimits
from danqing.conditioning.tokenizer import Tokenizer
from danqing.models.controlnet import BlockwiseControlNet, ControlNet
from danqing.models.mmdit import MMDiT
from danqing.models.vae import VAE
from danqing.models.vlm import VLM
from danqing.sampling.schedule import ScheduleConfig
from danqing.weights.controlnets import check_fits, load_controlnet
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
    controlnet: ControlNet | BlockwiseControlNet | None = None
    picture_limits: PictureLimits = field(default_factory=PictureLimits)
    """How many pixels of a picture the conditioner sees."""


def load_components(
    folder: Folder, *, device: torch.device, dtype: torch.dtype, controlnet: Path | None = None
) -> Components:
    """Load everything that the tasks of the checkpoint need, and no more.

    The conditioner's vision tower is for those that see pictures, its head for those that write.
    """
    info, processor = folder.info(), folder.path / "processor"
    # The modulation of a schedule is computed once, so its layers need no room on the device.
    spare = torch.device("cpu")
    transformer = folder.transformer(device, dtype, modulation=spare)
    net = None
    if controlnet is not None:
        net = load_controlnet(controlnet, device, dtype, modulation=spare)
        check_fits(net, transformer)
    return Components(
        info=info,
        transformer=transformer,
        controlnet=net,
        vae=folder.vae(device, dtype),
        vlm=folder.vlm(
            device,
            dtype,
            vision=not {"edit", "describe", "layers"}.isdisjoint(info.tasks),
            head=not {"describe", "layers"}.isdisjoint(info.tasks),
        ),
        tokenizer=Tokenizer.load(folder.path / "tokenizer"),
        schedule=folder.schedule(),
        device=device,
        dtype=dtype,
        batch_size=1 if device.type == "cpu" else 4,
        picture_limits=PictureLimits.load(processor) if processor.is_dir() else PictureLimits(),
    )
