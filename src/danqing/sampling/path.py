"""The straight path between data and noise; the one place that knows the direction of time.

sigma = 0 is data, sigma = 1 is noise: noised = (1 - sigma) latents + sigma noise, and the network predicts
the velocity noise - latents (flow matching, Lipman et al., arXiv 2210.02747; rectified flow, Liu et al.,
arXiv 2209.03003). The Qwen-Image report writes time the other way round.
"""

from jaxtyping import Float
from torch import Tensor


def interpolate(
    latents: Float[Tensor, "batch *shape"],
    noise: Float[Tensor, "batch *shape"],
    sigma: Float[Tensor, " batch"],
) -> Float[Tensor, "batch *shape"]:
    """Return the noised latents at each entry's noise level."""
    level = sigma.view(-1, *(1,) * (latents.dim() - 1))
    return (1 - level) * latents + level * noise


def velocity_target(
    latents: Float[Tensor, "batch *shape"], noise: Float[Tensor, "batch *shape"]
) -> Float[Tensor, "batch *shape"]:
    """Return what the network learns to predict."""
    return noise - latents


def denoised_estimate(
    noised: Float[Tensor, "batch *shape"], velocity: Float[Tensor, "batch *shape"], sigma: float
) -> Float[Tensor, "batch *shape"]:
    """Return the data a velocity points at."""
    return noised - sigma * velocity
