"""The one way pictures are drawn: jobs in groups, each denoised together and decoded one by one."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from einops import rearrange
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from danqing.conditioning.images import to_pictures
from danqing.conditioning.latents import unpack
from danqing.pipelines.components import Components
from danqing.pipelines.documents import flatten
from danqing.pipelines.job import Job, Settings
from danqing.pipelines.predict import Predict, predict
from danqing.pipelines.request import DrawRequest
from danqing.sampling.denoise import Step, VelocityFn, denoise
from danqing.sampling.guidance import guided
from danqing.sampling.path import interpolate, velocity_target
from danqing.sampling.schedule import sigma_grid


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One step of one group of pictures; the last step of a group carries its pictures."""

    request: int
    """Index of the first picture's request."""
    step: int
    steps: int
    """Steps that are taken: fewer than the schedule's where drawing starts from a picture."""
    sigma: float
    seeds: tuple[int, ...]
    preview: Callable[[], list[Image.Image]]
    """Decode what the pictures look like so far."""
    drawn: tuple["Drawn", ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A finished picture and what made it."""

    image: Image.Image
    """Of layers, all of them laid over each other."""
    request: DrawRequest
    """Resolved; its seed is the picture's own and its count 1."""
    index: int
    """Place of the request in the call."""
    layers: tuple[Image.Image, ...] = ()
    """What a layered picture is made of, the lowest first; RGBA."""


def draw(components: Components, jobs: Iterable[Job]) -> Iterator[Progress]:
    """Draw every job, those of equal settings that follow each other `components.batch_size` at a time."""
    waiting: list[Job] = []
    for job in jobs:
        if waiting and (waiting[0].settings != job.settings or len(waiting) == components.batch_size):
            yield from _draw(components, waiting)
            waiting = []
        waiting.append(job)
    if waiting:
        yield from _draw(components, waiting)


@torch.no_grad()
def _draw(components: Components, jobs: Sequence[Job]) -> Iterator[Progress]:
    settings = jobs[0].settings
    # 1. The noise levels; a picture to start from leaves the first ones out.
    tokens = settings.shape.height * settings.shape.width
    sigmas = sigma_grid(components.schedule, settings.steps, tokens, mu=settings.mu)[settings.skipped :]
    # 2. The noised latents. They stay in fp32 between steps, whatever the network uses.
    noise = torch.cat([job.noise for job in jobs]).to(components.device)
    known = _joined([job.known for job in jobs], components.device)
    latents = noise if known is None else interpolate(known, noise, sigmas[:1].to(noise).expand(len(jobs)))
    mask = _joined([job.mask for job in jobs], components.device)

    def progress(step: Step, drawn: Sequence[Drawn] = ()) -> Progress:
        return Progress(
            request=jobs[0].index,
            step=step.number,
            steps=len(sigmas) - 1,
            sigma=step.sigma,
            seeds=tuple(job.seed for job in jobs),
            preview=partial(decode, components, step.denoised[:, :tokens], settings.shape.height),
            drawn=tuple(drawn),
        )

    with components.stage("transformer"):
        # 3. The velocity the solver follows: guided, and straight back where a picture is kept.
        velocity = _guided(predict(components, jobs, sigmas), settings)
        if mask is not None and known is not None:
            velocity = _keeping(velocity, mask, velocity_target(known, noise))
        # 4. Denoise.
        for step in denoise(velocity, latents, sigmas.to(components.device), solver=settings.solver):
            if step.number == len(sigmas) - 1:
                break
            yield progress(step)
    # 5. Decode one by one, when nothing that denoising needed takes room any more.
    del velocity
    rows = zip(jobs, step.latents.split(1), strict=True)
    yield progress(step, [_drawn(components, job, row) for job, row in rows])


def _drawn(components: Components, job: Job, latents: Float[Tensor, "1 seq dim"]) -> Drawn:
    """Decode a picture; where it is layers, its first frame is their sum again, which nobody needs."""
    height, width = job.settings.shape.height, job.settings.shape.width
    frames = rearrange(latents, "1 (frames seq) dim -> frames seq dim", seq=height * width)
    if len(frames) == 1:
        return Drawn(image=decode(components, frames, height)[0], request=job.request, index=job.index)
    layers = tuple(decode(components, frames[1:], height))
    return Drawn(image=flatten(layers), request=job.request, index=job.index, layers=layers)


def _guided(network: Predict, settings: Settings) -> VelocityFn:
    def velocity(latents: Float[Tensor, "batch seq dim"], index: int) -> Float[Tensor, "batch seq dim"]:
        cond, uncond = network(latents, index)
        if uncond is None:
            return cond
        return guided(cond, uncond, settings.guidance, rescale=settings.rescale)

    return velocity


def _keeping(velocity: VelocityFn, mask: Tensor, straight: Tensor) -> VelocityFn:
    """Return a velocity that leads what is kept straight from its noise to itself.

    Noised latents at any level are then those of the kept picture, which the reference writes over them after
    every step.
    """

    def kept(latents: Float[Tensor, "batch seq dim"], index: int) -> Float[Tensor, "batch seq dim"]:
        return torch.where(mask > 0, velocity(latents, index), straight)

    return kept


@torch.no_grad()
def decode(components: Components, tokens: Float[Tensor, "batch seq dim"], height: int) -> list[Image.Image]:
    """Return the picture of each row of packed latents; `height` counts tokens."""
    latents = unpack(tokens, height, components.patch).to(components.dtype)
    with components.stage("vae"):
        return [
            to_pictures(components.vae.decode(one, tile=components.vae_tile))[0] for one in latents.split(1)
        ]


def _joined(parts: Sequence[Tensor | None], device: torch.device) -> Tensor | None:
    """Return one batch of what all jobs have, or None where they have none."""
    found = [part for part in parts if part is not None]
    return torch.cat(found).to(device) if found else None
