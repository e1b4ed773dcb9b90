"""PIL pictures → what the conditioner and the autoencoder see, and the files that tell other programs.

The released `processor/` folder is the tokenizer with a `preprocessor_config.json` beside it.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from danqing.conditioning.tokenizer import Tokenizer
from danqing.errors import CheckpointError, RequestError
from danqing.files import read_json
from danqing.models.qwen3_vision import Qwen3VisionConfig
from danqing.models.vision import PatchSizes, VisionConfig

MAX_ASPECT = 200
"""Longest side over shortest that the reference accepts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureLimits:
    """How many pixels of a picture the conditioner sees; the defaults are those of Qwen2.5-VL."""

    min_pixels: int = 56 * 56
    max_pixels: int = 12845056

    @classmethod
    def load(cls, folder: str | Path) -> "PictureLimits":
        """Read `preprocessor_config.json` (transformers 4) or `processor_config.json` (5)."""
        path = Path(folder) / "preprocessor_config.json"
        if not path.is_file():
            path = Path(folder) / "processor_config.json"
        content = read_json(path)
        content = _part(content, "image_processor") or content
        size = _part(content, "size")
        least = content.get("min_pixels") or size.get("shortest_edge") or cls().min_pixels
        most = content.get("max_pixels") or size.get("longest_edge") or cls().max_pixels
        if type(least) is not int or type(most) is not int or not 0 < least <= most:
            raise CheckpointError(
                f"expected 0 < min_pixels <= max_pixels in {path}, found {least!r}, {most!r}"
            )
        return cls(min_pixels=least, max_pixels=most)


def picture_pixels(
    picture: Image.Image, config: PatchSizes, limits: PictureLimits | None = None
) -> Float[Tensor, "channels height width"]:
    """Return a picture as pixels in [-1, 1], resized to whole tokens inside the limits with its aspect kept.

    Bicubic on 8-bit RGB over white, as the reference processor does.
    """
    limits = limits or PictureLimits()
    if picture.has_transparency_data:
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture.convert("RGBA"))
    picture = picture.convert("RGB")
    height, width = token_size(picture.height, picture.width, config.patch_size * config.merge_size, limits)
    if (height, width) != (picture.height, picture.width):
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    return _pixels(picture)


def seen_pixels(
    picture: Image.Image, area: int, config: PatchSizes, limits: PictureLimits | None = None
) -> Float[Tensor, "channels height width"]:
    """Return a picture the way the conditioner of 1.x sees one that an instruction speaks of.

    It is fitted to about `area` pixels first, whatever the limits are.
    """
    return picture_pixels(resized(picture, fitted_size(picture.size, area)), config, limits)


def fitted_size(size: tuple[int, int], area: int, multiple: int = 32) -> tuple[int, int]:
    """Return the (width, height) of about `area` pixels in the aspect of `size`, both in whole multiples."""
    check_aspect(size)
    ratio = size[0] / size[1]
    width = math.sqrt(area * ratio)
    fitted = [max(1, round(side / multiple)) * multiple for side in (width, width / ratio)]
    return fitted[0], fitted[1]


def check_aspect(size: tuple[int, int]) -> None:
    """Raise RequestError for a picture too long and narrow."""
    width, height = size
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise RequestError(
            f"expected sides of a ratio up to {MAX_ASPECT}, found {width}x{height}, crop the picture"
        )


def resized_pixels(picture: Image.Image, size: tuple[int, int]) -> Float[Tensor, "channels height width"]:
    """Return a picture as pixels in [-1, 1] of (width, height) `size`, as the autoencoder sees it."""
    return _pixels(resized(picture, size))


def resized(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return the picture with (width, height) `size`; Lanczos on 8 bits, as in the reference pipelines."""
    return picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS)


def mask_latents(mask: Image.Image, size: tuple[int, int], ratio: int) -> Float[Tensor, "lat_h lat_w"]:
    """Return 1 where a mask lets draw, 0 where it keeps, for every latent of a (width, height) `size`.

    Grey from 50 % up is drawn; of `ratio` x `ratio` pixels the first one speaks for the latent, as in the
    reference.
    """
    grey = np.array(resized(mask.convert("L"), size))[::ratio, ::ratio]
    return torch.from_numpy(grey >= 128).float()


def _pixels(picture: Image.Image) -> Float[Tensor, "channels height width"]:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 127.5 - 1


def token_size(height: int, width: int, side: int, limits: PictureLimits) -> tuple[int, int]:
    """Return the (height, width) in multiples of `side` that is nearest to a picture's, inside the limits."""
    check_aspect((width, height))
    fitted = [round(edge / side) * side for edge in (height, width)]
    if math.prod(fitted) > limits.max_pixels:
        scale = math.sqrt(height * width / limits.max_pixels)
        fitted = [max(side, math.floor(edge / scale / side) * side) for edge in (height, width)]
    elif math.prod(fitted) < limits.min_pixels:
        scale = math.sqrt(limits.min_pixels / (height * width))
        fitted = [math.ceil(edge * scale / side) * side for edge in (height, width)]
    return fitted[0], fitted[1]


def _part(content: dict[str, Any], key: str) -> dict[str, Any]:
    part = content.get(key)
    return part if isinstance(part, dict) else {}


def save_processor(
    folder: str | Path,
    tokenizer: Tokenizer,
    config: VisionConfig | Qwen3VisionConfig,
    limits: PictureLimits | None = None,
) -> None:
    """Write the released `processor/` folder: the tokenizer and how pictures are prepared."""
    limits = limits or PictureLimits()
    tokenizer.save(folder)
    family = "Qwen3VL" if isinstance(config, Qwen3VisionConfig) else "Qwen2_5_VL"
    shared: dict[str, Any] = {
        "processor_class": f"{family}Processor",
        "do_convert_rgb": True,
        "do_resize": True,
        "resample": int(Image.Resampling.BICUBIC),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(config.pixel_mean),
        "image_std": list(config.pixel_std),
        "min_pixels": limits.min_pixels,
        "max_pixels": limits.max_pixels,
        "size": {"shortest_edge": limits.min_pixels, "longest_edge": limits.max_pixels},
        "patch_size": config.patch_size,
        "temporal_patch_size": config.temporal_patch_size,
        "merge_size": config.merge_size,
    }
    video = "Qwen3VLVideoProcessor" if family == "Qwen3VL" else "Qwen2VLVideoProcessor"
    kinds = {
        "preprocessor_config.json": {"image_processor_type": "Qwen2VLImageProcessor"},
        "video_preprocessor_config.json": {"video_processor_type": video},
    }
    for name, kind in kinds.items():
        (Path(folder) / name).write_text(json.dumps(shared | kind, indent=2) + "\n", encoding="utf-8")
