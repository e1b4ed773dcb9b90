"""The network as a function of noised latents: what differs between families of checkpoints."""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from danqing.conditioning.text import join
from danqing.models.mmdit import MMDiT
from danqing.models.single_stream import Prefix, SingleStream, TargetLayout
from danqing.pipelines.components import Components
from danqing.pipelines.job import Job
from danqing.pipelines.modulation import modulation_table
from danqing.pipelines.steering import steering


class Predict(Protocol):
    """Noised latents and the index of their noise level → velocity with the prompt, and without."""

    def __call__(
        self, latents: Float[Tensor, "batch seq dim"], index: int
    ) -> tuple[Float[Tensor, "batch seq dim"], Float[Tensor, "batch seq dim"] | None]:
        """Return the velocities at noise level `index`; the second only where guidance needs it."""


def predict(components: Components, jobs: Sequence[Job], sigmas: Float[Tensor, " points"]) -> Predict:
    """Return the denoiser over jobs of equal settings."""
    model = components.transformer
    if isinstance(model, SingleStream):
        return _single_stream(components, model, jobs, sigmas)
    return _two_streams(components, model, jobs, sigmas)


def _two_streams(components: Components, model: MMDiT, jobs: Sequence[Job], sigmas: Tensor) -> Predict:
    """1.x: text and references go through the network at every step."""
    dtype, settings = components.dtype, jobs[0].settings
    # All conditional rows, then all unconditional ones: both branches of guidance in one forward.
    text = join([job.cond for job in jobs] + [job.uncond for job in jobs if job.uncond is not None])
    copies = len(text.lengths) // len(jobs)
    txt = text.txt.to(dtype)
    additional = 0 if model.config.use_additional_t_cond else None  # the class of pictures, layered or not
    table = modulation_table(components, model, sigmas[:-1], additional).to(components.device)
    shapes = [settings.shape, *settings.references]
    found = [job.references for job in jobs if job.references is not None]
    references = torch.cat(found).to(components.device, dtype) if found else None
    layout = model.layout(shapes, txt.shape[1], text.lengths, device=components.device)
    steer = steering(components.controlnet, model, jobs, sigmas, text)

    def network(latents: Tensor, index: int) -> tuple[Tensor, Tensor | None]:
        img = latents.to(dtype)
        if references is not None:
            img = torch.cat((img, references), dim=1)
        out = model(
            img.repeat(copies, 1, 1),
            txt,
            table.at(index),
            layout=layout,
            residual=None if steer is None else steer(latents, index),
        )
        velocity = out[:, : latents.shape[1]].float()
        return (velocity[: len(jobs)], velocity[len(jobs) :]) if copies == 2 else (velocity, None)

    return network


def _single_stream(
    components: Components, model: SingleStream, jobs: Sequence[Job], sigmas: Tensor
) -> Predict:
    """2.1: text and references are read once, and every step runs the target alone.

    A prefix takes half a megabyte a token in bf16, so there is one for each distinct prompt and each branch,
    and the pictures that share it are predicted together: nothing is padded, nothing is stored twice.
    """
    device, dtype, settings = components.device, components.dtype, jobs[0].settings
    table = model.modulation_table(sigmas[:-1]).to(device)
    prefixes: dict[tuple[int, int], Prefix] = {}

    def prefix_of(txt: Tensor, job: Job) -> Prefix:
        key = id(txt), id(job.references)  # pictures of one request have the very same tensors
        if key not in prefixes:
            references = None if job.references is None else job.references.to(device, dtype)
            prefixes[key] = model.prefix(
                txt.unsqueeze(0).to(device, dtype),
                table,
                references=references,
                shapes=settings.references,
                before=job.before,
            )
        return prefixes[key]

    def runs_of(rows: Sequence[Prefix]) -> list[_Run]:
        """Return neighbours of one prefix together."""
        runs = [list(run) for _, run in groupby(rows, key=id)]
        return [_Run(run[0], len(run), model.layout(run[0], settings.shape)) for run in runs]

    cond = runs_of([prefix_of(job.cond, job) for job in jobs])
    uncond = runs_of([prefix_of(job.uncond, job) for job in jobs if job.uncond is not None])

    def velocity(img: Tensor, runs: Sequence[_Run], index: int) -> Tensor:
        parts = img.split([run.pictures for run in runs])
        return torch.cat(
            [
                model(part, run.prefix, table.at(index), layout=run.layout).float()
                for part, run in zip(parts, runs, strict=True)
            ]
        )

    def network(latents: Tensor, index: int) -> tuple[Tensor, Tensor | None]:
        img = latents.to(dtype)
        return velocity(img, cond, index), velocity(img, uncond, index) if uncond else None

    return network


class _Run(NamedTuple):
    """Pictures next to each other that see the same text and references."""

    prefix: Prefix
    pictures: int
    layout: TargetLayout
