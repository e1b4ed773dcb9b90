"""From a request's texts and pictures to jobs, the same for every task."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from danqing.conditioning.given import GivenPicture, opaque
from danqing.conditioning.latents import mask_tokens, noise_tokens, pack, sampled_tokens
from danqing.conditioning.pictures import fitted_size, mask_latents, resized_pixels
from danqing.conditioning.text import Conditioning
from danqing.errors import RequestError
from danqing.models.controlnet import ControlNet
from danqing.models.rope import GridShape
from danqing.pipelines.components import Components
from danqing.pipelines.control import Control, Window
from danqing.pipelines.job import Job, Settings
from danqing.pipelines.request import DrawRequest

_LOG_VARIANCE = (-30.0, 20.0)  # where the reference cuts the posterior's log-variance


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A picture the denoiser looks at."""

    tokens: Float[Tensor, "1 seq dim"]
    shape: GridShape


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A picture to start from: the posterior of its latents, and where it may change."""

    mean: Float[Tensor, "1 z lat_h lat_w"]
    std: Float[Tensor, "1 z lat_h lat_w"]
    mask: Float[Tensor, "1 seq dim"] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Steering:
    """A picture that a ControlNet reads: the posterior of its latents, or their mode alone, and its mask."""

    window: Window
    mean: Float[Tensor, "1 z lat_h lat_w"]
    std: Float[Tensor, "1 z lat_h lat_w"] | None
    keep: Float[Tensor, "1 seq 4"] | None
    """1 where the picture is kept; its masked part is black to the ControlNet."""

    def tokens(self, latents: Float[Tensor, "1 seq dim"]) -> Float[Tensor, "1 seq control_channels"]:
        """Return packed latents of the picture as the ControlNet reads them, its mask behind them."""
        return latents if self.keep is None else torch.cat((latents, self.keep), dim=2)


@torch.no_grad()
def reference_of(components: Components, picture: Image.Image, area: int) -> Reference:
    """Encode a picture at about `area` pixels in its own aspect; the mode of the posterior."""
    size = fitted_size(picture.size, area)
    with components.stage("vae"):
        latents = components.vae.encode(_pixels(components, picture, size)).float().cpu()
    return Reference(tokens=pack(latents, components.patch), shape=_shape(components, size))


@torch.no_grad()
def start_from(
    components: Components, picture: Image.Image, size: tuple[int, int], mask: GivenPicture | None
) -> Start:
    """Encode a picture at (width, height) `size` to start from; raises where a mask lets draw nothing."""
    config = components.vae.config
    mean, std = _posterior(components, _pixels(components, picture, size))
    drawn = None
    if mask is not None:
        drawn = mask_latents(mask.image, size, config.spatial_ratio)
        if not drawn.any():
            raise RequestError(f"{mask.name}: expected white where to draw, found none; paint the mask white")
    tokens = None if drawn is None else mask_tokens(drawn, config.z_dim, components.patch)
    return Start(mean=mean, std=std, mask=tokens)


@torch.no_grad()
def steering_of(components: Components, control: Control, size: tuple[int, int]) -> Steering:
    """Encode a control picture at (width, height) `size`; what its mask lets draw is black to the network.

    The InstantX networks learned from samples of the posterior, the blockwise ones from its mode.
    """
    pixels = _pixels(components, control.picture.image, size)
    keep = None
    if control.mask is not None:
        hole = mask_latents(control.mask.image, size, 1).bool().to(pixels.device)
        pixels = pixels.masked_fill(hole, -1.0)
        ratio = components.vae.config.spatial_ratio
        keep = mask_tokens(1 - mask_latents(control.mask.image, size, ratio), 1)
    mean, std = _posterior(components, pixels)
    sampled = isinstance(components.controlnet, ControlNet)
    return Steering(window=control.window, mean=mean, std=std if sampled else None, keep=keep)


def _posterior(components: Components, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of normalised latents, fp32, on the CPU."""
    with components.stage("vae"):
        mean, log_variance = components.vae.posterior(pixels)
    shift = torch.tensor(components.vae.config.latents_mean).view(1, -1, 1, 1)
    scale = torch.tensor(components.vae.config.latents_std).view(1, -1, 1, 1)
    std = (log_variance.float().cpu().clamp(*_LOG_VARIANCE) / 2).exp()
    return (mean.float().cpu() - shift) / scale, std / scale


def jobs_of(
    components: Components,
    index: int,
    request: DrawRequest,
    txt: Conditioning,
    *,
    references: Sequence[Reference] = (),
    start: Start | None = None,
    controls: Sequence[Steering] = (),
) -> Iterator[Job]:
    """Yield a job for each seed of a resolved request, the `index`-th of its call.

    `txt` holds the prompt and, where guidance is on, the negative prompt; they, the references, the
    start and the controls are shared by all seeds, noise and samples are each one's own.
    """
    assert request.size is not None
    assert request.steps is not None
    assert request.guidance is not None
    assert request.seed is not None
    shape = _shape(components, request.size)
    settings = Settings(
        shape=shape,
        steps=request.steps,
        guidance=request.guidance,
        solver=request.solver,
        rescale=components.info.rescale,
        skipped=0 if start is None else _skipped(request.steps, request.strength or 1.0),
        references=tuple(reference.shape for reference in references),
        controls=tuple(control.window for control in controls),
        started=start is not None,
        masked=start is not None and start.mask is not None,
    )
    looked_at = _looked_at(references, shape, None)
    rows = [row[:length] for row, length in zip(txt.txt, txt.lengths, strict=True)]
    for number in range(request.count):
        seed = request.seed + number
        steered, known, noise = _drawn(components, shape, seed, start, controls)
        yield Job(
            index=index,
            request=replace(request, seed=seed, count=1),
            seed=seed,
            settings=settings,
            cond=rows[0],
            uncond=rows[1] if len(rows) > 1 else None,
            before=txt.before,
            noise=noise,
            known=known,
            mask=None if start is None else start.mask,
            references=looked_at if known is None else _looked_at(references, shape, known),
            controls=steered,
        )


def _drawn(
    components: Components, shape: GridShape, seed: int, start: Start | None, controls: Sequence[Steering]
) -> tuple[tuple[Tensor, ...], Tensor | None, Tensor]:
    """Return what ControlNets read, what drawing starts from and its noise, from one stream in this order."""
    posteriors = [(one.mean, one.std) for one in controls if one.std is not None]
    if start is not None:
        posteriors.append((start.mean, start.std))
    samples: list[Tensor] = []
    patch = components.patch
    if posteriors:
        samples, noise = sampled_tokens(posteriors, seed, patch)
    else:
        channels, grid = components.vae.config.z_dim, (patch * shape.height, patch * shape.width)
        noise = noise_tokens([seed], channels=channels, lat_h=grid[0], lat_w=grid[1], patch=patch)
    known = None if start is None else samples.pop()
    left = iter(samples)
    steered = (one.tokens(pack(one.mean) if one.std is None else next(left)) for one in controls)
    return tuple(steered), known, noise


def steps_taken(request: DrawRequest) -> int:
    """Return how many steps each picture of a resolved request takes."""
    steps = request.steps or 0
    return steps if request.strength is None else steps - _skipped(steps, request.strength)


def _looked_at(references: Sequence[Reference], shape: GridShape, known: Tensor | None) -> Tensor | None:
    """Return the latents of all references; a last one that drawing starts from is the very same sample.

    That is what `QwenImageEditInpaintPipeline` of diffusers does.
    """
    if not references:
        return None
    tokens = [one.tokens for one in references]
    if known is not None and references[-1].shape == shape:
        tokens[-1] = known
    return torch.cat(tokens, dim=1)


def _skipped(steps: int, strength: float) -> int:
    """Return how many steps of a schedule are left out, in the arithmetic of the reference."""
    return int(max(steps - min(steps * strength, steps), 0))


def _pixels(
    components: Components, picture: Image.Image, size: tuple[int, int]
) -> Float[Tensor, "1 channels height width"]:
    picture = picture.convert("RGBA") if components.transparency else opaque(picture)
    return resized_pixels(picture, size).unsqueeze(0).to(components.device, components.dtype)


def _shape(components: Components, size: tuple[int, int]) -> GridShape:
    """Return the size in tokens of a picture of `size` pixels."""
    side = components.patch * components.vae.config.spatial_ratio
    return GridShape(1, size[1] // side, size[0] // side)
