"""Squares cut out of pictures, anywhere and of any size."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def squares(
    pictures: Float[Tensor, "places channels height width"],
    x: Float[Tensor, " places"],
    y: Float[Tensor, " places"],
    side: Float[Tensor, " places"],
    samples: int,
) -> Float[Tensor, "places channels samples samples"]:
    """Return squares around centres, all in fractions of the picture; outside of it its edges go on."""
    xs, ys = (2 * (at[:, None] + side[:, None] * sample_axis(samples, at.device)) - 1 for at in (x, y))
    grid = torch.stack(torch.broadcast_tensors(xs[:, None, :], ys[:, :, None]), -1)
    pictures = pictures.expand(len(grid), -1, -1, -1)
    return F.grid_sample(pictures, grid, mode="bilinear", padding_mode="border", align_corners=False)


def sample_axis(samples: int, device: torch.device) -> Float[Tensor, " samples"]:
    """Return where the samples of a square lie along its side, from -1/2 to 1/2."""
    return (torch.arange(samples, device=device) + 0.5) / samples - 0.5
