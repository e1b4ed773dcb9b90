"""How many bytes each stage of drawing works with, beside weights: formulas, checked against the code.

A stream is the tokens of a batch times the width of the network. What lives at the peak of a forward is told
in streams; each constant below names the moment of its peak. Tests compare all of them with what torch
allocates, so a forward that comes to hold more, or less, is noticed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import torch

from danqing.models.qwen3_vl_config import Qwen3VLConfig
from danqing.models.vae21 import VAE21Config
from danqing.models.vlm_config import VLMConfig
from danqing.pipelines.part_sizes import PartSizes
from danqing.pipelines.wishes import Wishes
from danqing.weights.layouts import Folder

# 1.x: attention holds the stream, its normalised form, queries, keys, values, what was read, and copies of
# its parts; a batch of one needs no copies.
_JOINT_IMG, _JOINT_TXT = 9.2, 10.9
_JOINT_IMG_ALONE = 8.2
# 2.1, a step: attention joins the prefix's keys and values with its own.
_STEP_IMG, _STEP_PREFIX = 13.1, 1.1
# 2.1, the prefix: keys and values that are kept come on top of what reading it takes.
_PREFIX = 9.0
# Conditioners: hidden units (the gated ones, the other ones, their product) and streams; eyes a patch, which
# are turned in fp32.
_HIDDEN, _TOWER = 3.0, 4.5
_EYES_1, _EYES_21 = {4: 13.0, 2: 16.0}, {4: 15.0, 2: 18.0}
# Autoencoders, in numbers a pixel for each channel of the widest layer at full size.
_DECODE_1, _DECODE_21 = 4.07, 5.52
_ENCODE_1, _ENCODE_21 = {4: 3.0, 2: 3.0}, {4: 4.0, 2: 6.0}
# What runs whole even in tiles, in numbers of its result: at the latents' size, or four times that in 2.1.
_MIDDLE_1 = {4: 8.5, 2: 12.8}
_WHOLE_21 = 2.9
_ROWS = 16  # of a modulation table, which is made in groups
_TEMPLATE = 80  # tokens around a prompt
_EDIT_TEMPLATE = 120


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
    folder: Folder, denoiser: PartSizes, wishes: Wishes, *, batch: int, dtype: torch.dtype
) -> Footprint:
    """Return what drawing works with, decoding apart: see `decoding`."""
    width = dtype.itemsize
    sizes = _Denoiser.of(folder, denoiser)
    pictures = [*wishes.references, *([wishes.size] if wishes.starts or wishes.controls else [])]
    return Footprint(
        reading=_reading(folder, wishes, width),
        looking=max((_encoding(folder, size, width) for size in pictures), default=0),
        tabulating=2 * _table(sizes, wishes, width),
        denoising=_denoising(folder, sizes, wishes, batch, width),
    )


def tokens_of(folder: Folder, size: tuple[int, int]) -> int:
    """Return the tokens of a picture of this (width, height)."""
    side = folder.vae_config().spatial_ratio * (1 if folder.is_21 else 2)
    return (size[0] // side) * (size[1] // side)


def decoding(folder: Folder, size: tuple[int, int], tile: int | None, dtype: torch.dtype) -> int:
    """Return what decoding one picture works with, whole or in tiles of so many latents a side."""
    config, width = folder.vae_config(), dtype.itemsize
    pixels = prod(size)
    latents = (size[0] // config.spatial_ratio, size[1] // config.spatial_ratio)
    if isinstance(config, VAE21Config):
        channels, halo, per_pixel = config.decoder_base_dim, config.decoder_halo, _DECODE_21
        wide = config.decoder_base_dim * config.dim_mult[-1]
        # Coarse stages end at four times the side of the latents.
        middle = _WHOLE_21 * 16 * prod(latents) * wide * width
        features = 16 * prod(latents) * wide * width
        outputs = config.out_channels
    else:
        channels, halo, per_pixel = config.base_dim, config.halo, _DECODE_1
        wide = config.base_dim * config.dim_mult[-1]
        middle = _MIDDLE_1[width] * prod(latents) * wide * width
        features = prod(latents) * wide * width
        outputs = config.input_channels
    if tile is None:
        return round(max(middle, per_pixel * pixels * channels * width))
    seen = prod(max(high - low for low, high in _spans(side, tile, halo)) for side in latents)
    part = per_pixel * seen * config.spatial_ratio**2 * channels * width
    return round(max(middle, features + outputs * pixels * width + part))


def decoded_share(folder: Folder, size: tuple[int, int], tile: int | None) -> float:
    """Return how much is decoded, halos included, as a multiple of the picture."""
    if tile is None:
        return 1.0
    config = folder.vae_config()
    halo = config.decoder_halo if isinstance(config, VAE21Config) else config.halo
    sides = [side // config.spatial_ratio for side in size]
    return prod(sum(high - low for low, high in _spans(side, tile, halo)) / side for side in sides)


def _spans(length: int, tile: int, halo: int) -> Iterator[tuple[int, int]]:
    return (
        (max(0, start - halo), min(length, start + tile + halo))
        for start in range(0, length, min(tile, length))
    )


def _encoding(folder: Folder, size: tuple[int, int], width: int) -> int:
    config = folder.vae_config()
    each = (_ENCODE_21 if isinstance(config, VAE21Config) else _ENCODE_1)[width]
    return round(each * prod(size) * config.base_dim * width)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Denoiser:
    dim: int
    layers: int
    text_dim: int
    levels: int
    is_21: bool

    @classmethod
    def of(cls, folder: Folder, sizes: PartSizes) -> "_Denoiser":
        projected = "txt_in.in_layer.weight" if folder.is_21 else "txt_in.weight"
        switches = (
            {}
            if folder.is_21
            else folder.config("transformer") | folder.given.switches(str(folder.index.get("_class_name")))
        )
        return cls(
            dim=sizes.shapes["img_in.weight"][0],
            layers=len(sizes.blocks),
            text_dim=sizes.shapes[projected][1],
            levels=2 if switches.get("zero_cond_t") else 1,
            is_21=folder.is_21,
        )


def _table(sizes: _Denoiser, wishes: Wishes, width: int) -> int:
    """Return the modulation table of a schedule; groups are full."""
    rows = -(-wishes.steps // _ROWS) * _ROWS
    if sizes.is_21:
        return rows * 5 * sizes.dim * width
    return rows * sizes.layers * (sizes.levels + 1) * 6 * sizes.dim * width


def _denoising(folder: Folder, sizes: _Denoiser, wishes: Wishes, batch: int, width: int) -> int:
    target = wishes.frames * tokens_of(folder, wishes.size)
    looked = sum(tokens_of(folder, size) for size in wishes.references)
    txt = wishes.prompt_tokens + _TEMPLATE
    number = sizes.dim * width
    table = _table(sizes, wishes, width)
    if sizes.is_21:
        prefix = txt + looked
        kept = 2 * sizes.layers * prefix * number * (2 if wishes.guided else 1)
        step = _STEP_IMG * batch * target + _STEP_PREFIX * batch * prefix
        latents = 8 * batch * target * 64 * 4
        return round(table + kept + latents + max(step, _PREFIX * prefix) * number)
    rows = batch * (2 if wishes.guided else 1)
    img = target + looked
    streams = _JOINT_IMG if rows > 1 else _JOINT_IMG_ALONE
    block = (streams * img + _JOINT_TXT * txt) * rows * number
    # Latents in fp32 and as the network reads them, rotary tables, features of the text.
    around = 8 * rows * img * 64 * 4 + (img + txt) * 128 * 4 + 2 * rows * txt * sizes.text_dim * width
    steering = wishes.controls and 5 * (batch + rows) * target * number
    return round(table + block + around + steering)


def _reading(folder: Folder, wishes: Wishes, width: int) -> int:
    config = folder.config("text_encoder")
    tower: VLMConfig | Qwen3VLConfig
    if folder.is_21:
        tower, eyes, side = Qwen3VLConfig.from_dict(config), _EYES_21[width], 32
    else:
        tower, eyes, side = VLMConfig.from_dict(config), _EYES_1[width], 28
    patches = sum(4 * (size[0] // side) * (size[1] // side) for size in wishes.seen)
    tokens = wishes.prompt_tokens + (_EDIT_TEMPLATE if patches else _TEMPLATE) + patches // 4
    streams = _HIDDEN * tower.hidden_dim / tower.dim + _TOWER
    read = streams * tokens * tower.dim * width
    seen = eyes * patches * tower.vision.dim * width
    return round(max(read, seen) + tokens * tower.dim * width)
