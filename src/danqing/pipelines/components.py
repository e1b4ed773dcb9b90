"""What a pipeline works with: the parts of one checkpoint, on one device, in one precision."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from torch import nn

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
from danqing.weights.file_names import Part
from danqing.weights.identity import Identity, identity_of
from danqing.weights.layouts import CheckpointInfo, Folder
from danqing.weights.plan import Format, MemoryPlan
from danqing.weights.residency import Residency
from danqing.weights.result_cache import ResultCache, open_cache

T = TypeVar("T")
# The modulation of a schedule is computed once, so its layers need no room on the device.
_SPARE = torch.device("cpu")


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
    residencies: Mapping[Part, Residency] = field(default_factory=dict)
    """What keeps the weights of parts; those of a part without one are in memory at all times."""
    vae_tile: int | None = None
    """Side of the tiles a picture is decoded in, in latents; None decodes it whole."""
    quantised: Format | None = None
    """Number format that large weights were brought to when they were loaded; None where they are plain."""
    identities: Mapping[Part, Identity] = field(default_factory=dict)
    """Which files parts were made from; results of a part without one are not kept."""
    cache: ResultCache | None = None
    """Where results are kept that depend on a request and weights alone."""

    def stage(self, part: Part) -> AbstractContextManager[None]:
        """Have the weights of a part in memory while it is used; see `Residency.stage`."""
        found = self.residencies.get(part)
        return nullcontext() if found is None else found.stage()

    def hold(self, part: Part) -> AbstractContextManager[None]:
        """Keep what stages inside read of a part until the end, see `Residency.hold`."""
        found = self.residencies.get(part)
        return nullcontext() if found is None else found.hold()

    def at_once(self, part: Part, results: Iterator[T]) -> Iterable[T]:
        """Return what a part makes: all of it now where it is dropped after use, else one by one."""
        found = self.residencies.get(part)
        if found is None or found.placement.kept:
            return results
        with found.hold():
            return list(results)

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
    plan: MemoryPlan | None = None,
    cache: bool = True,
) -> Components:
    """Load everything that `tasks` need, by default all those of the checkpoint, and no more.

    The conditioner's vision tower is for those that see pictures, its head for those that write. With a plan
    only what it keeps is read now, the rest when it is used; pictures are the same, and so they are with
    `cache`, which keeps what was read of prompts, and large modulation tables. Raises RequestError for a task
    that the checkpoint cannot do.
    """
    info = folder.info()
    for task in tasks or ():
        check_task(info, task)
    if tasks is not None:
        info = replace(info, tasks=tuple(task for task in info.tasks if task in tasks))
    parts = _load_parts(folder, info, device, dtype, plan)
    return Components(
        info=info,
        transformer=parts.transformer,
        controlnet=_load_steering(controlnet, info, parts.transformer, device, dtype),
        vae=parts.vae,
        vlm=parts.vlm,
        tokenizer=Tokenizer.load(folder.tokenizer),
        schedule=folder.schedule(),
        device=device,
        dtype=dtype,
        batch_size=1 if device.type == "cpu" else 4,
        picture_limits=load_limits(folder),
        system_prompt=release_system_prompt(folder.path),
        residencies=parts.residencies,
        vae_tile=None if plan is None else plan.vae_tile,
        quantised=None if plan is None else plan.quantised,
        identities=_identities(folder, parts, dtype) if cache else {},
        cache=open_cache() if cache else None,
    )


class _Parts(NamedTuple):
    transformer: MMDiT | SingleStream
    vae: VAE | VAE21
    vlm: Conditioner
    residencies: Mapping[Part, Residency]


def _identities(folder: Folder, parts: _Parts, dtype: torch.dtype) -> Mapping[Part, Identity]:
    modules: dict[Part, nn.Module] = {"transformer": parts.transformer, "text_encoder": parts.vlm}
    streamed = {part for part, residency in parts.residencies.items() if not residency.whole}
    return {
        part: identity_of(folder, part, dtype, module, streamed=part in streamed)
        for part, module in modules.items()
    }


def _load_parts(
    folder: Folder,
    info: CheckpointInfo,
    device: torch.device,
    dtype: torch.dtype,
    plan: MemoryPlan | None,
) -> _Parts:
    vision = not {"edit", "describe", "layers"}.isdisjoint(info.tasks)
    head = not {"describe", "layers", "enhance"}.isdisjoint(info.tasks)
    vlm, conditioner = load_conditioner(folder, device, dtype, plan, vision=vision, head=head)
    if plan is None or conditioner is None:
        transformer = folder.transformer(device, dtype, modulation=_SPARE)
        return _Parts(transformer, folder.vae(device, dtype), vlm, {})
    transformer, denoiser = folder.placed_transformer(
        plan.transformer, device, dtype, modulation=_SPARE, modulation_kept=plan.modulation_kept
    )
    vae, autoencoder = folder.placed_vae(plan.vae, device, dtype)
    residencies: dict[Part, Residency] = {
        "transformer": denoiser,
        "vae": autoencoder,
        "text_encoder": conditioner,
    }
    return _Parts(transformer, vae, vlm, residencies)


def _load_steering(
    path: Path | None,
    info: CheckpointInfo,
    transformer: MMDiT | SingleStream,
    device: torch.device,
    dtype: torch.dtype,
) -> ControlNet | BlockwiseControlNet | None:
    if path is None:
        return None
    if not isinstance(transformer, MMDiT):
        raise CheckpointError(f"{info.name}: expected no ControlNet, found one; only 1.x is steered by them")
    net = load_controlnet(path, device, dtype, modulation=_SPARE)
    check_fits(net, transformer)
    return net


def load_conditioner(
    folder: Folder,
    device: torch.device,
    dtype: torch.dtype,
    plan: MemoryPlan | None,
    *,
    vision: bool,
    head: bool,
) -> tuple[Conditioner, Residency | None]:
    """Load what reads prompts, sees and speaks, and return it with what keeps its weights by a plan."""
    if plan is None:
        return folder.vlm(device, dtype, vision=vision, head=head), None
    return folder.placed_vlm(plan.text_encoder, device, dtype, vision=vision, head=head)


def load_limits(folder: Folder) -> PictureLimits:
    """Return how many pixels of a picture the conditioner sees, as the checkpoint says."""
    processor = folder.path / "processor"
    return PictureLimits.load(processor) if processor.is_dir() else PictureLimits()
