"""A short prompt → a longer one, written by the conditioner of the checkpoint that will draw it."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from danqing.conditioning.enhance import Rewrite, enhance_text, parse_rewrite
from danqing.conditioning.text import Conditioner, picture_patches, picture_token_ids
from danqing.conditioning.tokenizer import Tokenizer
from danqing.errors import RequestError

MAX_TOKENS = 512
"""Room for 150 words and for thoughts of a sentence or two."""
TEMPERATURE, TOP_P = 0.7, 0.8
"""Those of the released conditioners' own generation configs."""
_STOPS = ("<|im_end|>", "<|endoftext|>")


def enhance(
    vlm: Conditioner,
    tokenizer: Tokenizer,
    prompt: str,
    pictures: Sequence[Float[Tensor, "channels _ _"]] = (),
    *,
    seed: int,
    system: str | None = None,
    max_tokens: int = MAX_TOKENS,
    temperature: float = TEMPERATURE,
) -> Rewrite:
    """Rewrite `prompt`, an instruction when there are `pictures`; the same seed gives the same rewrite.

    Pictures are pixels in [-1, 1] as `picture_pixels` prepares them. The VLM needs its head, and its vision
    where there are pictures. `system` is the text of a release, see `release_system_prompt`. Raises
    RequestError for an answer that does not end or holds no prompt.
    """
    if not prompt.strip():
        raise RequestError("enhance: expected a prompt to rewrite, found none; say what to draw")
    patches, grid_thw = picture_patches(vlm, pictures)
    text = enhance_text(prompt, num_pictures=len(pictures), system=system)
    token_ids = picture_token_ids(vlm, tokenizer, text, grid_thw)
    room = vlm.config.max_positions - max_tokens
    if len(token_ids) > room:
        raise RequestError(
            f"enhance: expected at most {room} tokens of prompt and pictures, found {len(token_ids)}; give "
            "fewer or smaller pictures"
        )
    answer = list(
        vlm.generate(
            token_ids,
            max_new_tokens=max_tokens,
            stop=[tokenizer.token_id(name) for name in _STOPS],
            temperature=temperature,
            top_p=TOP_P,
            generator=torch.Generator().manual_seed(seed),
            patches=patches.to(vlm.device),
            grid_thw=grid_thw,
        )
    )
    if len(answer) == max_tokens:
        raise RequestError(
            f"enhance: expected a rewrite of fewer than {max_tokens} tokens, found no end; draw without "
            "--enhance"
        )
    return parse_rewrite(tokenizer.decode(answer))
