"""Layers that more than one model of the family uses."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


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


def modulated(
    tokens: Float[Tensor, "batch seq dim"],
    scale: Float[Tensor, "rows #seq dim"],
    shift: Float[Tensor, "rows #seq dim"] | None = None,
    *,
    eps: float = 1e-6,
) -> Float[Tensor, "batch seq dim"]:
    """Layer norm without weights of its own, times `scale`, plus `shift`.

    One row for all tokens, as in drawing, is one pass over them, rounded once.
    """
    dim = tokens.shape[-1:]
    if scale.shape[:-1].numel() == 1:
        return F.layer_norm(tokens, dim, scale.flatten(), None if shift is None else shift.flatten(), eps)
    normed = F.layer_norm(tokens, dim, eps=eps)
    return normed * scale if shift is None else torch.addcmul(shift, normed, scale)


def embedding(count: int, dim: int) -> nn.Embedding:
    """Return an embedding table, on the meta device without its random fill: that takes two seconds there."""
    values = torch.empty(count, dim)
    return nn.Embedding.from_pretrained(values, freeze=False) if values.is_meta else nn.Embedding(count, dim)


class SwiGLU(nn.Module):
    """Feed-forward layer whose hidden units are gated by a SiLU (Shazeer, 2020, eq. 6)."""

    def __init__(self, dim: int, hidden_dim: int, *, bias: bool = False) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(dim, hidden_dim, bias=bias)
        self.up_proj = nn.Linear(dim, hidden_dim, bias=bias)
        self.down_proj = nn.Linear(hidden_dim, dim, bias=bias)

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Apply the layer to every token."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


def apply_rope(
    x: Float[Tensor, "*batch seq head_dim"],
    cos: Float[Tensor, "*#batch seq head_dim"],
    sin: Float[Tensor, "*#batch seq head_dim"],
) -> Float[Tensor, "*batch seq head_dim"]:
    """Rotate the pairs (i, i + head_dim / 2) of every head (Su et al., 2021, eq. 34, split in halves)."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
