"""The denoiser of Qwen-Image 2.1: one stream of text, reference pictures and the noised target.

Attention is block-causal: a text token sees what comes before it, a picture sees what comes before it and all
of itself, and the target comes last. Text and references are modulated as noise-free, so nothing about them
depends on the step: `SingleStream.prefix` reads them once a picture, and each step runs the target alone
against the keys and values kept in a `Prefix`. All blocks share one modulation without shifts, a function of
the noise level, which `modulation_table` evaluates once a schedule. A step without gradients takes, beyond
weights and arguments, nine streams of batch x img_seq x dim numbers: in a feed-forward layer.

Source: the reference implementation of Qwen-Image 2.1 and its checkpoint `Qwen/Qwen-Image-2.1`, folder
`transformer`, whose parameter names these are; no report describes the network.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from danqing.errors import ConfigError, RequestError
from danqing.models.layers import RMSNorm, modulated
from danqing.models.mmdit import key_mask
from danqing.models.rope import (
    GridShape,
    document_end,
    document_positions,
    rotation,
    target_positions,
    turned,
)

# Sigmas are modulated in groups of this many, so that a row never depends on the schedule's length.
_ROWS = 16
_LATENTS_A_SLOT = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class SingleStreamConfig:
    """Sizes of the denoiser; the defaults are those of Qwen-Image 2.1."""

    patch_size: int = 1
    in_channels: int = 64
    out_channels: int = 64
    num_layers: int = 32
    attention_head_dim: int = 128
    num_attention_heads: int = 32
    context_in_dim: int = 4096
    """Width of the conditioner's features."""
    mlp_ratio: int = 3
    axes_dims_rope: tuple[int, int, int] = (16, 56, 56)
    eps: float = 1e-6
    causal_condition: bool = True
    """Text and references are modulated as noise-free."""

    def __post_init__(self) -> None:
        if sum(self.axes_dims_rope) != self.attention_head_dim:
            raise ConfigError(
                "single stream: expected axes_dims_rope to add up to "
                f"attention_head_dim={self.attention_head_dim}, found {self.axes_dims_rope}"
            )
        for name, value, released in (
            ("patch_size", self.patch_size, 1),
            ("causal_condition", self.causal_condition, True),
        ):
            if value != released:
                raise ConfigError(
                    f"single stream: expected {name} {released}, found {value}: no release has it"
                )

    @property
    def dim(self) -> int:
        """Width of the stream."""
        return self.num_attention_heads * self.attention_head_dim


def is_modulation(name: str) -> bool:
    """Tell whether a parameter serves the modulation alone: 0.1 of the 7.1 billion released weights."""
    return name.startswith(("time_text_embed.", "modulation.", "norm_out."))


class SharedModulation(NamedTuple):
    """What the noise level does in every block; `rows` are schedule steps or batch entries."""

    img: Float[Tensor, "rows four_dim"]
    """Target tokens: scale and gate of attention, scale and gate of the feed-forward layer."""
    clean: Float[Tensor, "1 four_dim"]
    """The same for text and references, at noise level 0."""
    out: Float[Tensor, "rows dim"]
    """Scale of the last norm."""

    def to(self, device: torch.device) -> "SharedModulation":
        """Return the table on a device."""
        return SharedModulation(*(part.to(device) for part in self))

    def at(self, step: int) -> "SharedModulation":
        """Return the single row of one step; it applies to every entry of a batch."""
        return SharedModulation(self.img[step : step + 1], self.clean, self.out[step : step + 1])


class Prefix(NamedTuple):
    """Text and references as the target sees them: what each block attends to, already rotated."""

    keys: tuple[Float[Tensor, "batch heads prefix_seq head_dim"], ...]
    """One a block."""
    values: tuple[Float[Tensor, "batch heads prefix_seq head_dim"], ...]
    lengths: tuple[int, ...]
    """True tokens of each row; what follows is padding, which nobody sees."""
    frames: tuple[int, ...]
    """Position of each row's end, where its target stands."""

    def repeated(self, count: int) -> "Prefix":
        """Return a single row as a batch of `count`, without copying it."""
        return Prefix(
            tuple(part.expand(count, -1, -1, -1) for part in self.keys),
            tuple(part.expand(count, -1, -1, -1) for part in self.values),
            self.lengths * count,
            self.frames * count,
        )


class TargetLayout(NamedTuple):
    """Where the target's tokens stand and what they see; the same at every step."""

    turn: Float[Tensor, "rows img_seq half_dim 2"]
    """Rotary table; a row per row of the prefix."""
    mask: Bool[Tensor, "rows 1 1 seq"] | None
    """Keys of [prefix, target] that exist; None where no row of the prefix is padded."""


def join_prefixes(prefixes: Sequence[Prefix]) -> Prefix:
    """Return the rows of several prefixes as one batch, shorter ones padded at their end."""
    longest = max(max(prefix.lengths) for prefix in prefixes)

    def joined(layers: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        return tuple(
            torch.cat([F.pad(part, (0, 0, 0, longest - part.shape[2])) for part in parts])
            for parts in zip(*layers, strict=True)
        )

    return Prefix(
        joined([prefix.keys for prefix in prefixes]),
        joined([prefix.values for prefix in prefixes]),
        tuple(length for prefix in prefixes for length in prefix.lengths),
        tuple(frame for prefix in prefixes for frame in prefix.frames),
    )


def references_before(slots: Bool[Tensor, " vlm_seq"], shapes: Sequence[GridShape]) -> tuple[int, ...]:
    """Return how many text tokens come before each reference in the conditioner's sequence.

    `slots` marks the conditioner's picture tokens, each of which stands for 2x2 latents of a reference; their
    features are not used. Pictures may follow each other without text between them.
    """
    counts = [math.prod(shape) for shape in shapes]
    found = int(slots.sum())
    if any(count % _LATENTS_A_SLOT for count in counts) or sum(counts) != _LATENTS_A_SLOT * found:
        raise RequestError(
            "references: expected one picture token of the conditioner for each 2x2 latents of "
            f"{list(shapes)}, found {found} tokens"
        )
    text_before = (~slots).cumsum(0)[slots].tolist()
    starts = [sum(counts[:index]) // _LATENTS_A_SLOT for index in range(len(counts))]
    return tuple(text_before[start] for start in starts)


class SingleStream(nn.Module):
    """Velocity of noised picture tokens, given text features and any number of reference pictures."""

    def __init__(self, config: SingleStreamConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        self.time_text_embed = TimeEmbedding(dim)
        self.txt_in = TextProjection(config.context_in_dim, dim, config.eps)
        self.img_in = _linear(config.in_channels, dim)
        self.modulation = nn.Sequential(nn.SiLU(), _linear(dim, 4 * dim))
        self.transformer_blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm_out = nn.ModuleDict({"linear": _linear(dim, dim)})
        self.proj_out = _linear(dim, config.out_channels)

    def forward(
        self,
        img: Float[Tensor, "batch img_seq in_channels"],
        prefix: Prefix,
        modulation: SharedModulation,
        *,
        shape: GridShape | None = None,
        layout: TargetLayout | None = None,
    ) -> Float[Tensor, "batch img_seq out_channels"]:
        """Return the predicted velocity (noise - latents) of every target token.

        `shape` is the size of the target in tokens; a `layout`, made of it once for many steps, takes its
        place. Modulation and prefix have one row, or one per batch entry.
        """
        if layout is None:
            layout = self.layout(prefix, shape)
        expected = layout.turn.shape[1]
        if img.shape[1] != expected:
            raise RequestError(
                f"single stream: expected {expected} target tokens for {shape}, found {img.shape[1]}"
            )
        batch = img.shape[0]
        if len(prefix.lengths) not in (1, batch):
            raise RequestError(
                f"single stream: expected a prefix of 1 or {batch} rows, found {len(prefix.lengths)}"
            )
        if len(prefix.lengths) < batch:
            prefix = prefix.repeated(batch)
        spans = [Span(0, img.shape[1], layout.mask)]
        shared = _pair(modulation.img)
        tokens = self.img_in(img)
        for block, *past in zip(self.transformer_blocks, prefix.keys, prefix.values, strict=True):
            tokens, _ = block(tokens, shared, layout.turn, spans, past)
        return self.proj_out(modulated(tokens, 1 + modulation.out.unsqueeze(1), eps=self.config.eps))

    def layout(self, prefix: Prefix, shape: GridShape | None) -> TargetLayout:
        """Return where the tokens of a target of this size stand behind a prefix."""
        if shape is None:
            raise RequestError("single stream: expected the size of the target or a layout, found neither")
        device, seen = prefix.keys[0].device, prefix.keys[0].shape[2]
        positions = target_positions(shape, prefix.frames).to(device)
        mask = key_mask(prefix.lengths, seen, math.prod(shape), device)
        return TargetLayout(rotation(positions, self.config.axes_dims_rope), mask)

    def prefix(
        self,
        txt: Float[Tensor, "batch txt_seq text_dim"],
        modulation: SharedModulation,
        *,
        references: Float[Tensor, "batch ref_seq in_channels"] | None = None,
        shapes: Sequence[GridShape] = (),
        before: Sequence[int] = (),
        lengths: Sequence[int] | None = None,
    ) -> Prefix:
        """Read text and references; the result serves every step of a schedule.

        `txt` are features of the text tokens alone. `references` holds the latents of all reference pictures,
        one after the other, `shapes` their sizes in tokens, and `before` how many text tokens precede each
        (see `references_before`). `lengths` are the true lengths of right-padded text rows (None: no
        padding); padding must come after the last reference. Any row of `modulation` will do.
        """
        batch, txt_seq = txt.shape[:2]
        shapes = [GridShape(*shape) for shape in shapes]
        lengths = [txt_seq] * batch if lengths is None else list(lengths)
        counts = [math.prod(shape) for shape in shapes]
        _check_document(counts, before, lengths, batch, 0 if references is None else references.shape[1])
        txt_tokens = self.txt_in(txt)
        img_tokens = txt_tokens[:, :0] if references is None else self.img_in(references)
        runs, spans = _interleave(txt_tokens, img_tokens.split(counts, dim=1) if counts else (), before)
        positions = document_positions(txt_seq, shapes, before).to(txt.device)
        turn = rotation(positions, self.config.axes_dims_rope)
        shared = _pair(modulation.clean)
        tokens, kept = torch.cat(runs, dim=1), []
        last = len(self.transformer_blocks) - 1
        for index, block in enumerate(self.transformer_blocks):
            # Nobody reads the prefix after the last block, only its keys and values there.
            tokens, own = block(tokens, shared, turn, None if index == last else spans, None)
            assert own is not None  # nothing comes before a prefix
            kept.append(own)
        return Prefix(
            tuple(keys for keys, _ in kept),
            tuple(values for _, values in kept),
            tuple(length + sum(counts) for length in lengths),
            tuple(document_end(length, shapes) for length in lengths),
        )

    def modulate(self, sigma: Float[Tensor, " rows"]) -> SharedModulation:
        """Return the modulation for each noise level in (0, 1], where its layers are."""
        dtype = self.img_in.weight.dtype
        sigma = sigma.to(next(self.norm_out.parameters()).device)
        embedded = self.time_text_embed(sigma, dtype)
        clean = self.time_text_embed(sigma.new_zeros(1), dtype)
        return SharedModulation(
            self.modulation(embedded), self.modulation(clean), self.norm_out["linear"](F.silu(embedded))
        )

    @torch.no_grad()
    def modulation_table(self, sigmas: Float[Tensor, " steps"]) -> SharedModulation:
        """Return the modulation of a whole schedule, computed once, where its layers are.

        Rows are computed in groups of one fixed shape, so that a step's row is the same in every schedule.
        """
        padded = F.pad(sigmas, (0, -len(sigmas) % _ROWS), value=1.0)
        img, clean, out = zip(*(self.modulate(group) for group in padded.split(_ROWS)), strict=True)
        return SharedModulation(torch.cat(img)[: len(sigmas)], clean[0], torch.cat(out)[: len(sigmas)])


class TimeEmbedding(nn.Module):
    """Noise level to a vector: a sinusoid of 1000 sigma and two linears."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.timestep_embedder = nn.ModuleDict({"linear_1": _linear(256, dim), "linear_2": _linear(dim, dim)})

    def forward(self, sigma: Float[Tensor, " rows"], dtype: torch.dtype) -> Float[Tensor, "rows dim"]:
        """Return the embedding of each noise level."""
        # The reference counts time to 1000 in the dtype of activations; released models saw that rounding.
        level = (1000 * sigma).to(dtype) / 1000
        wave = sinusoid(level).to(dtype)
        return self.timestep_embedder["linear_2"](F.silu(self.timestep_embedder["linear_1"](wave)))


class TextProjection(nn.Module):
    """The conditioner's features, which are not normalised, to the width of the stream."""

    def __init__(self, text_dim: int, dim: int, eps: float) -> None:
        super().__init__()
        self.text_norm = ZeroCentredRMSNorm(text_dim, eps)
        self.in_layer = _linear(text_dim, dim)
        self.out_layer = _linear(dim, dim)

    def forward(self, txt: Tensor) -> Tensor:
        """Project every token."""
        return self.out_layer(F.gelu(self.in_layer(self.text_norm(txt)), approximate="tanh"))


class ZeroCentredRMSNorm(nn.Module):
    """RMS norm whose stored weight is the gain minus one; fp32 throughout, one cast at the end."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x` over its last axis."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (wide * (self.weight.float() + 1)).to(x.dtype)


class Modulation(NamedTuple):
    """What the noise level does to one half of a block: norm(x) * scale, then residual * gate."""

    scale: Tensor
    gate: Tensor


class Span(NamedTuple):
    """Neighbouring tokens that see every key up to their own end, less what `mask` forbids."""

    start: int
    end: int
    mask: Bool[Tensor, "..."] | None


class Block(nn.Module):
    """Attention and a gated feed-forward layer; all modulation comes from outside."""

    def __init__(self, config: SingleStreamConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.attn = Attention(config.dim, config.attention_head_dim, config.eps)
        self.img_mlp = FeedForward(config.dim, config.mlp_ratio * config.dim)

    def forward(
        self,
        tokens: Tensor,
        modulation: tuple[Modulation, Modulation],
        turn: Tensor,
        spans: Sequence[Span] | None,
        past: Sequence[Tensor] | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Return the tokens after this block and, where none come before, their keys and values in it.

        `past` are keys and values that come before. With `spans` None only keys and values are wanted, and
        the tokens stay as they are.
        """
        attn, ff = modulation
        mixed, own = self.attn(modulated(tokens, attn.scale, eps=self.eps), turn, spans, past)
        if mixed is None:
            return tokens, own
        tokens = torch.addcmul(tokens, attn.gate, mixed)
        del mixed
        changed = self.img_mlp(modulated(tokens, ff.scale, eps=self.eps))
        return torch.addcmul(tokens, ff.gate, changed), own


class Attention(nn.Module):
    """Multi-head attention with normalised, rotated queries and keys."""

    def __init__(self, dim: int, head_dim: int, eps: float) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.to_q, self.to_k, self.to_v = (_linear(dim, dim) for _ in range(3))
        self.to_out = nn.ModuleList([_linear(dim, dim)])
        self.norm_q, self.norm_k = RMSNorm(head_dim, eps=eps), RMSNorm(head_dim, eps=eps)

    def forward(
        self, tokens: Tensor, turn: Tensor, spans: Sequence[Span] | None, past: Sequence[Tensor] | None
    ) -> tuple[Tensor | None, tuple[Tensor, Tensor] | None]:
        """Return what the tokens of each span read (None without spans), then what the block returns."""
        keys = turned(self._heads(self.to_k(tokens)), self.norm_k, turn)
        values = self._heads(self.to_v(tokens)).transpose(1, 2)
        own = (keys, values) if past is None else None
        if spans is None:
            return None, own
        queries = turned(self._heads(self.to_q(tokens)), self.norm_q, turn)
        if past is not None:
            keys = torch.cat((past[0], keys), dim=2)
            values = torch.cat((past[1], values), dim=2)
        before = keys.shape[2] - queries.shape[2]
        read = [
            F.scaled_dot_product_attention(
                queries[:, :, start:end],
                keys[:, :, : before + end],
                values[:, :, : before + end],
                attn_mask=mask,
            )
            for start, end, mask in spans
        ]
        mixed = read[0] if len(read) == 1 else torch.cat(read, dim=2)
        return self.to_out[0](mixed.transpose(1, 2).flatten(2)), own

    def _heads(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (-1, self.head_dim))  # (batch, seq, heads, head_dim)


class FeedForward(nn.Module):
    """Linear layers with hidden units gated by a SiLU (Shazeer, 2020, eq. 6), under the released names."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.gate_layer = _linear(dim, hidden_dim)
        self.proj = _linear(dim, hidden_dim)
        self.out = _linear(hidden_dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Apply the layer to every token."""
        gate = self.gate_layer(tokens)
        if torch.is_grad_enabled():
            return self.out(F.silu(gate) * self.proj(tokens))
        return self.out(F.silu(gate, inplace=True).mul_(self.proj(tokens)))


def sinusoid(sigma: Float[Tensor, " rows"]) -> Float[Tensor, "rows 256"]:
    """Return cosines, then sines, of 1000 sigma at 128 frequencies from 1 to 1/10000; fp32.

    2.1 multiplies by 1000 first, 1.x last: at such angles the order shows in the fifth digit.
    """
    frequencies = torch.exp(-math.log(10000) * torch.arange(128, device=sigma.device).float() / 128)
    angle = (1000 * sigma.float()).unsqueeze(1) * frequencies
    return torch.cat((angle.cos(), angle.sin()), dim=1)


def _check_document(
    counts: Sequence[int], before: Sequence[int], lengths: Sequence[int], batch: int, found: int
) -> None:
    if sum(counts) != found:
        raise RequestError(f"single stream: expected {sum(counts)} reference tokens, found {found}")
    if len(before) != len(counts):
        raise RequestError(
            f"single stream: expected the place of each of {len(counts)} references, found {list(before)}"
        )
    if len(lengths) != batch:
        raise RequestError(f"single stream: expected {batch} text lengths, found {list(lengths)}")
    if list(before) != sorted(before) or any(place > min(lengths) for place in before):
        raise RequestError(
            f"single stream: expected references in order and before any padding, found {list(before)} "
            f"for texts of {list(lengths)} tokens"
        )


def _interleave(
    txt: Tensor, pictures: Sequence[Tensor], before: Sequence[int]
) -> tuple[list[Tensor], list[Span]]:
    """Return text and pictures in their order, and what each run of them sees."""
    runs: list[Tensor] = []
    spans: list[Span] = []
    passed, start = 0, 0
    places = (*before, txt.shape[1])
    for place, picture in zip(places, (*pictures, None), strict=True):
        for run, causal in ((txt[:, passed:place], True), (picture, False)):
            if run is None or not run.shape[1]:
                continue
            end = start + run.shape[1]
            runs.append(run)
            spans.append(Span(start, end, _causal(start, end, txt.device) if causal else None))
            start = end
        passed = place
    return runs, spans


def _causal(start: int, end: int, device: torch.device) -> Bool[Tensor, "run seq"]:
    return torch.ones(end - start, end, dtype=torch.bool, device=device).tril(start)


def _pair(four: Float[Tensor, "rows four_dim"]) -> tuple[Modulation, Modulation]:
    scale_attn, gate_attn, scale_ff, gate_ff = four.unsqueeze(1).chunk(4, dim=-1)
    return Modulation(1 + scale_attn, gate_attn.tanh()), Modulation(1 + scale_ff, gate_ff.tanh())


def _linear(dim_in: int, dim_out: int) -> nn.Linear:
    return nn.Linear(dim_in, dim_out, bias=False)  # nothing in 2.1 has a bias
