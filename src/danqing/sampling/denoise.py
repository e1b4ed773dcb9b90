"""The sampling loop: a generator of steps over a velocity function."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from danqing.errors import RequestError
from danqing.sampling.path import denoised_estimate


@runtime_checkable
class VelocityFn(Protocol):
    """Latent tokens and the index of their noise level in the grid → velocity."""

    def __call__(self, latents: Float[Tensor, "batch seq dim"], index: int) -> Float[Tensor, "batch seq dim"]:
        """Return the velocity at noise level `index` of the grid."""


class Step(NamedTuple):
    """The state after one step."""

    number: int
    """Steps taken, counted from 1."""
    sigma: float
    """Noise level of `latents`."""
    latents: Float[Tensor, "batch seq dim"]
    denoised: Float[Tensor, "batch seq dim"]
    """Where the last velocity pointed: the picture so far, for previews."""


SOLVERS = ("euler", "heun")


def denoise(
    velocity: VelocityFn,
    latents: Float[Tensor, "batch seq dim"],
    sigmas: Float[Tensor, " points"],
    *,
    solver: str = "euler",
) -> Iterator[Step]:
    """Follow the velocity from sigmas[0] down to sigmas[-1], yielding after every step.

    `euler` takes one evaluation a step; `heun` corrects it with a second one at the next level (Karras et
    al., arXiv 2206.00364, algorithm 1), except for the last step to zero noise. Close the generator to stop
    early.
    """
    if solver not in SOLVERS:
        raise RequestError(f"solver: expected one of {', '.join(SOLVERS)}, found {solver!r}")
    levels = [float(sigma) for sigma in sigmas]
    spans = sigmas.diff()
    for index, span in enumerate(spans):
        direction = velocity(latents, index)
        denoised = denoised_estimate(latents, direction, levels[index])
        if solver == "heun" and levels[index + 1] > 0:
            direction = (direction + velocity(latents + span * direction, index + 1)) / 2
        latents = latents + span * direction
        yield Step(index + 1, levels[index + 1], latents, denoised)
