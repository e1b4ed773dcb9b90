"""Qwen2.5-VL, the conditioner of the 1.x family: tokens and pictures → features, or more tokens.

Architecture: Qwen2.5 technical report (2024) for the language tower, Qwen2-VL (Wang et al., 2024) for M-RoPE
and Qwen2.5-VL technical report (2025) for the whole. Parameter names are those of the released checkpoint.
"""

from collections.abc import Collection, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from danqing.errors import ConfigError
from danqing.models.language import (
    KVCache,
    LanguageTower,
    Prefix,
    decode,
    mrope_positions,
    place_pictures,
    zero_padding,
)
from danqing.models.vision import VisionTower
from danqing.models.vlm_config import VLMConfig

__all__ = ["VLM", "KVCache", "Prefix", "VLMConfig", "mrope_positions"]


class VLM(nn.Module):
    """The vision-language model; parts that a task does not use can be left out.

    Drawing from text needs neither `vision` nor `head`; editing needs `vision`; describing needs both.
    """

    def __init__(self, config: VLMConfig, *, vision: bool = True, head: bool = True) -> None:
        super().__init__()
        self.config = config
        self.has_head = head
        self.model = LanguageTower(config, qkv_bias=True)
        if vision:
            self.visual = VisionTower(config.vision)
        if head and not config.tie_embeddings:
            self.lm_head = nn.Linear(config.dim, config.vocab_size, bias=False)

    @property
    def device(self) -> torch.device:
        """Where tokens and patches are read."""
        return self.model.norm.weight.device

    def forward(
        self,
        token_ids: Int[Tensor, "batch seq"],
        lengths: list[int] | None = None,
        *,
        patches: Float[Tensor, "patches patch_dim"] | None = None,
        grid_thw: list[tuple[int, int, int]] | None = None,
        prefix: "Prefix | None" = None,
    ) -> Float[Tensor, "batch seq dim"]:
        """Return the features after the last norm; see `features`."""
        tokens = self._embed(token_ids, patches, grid_thw)
        positions, _ = mrope_positions(token_ids, grid_thw or [], self.config)
        if prefix is not None:
            positions = positions + prefix.length
        return zero_padding(self.model(tokens, positions, prefix), lengths)

    def features(
        self,
        token_ids: Int[Tensor, "batch seq"],
        lengths: list[int] | None = None,
        *,
        patches: Float[Tensor, "patches patch_dim"] | None = None,
        grid_thw: list[tuple[int, int, int]] | None = None,
        prefix: "Prefix | None" = None,
    ) -> Float[Tensor, "batch seq dim"]:
        """Return the features after the last norm, which condition the denoiser.

        Rows are padded on the right: attention is causal, so the padding never reaches a real token and
        needs no mask; features past `lengths` are zero. Pictures are given as `patches` with their
        `grid_thw`, in the order of their image tokens over the batch. `token_ids` follow those of `prefix`.
        """
        return self(token_ids, lengths, patches=patches, grid_thw=grid_thw, prefix=prefix)

    def prefix(self, token_ids: Int[Tensor, " seq"]) -> "Prefix":
        """Read the text that all rows of a batch begin with, once; gradients flow through it."""
        prefix = Prefix(self.config.num_layers)
        positions, _ = mrope_positions(token_ids[None], [], self.config)
        self.model(self.model.embed_tokens(token_ids[None]), positions, prefix)
        return prefix

    def logits(self, features: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch vocab"]:
        """Score every token of the vocabulary as the next one."""
        if not self.has_head:
            raise ConfigError("this VLM was built without its head, build it with head=True to get logits")
        if self.config.tie_embeddings:
            return F.linear(features, self.model.embed_tokens.weight)
        return self.lm_head(features)

    @torch.no_grad()
    def generate(
        self,
        token_ids: list[int],
        *,
        max_new_tokens: int,
        stop: Collection[int] = (),
        temperature: float = 0.0,
        top_p: float = 1.0,
        generator: torch.Generator | None = None,
        patches: Float[Tensor, "patches patch_dim"] | None = None,
        grid_thw: list[tuple[int, int, int]] | None = None,
    ) -> Iterator[int]:
        """Yield up to `max_new_tokens` tokens that continue `token_ids`; a token of `stop` ends it unseen.

        Temperature 0 takes the likeliest token. Otherwise a token is drawn from the smallest set whose
        probability reaches `top_p` (Holtzman et al., 2020), on the CPU with `generator`.
        """
        prompt = torch.tensor([token_ids], device=self.device)
        positions, following = mrope_positions(prompt, grid_thw or [], self.config)
        yield from decode(
            self.model,
            self.logits,
            (self._embed(prompt, patches, grid_thw), positions, None),
            following[0],
            max_new_tokens=max_new_tokens,
            stop=stop,
            temperature=temperature,
            top_p=top_p,
            generator=generator,
        )

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None, *, std: float = 0.02) -> None:
        """Draw fresh weights for training: normal matrices, zero biases, unit gains."""
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=std, generator=generator)
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)

    def _embed(
        self, token_ids: Tensor, patches: Tensor | None, grid_thw: list[tuple[int, int, int]] | None
    ) -> Tensor:
        tokens = self.model.embed_tokens(token_ids)
        if patches is None or not grid_thw:
            return tokens
        if not hasattr(self, "visual"):
            raise ConfigError("this VLM was built without vision, build it with vision=True to see pictures")
        return place_pictures(tokens, token_ids == self.config.image_token, self.visual(patches, grid_thw))
