"""From a request's texts and pictures to jobs, the same for every task."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from danqing.conditioning.given import GivenPicture
from danqing.conditioning.latents import mask_tokens, noise_tokens, pack, start_tokens
from danqing.conditioning.pictures import fitted_size, mask_latents, resized_pixels
from danqing.conditioning.text import Conditioning
from danqing.errors import RequestError
from danqing.models.rope import GridShape
from danqing.pipelines.components import Components
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


@torch.no_grad()
def reference_of(components: Components, picture: Image.Image, area: int) -> Reference:
    """Encode a picture at about `area` pixels in its own aspect; the mode of the posterior."""
    size = fitted_size(picture.size, area)
    latents = components.vae.encode(_pixels(components, picture, size)).float().cpu()
    return Reference(tokens=pack(latents), shape=_shape(components, size))


@torch.no_grad()
def start_from(
    components: Components, picture: Image.Image, size: tuple[int, int], mask: GivenPicture | None
) -> Start:
    """Encode a picture at (width, height) `size` to start from; raises where a mask lets draw nothing."""
    config = components.vae.config
    mean, log_variance = components.vae.posterior(_pixels(components, picture, size))
    shift = torch.tensor(config.latents_mean).view(1, -1, 1, 1)
    scale = torch.tensor(config.latents_std).view(1, -1, 1, 1)
    drawn = None
    if mask is not None:
        drawn = mask_latents(mask.image, size, config.spatial_ratio)
        if not drawn.any():
            raise RequestError(f"{mask.name}: expected white where to draw, found none; paint the mask white")
    return Start(
        mean=(mean.float().cpu() - shift) / scale,
        std=(log_variance.float().cpu().clamp(*_LOG_VARIANCE) / 2).exp() / scale,
        mask=None if drawn is None else mask_tokens(drawn, config.z_dim),
    )


def jobs_of(
    components: Components,
    index: int,
    request: DrawRequest,
    txt: Conditioning,
    *,
    references: Sequence[Reference] = (),
    start: Start | None = None,
) -> Iterator[Job]:
    """Yield a job for each seed of a resolved request, the `index`-th of its call.

    `txt` holds the prompt and, where guidance is on, the negative prompt; they, the references and the start
    are shared by all seeds, noise is each one's own.
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
        skipped=0 if start is None else _skipped(request.steps, request.strength or 1.0),
        references=tuple(reference.shape for reference in references),
        started=start is not None,
        masked=start is not None and start.mask is not None,
    )
    rows = [row[:length] for row, length in zip(txt.txt, txt.lengths, strict=True)]
    for number in range(request.count):
        seed, known = request.seed + number, None
        if start is None:
            channels = components.vae.config.z_dim
            noise = noise_tokens([seed], channels=channels, lat_h=2 * shape.height, lat_w=2 * shape.width)
        else:
            known, noise = start_tokens(start.mean, start.std, seed)
        yield Job(
            index=index,
            request=replace(request, seed=seed, count=1),
            seed=seed,
            settings=settings,
            cond=rows[0],
            uncond=rows[1] if len(rows) > 1 else None,
            noise=noise,
            known=known,
            mask=None if start is None else start.mask,
            references=_looked_at(references, shape, known),
        )


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
    return resized_pixels(picture, size).unsqueeze(0).to(components.device, components.dtype)


def _shape(components: Components, size: tuple[int, int]) -> GridShape:
    """Return the size in tokens of a picture of `size` pixels."""
    side = 2 * components.vae.config.spatial_ratio
    return GridShape(1, size[1] // side, size[0] // side)
