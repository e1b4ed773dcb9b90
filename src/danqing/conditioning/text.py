"""Prompts → what the denoiser reads: features of the conditioner without the template's head."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from danqing.conditioning.templates import EDIT_PLUS, GENERATE, GENERATE_21, Template
from danqing.conditioning.tokenizer import Tokenizer
from danqing.errors import RequestError
from danqing.models.qwen3_vl import Qwen3VL
from danqing.models.rope import GridShape
from danqing.models.single_stream import references_before
from danqing.models.vision import patchify
from danqing.models.vlm import VLM

Conditioner = VLM | Qwen3VL

MAX_REFERENCES = 10
"""Pictures that Qwen-Image 2.1 was trained to see at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Conditioning:
    """Features of a batch of prompts, padded on the right with zeros."""

    txt: Float[Tensor, "batch txt_seq dim"]
    lengths: list[int]
    """Real tokens of each row."""
    before: tuple[int, ...] = ()
    """Tokens before each reference of 2.1, whose own tokens are left out; the same in every row."""


def encode_prompts(
    vlm: VLM,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    max_length: int = 1024,
    template: Template = GENERATE,
) -> Conditioning:
    """Encode prompts for drawing; what is longer than `max_length` tokens loses its end, as in the reference.

    The cut takes the end of the template with it. Each prompt is encoded alone, so its features do not depend
    on the batch by a single bit. An empty prompt is the template around nothing.
    """
    return join(
        [
            _features(
                vlm, tokenizer.encode(template.fill(prompt))[: template.drop + max_length], template.drop
            )
            for prompt in prompts
        ]
    )


def encode_edit_prompts(
    vlm: VLM,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    pictures: Sequence[Float[Tensor, "channels _ _"]],
    *,
    template: Template = EDIT_PLUS,
) -> Conditioning:
    """Encode instructions that all speak of the same `pictures`, pixels in [-1, 1] of any sizes.

    The sides must be multiples of 28. Instructions are not cut: the reference has no limit here.
    """
    patches, grid_thw = picture_patches(vlm, pictures)
    rows = []
    for prompt in prompts:
        token_ids = picture_token_ids(
            vlm, tokenizer, template.fill(prompt, num_pictures=len(pictures)), grid_thw
        )
        rows.append(_features(vlm, token_ids, template.drop, patches=patches, grid_thw=grid_thw))
    return join(rows)


@torch.no_grad()
def encode_batch(
    vlm: VLM,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    pictures: Sequence[Float[Tensor, "channels _ _"]] = (),
    *,
    template: Template = GENERATE,
) -> Conditioning:
    """Encode prompts in one pass, each with its own picture where there are `pictures`: for training.

    The template's head is read once. Features differ by rounding from those of a prompt that is encoded
    alone. Prompts are not cut.
    """
    head = tokenizer.encode(template.text.partition("{}")[0])
    texts = [template.fill(prompt, num_pictures=1 if pictures else 0) for prompt in prompts]
    patches, grid_thw = picture_patches(vlm, pictures) if pictures else (None, [])
    grids = [[grid] for grid in grid_thw] if pictures else [[] for _ in texts]
    rows = [
        picture_token_ids(vlm, tokenizer, text, grid)[len(head) :]
        for text, grid in zip(texts, grids, strict=True)
    ]
    token_ids = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(row) for row in rows], batch_first=True, padding_value=tokenizer.pad
    )
    lengths = [len(row) for row in rows]
    features = vlm.features(
        token_ids.to(vlm.device),
        lengths,
        patches=None if patches is None else patches.to(vlm.device),
        grid_thw=grid_thw,
        prefix=vlm.prefix(torch.tensor(head, device=vlm.device)),
    )
    return Conditioning(txt=features, lengths=lengths)


def encode_prompts_21(
    vlm: Qwen3VL,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    references: Sequence[Float[Tensor, "channels _ _"]] = (),
    *,
    template: Template = GENERATE_21,
) -> Conditioning:
    """Encode prompts for 2.1, which all speak of the same `references`, up to ten of them.

    References are RGB or RGBA pixels in [-1, 1] with sides that are multiples of 32: the very pixels that the
    autoencoder encodes. The conditioner sees them over white. Each prompt is encoded alone and not cut, as
    in the reference; an empty one is a space.
    """
    if len(references) > MAX_REFERENCES:
        raise RequestError(
            f"references: expected at most {MAX_REFERENCES}, found {len(references)}; leave some out"
        )
    patches, grid_thw = picture_patches(vlm, [over_white(picture) for picture in references])
    # A patch of the conditioner covers the 16x16 pixels of one latent.
    shapes = [GridShape(*grid) for grid in grid_thw]
    rows: list[Tensor] = []
    before: tuple[int, ...] = ()
    for prompt in prompts:
        text = template.fill(prompt or " ", num_pictures=len(references))
        token_ids = picture_token_ids(vlm, tokenizer, text, grid_thw)
        features = _features(vlm, token_ids, template.drop, patches=patches, grid_thw=grid_thw)
        slots = torch.tensor(token_ids[template.drop :]) == tokenizer.image_pad
        before = references_before(slots, shapes)
        rows.append(features[~slots.to(features.device)])
    return replace(join(rows), before=before)


def over_white(
    pixels: Float[Tensor, "channels height width"],
) -> Float[Tensor, "3 height width"]:
    """Lay RGBA pixels in [-1, 1] over white, rounded to 8 bits as the reference does; RGB stays as it is."""
    if len(pixels) == 3:
        return pixels
    colour, alpha = (pixels[:3] + 1) / 2, (pixels[3:] + 1) / 2
    return ((colour * alpha + 1 - alpha) * 255).round() / 127.5 - 1


def picture_patches(
    vlm: Conditioner, pictures: Sequence[Float[Tensor, "channels _ _"]]
) -> tuple[Float[Tensor, "patches patch_dim"], list[tuple[int, int, int]]]:
    """Return the patches of all pictures and each one's (frames, height, width) in patches."""
    config = vlm.config.vision
    side = config.patch_size
    grid_thw = [(1, picture.shape[-2] // side, picture.shape[-1] // side) for picture in pictures]
    patches = [patchify(picture, config) for picture in pictures]
    return torch.cat(patches) if patches else torch.empty(0, config.patch_dim), grid_thw


def picture_token_ids(
    vlm: Conditioner, tokenizer: Tokenizer, text: str, grid_thw: Sequence[tuple[int, int, int]]
) -> list[int]:
    """Tokenise a filled template, with each place for a picture as wide as the picture has features."""
    square = vlm.config.vision.merge_size**2
    widths = [frames * height * width // square for frames, height, width in grid_thw]
    return widened_token_ids(tokenizer, text, widths)


def widened_token_ids(tokenizer: Tokenizer, text: str, widths: Sequence[int]) -> list[int]:
    """Tokenise a filled template, with places for pictures so many tokens wide."""
    token_ids = tokenizer.encode(text)
    if (found := token_ids.count(tokenizer.image_pad)) != len(widths):
        raise RequestError(
            f"expected {len(widths)} <|image_pad|> for the pictures, found {found}; clean the prompt"
        )
    rest = iter(widths)
    return [i for t in token_ids for i in ([t] * next(rest) if t == tokenizer.image_pad else [t])]


def join(rows: Sequence[Float[Tensor, "_ dim"]]) -> Conditioning:
    """Put features of different lengths into one batch, padded on the right with zeros."""
    txt = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    return Conditioning(txt=txt, lengths=[len(row) for row in rows])


@torch.no_grad()
def _features(
    vlm: Conditioner,
    token_ids: list[int],
    drop: int,
    *,
    patches: Tensor | None = None,
    grid_thw: list[tuple[int, int, int]] | None = None,
) -> Tensor:
    batch = torch.tensor([token_ids], device=vlm.device)
    if patches is not None:
        patches = patches.to(vlm.device)
    return vlm.features(batch, patches=patches, grid_thw=grid_thw)[0, drop:]
