"""Layers that more than one model of the family uses."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Divide by the root mean square over the last axis, then scale (Zhang and Sennrich, 2019, eq. 4).

    The rounding is that of the reference: the statistics are taken in fp32, the normalised value is cast to
    the dtype of the weight, and only then multiplied, so bf16 results agree bit for bit.
    """

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Normalise `x` over its last axis."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(self.weight.dtype)
