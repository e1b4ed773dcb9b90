"""What the denoiser reads: a prompt as the conditioner understands it, seeing the pictures it speaks of."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from danqing.conditioning.given import opaque
from danqing.conditioning.pictures import fitted_size, resized_pixels, seen_pixels
from danqing.conditioning.templates import EDIT, EDIT_PLUS, Template
from danqing.conditioning.text import (
    Conditioning,
    encode_edit_prompts,
    encode_prompts,
    encode_prompts_21,
    over_white,
)
from danqing.errors import CheckpointError, RequestError
from danqing.models.qwen3_vl import Qwen3VL
from danqing.pipelines.components import Components
from danqing.pipelines.request import DrawRequest
from danqing.weights.layouts import CheckpointInfo

TEMPLATES = {"edit": EDIT, "edit_plus": EDIT_PLUS}


@torch.no_grad()
def read(components: Components, request: DrawRequest, pictures: Sequence[Image.Image] = ()) -> Conditioning:
    """Return the features of a resolved request's prompt and, where guidance is on, of its negative prompt.

    Both speak of the same pictures. Raises RequestError for a prompt of 2.1 that is too long.
    """
    assert request.guidance is not None
    texts = [request.prompt] + ([request.negative_prompt or ""] if request.guidance > 1 else [])
    vlm, tokenizer, info = components.vlm, components.tokenizer, components.info
    with components.stage("text_encoder"):
        if isinstance(vlm, Qwen3VL):
            txt = encode_prompts_21(vlm, tokenizer, texts, _as_encoded(components, pictures))
            if (longest := max(txt.lengths)) > info.max_length:
                raise RequestError(
                    f"prompt: {info.name} reads up to {info.max_length} tokens, found {longest}; shorten it"
                )
            return txt
        if not pictures:
            return encode_prompts(vlm, tokenizer, texts, max_length=info.max_length)
        seen = seen_by_conditioner(components, pictures)
        return encode_edit_prompts(vlm, tokenizer, texts, seen, template=_template(info))


def seen_by_conditioner(
    components: Components, pictures: Sequence[Image.Image]
) -> list[Float[Tensor, "3 height width"]]:
    """Return pictures the way the conditioner sees them when it reads an instruction: opaque, in its size."""
    if isinstance(components.vlm, Qwen3VL):
        return [over_white(pixels) for pixels in _as_encoded(components, pictures)]
    area, vision = components.info.vision_area, components.vlm.config.vision
    limits = components.picture_limits
    return [seen_pixels(opaque(picture), area, vision, limits) for picture in pictures]


def _as_encoded(
    components: Components, pictures: Sequence[Image.Image]
) -> list[Float[Tensor, "4 height width"]]:
    """Return RGBA pixels: in 2.1 one resized picture serves the autoencoder and the conditioner."""
    area = components.info.reference_area
    return [resized_pixels(picture.convert("RGBA"), fitted_size(picture.size, area)) for picture in pictures]


def _template(info: CheckpointInfo) -> Template:
    if info.edit_template not in TEMPLATES:
        raise CheckpointError(
            f"{info.name}: expected edit_template {' or '.join(TEMPLATES)}, found {info.edit_template!r}"
        )
    return TEMPLATES[info.edit_template]
