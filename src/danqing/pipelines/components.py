"""What a pipeline works with: the parts of one checkpoint, on one device, in one precision."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from danqing.conditioning.enhance import release_system_prompt
from danqing.conditioning.pictures import PictureLimits
from danqing.conditioning.text import Conditioner
from danqing.conditioning.tokenizer import Tokenizer
from danqing.errors import CheckpointError
from danqing.models.controlnet import BlockwiseControlNet, ControlNet
from danqing.models.mmdit import MMDiT
from danqing.models.single_stream import SingleStream
from danqing.models.vae import VAE
from danqing.models.vae21 import VAE21, VAE21Config
from danqing.pipelines.request import check_task
from danqing.sampling.schedule import ScheduleConfig
from danqing.weights.controlnets import check_fits, load_controlnet
from danqing.weights.layouts import CheckpointInfo, Folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Components:
    """A loaded checkpoint."""

    info: CheckpointInfo
    transformer: MMDiT | SingleStream
    vae: VAE | VAE21
    vlm: Conditioner
    tokenizer: Tokenizer
    schedule: ScheduleConfig
    device: torch.device
    dtype: torch.dtype
    batch_size: int
    """Pictures denoised together. On a CPU one at a time, which keeps results bit-equal and costs nothing."""
    controlnet: ControlNet | BlockwiseControlNet | None = None
    picture_limits: PictureLimits = field(default_factory=PictureLimits)
    """How many pixels of a picture the conditioner sees."""
    merged_loras: Mapping[str, float] = field(default_factory=dict)
    """Adapters in the weights and their strengths; attached ones are known to the denoiser."""
    system_prompt: str | None = None
    """What the checkpoint itself tells its conditioner when a prompt is to be rewritten."""

    @property
    def patch(self) -> int:
        """Latents on each side of a token."""
        return self.transformer.config.patch_size

    @property
    def transparency(self) -> bool:
        """Whether the autoencoder knows an alpha channel."""
        config = self.vae.config
        return (config.in_channels if isinstance(config, VAE21Config) else config.input_channels) == 4


def load_components(
    folder: Folder,
    *,
    device: torch.device,
    dtype: torch.dtype,
    controlnet: Path | None = None,
    tasks: Collection[str] | None = None,
) -> Components:
    """Load everything that `tasks` need, by default all those of the checkpoint, and no more.

    The conditioner's vision tower is for those that see pictures, its head for those that write. Raises
    RequestError for a task that the checkpoint cannot do.
    """
    info = folder.info()
    for task in tasks or ():
        check_task(info, task)
    if tasks is not None:
        info = replace(info, tasks=tuple(task for task in info.tasks if task in tasks))
    # The modulation of a schedule is computed once, so its layers need no room on the device.
    spare = torch.device("cpu")
    transformer = folder.transformer(device, dtype, modulation=spare)
    net = None
    if controlnet is not None:
        if not isinstance(transformer, MMDiT):
            raise CheckpointError(
                f"{info.name}: expected no ControlNet, found one; only 1.x is steered by them"
            )
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
            head=not {"describe", "layers", "enhance"}.isdisjoint(info.tasks),
        ),
        tokenizer=Tokenizer.load(folder.tokenizer),
        schedule=folder.schedule(),
        device=device,
        dtype=dtype,
        batch_size=1 if device.type == "cpu" else 4,
        picture_limits=load_limits(folder),
        system_prompt=release_system_prompt(folder.path),
    )


def load_limits(folder: Folder) -> PictureLimits:
    """Return how many pixels of a picture the conditioner sees, as the checkpoint says."""
    processor = folder.path / "processor"
    return PictureLimits.load(processor) if processor.is_dir() else PictureLimits()
