"""What the denoiser reads: a prompt as the conditioner understands it, seeing the pictures it speaks of."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from danqing.conditioning.given import opaque
from danqing.conditioning.pictures import fitted_size, resized_pixels, seen_pixels
from danqing.conditioning.templates import EDIT, EDIT_PLUS, GENERATE, GENERATE_21, Template
from danqing.conditioning.text import (
    Conditioning,
    encode_edit_prompts,
    encode_prompts,
    encode_prompts_21,
    join,
    over_white,
)
from danqing.errors import CheckpointError, RequestError
from danqing.models.qwen3_vl import Qwen3VL
from danqing.pipelines.components import Components
from danqing.pipelines.prompt_memory import Features, memory_of
from danqing.pipelines.request import DrawRequest
from danqing.weights.layouts import CheckpointInfo

TEMPLATES = {"edit": EDIT, "edit_plus": EDIT_PLUS}


@torch.no_grad()
def read(components: Components, request: DrawRequest, pictures: Sequence[Image.Image] = ()) -> Conditioning:
    """Return the features of a resolved request's prompt and, where guidance is on, of its negative prompt.

    Both speak of the same pictures. Texts that were read before with the same pictures are not read again,
    and the conditioner is not loaded for them. Raises RequestError for a prompt of 2.1 that is too long.
    """
    assert request.guidance is not None
    texts = [request.prompt] + ([request.negative_prompt or ""] if request.guidance > 1 else [])
    memory = memory_of(components, _reader(components, pictures))
    known = {text: found for text in texts if (found := memory.recall(text)) is not None}
    if unread := [text for text in dict.fromkeys(texts) if text not in known]:
        with components.stage("text_encoder"):
            encoded = _encode(components, unread, pictures)
        for text, row, length in zip(unread, encoded.txt, encoded.lengths, strict=True):
            known[text] = Features(txt=row[:length], before=encoded.before)
            memory.remember(text, known[text])
    joined = join([known[text].txt for text in texts])
    return replace(joined, before=known[texts[0]].before)


def _encode(components: Components, texts: Sequence[str], pictures: Sequence[Image.Image]) -> Conditioning:
    vlm, tokenizer, info = components.vlm, components.tokenizer, components.info
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


def _reader(components: Components, pictures: Sequence[Image.Image]) -> dict[str, Any]:
    """Return what the features of a text depend on, beside the text and the conditioner."""
    info = components.info
    if isinstance(components.vlm, Qwen3VL):
        template = GENERATE_21
    else:
        template = _template(info) if pictures else GENERATE
    return {
        "template": asdict(template),
        "max_length": info.max_length,
        "areas": [info.reference_area, info.vision_area],
        "limits": asdict(components.picture_limits),
        "pictures": [
            [picture.mode, picture.size, hashlib.sha256(picture.convert("RGBA").tobytes()).hexdigest()]
            for picture in pictures
        ],
    }


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
