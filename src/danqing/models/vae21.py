"""The autoencoder of Qwen-Image 2.1: RGBA pictures, 64 latent channels, a sixteenth of the size.

The released network is a video autoencoder specialised to one frame: its convolutions are 2-D. Every stage
has a shortcut without parameters beside it, which averages pixels into channels going down and repeats
channels into pixels going up (Chen et al., arXiv 2410.10733, section 3.2); the shortcuts still count the
frames of a video, of which a picture is the last one. The blocks are those of `vae`.

Source: the reference implementation of Qwen-Image 2.1 and its checkpoint `Qwen/Qwen-Image-2.1`, folder `vae`.
`danqing.models.vae.fold` turns a released tensor into the form used here, `unfold` turns it back.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from danqing.errors import ConfigError, RequestError
from danqing.models.vae import ChannelNorm, Downsample, MidBlock, ResidualBlock, Upsample, normed_silu

# Stages at the small end of each half that run whole even in tiles: they hold little of the memory, but four
# fifths of the receptive field.
_COARSE = 2
_RELEASED_MEAN = (
    0.5126, 0.7721, -0.0631, 1.3506, -0.7855, -2.1025, -0.3458, 1.3722,
    1.8873, -1.7177, -0.6510, 0.2732, 0.7562, -0.6163, -1.0277, 3.8363,
    2.0210, 0.0472, 0.9320, 2.0087, 2.4954, -0.1391, -1.4249, 1.8464,
    -0.5236, 1.2826, 3.7046, -1.3035, 2.7286, -1.4518, -1.9036, -1.9955,
    -0.0342, -1.0265, -0.7636, 3.0555, 0.0746, -3.0751, -0.1076, 1.7376,
    -1.0914, -1.9435, -0.2784, -1.3680, 0.4809, -0.4433, 0.3764, 0.5729,
    -2.0595, 1.0960, -1.3260, -2.0211, -5.0179, 0.5275, 4.0162, 1.8505,
    0.3026, 1.9373, 1.4937, 0.2632, 0.5547, -1.7121, -0.1562, 0.0304,
)  # fmt: skip
_RELEASED_STD = (
    3.2001, 3.2936, 3.4321, 3.0091, 3.1061, 4.0379, 4.0705, 3.7910,
    3.0785, 3.6500, 3.9308, 3.0904, 2.8778, 3.7675, 3.7320, 5.0756,
    3.2864, 4.0397, 3.1317, 4.0443, 2.9249, 3.9454, 3.0988, 4.2489,
    3.4896, 3.8513, 3.9323, 3.4719, 3.7498, 4.2830, 3.5694, 4.2467,
    3.9037, 3.2947, 5.0770, 3.5075, 3.2700, 3.4767, 2.8063, 5.1125,
    3.5327, 4.7833, 3.1286, 4.1819, 3.8527, 3.8312, 3.5605, 4.3875,
    3.9624, 4.0168, 3.5643, 4.0550, 5.5614, 4.2963, 4.4080, 3.4959,
    3.8747, 3.7608, 3.5735, 3.1490, 3.7662, 3.6746, 3.4563, 3.8161,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class VAE21Config:
    """Sizes of the autoencoder; the defaults are the released ones."""

    base_dim: int = 96
    decoder_base_dim: int = 144
    z_dim: int = 64
    dim_mult: tuple[int, ...] = (1, 2, 4, 8, 8)
    num_res_blocks: int = 2
    attn_scales: tuple[float, ...] = ()
    temperal_downsample: tuple[bool, ...] = (False, True, True, True)
    """Stages that halve the frames of a video; here they decide how shortcuts group channels."""
    dropout: float = 0.0
    latents_mean: tuple[float, ...] = _RELEASED_MEAN
    latents_std: tuple[float, ...] = _RELEASED_STD
    is_residual: bool = True
    in_channels: int = 4
    out_channels: int = 4
    patch_size: int | None = None
    scale_factor_temporal: int = 8
    scale_factor_spatial: int = 16

    def __post_init__(self) -> None:
        for name, value, released in (
            ("attn_scales", self.attn_scales, ()),
            ("is_residual", self.is_residual, True),
            ("patch_size", self.patch_size, None),
            ("scale_factor_spatial", self.scale_factor_spatial, self.spatial_ratio),
        ):
            if value != released:
                raise ConfigError(f"VAE 2.1: expected {name} {released}, found {value}: no release has it")
        if len(self.dim_mult) <= _COARSE:
            raise ConfigError(f"VAE 2.1: expected more than {_COARSE} dim_mult, found {self.dim_mult}")
        if len(self.temperal_downsample) != len(self.dim_mult) - 1:
            raise ConfigError(
                f"VAE 2.1: expected {len(self.dim_mult) - 1} temperal_downsample, one between two dim_mult, "
                f"found {len(self.temperal_downsample)}"
            )
        if not len(self.latents_mean) == len(self.latents_std) == self.z_dim:
            raise ConfigError(f"VAE 2.1: expected {self.z_dim} latent means and stds, one per latent channel")

    @property
    def spatial_ratio(self) -> int:
        """Pixels per latent, each way."""
        return 2 ** (len(self.dim_mult) - 1)

    @property
    def encoder_halo(self) -> int:
        """Latents around a tile that the encoder's fine stages see (their receptive field, rounded up)."""
        # A pixel of stage i is 2**i pixels of the picture; a halving convolution sees two further ones.
        scales = [2**level for level in range(len(self.dim_mult) - _COARSE)]
        pixels = 1 + sum((2 * self.num_res_blocks + 2) * scale for scale in scales)
        return -(-pixels // self.spatial_ratio)

    @property
    def decoder_halo(self) -> int:
        """Latents around a tile that the decoder's fine stages see."""
        scales = [self.spatial_ratio >> level for level in range(_COARSE, len(self.dim_mult))]
        pixels = 1 + sum(2 * (self.num_res_blocks + 1) * scale for scale in scales) + sum(scales[1:])
        return -(-pixels // self.spatial_ratio)


class VAE21(nn.Module):
    """Pixels in [-1, 1], transparency included, to normalised latents and back."""

    def __init__(self, config: VAE21Config) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quant_conv = nn.Conv2d(2 * config.z_dim, 2 * config.z_dim, 1)
        self.post_quant_conv = nn.Conv2d(config.z_dim, config.z_dim, 1)
        self.decoder = Decoder(config)

    def encode(
        self, pixels: Float[Tensor, "batch channels height width"], *, tile: int | None = None
    ) -> Float[Tensor, "batch z lat_h lat_w"]:
        """Return normalised latents: the mode of the posterior, per channel minus mean over std."""
        mean, _ = self.posterior(pixels, tile=tile)
        shift, scale = self._statistics(mean)
        return (mean - shift) / scale

    def posterior(
        self, pixels: Float[Tensor, "batch channels height width"], *, tile: int | None = None
    ) -> tuple[Float[Tensor, "batch z lat_h lat_w"], Float[Tensor, "batch z lat_h lat_w"]]:
        """Return mean and log-variance of the (unnormalised) latent posterior.

        With `tile` (latents per side) the fine stages run tile by tile with a halo of their receptive field.
        What follows, whose attention sees everything, always runs whole. The result does not depend on the
        tile size.
        """
        config, (batch, channels, height, width) = self.config, pixels.shape
        ratio = config.spatial_ratio
        if height % ratio or width % ratio:
            raise RequestError(f"VAE: expected sides divisible by {ratio}, found {height} by {width}")
        if channels != config.in_channels:
            raise RequestError(f"VAE: expected {config.in_channels} channels, found {channels}")
        fine, halo = self.encoder.fine, config.encoder_halo
        if tile is None:
            hidden = fine(pixels)
        else:
            per_latent = ratio // self.encoder.cut_ratio
            sides = (height // self.encoder.cut_ratio, width // self.encoder.cut_ratio)
            hidden = pixels.new_empty(batch, self.encoder.cut_dim, *sides)
            run_in_tiles(fine, pixels, hidden, ratios=(ratio, per_latent), tile=tile, halo=halo)
        mean, log_variance = self.quant_conv(self.encoder.whole(hidden)).chunk(2, dim=1)
        return mean, log_variance

    def decode(
        self, latents: Float[Tensor, "batch z lat_h lat_w"], *, tile: int | None = None
    ) -> Float[Tensor, "batch channels height width"]:
        """Return pixels clamped to [-1, 1].

        With `tile` (latents per side) the fine stages run tile by tile with a halo of their receptive field;
        what precedes them, whose attention sees everything, always runs whole. The result does not depend on
        the tile size.
        """
        shift, scale = self._statistics(latents)
        hidden = self.decoder.whole(self.post_quant_conv(latents * scale + shift))
        fine, halo = self.decoder.fine, self.config.decoder_halo
        if tile is None:
            return fine(hidden).clamp(-1, 1)
        batch, _, height, width = latents.shape
        ratio, per_latent = self.config.spatial_ratio, hidden.shape[-1] // width
        pixels = hidden.new_empty(batch, self.config.out_channels, height * ratio, width * ratio)
        run_in_tiles(fine, hidden, pixels, ratios=(per_latent, ratio), tile=tile, halo=halo)
        return pixels.clamp_(-1, 1)

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        shift = torch.tensor(self.config.latents_mean, device=like.device, dtype=like.dtype)
        scale = torch.tensor(self.config.latents_std, device=like.device, dtype=like.dtype)
        return shift.view(1, -1, 1, 1), scale.view(1, -1, 1, 1)


def run_in_tiles(
    run: Callable[[Tensor], Tensor],
    source: Tensor,
    target: Tensor,
    *,
    ratios: tuple[int, int],
    tile: int,
    halo: int,
) -> None:
    """Fill `target` with `run(source)`, tile by tile; each tile runs with `halo` latents around it.

    `ratios` are the source's and the target's pixels per latent; `tile` and `halo` count latents.
    """
    if tile < 1:
        raise RequestError(f"VAE: expected a tile of at least 1 latent, found {tile}")
    fine_in, fine_out = ratios
    for rows, rows_seen in _spans(source.shape[2] // fine_in, tile, halo):
        for cols, cols_seen in _spans(source.shape[3] // fine_in, tile, halo):
            part = run(source[:, :, _fine(rows_seen, fine_in), _fine(cols_seen, fine_in)])
            inner_rows = slice(rows.start - rows_seen.start, rows.stop - rows_seen.start)
            inner_cols = slice(cols.start - cols_seen.start, cols.stop - cols_seen.start)
            target[:, :, _fine(rows, fine_out), _fine(cols, fine_out)] = part[
                :, :, _fine(inner_rows, fine_out), _fine(inner_cols, fine_out)
            ]


def _spans(length: int, tile: int, halo: int) -> Iterator[tuple[slice, slice]]:
    """Yield the tiles along one side, without and with their halo."""
    for start in range(0, length, tile):
        end = min(start + tile, length)
        yield slice(start, end), slice(max(0, start - halo), min(length, end + halo))


def _fine(span: slice, ratio: int) -> slice:
    return slice(span.start * ratio, span.stop * ratio)


class Encoder(nn.Module):
    """Stages that halve the size, then a mid block that sees the whole latent."""

    def __init__(self, config: VAE21Config) -> None:
        super().__init__()
        dims = [config.base_dim * mult for mult in (1, *config.dim_mult)]
        self.cut_dim, self.cut_ratio = dims[-1 - _COARSE], 2 ** (len(config.dim_mult) - _COARSE)
        """Channels of what `fine` returns, and pixels for each position of it."""
        self.conv_in = nn.Conv2d(config.in_channels, dims[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            DownBlock(dim_in, dim_out, config.num_res_blocks, frames)
            for (dim_in, dim_out), frames in zip(pairwise(dims), _frames(config), strict=True)
        )
        self.mid_block = MidBlock(dims[-1])
        self.norm_out = ChannelNorm(dims[-1])
        self.conv_out = nn.Conv2d(dims[-1], 2 * config.z_dim, 3, padding=1)

    def fine(self, pixels: Tensor) -> Tensor:
        """Run the stages on large grids, each of which sees a neighbourhood."""
        hidden = self.conv_in(pixels.contiguous(memory_format=torch.channels_last))
        for block in self.down_blocks[:-_COARSE]:
            hidden = block(hidden)
        return hidden

    def whole(self, hidden: Tensor) -> Tensor:
        """Run the coarse stages and the mid block; returns mean and log-variance, before `quant_conv`."""
        hidden = hidden.contiguous(memory_format=torch.channels_last)
        for block in self.down_blocks[-_COARSE:]:
            hidden = block(hidden)
        return self.conv_out(normed_silu(self.norm_out, self.mid_block(hidden), inplace=True))


class Decoder(nn.Module):
    """A mid block that sees the whole latent, then stages that double the size."""

    def __init__(self, config: VAE21Config) -> None:
        super().__init__()
        mults = (config.dim_mult[-1], *reversed(config.dim_mult))
        dims = [config.decoder_base_dim * mult for mult in mults]
        self.conv_in = nn.Conv2d(config.z_dim, dims[0], 3, padding=1)
        self.mid_block = MidBlock(dims[0])
        frames = (*reversed(_frames(config)[:-1]), None)
        self.up_blocks = nn.ModuleList(
            UpBlock(dim_in, dim_out, config.num_res_blocks + 1, stage_frames)
            for (dim_in, dim_out), stage_frames in zip(pairwise(dims), frames, strict=True)
        )
        self.norm_out = ChannelNorm(dims[-1])
        self.conv_out = nn.Conv2d(dims[-1], config.out_channels, 3, padding=1)

    def whole(self, latents: Tensor) -> Tensor:
        """Run the mid block and the coarse stages."""
        hidden = self.mid_block(self.conv_in(latents.contiguous(memory_format=torch.channels_last)))
        for block in self.up_blocks[:_COARSE]:
            hidden = block(hidden)
        return hidden

    def fine(self, hidden: Tensor) -> Tensor:
        """Run the stages on large grids, each of which sees a neighbourhood; returns pixels, not clamped."""
        for block in self.up_blocks[_COARSE:]:
            hidden = block(hidden)
        return self.conv_out(normed_silu(self.norm_out, hidden, inplace=True))


def _frames(config: VAE21Config) -> tuple[int | None, ...]:
    """Return how many frames of a video each stage of the encoder joins, None where it keeps the size."""
    return (*(2 if temporal else 1 for temporal in config.temperal_downsample), None)


class DownBlock(nn.Module):
    """Residual blocks and a halving (unless `frames` is None), beside an averaging shortcut."""

    def __init__(self, dim_in: int, dim_out: int, num_blocks: int, frames: int | None) -> None:
        super().__init__()
        self.dim_out, self.frames = dim_out, frames
        self.resnets = nn.ModuleList(
            ResidualBlock(dim_in if i == 0 else dim_out, dim_out) for i in range(num_blocks)
        )
        self.downsampler = nn.Identity() if frames is None else Downsample(dim_out)

    def forward(self, hidden: Tensor) -> Tensor:
        """Run the stage."""
        out = hidden
        for block in self.resnets:
            out = block(out)
        return self.downsampler(out) + averaged(hidden, self.dim_out, self.frames)


class UpBlock(nn.Module):
    """Residual blocks and a doubling beside a repeating shortcut (neither if `frames` is None)."""

    def __init__(self, dim_in: int, dim_out: int, num_blocks: int, frames: int | None) -> None:
        super().__init__()
        self.dim_out, self.frames = dim_out, frames
        self.resnets = nn.ModuleList(
            ResidualBlock(dim_in if i == 0 else dim_out, dim_out) for i in range(num_blocks)
        )
        self.upsampler = nn.Identity() if frames is None else _doubling(dim_out)

    def forward(self, hidden: Tensor) -> Tensor:
        """Run the stage."""
        out = hidden
        for block in self.resnets:
            out = block(out)
        out = self.upsampler(out)
        return out if self.frames is None else with_repeats(out, hidden, self.frames)


def _doubling(dim: int) -> Upsample:
    """Return an upsampler that keeps its channels; that of 1.x halves them."""
    upsample = Upsample(dim)
    upsample.resample[1] = nn.Conv2d(dim, dim, 3, padding=1)
    return upsample


def averaged(
    hidden: Float[Tensor, "batch channels height width"], dim_out: int, frames: int | None
) -> Float[Tensor, "batch dim_out small_h small_w"]:
    """Return every 2x2 pixels as channels, neighbouring channels averaged down to `dim_out`.

    A stage that joins two frames of a video meets a picture as the second one; the first is zeros, and they
    take part in the averages. With `frames` None the size stays.
    """
    small = hidden if frames is None else F.pixel_unshuffle(hidden, 2)
    if frames == 2:
        small = small.unflatten(1, (hidden.shape[1], 1, 4))
        small = torch.cat((torch.zeros_like(small), small), dim=2).flatten(1, 3)
    return small.unflatten(1, (dim_out, -1)).mean(dim=2)


def with_repeats(
    doubled: Float[Tensor, "batch dim_out height width"],
    hidden: Float[Tensor, "batch channels small_h small_w"],
    frames: int,
) -> Float[Tensor, "batch dim_out height width"]:
    """Return `doubled` plus the channels of `hidden` as 2x2 pixels, each repeated as often as needed.

    A stage that splits into two frames of a video gives a picture the channels of the second one. Without
    gradients `doubled` is overwritten, a quarter of its pixels at a time: it is the largest tensor there is.
    """
    dim_out = doubled.shape[1]
    places = torch.arange(dim_out * frames * 4, device=hidden.device).view(dim_out, frames, 4)[:, -1]
    sources = places * hidden.shape[1] // (dim_out * frames * 4)
    if torch.is_grad_enabled():
        return doubled + F.pixel_shuffle(hidden[:, sources.flatten()], 2)
    for pixel in range(4):
        doubled[:, :, pixel // 2 :: 2, pixel % 2 :: 2] += hidden[:, sources[:, pixel]]
    return doubled


def unfold(config: VAE21Config, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the released layout of a state dict.

    Gains get their time axis back; the temporal resamplers, which one frame never uses, become zero.
    """
    released = {
        name: tensor.unsqueeze(-1) if name.endswith(".gamma") and ".attentions." not in name else tensor
        for name, tensor in state.items()
    }
    like = state["quant_conv.weight"]
    for prefix, dim_out, dim_in in _temporal_resamplers(config):
        released[prefix + ".weight"] = like.new_zeros(dim_out, dim_in, 1, 1)
        released[prefix + ".bias"] = like.new_zeros(dim_out)
    return released


def _temporal_resamplers(config: VAE21Config) -> Iterator[tuple[str, int, int]]:
    """Yield (name, output channels, input channels) of the `time_conv` layers of the released layout."""
    levels = len(config.temperal_downsample)
    for level, temporal in enumerate(config.temperal_downsample):
        if temporal:
            down = config.base_dim * config.dim_mult[level]
            yield f"encoder.down_blocks.{level}.downsampler.time_conv", down, down
            # The decoder mirrors the encoder, but its stages end at the width of the next wider one.
            up = config.decoder_base_dim * config.dim_mult[level + 1]
            yield f"decoder.up_blocks.{levels - 1 - level}.upsampler.time_conv", 2 * up, up
