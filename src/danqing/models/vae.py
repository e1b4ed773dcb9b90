"""The causal autoencoder of Qwen-Image 1.x, for single pictures.

The released network is a video autoencoder (the Wan 2.1 layout): every convolution is 3-D and padded in front
of time. For one frame only the last temporal tap meets data, the others meet zeros, so a picture needs the
2-D kernel `weight[:, :, -1]` alone. This module holds those 2-D kernels under the released parameter names;
`fold` and `unfold` convert a released tensor to and from this form.

Source: Qwen-Image technical report (arXiv 2508.02324), tables 1-2; checkpoint `Qwen/Qwen-Image`, folder
`vae`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from danqing.errors import ConfigError, RequestError

_IN_CACHE = 2**17  # values that are normalised at a time on a CPU
_RELEASED_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
_RELEASED_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class VAEConfig:
    """Sizes of the autoencoder; the defaults are the released ones."""

    base_dim: int = 96
    z_dim: int = 16
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    attn_scales: tuple[float, ...] = ()
    temperal_downsample: tuple[bool, ...] = (False, True, True)
    dropout: float = 0.0
    input_channels: int = 3
    latents_mean: tuple[float, ...] = _RELEASED_MEAN
    latents_std: tuple[float, ...] = _RELEASED_STD

    def __post_init__(self) -> None:
        if self.attn_scales:
            raise ConfigError(f"VAE: expected no attn_scales, found {self.attn_scales}: no release has them")
        if not len(self.latents_mean) == len(self.latents_std) == self.z_dim:
            raise ConfigError(f"VAE: expected {self.z_dim} latent means and stds, one per latent channel")

    @property
    def spatial_ratio(self) -> int:
        """Pixels per latent, each way."""
        return 2 ** (len(self.dim_mult) - 1)

    @property
    def halo(self) -> int:
        """Latents around a tile that the decoder's up blocks see (their receptive field, rounded up)."""
        convolutions, scale = 0.0, 1.0
        levels = len(self.dim_mult)
        for level in range(levels):
            convolutions += 2 * (self.num_res_blocks + 1) / scale
            if level < levels - 1:
                scale *= 2
                convolutions += 1 / scale
        return int(-(-(convolutions + 1 / scale) // 1))


class VAE(nn.Module):
    """Pixels in [-1, 1] to normalised latents and back; one frame."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quant_conv = nn.Conv2d(2 * config.z_dim, 2 * config.z_dim, 1)
        self.post_quant_conv = nn.Conv2d(config.z_dim, config.z_dim, 1)
        self.decoder = Decoder(config)

    def encode(
        self, pixels: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch z lat_h lat_w"]:
        """Return normalised latents: the mode of the posterior, per channel minus mean over std."""
        mean, _ = self.posterior(pixels)
        shift, scale = self._statistics(mean)
        return (mean - shift) / scale

    def posterior(
        self, pixels: Float[Tensor, "batch channels height width"]
    ) -> tuple[Float[Tensor, "batch z lat_h lat_w"], Float[Tensor, "batch z lat_h lat_w"]]:
        """Return mean and log-variance of the (unnormalised) latent posterior; used to train the VAE."""
        ratio = self.config.spatial_ratio
        if pixels.shape[-2] % ratio or pixels.shape[-1] % ratio:
            raise RequestError(
                f"VAE: expected height and width divisible by {ratio}, found {tuple(pixels.shape[-2:])}"
            )
        mean, log_variance = self.quant_conv(self.encoder(pixels)).chunk(2, dim=1)
        return mean, log_variance

    def decode(
        self, latents: Float[Tensor, "batch z lat_h lat_w"], *, tile: int | None = None
    ) -> Float[Tensor, "batch channels height width"]:
        """Return pixels clamped to [-1, 1].

        With `tile` (latents per side) the up blocks run tile by tile with a halo of their receptive field;
        the mid block, whose attention sees everything, always runs whole. The result does not depend on the
        tile size.
        """
        shift, scale = self._statistics(latents)
        hidden = self.decoder.middle(self.post_quant_conv(latents * scale + shift))
        if tile is None:
            return self.decoder.up(hidden).clamp(-1, 1)
        if tile < 1:
            raise RequestError(f"VAE: expected a tile of at least 1 latent, found {tile}")
        return self._up_in_tiles(hidden, tile).clamp(-1, 1)

    def _up_in_tiles(self, hidden: Tensor, tile: int) -> Tensor:
        ratio, halo = self.config.spatial_ratio, self.config.halo
        batch, _, height, width = hidden.shape
        pixels = hidden.new_empty(batch, self.config.input_channels, height * ratio, width * ratio)
        for top, bottom, row_start, row_end in _spans(height, tile, halo):
            for left, right, col_start, col_end in _spans(width, tile, halo):
                part = self.decoder.up(hidden[:, :, row_start:row_end, col_start:col_end])
                rows = slice((top - row_start) * ratio, (bottom - row_start) * ratio)
                cols = slice((left - col_start) * ratio, (right - col_start) * ratio)
                pixels[:, :, top * ratio : bottom * ratio, left * ratio : right * ratio] = part[
                    :, :, rows, cols
                ]
        return pixels

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        shift = torch.tensor(self.config.latents_mean, device=like.device, dtype=like.dtype)
        scale = torch.tensor(self.config.latents_std, device=like.device, dtype=like.dtype)
        return shift.view(1, -1, 1, 1), scale.view(1, -1, 1, 1)


def _spans(length: int, tile: int, halo: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (start, end, start with halo, end with halo) of the tiles along one side."""
    for start in range(0, length, tile):
        end = min(start + tile, length)
        yield start, end, max(0, start - halo), min(length, end + halo)


class Encoder(nn.Module):
    """Flat list of residual blocks and downsamplers, as the released names have it."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        dims = [config.base_dim * mult for mult in (1, *config.dim_mult)]
        self.conv_in = nn.Conv2d(config.input_channels, dims[0], 3, padding=1)
        blocks: list[nn.Module] = []
        for level, (dim_in, dim_out) in enumerate(pairwise(dims)):
            blocks += [
                ResidualBlock(dim_in if i == 0 else dim_out, dim_out) for i in range(config.num_res_blocks)
            ]
            if level < len(config.dim_mult) - 1:
                blocks.append(Downsample(dim_out))
        self.down_blocks = nn.ModuleList(blocks)
        self.mid_block = MidBlock(dims[-1])
        self.norm_out = ChannelNorm(dims[-1])
        self.conv_out = nn.Conv2d(dims[-1], 2 * config.z_dim, 3, padding=1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return mean and log-variance, stacked, before `quant_conv`."""
        hidden = self.conv_in(pixels.contiguous(memory_format=torch.channels_last))
        for block in self.down_blocks:
            hidden = block(hidden)
        return self.conv_out(normed_silu(self.norm_out, self.mid_block(hidden), inplace=True))


class Decoder(nn.Module):
    """Mid block on the whole latent, then up blocks that see only a neighbourhood."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        dims = [config.base_dim * mult for mult in (config.dim_mult[-1], *reversed(config.dim_mult))]
        self.conv_in = nn.Conv2d(config.z_dim, dims[0], 3, padding=1)
        self.mid_block = MidBlock(dims[0])
        levels = len(config.dim_mult)
        self.up_blocks = nn.ModuleList(
            # Every upsampler halves its channels, so each level after the first starts from half the width.
            UpBlock(
                dims[level] // (2 if level else 1),
                dims[level + 1],
                config.num_res_blocks + 1,
                level < levels - 1,
            )
            for level in range(levels)
        )
        self.norm_out = ChannelNorm(dims[-1])
        self.conv_out = nn.Conv2d(dims[-1], config.input_channels, 3, padding=1)

    def middle(self, latents: Tensor) -> Tensor:
        """Run the part that sees the whole latent."""
        return self.mid_block(self.conv_in(latents.contiguous(memory_format=torch.channels_last)))

    def up(self, hidden: Tensor) -> Tensor:
        """Run the part that sees a neighbourhood: features of the mid block to pixels, not clamped."""
        for block in self.up_blocks:
            hidden = block(hidden)
        return self.conv_out(normed_silu(self.norm_out, hidden, inplace=True))


class UpBlock(nn.Module):
    """Residual blocks, then a doubling of the size on all levels but the last."""

    def __init__(self, dim_in: int, dim_out: int, num_blocks: int, upsample: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            ResidualBlock(dim_in if i == 0 else dim_out, dim_out) for i in range(num_blocks)
        )
        self.upsamplers = nn.ModuleList([Upsample(dim_out)] if upsample else [])

    def forward(self, hidden: Tensor) -> Tensor:
        """Run the blocks, then double the size if this level does."""
        for block in (*self.resnets, *self.upsamplers):
            hidden = block(hidden)
        return hidden


class MidBlock(nn.Module):
    """Residual block, attention over all positions, residual block."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([ResidualBlock(dim, dim), ResidualBlock(dim, dim)])
        self.attentions = nn.ModuleList([SpatialAttention(dim)])

    def forward(self, hidden: Tensor) -> Tensor:
        """Run the three blocks."""
        return self.resnets[1](self.attentions[0](self.resnets[0](hidden)))


class ResidualBlock(nn.Module):
    """Norm, SiLU, 3x3 convolution, twice, around a shortcut."""

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.norm1 = ChannelNorm(dim_in)
        self.conv1 = nn.Conv2d(dim_in, dim_out, 3, padding=1)
        self.norm2 = ChannelNorm(dim_out)
        self.conv2 = nn.Conv2d(dim_out, dim_out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(dim_in, dim_out, 1) if dim_in != dim_out else nn.Identity()

    def forward(self, hidden: Tensor) -> Tensor:
        """Add the residual to the shortcut."""
        residual = self.conv1(normed_silu(self.norm1, hidden))
        residual = self.conv2(normed_silu(self.norm2, residual, inplace=True))
        shortcut = self.conv_shortcut(hidden)
        return residual + shortcut if torch.is_grad_enabled() else residual.add_(shortcut)


class SpatialAttention(nn.Module):
    """Single-head attention over all positions."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(dim)
        self.to_qkv = nn.Conv2d(dim, 3 * dim, 1)
        self.proj = nn.Conv2d(dim, dim, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        """Add what every position reads from all others."""
        height = hidden.shape[-2]
        q, k, v = rearrange(self.to_qkv(self.norm(hidden)), "b (three c) h w -> three b 1 (h w) c", three=3)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return hidden + self.proj(rearrange(mixed, "b 1 (h w) c -> b c h w", h=height))


class ChannelNorm(nn.Module):
    """L2-normalise over channels, times sqrt(channels) and a learned gain; in fp32 for low precisions."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim, 1, 1))

    def forward(self, hidden: Tensor) -> Tensor:
        """Normalise every position over its channels."""
        normed = F.normalize(hidden.float(), dim=1).to(hidden.dtype)
        return normed * (self.gamma * self.gamma.shape[0] ** 0.5)


def normed_silu(norm: ChannelNorm, hidden: Tensor, *, inplace: bool = False) -> Tensor:
    """Return SiLU of the normalised hidden; `inplace` overwrites it where no gradient is asked for.

    On a CPU without gradients a few rows are done at a time: the same bits, from the cache, without
    temporaries of the picture's size.
    """
    if torch.is_grad_enabled():
        return F.silu(norm(hidden))
    height = hidden.shape[2]
    rows = max(1, _IN_CACHE * height // hidden.numel()) if hidden.device.type == "cpu" else height
    out = hidden if inplace else torch.empty_like(hidden)
    for part, target in zip(hidden.split(rows, dim=2), out.split(rows, dim=2), strict=True):
        target.copy_(F.silu(norm(part), inplace=True))
    return out


class Upsample(nn.Module):
    """Nearest doubling, then a 3x3 convolution that halves the channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.resample = nn.Sequential(nn.Upsample(scale_factor=2.0, mode="nearest-exact"), _conv_to_half(dim))

    def forward(self, hidden: Tensor) -> Tensor:
        """Double height and width."""
        return self.resample(hidden) if torch.is_grad_enabled() else self._by_phase(hidden)

    def _by_phase(self, hidden: Tensor) -> Tensor:
        """Return the same in 4/9 of the multiplications, without the doubled input.

        A pixel of the doubled grid sees 2x2 different inputs only, which ones its parity decides; kernel taps
        that meet the same input are added first.
        """
        conv = self.resample[1]
        assert isinstance(conv, nn.Conv2d)
        height, width = hidden.shape[2:]
        phases = []
        for row in (0, 1):
            taps = _merged(conv.weight, 2, row)
            for col in (0, 1):
                kernel = _merged(taps, 3, col).contiguous(memory_format=torch.channels_last)
                phases.append((row, col, kernel))
        out = torch.empty(
            (hidden.shape[0], conv.out_channels, 2 * height, 2 * width),
            dtype=hidden.dtype,
            device=hidden.device,
            memory_format=torch.channels_last,
        )
        for row, col, kernel in phases:
            phase = F.conv2d(hidden, kernel, conv.bias, padding=1)
            out[:, :, row::2, col::2] = phase[:, :, row : row + height, col : col + width]
        return out


def _merged(kernel: Tensor, dim: int, phase: int) -> Tensor:
    """Return three taps as the two that an even (0) or odd (1) place of a doubled grid meets."""
    first, middle, last = kernel.unbind(dim)
    return torch.stack((first, middle + last) if phase == 0 else (first + middle, last), dim)


def _conv_to_half(dim: int) -> nn.Conv2d:
    return nn.Conv2d(dim, dim // 2, 3, padding=1)


class Downsample(nn.Module):
    """Pad right and bottom by one, then a 3x3 convolution with stride 2."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(dim, dim, 3, stride=2))

    def forward(self, hidden: Tensor) -> Tensor:
        """Halve height and width."""
        return self.resample(hidden)


def fold(name: str, tensor: Tensor) -> Tensor | None:
    """Return a released tensor in the 2-D form used here, or None where a single picture never needs it.

    5-D kernels keep their last temporal tap; 4-D gains lose their time axis; tensors already folded pass
    unchanged.
    """
    if ".time_conv." in name:
        return None
    if tensor.dim() == 5:
        return tensor[:, :, -1]
    if name.endswith(".gamma"):
        return tensor.reshape(tensor.shape[0], 1, 1)
    return tensor


def unfold(config: VAEConfig, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the released 5-D layout of a folded state dict.

    The earlier temporal taps and the temporal resamplers, which one frame never uses, become zero.
    """
    released: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.endswith(".gamma") and ".attentions." not in name:
            released[name] = tensor.unsqueeze(-1)
        elif tensor.dim() == 4 and not any(part in name for part in (".resample.", ".to_qkv.", ".proj.")):
            taps = 1 if tensor.shape[-1] == 1 else 3
            kernel = tensor.new_zeros(*tensor.shape[:2], taps, *tensor.shape[2:])
            kernel[:, :, -1] = tensor
            released[name] = kernel
        else:
            released[name] = tensor
    for prefix, dim_out, dim_in in _temporal_resamplers(config):
        like = state["quant_conv.weight"]
        released[prefix + ".weight"] = like.new_zeros(dim_out, dim_in, 3, 1, 1)
        released[prefix + ".bias"] = like.new_zeros(dim_out)
    return released


def _temporal_resamplers(config: VAEConfig) -> Iterator[tuple[str, int, int]]:
    """Yield (name, output channels, input channels) of the `time_conv` layers of the released layout."""
    dims = [config.base_dim * mult for mult in config.dim_mult]
    for level, temporal in enumerate(config.temperal_downsample):
        if temporal:
            index = (level + 1) * (config.num_res_blocks + 1) - 1
            yield f"encoder.down_blocks.{index}.time_conv", dims[level], dims[level]
    for level, temporal in enumerate(reversed(config.temperal_downsample)):
        if temporal:
            dim = dims[-1 - level]
            yield f"decoder.up_blocks.{level}.upsamplers.0.time_conv", 2 * dim, dim
