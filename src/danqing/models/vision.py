"""The vision tower of Qwen2.5-VL: patches of pictures → one feature per 2x2 patches.

Architecture: Qwen2.5-VL technical report (2025), section 2.1. Most layers attend inside windows, a few over
the whole picture; positions enter by a 2-D RoPE. Parameter names are those of the released checkpoint under
`visual.`.
"""

from dataclasses import dataclass
from itertools import groupby
from typing import Protocol, runtime_checkable

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from danqing.errors import ConfigError
from danqing.models.layers import RMSNorm, SwiGLU, apply_rope

ROPE_THETA = 10000.0
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)


@runtime_checkable
class PatchSizes(Protocol):
    """How a vision tower wants its pictures cut and normalised."""

    @property
    def patch_size(self) -> int:
        """Pixels on each side of a patch."""

    @property
    def temporal_patch_size(self) -> int:
        """Frames in a patch."""

    @property
    def merge_size(self) -> int:
        """Patches on each side of the square that becomes one token."""

    @property
    def pixel_mean(self) -> tuple[float, float, float]:
        """Mean that pictures in [0, 1] are normalised with."""

    @property
    def pixel_std(self) -> tuple[float, float, float]:
        """Standard deviation that pictures in [0, 1] are normalised with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VisionConfig:
    """Sizes of the vision tower; the defaults are those of Qwen2.5-VL-7B."""

    dim: int = 1280
    hidden_dim: int = 3420
    num_layers: int = 32
    num_heads: int = 16
    out_dim: int = 3584
    """Width of the language tower."""
    in_channels: int = 3
    patch_size: int = 14
    temporal_patch_size: int = 2
    merge_size: int = 2
    """Patches on each side of the square that becomes one token."""
    window_size: int = 112
    """Pixels on each side of an attention window."""
    full_attention_layers: tuple[int, ...] = (7, 15, 23, 31)
    tokens_per_second: int = 4
    """Spacing of video frames on the temporal axis; pictures do not use it."""

    def __post_init__(self) -> None:
        """Check what the shapes below rely on."""
        if min(self.dim, self.num_layers, self.num_heads, self.patch_size, self.merge_size) < 1:
            raise ConfigError("expected positive sizes of the vision tower, found zero or less")
        if self.dim % self.num_heads or self.head_dim % 4:
            raise ConfigError(
                f"vision dim must be num_heads times a multiple of 4, found {self.dim=} {self.num_heads=}"
            )
        if self.window_size % (self.patch_size * self.merge_size):
            raise ConfigError(
                f"window_size must be a multiple of patch_size * merge_size, found {self.window_size=} "
                f"{self.patch_size=} {self.merge_size=}"
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
        return PIXEL_MEAN

    @property
    def pixel_std(self) -> tuple[float, float, float]:
        """Standard deviation that pictures in [0, 1] are normalised with."""
        return PIXEL_STD


class VisionTower(nn.Module):
    """Encode flattened patches of one or more pictures into features for the language tower."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config.in_channels, config.dim, config)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.num_layers))
        self.merger = _Merger(config)

    def forward(
        self, patches: Float[Tensor, "patches patch_dim"], grid_thw: list[tuple[int, int, int]]
    ) -> Float[Tensor, "tokens out_dim"]:
        """Return the features of all pictures, one after the other, each in row-major order of its tokens.

        `grid_thw` holds each picture's (frames, height, width) counted in patches; `patches` come in the
        order that `patchify` gives: squares of merge_size x merge_size patches, row by row.
        """
        x = self.patch_embed(patches)
        layout = _window_layout(grid_thw, self.config)
        square = self.config.merge_size**2
        order = layout.order.to(x.device)
        rope = [
            _permute(table, layout.order, square).to(x.device)
            for table in rope_table(patch_positions(grid_thw, self.config.merge_size), self.config.head_dim)
        ]
        x = _permute(x, order, square)
        for index, block in enumerate(self.blocks):
            full = index in self.config.full_attention_layers
            x = block(x, *rope, layout.pictures if full else layout.windows)
        return self.merger(x)[order.argsort()]


def patchify(
    pixels: Float[Tensor, "channels height width"], config: PatchSizes
) -> Float[Tensor, "patches patch_dim"]:
    """Cut one picture in [-1, 1] into flattened patches, normalised as the released image processor does.

    Height and width must be multiples of patch_size * merge_size; a still picture is repeated along time.
    """
    side = config.patch_size * config.merge_size
    if pixels.shape[-2] % side or pixels.shape[-1] % side:
        raise ConfigError(f"picture sides must be multiples of {side}, found {tuple(pixels.shape[-2:])}")
    mean, std = (pixels.new_tensor(values)[:, None, None] for values in (config.pixel_mean, config.pixel_std))
    normalised = ((pixels + 1) / 2 - mean) / std
    return repeat(
        normalised,
        "c (h mh p1) (w mw p2) -> (h w mh mw) (c t p1 p2)",
        t=config.temporal_patch_size,
        mh=config.merge_size,
        mw=config.merge_size,
        p1=config.patch_size,
        p2=config.patch_size,
    )


class PatchEmbed(nn.Module):
    """One feature a flattened patch."""

    def __init__(self, in_channels: int, dim: int, sizes: PatchSizes, *, bias: bool = False) -> None:
        super().__init__()
        kernel = (sizes.temporal_patch_size, sizes.patch_size, sizes.patch_size)
        self.proj = nn.Conv3d(in_channels, dim, kernel, stride=kernel, bias=bias)

    def forward(self, patches: Float[Tensor, "patches patch_dim"]) -> Float[Tensor, "patches dim"]:
        """Project every patch."""
        # Stride equals kernel, so the convolution is one matrix product.
        weight = rearrange(self.proj.weight, "dim c t h w -> dim (c t h w)")
        return F.linear(patches.to(weight.dtype), weight, self.proj.bias)


class _Block(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.norm1 = RMSNorm(config.dim)
        self.norm2 = RMSNorm(config.dim)
        self.attn = VisionAttention(config.dim, config.num_heads)
        self.mlp = SwiGLU(config.dim, config.hidden_dim, bias=True)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, segments: list[tuple[int, int]]) -> Tensor:
        x = x + self.attn(self.norm1(x), cos, sin, segments)
        return x + self.mlp(self.norm2(x))


class VisionAttention(nn.Module):
    """Attention of patches inside their segments, with rotary positions."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(
        self,
        x: Float[Tensor, "patches dim"],
        cos: Float[Tensor, "patches head_dim"],
        sin: Float[Tensor, "patches head_dim"],
        segments: list[tuple[int, int]],
    ) -> Float[Tensor, "patches dim"]:
        """Attend inside each segment; `segments` are runs of equal ones, (count, patches) each."""
        q, k, v = rearrange(self.qkv(x), "n (part heads d) -> part heads n d", part=3, heads=self.num_heads)
        # The reference rotates in fp32 here, unlike the language tower.
        qkv = torch.stack((*(apply_rope(t.float(), cos, sin).to(x.dtype) for t in (q, k)), v))
        out = []
        start = 0
        for count, length in segments:
            part = slice(start, start := start + count * length)
            windows = rearrange(qkv[:, :, part], "three heads (n s) d -> three n heads s d", n=count)
            attended = F.scaled_dot_product_attention(windows[0], windows[1], windows[2])
            out.append(rearrange(attended, "n heads s d -> (n s) (heads d)"))
        return self.proj(torch.cat(out))


class _Merger(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.square = config.merge_size**2
        dim = config.dim * self.square
        self.ln_q = RMSNorm(config.dim)
        self.mlp = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, config.out_dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(rearrange(self.ln_q(x), "(n square) dim -> n (square dim)", square=self.square))


@dataclass(frozen=True, kw_only=True, slots=True)
class _WindowLayout:
    """An order of tokens in which every attention window is contiguous, and the runs of equal windows.

    Windows of equal size stand together inside each frame, so that a run is one batched attention call; the
    reference visits them row by row, which changes nothing but the order undone at the end.
    """

    order: Int[Tensor, " tokens"]
    windows: list[tuple[int, int]]
    """(count, patches) of each run of equal windows."""
    pictures: list[tuple[int, int]]
    """(count, patches) of each picture's frames, for the layers with full attention."""


def _window_layout(grid_thw: list[tuple[int, int, int]], config: VisionConfig) -> _WindowLayout:
    side = config.window_size // config.patch_size // config.merge_size
    square = config.merge_size**2
    order: list[Tensor] = []
    windows: list[tuple[int, int]] = []
    start = 0
    for frames, rows, columns in grid_thw:
        for _ in range(frames):
            shape = (rows // config.merge_size, columns // config.merge_size)
            frame = torch.arange(start, start := start + shape[0] * shape[1]).view(shape)
            found = [w.flatten() for strip in frame.split(side) for w in strip.split(side, dim=1)]
            found.sort(key=len, reverse=True)
            order += found
            windows += [(len(list(run)), length * square) for length, run in groupby(map(len, found))]
    pictures = [(frames, rows * columns) for frames, rows, columns in grid_thw]
    return _WindowLayout(order=torch.cat(order), windows=windows, pictures=pictures)


def patch_positions(grid_thw: list[tuple[int, int, int]], merge_size: int) -> Int[Tensor, "patches 2"]:
    """Return (height, width) of every patch, in the order of `patchify`."""
    grids = []
    for frames, rows, columns in grid_thw:
        grid = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), dim=-1)
        pattern = "(h mh) (w mw) axes -> (t h w mh mw) axes"
        grids.append(repeat(grid, pattern, t=frames, mh=merge_size, mw=merge_size))
    return torch.cat(grids)


def rope_table(
    positions: Int[Tensor, "patches 2"], head_dim: int
) -> tuple[Float[Tensor, "patches head_dim"], Float[Tensor, "patches head_dim"]]:
    """Return cosine and sine: alternate quarters of the head turn with height and width."""
    frequencies = 1 / ROPE_THETA ** (torch.arange(0, head_dim // 2, 2) / (head_dim // 2))
    angles = rearrange(positions[..., None] * frequencies, "n axes quarter -> n (axes quarter)")
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def _permute(x: Tensor, order: Tensor, square: int) -> Tensor:
    """Reorder patches by whole squares of `square` patches."""
    return rearrange(rearrange(x, "(n s) d -> n s d", s=square)[order], "n s d -> (n s) d")
