"""The language tower that the vision-language models of the family share: tokens at positions → features.

Architecture: Qwen2.5 technical report (2024) and Qwen3 technical report (2025); M-RoPE: Qwen2-VL (Wang et
al., 2024). Qwen2.5-VL has biases on queries, keys and values; Qwen3-VL normalises queries and keys instead,
gives its rotary frequencies to the axes in turn, and adds features of pictures after its first layers
(DeepStack).
"""

from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from danqing.errors import RequestError
from danqing.models.layers import RMSNorm, SwiGLU, apply_rope, embedding
from danqing.models.qwen3_vl_config import Qwen3VLConfig
from danqing.models.vlm_config import VLMConfig

TowerConfig = VLMConfig | Qwen3VLConfig


class Deepstack(NamedTuple):
    """Features of pictures that are added after the first layers, one level a layer (Meng et al., 2024)."""

    places: Bool[Tensor, "batch seq"]
    """Tokens that stand for pictures."""
    levels: list[Float[Tensor, "pictures dim"]]


class LanguageTower(nn.Module):
    """Embedding table, decoder layers and a last norm."""

    def __init__(self, config: TowerConfig, *, qkv_bias: bool = False, qk_norm: bool = False) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(
            _Layer(config, index, qkv_bias, qk_norm) for index in range(config.num_layers)
        )
        self.norm = RMSNorm(config.dim, config.norm_eps)

    def forward(
        self,
        tokens: Float[Tensor, "batch seq dim"],
        positions: Int[Tensor, "3 #batch seq"],
        cache: "KVCache | Prefix | None" = None,
        deepstack: Deepstack | None = None,
    ) -> Float[Tensor, "batch seq dim"]:
        """Return the features after the last norm."""
        return self.norm(self.before_norm(tokens, positions, cache, deepstack))

    def before_norm(
        self,
        tokens: Float[Tensor, "batch seq dim"],
        positions: Int[Tensor, "3 #batch seq"],
        cache: "KVCache | Prefix | None" = None,
        deepstack: Deepstack | None = None,
    ) -> Float[Tensor, "batch seq dim"]:
        """Return the features after the last layer."""
        cos, sin = _rope_table(positions, self.config, tokens.dtype)
        for index, layer in enumerate(self.layers):
            tokens = layer(tokens, cos, sin, cache)
            if deepstack is not None and index < len(deepstack.levels):
                places, level = deepstack.places, deepstack.levels[index]
                tokens = tokens.masked_scatter(places[..., None], tokens[places] + level.to(tokens))
        return tokens


class KVCache:
    """Keys and values of the tokens read so far, one pair of buffers a layer."""

    def __init__(self, num_layers: int, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0
        self.layers: list[tuple[Tensor, Tensor] | None] = [None] * num_layers

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append (batch, kv_heads, seq, head_dim) keys and values to one layer; return all of that layer."""
        batch, heads, seq, head_dim = k.shape
        buffers = self.layers[layer]
        if buffers is None:
            shape = (batch, heads, self.capacity, head_dim)
            buffers = self.layers[layer] = (k.new_empty(shape), v.new_empty(shape))
        end = self.length + seq
        for buffer, new in zip(buffers, (k, v), strict=True):
            buffer[:, :, self.length : end] = new
        if layer == len(self.layers) - 1:
            self.length = end
        return buffers[0][:, :, :end], buffers[1][:, :, :end]


class Prefix:
    """Keys and values of a text before every row of a batch: filled by the first pass, then only read."""

    def __init__(self, num_layers: int) -> None:
        self.num_layers = num_layers
        self.length = 0
        self.layers: list[tuple[Tensor, Tensor]] = []

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return the prefix's keys and values of one layer with those of a batch behind them."""
        if len(self.layers) < self.num_layers:
            self.layers.append((k, v))
            self.length = k.shape[2]
            return k, v
        before = (part.expand(len(k), -1, -1, -1) for part in self.layers[layer])
        both = [torch.cat(pair, dim=2) for pair in zip(before, (k, v), strict=True)]
        return both[0], both[1]


def mrope_positions(
    token_ids: Int[Tensor, "batch seq"], grid_thw: list[tuple[int, int, int]], config: TowerConfig
) -> tuple[Int[Tensor, "3 batch seq"], list[int]]:
    """Return the (time, height, width) position of every token, and the position that follows each row.

    Text counts up equally on the three axes; a picture spreads over height and width from where it starts,
    and text goes on after its longer side (Wang et al., 2024, section 2.1).
    """
    batch, seq = token_ids.shape
    if not grid_thw:
        count = torch.arange(seq, device=token_ids.device)
        return repeat(count, "seq -> axes batch seq", axes=3, batch=batch), [seq] * batch
    grids = iter(grid_thw)
    rows, following = [], []
    for ids in token_ids.tolist():
        parts: list[Tensor] = []
        index = start = 0
        while index < seq:
            run = _run_length(ids, index, config.image_token)
            if ids[index] == config.image_token:
                shape = _token_grid(next(grids, (0, 0, 0)), config.vision.merge_size)
                if run != shape.numel():
                    raise RequestError(f"expected {shape.numel()} image tokens for a picture, found {run}")
                parts.append(start + torch.cartesian_prod(*map(torch.arange, shape)).T)
                start += max(shape[1:])
            else:
                parts.append(start + repeat(torch.arange(run), "run -> axes run", axes=3))
                start += run
            index += run
        rows.append(torch.cat(parts, dim=1))
        following.append(start)
    return torch.stack(rows, dim=1).to(token_ids.device), following


def _run_length(ids: list[int], index: int, image_token: int) -> int:
    """Count the tokens from `index` on that are all of a picture or all of text."""
    kind = ids[index] == image_token
    end = index
    while end < len(ids) and (ids[end] == image_token) == kind:
        end += 1
    return end - index


def _token_grid(grid: tuple[int, int, int], merge_size: int) -> torch.Size:
    return torch.Size((grid[0], grid[1] // merge_size, grid[2] // merge_size))


def place_pictures(
    tokens: Float[Tensor, "batch seq dim"],
    places: Bool[Tensor, "batch seq"],
    pictures: Float[Tensor, "pictures dim"],
) -> Float[Tensor, "batch seq dim"]:
    """Put the features of pictures where their tokens stand, in order."""
    if (found := int(places.sum())) != len(pictures):
        raise RequestError(f"expected {len(pictures)} image tokens for these pictures, found {found}")
    return tokens.masked_scatter(places[..., None], pictures.to(tokens))


def zero_padding(
    features: Float[Tensor, "batch seq dim"], lengths: list[int] | None
) -> Float[Tensor, "batch seq dim"]:
    """Set what lies past each row's length to zero."""
    if lengths is None:
        return features
    real = torch.arange(features.shape[1]) < torch.tensor(lengths)[:, None]
    return features * real[..., None].to(features)


def decode(
    tower: LanguageTower,
    score: Callable[[Tensor], Tensor],
    prompt: tuple[Tensor, Tensor, Deepstack | None],
    following: int,
    *,
    max_new_tokens: int,
    stop: Collection[int],
    temperature: float,
    top_p: float,
    generator: torch.Generator | None,
) -> Iterator[int]:
    """Yield the tokens that continue a prompt, which is (tokens, positions, deepstack) of one row.

    `score` turns one feature after the last norm into logits; `following` is the position of the first new
    token.
    """
    tokens, positions, deepstack = prompt
    cache = KVCache(tower.config.num_layers, tokens.shape[1] + max_new_tokens)
    for step in range(max_new_tokens):
        features = tower(tokens, positions, cache, deepstack)
        token = _choose(score(features[0, -1]), temperature, top_p, generator)
        if token in stop:
            return
        yield token
        tokens, deepstack = tower.embed_tokens(torch.tensor([[token]], device=tokens.device)), None
        positions = torch.full((3, 1, 1), following + step, device=tokens.device)


def _choose(logits: Tensor, temperature: float, top_p: float, generator: torch.Generator | None) -> int:
    """Pick the next token from (vocab,) logits."""
    if temperature <= 0:
        return int(logits.argmax())
    probabilities, order = (logits.float().cpu() / temperature).softmax(-1).sort(descending=True, stable=True)
    # A token stays while the ones before it have not reached top_p; the first always does.
    before = probabilities.cumsum(-1) - probabilities
    kept = torch.where(before < top_p, probabilities, 0.0)
    kept[0] = probabilities[0]
    return int(order[torch.multinomial(kept, 1, generator=generator)])


class _Layer(nn.Module):
    def __init__(self, config: TowerConfig, index: int, qkv_bias: bool, qk_norm: bool) -> None:
        super().__init__()
        self.self_attn = _Attention(config, index, qkv_bias, qk_norm)
        self.mlp = SwiGLU(config.dim, config.hidden_dim)
        self.input_layernorm = RMSNorm(config.dim, config.norm_eps)
        self.post_attention_layernorm = RMSNorm(config.dim, config.norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: KVCache | Prefix | None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class _Attention(nn.Module):
    """Causal attention in which several query heads share a key and value head (Ainslie et al., 2023)."""

    def __init__(self, config: TowerConfig, index: int, qkv_bias: bool, qk_norm: bool) -> None:
        super().__init__()
        self.index = index
        self.head_dim = config.head_dim
        q_dim, kv_dim = (heads * config.head_dim for heads in (config.num_heads, config.num_kv_heads))
        self.q_proj = nn.Linear(config.dim, q_dim, bias=qkv_bias)
        self.k_proj = nn.Linear(config.dim, kv_dim, bias=qkv_bias)
        self.v_proj = nn.Linear(config.dim, kv_dim, bias=qkv_bias)
        self.o_proj = nn.Linear(q_dim, config.dim, bias=False)
        if qk_norm:
            self.q_norm = RMSNorm(config.head_dim, config.norm_eps)
            self.k_norm = RMSNorm(config.head_dim, config.norm_eps)
        self.qk_norm = qk_norm

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: KVCache | Prefix | None) -> Tensor:
        q, k, v = (
            rearrange(project(x), "b s (heads d) -> b heads s d", d=self.head_dim)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        if self.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = apply_rope(q, cos, sin), apply_rope(k, cos, sin)
        if cache is not None:
            k, v = cache.extend(self.index, k, v)
        shared = q.shape[1] // k.shape[1]
        k, v = (repeat(t, "b heads s d -> b (heads shared) s d", shared=shared) for t in (k, v))
        # One token may see everything; more of them see what is cached and, of themselves, what came before.
        new, seen = q.shape[2], k.shape[2]
        later = 1 < new < seen
        mask = torch.ones(new, seen, dtype=torch.bool, device=q.device).tril(seen - new) if later else None
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=1 < new == seen)
        return self.o_proj(rearrange(out, "b heads s d -> b s (heads d)"))


def _rope_table(positions: Tensor, config: TowerConfig, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine (batch, 1, seq, head_dim): each frequency turns with one of the three axes."""
    exponents = torch.arange(0, config.head_dim, 2, device=positions.device) / config.head_dim
    frequencies = 1 / config.rope_theta**exponents
    turns = positions[list(config.rope_axes)]
    angles = rearrange(turns, "half b s -> b 1 s half") * frequencies
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)
