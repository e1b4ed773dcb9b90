"""The network as a function of noised latents: what differs between families of checkpoints."""

from collections.abc import Sequence
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from danqing.conditioning.text import join
from danqing.pipelines.components import Components
from danqing.pipelines.job import Job
from danqing.pipelines.steering import steering


class Predict(Protocol):
    """Noised latents and the index of their noise level → velocity with the prompt, and without."""

    def __call__(
        self, latents: Float[Tensor, "batch seq dim"], index: int
    ) -> tuple[Float[Tensor, "batch seq dim"], Float[Tensor, "batch seq dim"] | None]:
        """Return the velocities at noise level `index`; the second only where guidance needs it."""


def predict(components: Components, jobs: Sequence[Job], sigmas: Float[Tensor, " points"]) -> Predict:
    """Return the denoiser of the 1.x family over jobs of equal settings."""
    model, dtype, settings = components.transformer, components.dtype, jobs[0].settings
    # All conditional rows, then all unconditional ones: both branches of guidance in one forward.
    text = join([job.cond for job in jobs] + [job.uncond for job in jobs if job.uncond is not None])
    copies = len(text.lengths) // len(jobs)
    txt = text.txt.to(dtype)
    additional = 0 if model.config.use_additional_t_cond else None  # the class of pictures, layered or not
    table = model.modulation_table(sigmas[:-1], additional).to(components.device)
    shapes = [settings.shape, *settings.references]
    found = [job.references for job in jobs if job.references is not None]
    references = torch.cat(found).to(components.device, dtype) if found else None
    steer = steering(components.controlnet, model, jobs, sigmas, text)

    def network(latents: Tensor, index: int) -> tuple[Tensor, Tensor | None]:
        img = latents.to(dtype)
        if references is not None:
            img = torch.cat((img, references), dim=1)
        out = model(
            img.repeat(copies, 1, 1),
            txt,
            table.at(index),
            shapes=shapes,
            lengths=text.lengths,
            residual=None if steer is None else steer(latents, index),
        )
        velocity = out[:, : latents.shape[1]].float()
        return (velocity[: len(jobs)], velocity[len(jobs) :]) if copies == 2 else (velocity, None)

    return network
