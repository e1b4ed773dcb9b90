"""How many bytes each stage of drawing works with, beside weights: formulas, checked against the code.

A stream is the tokens of a batch times the width of the network. What lives at the peak of a forward is told
in streams; each constant below names the moment of its peak. Tests compare all of them with what torch
allocates, so a forward that comes to hold more, or less, is noticed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import torch

from danqing.models.mmdit import MMDiTConfig
from danqing.models.quantised import Int4Linear, Int8Linear, working_bytes
from danqing.models.qwen3_vl_config import Qwen3VLConfig
from danqing.models.single_stream import SingleStreamConfig
from danqing.models.vae import VAEConfig
from danqing.models.vae21 import VAE21Config
from danqing.models.vlm_config import VLMConfig
from danqing.pipelines.wishes import Wishes
from danqing.weights.layouts import Folder
from danqing.weights.plan import Format

# 1.x: a feed-forward layer holds the stream, its normalised form, hidden units (four) and results; attention
# the stream, queries, keys, values, what was read and copies of its parts.
_JOINT_FORWARD, _JOINT_TEXT, _JOINT_ATTENTION = 8.05, 1.0, 7.0
# 2.1, a step: hidden units are three, twice; attention joins the prefix's keys and values with its own.
_STEP_FORWARD, _STEP_ATTENTION, _STEP_PREFIX = 9.05, 7.0, 2.0
# 2.1, the prefix: keys and values that are kept come on top of what reading it takes; a byte tells for each
# two tokens of text whether one sees the other.
_PREFIX, _SEEN = 8.5, 1
# Conditioners: hidden units (the gated ones, the other ones, their product) and streams; eyes a patch, which
# in bf16 hold fp32 copies too.
_HIDDEN, _TOWER = 3.0, 4.5
_EYES_1, _EYES_21, _EYES_WIDE = 13.0, 15.0, 3.0
# Autoencoders, in numbers a pixel for each channel of the widest layer at full size.
_DECODE_1, _DECODE_21 = 4.07, 5.52
_ENCODE_1, _ENCODE_21, _ENCODE_21_SUMMED = 3.0, 4.0, 6.0  # in bf16 the shortcuts of 2.1 are summed in fp32
# What runs whole even in tiles, in multiples of its result; in bf16 attention's norm is fp32.
_MIDDLE_1, _MIDDLE_1_WIDE = 8.5, 12.8
_WHOLE_21 = 2.9
_LATENTS = 8 * 64 * 4  # bytes a token: latents, velocities and their differences, in fp32
_RESIDUALS = 5  # streams of a ControlNet: one for each of its blocks
_ROWS = 16  # of a modulation table, which is made in groups
_TEMPLATE = 80  # tokens around a prompt
_EDIT_TEMPLATE = 120
_WRITTEN = 512  # tokens that a conditioner writes


DenoiserConfig = MMDiTConfig | SingleStreamConfig
AutoencoderConfig = VAEConfig | VAE21Config
TowerConfig = VLMConfig | Qwen3VLConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Bytes that the stages of drawing work with."""

    reading: int
    """The conditioner, reading one prompt."""
    looking: int
    """The autoencoder, encoding the largest picture given; 0 where none is."""
    tabulating: int
    """The modulation table of the schedule, while it is made."""
    denoising: int


def footprint(
    folder: Folder,
    wishes: Wishes,
    *,
    batch: int,
    dtype: torch.dtype,
    device: torch.device,
    formats: tuple[Format, Format] = ("plain", "plain"),
) -> Footprint:
    """Return what drawing works with, `batch` pictures at a time; decoding apart, see `decoding`.

    `formats` are those that the large layers of denoiser and conditioner run in.
    """
    config, vae = folder.transformer_config(), folder.vae_config()
    pictures = [*wishes.references, *([wishes.size] if wishes.starts or wishes.controls else [])]
    kept = table(config, wishes.steps, dtype)
    if isinstance(config, SingleStreamConfig):
        denoising, widest = _denoising_21(config, vae, wishes, batch, dtype), config.mlp_ratio
        tokens = batch * tokens_of(vae, wishes.size)
    else:
        denoising, widest = _denoising_1(config, vae, wishes, batch, dtype), 4
        tokens = batch * (2 if wishes.guided else 1) * _joint_tokens(vae, wishes)
    reading, prompt = _reading(folder, wishes, dtype)
    tower_sizes = _tower_config(folder)
    quantised = (
        quantising(formats[0], widest * config.dim, config.dim, tokens, dtype, device),
        quantising(formats[1], tower_sizes.hidden_dim, tower_sizes.dim, prompt, dtype, device),
    )
    return Footprint(
        reading=reading + quantised[1],
        looking=max((encoding(vae, size, dtype) for size in pictures), default=0),
        tabulating=2 * kept,
        denoising=kept + denoising + quantised[0],
    )


def quantising(
    format: Format, dim_in: int, dim_out: int, tokens: int, dtype: torch.dtype, device: torch.device
) -> int:
    """Return what the second layer of a feed-forward block holds more where it is quantised."""
    if format == "plain":
        return 0
    with torch.device("meta"):
        layer = (Int8Linear if format == "int8" else Int4Linear)(dim_in, dim_out, bias=False)
    return working_bytes(layer, tokens, dtype, device)


def tokens_of(config: AutoencoderConfig, size: tuple[int, int]) -> int:
    """Return the tokens of a picture of this (width, height): squares of 2x2 latents, in 2.1 single ones."""
    side = config.spatial_ratio * (1 if isinstance(config, VAE21Config) else 2)
    return (size[0] // side) * (size[1] // side)


def joint_block(rows: int, img: int, txt: int, number: int) -> int:
    """Return what a forward of 1.x holds; `number` is the bytes of a token in a stream."""
    forward = _JOINT_FORWARD * img + _JOINT_TEXT * txt
    return round(max(forward, _JOINT_ATTENTION * (img + txt)) * rows * number)


def single_step(batch: int, target: int, prefix: int, number: int) -> int:
    """Return what a forward of 2.1 over the target holds beside the prefix."""
    attention = _STEP_ATTENTION * target + _STEP_PREFIX * prefix
    return round(max(_STEP_FORWARD * target, attention) * batch * number)


def single_prefix(txt: int, looked: int, number: int) -> int:
    """Return what reading a prefix of 2.1 holds beside the keys and values that are kept."""
    return round(_PREFIX * (txt + looked) * number + _SEEN * txt * (txt + looked))


def tower(config: TowerConfig, tokens: int, dtype: torch.dtype) -> int:
    """Return what the language tower of a conditioner holds."""
    return round((_HIDDEN * config.hidden_dim + _TOWER * config.dim) * tokens * dtype.itemsize)


def eyes(config: TowerConfig, patches: int, dtype: torch.dtype) -> int:
    """Return what the vision tower of a conditioner holds; heads are turned in fp32."""
    streams = _EYES_21 if isinstance(config, Qwen3VLConfig) else _EYES_1
    return round(
        (streams + (_EYES_WIDE if dtype.itemsize == 2 else 0)) * patches * config.vision.dim * dtype.itemsize
    )


def encoding(config: AutoencoderConfig, size: tuple[int, int], dtype: torch.dtype) -> int:
    """Return what encoding a picture of this (width, height) holds."""
    each = _ENCODE_1
    if isinstance(config, VAE21Config):
        each = _ENCODE_21 if dtype.itemsize == 4 else _ENCODE_21_SUMMED
    return round(each * prod(size) * config.base_dim * dtype.itemsize)


def decoding(config: AutoencoderConfig, size: tuple[int, int], tile: int | None, dtype: torch.dtype) -> int:
    """Return what decoding a picture holds, whole or in tiles of so many latents a side."""
    width, ratio = dtype.itemsize, config.spatial_ratio
    latents = (size[0] // ratio, size[1] // ratio)
    if isinstance(config, VAE21Config):
        channels, outputs, each = config.decoder_base_dim, config.out_channels, _DECODE_21
        # What runs whole ends at four times the side of the latents.
        features, streams = 16 * prod(latents) * channels * config.dim_mult[-1], _WHOLE_21
    else:
        channels, outputs, each = config.base_dim, config.input_channels, _DECODE_1
        features = prod(latents) * channels * config.dim_mult[-1]
        streams = _MIDDLE_1 if width == 4 else _MIDDLE_1_WIDE
    whole = streams * features * width
    if tile is None:
        return round(max(whole, each * prod(size) * channels * width))
    spans = (max(high - low for low, high in _spans(side, tile, _halo(config))) for side in latents)
    part = each * prod(spans) * ratio**2 * channels
    return round(max(whole, (features + outputs * prod(size) + part) * width))


def decoded_share(config: AutoencoderConfig, size: tuple[int, int], tile: int | None) -> float:
    """Return how much is decoded, halos included, as a multiple of the picture."""
    if tile is None:
        return 1.0
    sides = [side // config.spatial_ratio for side in size]
    return prod(sum(high - low for low, high in _spans(side, tile, _halo(config))) / side for side in sides)


def _halo(config: AutoencoderConfig) -> int:
    return config.decoder_halo if isinstance(config, VAE21Config) else config.halo


def _spans(length: int, tile: int, halo: int) -> Iterator[tuple[int, int]]:
    return (
        (max(0, start - halo), min(length, min(start + tile, length) + halo))
        for start in range(0, length, tile)
    )


def table(config: DenoiserConfig, steps: int, dtype: torch.dtype) -> int:
    """Return the modulation table of a schedule, whose rows are made in groups; making it holds two."""
    rows = -(-steps // _ROWS) * _ROWS
    if isinstance(config, SingleStreamConfig):
        return rows * 5 * config.dim * dtype.itemsize
    levels = 3 if config.zero_cond_t else 2  # picture, references, text
    return rows * config.num_layers * levels * 6 * config.dim * dtype.itemsize


def _denoising_1(
    config: MMDiTConfig, vae: AutoencoderConfig, wishes: Wishes, batch: int, dtype: torch.dtype
) -> int:
    rows, number = batch * (2 if wishes.guided else 1), config.dim * dtype.itemsize
    img, txt = _joint_tokens(vae, wishes), wishes.prompt_tokens + _TEMPLATE
    # Latents, rotary tables, features of the text and their projection.
    features = 2 * rows * txt * config.joint_attention_dim * dtype.itemsize
    around = _LATENTS * rows * img + (img + txt) * 4 * config.attention_head_dim + features
    residuals = _RESIDUALS * (batch + rows) * img * number if wishes.controls else 0
    return around + residuals + joint_block(rows, img, txt, number)


def _denoising_21(
    config: SingleStreamConfig, vae: AutoencoderConfig, wishes: Wishes, batch: int, dtype: torch.dtype
) -> int:
    number, target = config.dim * dtype.itemsize, tokens_of(vae, wishes.size)
    txt = wishes.prompt_tokens + _TEMPLATE
    looked = sum(tokens_of(vae, size) for size in wishes.references)
    kept = 2 * config.num_layers * (txt + looked) * number * (2 if wishes.guided else 1)
    working = max(single_step(batch, target, txt + looked, number), single_prefix(txt, looked, number))
    return _LATENTS * batch * target + kept + working


def _joint_tokens(vae: AutoencoderConfig, wishes: Wishes) -> int:
    target = wishes.frames * tokens_of(vae, wishes.size)
    return target + sum(tokens_of(vae, size) for size in wishes.references)


def _tower_config(folder: Folder) -> TowerConfig:
    released = folder.config("text_encoder")
    return Qwen3VLConfig.from_dict(released) if folder.is_21 else VLMConfig.from_dict(released)


def _reading(folder: Folder, wishes: Wishes, dtype: torch.dtype) -> tuple[int, int]:
    """Return what reading one prompt holds, and its tokens."""
    config = _tower_config(folder)
    side = config.vision.patch_size * config.vision.merge_size
    seen = sum((size[0] // side) * (size[1] // side) for size in wishes.seen)
    tokens = wishes.prompt_tokens + (_EDIT_TEMPLATE if seen else _TEMPLATE) + seen
    held = tokens * config.dim * dtype.itemsize
    if wishes.writes:  # keys and values of all that is read and written
        pairs = 2 * config.num_layers * config.num_kv_heads * config.head_dim * dtype.itemsize
        held += pairs * (tokens + _WRITTEN)
    patches = seen * config.vision.merge_size**2
    return held + max(tower(config, tokens, dtype), eyes(config, patches, dtype)), tokens
