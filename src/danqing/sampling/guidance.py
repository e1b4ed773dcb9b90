"""Classifier-free guidance as the 1.x releases run it ("true CFG")."""

from jaxtyping import Float
from torch import Tensor


def guided(
    cond: Float[Tensor, "batch seq dim"],
    uncond: Float[Tensor, "batch seq dim"],
    scale: float,
    *,
    rescale: bool = True,
) -> Float[Tensor, "batch seq dim"]:
    """Return uncond + scale (cond - uncond) (Ho and Salimans, arXiv 2207.12598, equation 6).

    With `rescale`, every token keeps the length of its conditional velocity, as in the released pipelines.
    """
    velocity = uncond + scale * (cond - uncond)
    if not rescale:
        return velocity
    return velocity * (cond.norm(dim=-1, keepdim=True) / velocity.norm(dim=-1, keepdim=True))
