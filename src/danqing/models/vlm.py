"""Qwen2.5-VL, the conditioner of the 1.x family: tokens and pictures → features, or more tokens.

Architecture: Qwen2.5 technical report (2024) for the language tower, Qwen2-VL (Wang et al., 2024) for M-RoPE
and Qwen2.5-VL technical report (2025) for the whole. Parameter names are those of the released checkpoint.
"""

from collections.abc import Collection, Iterator

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from danqing.errors import ConfigError, RequestError
from danqing.models.layers import RMSNorm, SwiGLU, apply_rope, embedding
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
        self.model = _Language(config)
        if vision:
            self.visual = VisionTower(config.vision)
        if head and not config.tie_embeddings:
            self.lm_head = nn.Linear(config.dim, config.vocab_size, bias=False)

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
        features = self.model(tokens, positions, prefix)
        if lengths is None:
            return features
        real = torch.arange(token_ids.shape[1]) < torch.tensor(lengths)[:, None]
        return features * real[..., None].to(features)

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
        head = self.model.embed_tokens if self.config.tie_embeddings else self.lm_head
        return F.linear(features, head.weight)

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
        device = self.model.embed_tokens.weight.device
        prompt = torch.tensor([token_ids], device=device)
        tokens = self._embed(prompt, patches, grid_thw)
        positions, following = mrope_positions(prompt, grid_thw or [], self.config)
        cache = KVCache(self.config.num_layers, len(token_ids) + max_new_tokens)
        for step in range(max_new_tokens):
            features = self.model(tokens, positions, cache)
            token = _choose(self.logits(features[0, -1]), temperature, top_p, generator)
            if token in stop:
                return
            yield token
            tokens = self.model.embed_tokens(torch.tensor([[token]], device=device))
            positions = torch.full((3, 1, 1), following[0] + step, device=device)

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
        pictures = self.visual(patches, grid_thw).to(tokens.dtype)
        places = token_ids == self.config.image_token
        if (found := int(places.sum())) != len(pictures):
            raise RequestError(f"expected {len(pictures)} image tokens for these pictures, found {found}")
        return tokens.masked_scatter(places[..., None], pictures)


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
    token_ids: Int[Tensor, "batch seq"], grid_thw: list[tuple[int, int, int]], config: VLMConfig
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


class _Language(nn.Module):
    def __init__(self, config: VLMConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(_Layer(config, index) for index in range(config.num_layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)

    def forward(self, tokens: Tensor, positions: Tensor, cache: KVCache | Prefix | None = None) -> Tensor:
        cos, sin = _rope_table(positions, self.config, tokens.dtype)
        for layer in self.layers:
            tokens = layer(tokens, cos, sin, cache)
        return self.norm(tokens)


class _Layer(nn.Module):
    def __init__(self, config: VLMConfig, index: int) -> None:
        super().__init__()
        self.self_attn = _Attention(config, index)
        self.mlp = SwiGLU(config.dim, config.hidden_dim)
        self.input_layernorm = RMSNorm(config.dim, config.norm_eps)
        self.post_attention_layernorm = RMSNorm(config.dim, config.norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: KVCache | Prefix | None = None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class _Attention(nn.Module):
    """Causal attention in which several query heads share a key and value head (Ainslie et al., 2023)."""

    def __init__(self, config: VLMConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.head_dim = config.head_dim
        kv_dim = config.num_kv_heads * config.head_dim
        self.q_proj = nn.Linear(config.dim, config.dim)
        self.k_proj = nn.Linear(config.dim, kv_dim)
        self.v_proj = nn.Linear(config.dim, kv_dim)
        self.o_proj = nn.Linear(config.dim, config.dim, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: KVCache | Prefix | None) -> Tensor:
        q, k, v = (
            rearrange(project(x), "b s (heads d) -> b heads s d", d=self.head_dim)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
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


def _rope_table(positions: Tensor, config: VLMConfig, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine (batch, 1, seq, head_dim): each section of the frequencies turns with one axis."""
    device = positions.device
    exponents = torch.arange(0, config.head_dim, 2, device=device) / config.head_dim
    frequencies = 1 / config.rope_theta**exponents
    turns = torch.cat(
        [axis.expand(n, -1, -1) for axis, n in zip(positions, config.mrope_section, strict=True)]
    )
    angles = rearrange(turns, "half b s -> b 1 s half") * frequencies
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


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
