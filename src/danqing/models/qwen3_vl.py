"""Qwen3-VL, the conditioner of Qwen-Image 2.1: tokens and pictures → features, or more tokens.

Architecture: Qwen3-VL technical report (2025). The denoiser reads the features before the last norm; the head
reads them after it. Parameter names are those of the released checkpoint.
"""

from collections.abc import Collection, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from danqing.errors import ConfigError
from danqing.models.language import (
    Deepstack,
    LanguageTower,
    decode,
    mrope_positions,
    place_pictures,
    zero_padding,
)
from danqing.models.qwen3_vision import Qwen3VisionConfig, Qwen3VisionTower
from danqing.models.qwen3_vl_config import Qwen3VLConfig

__all__ = ["Qwen3VL", "Qwen3VLConfig", "Qwen3VisionConfig"]


class Qwen3VL(nn.Module):
    """The vision-language model; parts that a task does not use can be left out.

    Drawing from text needs neither `vision` nor `head`; references need `vision`; describing needs both.
    """

    def __init__(self, config: Qwen3VLConfig, *, vision: bool = True, head: bool = True) -> None:
        super().__init__()
        self.config = config
        self.has_vision, self.has_head = vision, head
        self.model = _Towers(config, vision)
        if head and not config.tie_embeddings:
            self.lm_head = nn.Linear(config.dim, config.vocab_size, bias=False)

    @property
    def language(self) -> LanguageTower:
        """The language tower."""
        return self.model.language_model

    @property
    def device(self) -> torch.device:
        """Where tokens and patches are read."""
        return self.language.norm.weight.device

    def forward(
        self,
        token_ids: Int[Tensor, "batch seq"],
        lengths: list[int] | None = None,
        *,
        patches: Float[Tensor, "patches patch_dim"] | None = None,
        grid_thw: list[tuple[int, int, int]] | None = None,
    ) -> Float[Tensor, "batch seq dim"]:
        """Return the features before the last norm; see `features`."""
        tokens, deepstack = self._embed(token_ids, patches, grid_thw)
        positions, _ = mrope_positions(token_ids, grid_thw or [], self.config)
        return zero_padding(self.language.before_norm(tokens, positions, None, deepstack), lengths)

    def features(
        self,
        token_ids: Int[Tensor, "batch seq"],
        lengths: list[int] | None = None,
        *,
        patches: Float[Tensor, "patches patch_dim"] | None = None,
        grid_thw: list[tuple[int, int, int]] | None = None,
    ) -> Float[Tensor, "batch seq dim"]:
        """Return the features before the last norm, which condition the denoiser.

        Rows are padded on the right: attention is causal, so the padding never reaches a real token and
        needs no mask; features past `lengths` are zero. Pictures are given as `patches` with their
        `grid_thw`, in the order of their image tokens over the batch.
        """
        return self(token_ids, lengths, patches=patches, grid_thw=grid_thw)

    def logits(self, features: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch vocab"]:
        """Score every token of the vocabulary as the next one, from features before the last norm."""
        return self._score(self.language.norm(features))

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
        tokens, deepstack = self._embed(prompt, patches, grid_thw)
        positions, following = mrope_positions(prompt, grid_thw or [], self.config)
        yield from decode(
            self.language,
            self._score,
            (tokens, positions, deepstack),
            following[0],
            max_new_tokens=max_new_tokens,
            stop=stop,
            temperature=temperature,
            top_p=top_p,
            generator=generator,
        )

    def _score(self, normed: Tensor) -> Tensor:
        if not self.has_head:
            raise ConfigError("this VLM was built without its head, build it with head=True to get logits")
        if self.config.tie_embeddings:
            return F.linear(normed, self.language.embed_tokens.weight)
        return self.lm_head(normed)

    def _embed(
        self, token_ids: Tensor, patches: Tensor | None, grid_thw: list[tuple[int, int, int]] | None
    ) -> tuple[Tensor, Deepstack | None]:
        tokens = self.language.embed_tokens(token_ids)
        if patches is None or not grid_thw:
            return tokens, None
        if not self.has_vision:
            raise ConfigError("this VLM was built without vision, build it with vision=True to see pictures")
        seen = self.model.visual(patches, grid_thw)
        places = token_ids == self.config.image_token
        return place_pictures(tokens, places, seen.features), Deepstack(places, seen.levels)


class _Towers(nn.Module):
    def __init__(self, config: Qwen3VLConfig, vision: bool) -> None:
        super().__init__()
        self.language_model = LanguageTower(config, qk_norm=True)
        if vision:
            self.visual = Qwen3VisionTower(config.vision)
