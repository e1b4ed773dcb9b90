"""The vision tower of Qwen3-VL: patches of pictures → features for the language tower, at several depths.

Architecture: Qwen3-VL technical report (2025); the features of earlier layers are those of DeepStack (Meng et
al., 2024). Every layer sees the whole picture; positions enter twice, by a learned table stretched over the
picture and by a 2-D RoPE. Parameter names are those of the released checkpoint under `model.visual.`.
"""

from dataclasses import dataclass
from math import isqrt
from typing import NamedTuple

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from danqing.errors import ConfigError
from danqing.models.layers import embedding
from danqing.models.vision import PatchEmbed, VisionAttention, patch_positions, rope_table

_NORM_EPS = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class Qwen3VisionConfig:
    """Sizes of the vision tower; the defaults are those of Qwen3-VL-8B."""

    dim: int = 1152
    hidden_dim: int = 4304
    num_layers: int = 27
    num_heads: int = 16
    out_dim: int = 4096
    """Width of the language tower."""
    in_channels: int = 3
    patch_size: int = 16
    temporal_patch_size: int = 2
    merge_size: int = 2
    """Patches on each side of the square that becomes one token."""
    num_positions: int = 2304
    """Entries of the table of positions, a square."""
    deepstack_layers: tuple[int, ...] = (8, 16, 24)
    """Layers whose features reach the first layers of the language tower, in order."""

    def __post_init__(self) -> None:
        """Check what the shapes below rely on."""
        if min(self.dim, self.num_layers, self.num_heads, self.patch_size, self.merge_size) < 1:
            raise ConfigError("expected positive sizes of the vision tower, found zero or less")
        if self.dim % self.num_heads or self.head_dim % 4:
            raise ConfigError(
                f"vision dim must be num_heads times a multiple of 4, found {self.dim=} {self.num_heads=}"
            )
        if isqrt(max(self.num_positions, 0)) ** 2 != self.num_positions or self.num_positions < 1:
            raise ConfigError(f"num_positions must be a square, found {self.num_positions}")
        if any(not 0 <= layer < self.num_layers for layer in self.deepstack_layers):
            raise ConfigError(
                f"deepstack_layers must be layers of the tower, found {self.deepstack_layers=} "
                f"{self.num_layers=}"
            )

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.dim // self.num_heads

    @property
    def patch_dim(self) -> int:
        """Values in one flattened patch: channels, frames, rows, columns."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2

    @property
    def pixel_mean(self) -> tuple[float, float, float]:
        """Mean that pictures in [0, 1] are normalised with."""
        return (0.5, 0.5, 0.5)

    @property
    def pixel_std(self) -> tuple[float, float, float]:
        """Standard deviation that pictures in [0, 1] are normalised with."""
        return (0.5, 0.5, 0.5)


class Seen(NamedTuple):
    """What the tower saw: one row a token, all pictures one after the other."""

    features: Float[Tensor, "tokens out_dim"]
    levels: list[Float[Tensor, "tokens out_dim"]]
    """Features of the `deepstack_layers`."""


class Qwen3VisionTower(nn.Module):
    """Encode flattened patches of one or more pictures."""

    def __init__(self, config: Qwen3VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config.in_channels, config.dim, config, bias=True)
        self.pos_embed = embedding(config.num_positions, config.dim)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.num_layers))
        self.merger = _Merger(config, norm_after=False)
        self.deepstack_merger_list = nn.ModuleList(
            _Merger(config, norm_after=True) for _ in config.deepstack_layers
        )

    def forward(
        self, patches: Float[Tensor, "patches patch_dim"], grid_thw: list[tuple[int, int, int]]
    ) -> Seen:
        """Return the features of all pictures, each in row-major order of its tokens.

        `grid_thw` holds each picture's (frames, height, width) counted in patches; `patches` come in the
        order that `patchify` gives: squares of merge_size x merge_size patches, row by row.
        """
        x = self.patch_embed(patches)
        x = x + torch.cat([self._positions(grid) for grid in grid_thw]).to(x)
        positions = patch_positions(grid_thw, self.config.merge_size)
        cos, sin = (table.to(x.device) for table in rope_table(positions, self.config.head_dim))
        segments = [(frames, rows * columns) for frames, rows, columns in grid_thw]
        levels: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            x = block(x, cos, sin, segments)
            if index in self.config.deepstack_layers:
                levels.append(self.deepstack_merger_list[len(levels)](x))
        return Seen(self.merger(x), levels)

    def _positions(self, grid: tuple[int, int, int]) -> Tensor:
        """Stretch the table over one picture, bilinear with its corners on those of the picture."""
        frames, rows, columns = grid
        side = isqrt(self.config.num_positions)
        table = rearrange(self.pos_embed.weight.float(), "(i j) dim -> i j dim", i=side)
        down, across = (_hats(count, side, table.device) for count in (rows, columns))
        stretched = torch.einsum("hi,ijd->hjd", down, table)
        stretched = torch.einsum("wj,hjd->hwd", across, stretched)
        merge = self.config.merge_size
        pattern = "(h mh) (w mw) dim -> (t h w mh mw) dim"
        return repeat(stretched, pattern, t=frames, mh=merge, mw=merge)


def _hats(count: int, side: int, device: torch.device) -> Tensor:
    """Weights (count, side) of the table's rows for `count` patches: each takes its two neighbours."""
    places = torch.arange(count, device=device) * (side - 1) / max(count - 1, 1)
    return (1 - (places[:, None] - torch.arange(side, device=device)).abs()).clamp(min=0)


class _Block(nn.Module):
    def __init__(self, config: Qwen3VisionConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.dim, eps=_NORM_EPS)
        self.norm2 = nn.LayerNorm(config.dim, eps=_NORM_EPS)
        self.attn = VisionAttention(config.dim, config.num_heads)
        self.mlp = _MLP(config.dim, config.hidden_dim)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, segments: list[tuple[int, int]]) -> Tensor:
        x = x + self.attn(self.norm1(x), cos, sin, segments)
        return x + self.mlp(self.norm2(x))


class _MLP(nn.Module):
    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.linear_fc1 = nn.Linear(dim, hidden_dim)
        self.linear_fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_fc2(F.gelu(self.linear_fc1(x), approximate="tanh"))


class _Merger(nn.Module):
    """Squares of patches → tokens; the norm is over a patch, or over the whole square (`norm_after`)."""

    def __init__(self, config: Qwen3VisionConfig, *, norm_after: bool) -> None:
        super().__init__()
        self.square = config.merge_size**2
        self.norm_after = norm_after
        dim = config.dim * self.square
        self.norm = nn.LayerNorm(dim if norm_after else config.dim, eps=_NORM_EPS)
        self.linear_fc1 = nn.Linear(dim, dim)
        self.linear_fc2 = nn.Linear(dim, config.out_dim)

    def forward(self, x: Tensor) -> Tensor:
        if not self.norm_after:
            x = self.norm(x)
        x = rearrange(x, "(n square) dim -> n (square dim)", square=self.square)
        if self.norm_after:
            x = self.norm(x)
        return self.linear_fc2(F.gelu(self.linear_fc1(x)))
