"""The denoiser of Qwen-Image 1.x: a dual-stream multimodal diffusion transformer (MMDiT).

Text and picture tokens keep their own weights and meet in joint attention. Every block is modulated by the
noise level alone, so for sampling the whole schedule's modulation is a table computed once
(`modulation_table`); positions and the text mask are too (`MMDiT.layout`).

Memory of a forward without gradients, beyond weights and arguments, in streams of batch x img_seq x dim
numbers: eight, and those of the text. They are all there in a feed-forward layer: the block's input, the
stream after attention, its normalised form, the hidden units (four) and the result. Attention takes less.

Source: Qwen-Image technical report (arXiv 2508.02324), section 2.3 and table 1; MMDiT: Esser et al.
(arXiv 2403.03206). Parameter names are those of `Qwen/Qwen-Image`, folder `transformer`.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from danqing.errors import ConfigError, RequestError
from danqing.models.layers import RMSNorm, embedding, modulated
from danqing.models.rope import GridShape, image_positions, rotation, text_positions, turned

# Sigmas are modulated in groups of this many, so that a row never depends on the schedule's length.
_ROWS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class MMDiTConfig:
    """Sizes and switches of the denoiser; the defaults are those of Qwen-Image."""

    patch_size: int = 2
    in_channels: int = 64
    out_channels: int = 16
    num_layers: int = 60
    attention_head_dim: int = 128
    num_attention_heads: int = 24
    joint_attention_dim: int = 3584
    axes_dims_rope: tuple[int, int, int] = (16, 56, 56)
    guidance_embeds: bool = False
    zero_cond_t: bool = False
    """Reference tokens are modulated as noise-free (Edit-2511)."""
    use_additional_t_cond: bool = False
    """An extra class is added to the time embedding (Layered)."""
    use_layer3d_rope: bool = False
    """Frames are layers and the condition is frame -1 (Layered)."""

    def __post_init__(self) -> None:
        if sum(self.axes_dims_rope) != self.attention_head_dim:
            raise ConfigError(
                f"MMDiT: expected axes_dims_rope to add up to attention_head_dim={self.attention_head_dim}, "
                f"found {self.axes_dims_rope}"
            )
        if self.guidance_embeds:
            raise ConfigError("MMDiT: expected guidance_embeds false, found true: no release has it")

    @property
    def dim(self) -> int:
        """Width of both streams."""
        return self.num_attention_heads * self.attention_head_dim


def is_modulation(name: str) -> bool:
    """Tell whether a parameter serves the modulation alone: a third of the released weights."""
    return name.startswith(("time_text_embed.", "norm_out.")) or ".img_mod." in name or ".txt_mod." in name


class Modulation(NamedTuple):
    """What the noise level does to one normalised stream: x * (1 + scale) + shift, residual * gate."""

    shift: Tensor
    scale: Tensor
    gate: Tensor


class ModulationTable(NamedTuple):
    """Modulation of all blocks; `rows` are schedule steps or batch entries."""

    img: Float[Tensor, "rows layers levels six_dim"]
    """Picture stream; two levels (sigma, 0) with `zero_cond_t`, else one."""
    txt: Float[Tensor, "rows layers six_dim"]
    out: Float[Tensor, "rows two_dim"]
    """Scale and shift of the last norm, in this order."""

    def to(self, device: torch.device) -> "ModulationTable":
        """Return the table on a device."""
        return ModulationTable(*(part.to(device) for part in self))

    def at(self, step: int) -> "ModulationTable":
        """Return the single row of one step; it applies to every entry of a batch."""
        return ModulationTable(*(part[step : step + 1] for part in self))


class Layout(NamedTuple):
    """Where the tokens of a batch stand and which of them exist; the same at every step."""

    txt_turn: Float[Tensor, "txt_seq half_dim 2"]
    """Rotary table of the text."""
    img_turn: Float[Tensor, "img_seq half_dim 2"]
    mask: Bool[Tensor, "batch 1 1 seq"] | None
    """Keys of [text, picture] that exist; None where no text row is padded."""
    target: int
    """Tokens of the first picture; further ones are references."""

    def check(self, img_seq: int, txt_seq: int) -> None:
        """Raise RequestError for other numbers of tokens than these."""
        expected = self.img_turn.shape[0], self.txt_turn.shape[0]
        if expected != (img_seq, txt_seq):
            raise RequestError(
                f"MMDiT: expected {expected[0]} picture tokens and {expected[1]} of text, "
                f"found {img_seq} and {txt_seq}"
            )


@runtime_checkable
class ResidualFn(Protocol):
    """What a ControlNet adds to the picture stream after a block."""

    def __call__(self, index: int, img: Float[Tensor, "batch img_seq dim"]) -> Tensor:
        """Return the residual after block `index`, which left the stream `img`."""


class MMDiT(nn.Module):
    """Velocity of noised picture tokens, given text features and optional reference tokens."""

    def __init__(self, config: MMDiTConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        self.time_text_embed = TimeEmbedding(dim, additional=config.use_additional_t_cond)
        self.txt_norm = RMSNorm(config.joint_attention_dim, eps=1e-6)
        self.img_in = nn.Linear(config.in_channels, dim)
        self.txt_in = nn.Linear(config.joint_attention_dim, dim)
        self.transformer_blocks = nn.ModuleList(
            Block(config, last=index == config.num_layers - 1) for index in range(config.num_layers)
        )
        self.norm_out = nn.ModuleDict({"linear": nn.Linear(dim, 2 * dim)})
        self.proj_out = nn.Linear(dim, config.patch_size**2 * config.out_channels)

    def forward(
        self,
        img: Float[Tensor, "batch img_seq in_channels"],
        txt: Float[Tensor, "batch txt_seq text_dim"],
        modulation: ModulationTable,
        *,
        shapes: Sequence[GridShape] = (),
        lengths: Sequence[int] | None = None,
        layout: Layout | None = None,
        residual: ResidualFn | None = None,
    ) -> Float[Tensor, "batch img_seq out_tokens"]:
        """Return the predicted velocity (noise - latents) of every picture token.

        `img` holds the noised target, then reference pictures; `shapes` their sizes in tokens, the same for
        the whole batch. `lengths` are the true lengths of right-padded text rows (None: no padding). A
        `layout`, made of these two once for many steps, takes their place. Modulation has one row, or one per
        batch entry. `residual` is what ControlNets add after each block. The velocity of reference tokens
        means nothing.
        """
        if layout is None:
            layout = self.layout(shapes, txt.shape[1], lengths, device=img.device)
        layout.check(img.shape[1], txt.shape[1])
        img = self.img_in(img)
        txt = self.txt_in(self.txt_norm(txt))
        for index, block in enumerate(self.transformer_blocks):
            txt, img = block(img, txt, modulation.img[:, index], modulation.txt[:, index], layout)
            if residual is not None:
                img = img + residual(index, img)
        scale, shift = modulation.out.unsqueeze(1).chunk(2, dim=-1)
        return self.proj_out(modulated(img, 1 + scale, shift))

    def layout(
        self,
        shapes: Sequence[GridShape],
        txt_seq: int,
        lengths: Sequence[int] | None = None,
        *,
        device: torch.device,
    ) -> Layout:
        """Return where the tokens of pictures of these sizes and of `txt_seq` text tokens stand.

        `lengths` are the true lengths of right-padded text rows (None: no padding).
        """
        config = self.config
        return joint_layout(
            shapes, txt_seq, lengths, config.axes_dims_rope, device, layered=config.use_layer3d_rope
        )

    def modulate(
        self, sigma: Float[Tensor, " rows"], additional: int | None = None, *, rows: int | None = None
    ) -> ModulationTable:
        """Return the modulation of every block for each noise level in (0, 1], where its layers are.

        With `rows` each layer sees so many levels at a time.
        """
        dtype = self.img_in.weight.dtype
        sigma = sigma.to(next(self.norm_out.parameters()).device)
        levels = [sigma, torch.zeros_like(sigma)] if self.config.zero_cond_t else [sigma]
        embedded = [
            [
                F.silu(self.time_text_embed(part, dtype, additional))
                for part in level.split(rows or len(sigma))
            ]
            for level in levels
        ]
        img, txt = block_modulations(self.transformer_blocks, embedded)
        return ModulationTable(img, txt, _of_all(self.norm_out["linear"], embedded[0]))

    @torch.no_grad()
    def modulation_table(
        self, sigmas: Float[Tensor, " steps"], additional: int | None = None
    ) -> ModulationTable:
        """Return the modulation of a whole schedule, computed once, where its layers are.

        Sampling needs those layers (see `is_modulation`) for nothing else: they can stay in host memory.
        """
        return tabulated(partial(self.modulate, additional=additional), sigmas)


class TimeEmbedding(nn.Module):
    """Noise level to a vector: a sinusoid of 1000 sigma, two linears, optionally plus a class embedding."""

    def __init__(self, dim: int, *, additional: bool) -> None:
        super().__init__()
        self.timestep_embedder = nn.ModuleDict(
            {"linear_1": nn.Linear(256, dim), "linear_2": nn.Linear(dim, dim)}
        )
        if additional:
            self.addition_t_embedding = embedding(2, dim)

    def forward(self, sigma: Float[Tensor, " rows"], dtype: torch.dtype, additional: int | None) -> Tensor:
        """Return the embedding of each noise level; `additional` is the class of a layered release."""
        # The reference counts time to 1000 in the dtype of activations; released models saw that rounding.
        level = (1000 * sigma).to(dtype) / 1000
        wave = sinusoid(level).to(dtype)
        embedded = self.timestep_embedder["linear_2"](F.silu(self.timestep_embedder["linear_1"](wave)))
        if additional is not None:
            embedded = embedded + self.addition_t_embedding.weight[additional]
        return embedded


class Block(nn.Module):
    """Joint attention and feed-forward of both streams; the last block has no use for its text output."""

    def __init__(self, config: MMDiTConfig, *, last: bool) -> None:
        super().__init__()
        dim = config.dim
        self.last = last
        self.img_mod = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.txt_mod = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.attn = JointAttention(dim, config.attention_head_dim)
        self.img_mlp = FeedForward(dim)
        self.txt_mlp = FeedForward(dim)

    def forward(
        self,
        img: Float[Tensor, "batch img_seq dim"],
        txt: Float[Tensor, "batch txt_seq dim"],
        img_mod: Float[Tensor, "rows levels six_dim"],
        txt_mod: Float[Tensor, "rows six_dim"],
        layout: Layout,
    ) -> tuple[Tensor, Tensor]:
        """Return the text and the picture stream after this block."""
        img_attn, img_ff = _two_modulations(img_mod)
        txt_attn, txt_ff = _two_modulations(txt_mod.unsqueeze(1))
        target = layout.target
        # The normalised streams are in memory no longer than their projections need them.
        heads = self.attn.project(
            _modulated(txt, txt_attn), _modulated(img, img_attn, target), layout, self.last
        )
        txt_mixed, img_mixed = self.attn(heads, layout, self.last)
        del heads
        img = _finite(_gated(img, img_attn, img_mixed, target))
        del img_mixed
        img = _finite(_gated(img, img_ff, self.img_mlp(_modulated(img, img_ff, target)), target))
        if txt_mixed is not None:
            txt = _gated(txt, txt_attn, txt_mixed)
            txt = _finite(_gated(txt, txt_ff, self.txt_mlp(_modulated(txt, txt_ff))))
        return txt, img


class JointAttention(nn.Module):
    """Attention over text and picture tokens together, with own projections for each stream."""

    def __init__(self, dim: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.to_q, self.to_k, self.to_v = (nn.Linear(dim, dim) for _ in range(3))
        self.add_q_proj, self.add_k_proj, self.add_v_proj = (nn.Linear(dim, dim) for _ in range(3))
        self.norm_q, self.norm_k = RMSNorm(head_dim, eps=1e-6), RMSNorm(head_dim, eps=1e-6)
        self.norm_added_q, self.norm_added_k = RMSNorm(head_dim, eps=1e-6), RMSNorm(head_dim, eps=1e-6)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])
        self.to_add_out = nn.Linear(dim, dim)

    def project(self, txt: Tensor, img: Tensor, layout: Layout, img_only: bool) -> tuple[Tensor, ...]:
        """Return queries, keys and values (batch, heads, seq, head_dim); with `img_only` no text queries."""
        q = turned(self._heads(self.to_q(img)), self.norm_q, layout.img_turn)
        if not img_only:
            txt_q = turned(self._heads(self.add_q_proj(txt)), self.norm_added_q, layout.txt_turn)
            q = torch.cat((txt_q, q), dim=2)
        txt_k = turned(self._heads(self.add_k_proj(txt)), self.norm_added_k, layout.txt_turn)
        k = torch.cat((txt_k, turned(self._heads(self.to_k(img)), self.norm_k, layout.img_turn)), dim=2)
        txt_v, img_v = self._heads(self.add_v_proj(txt)), self._heads(self.to_v(img))
        return q, k, torch.cat((txt_v.transpose(1, 2), img_v.transpose(1, 2)), dim=2)

    def forward(
        self, heads: Sequence[Tensor], layout: Layout, img_only: bool
    ) -> tuple[Tensor | None, Tensor]:
        """Return what text and picture tokens read, of the queries, keys and values of `project`."""
        q, k, v = heads
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=layout.mask).transpose(1, 2).flatten(2)
        if img_only:
            return None, self.to_out[0](mixed)
        # A linear layer is slow on slices of a batch.
        parts = mixed.tensor_split((len(layout.txt_turn),), dim=1)
        txt_mixed, img_mixed = (part.contiguous() for part in parts)
        return self.to_add_out(txt_mixed), self.to_out[0](img_mixed)

    def _heads(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (-1, self.head_dim))  # (batch, seq, heads, head_dim)


class FeedForward(nn.Module):
    """Linear to four times the width, tanh-GELU, linear back."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.net = nn.Sequential(_Expand(dim), nn.Identity(), nn.Linear(4 * dim, dim))

    def forward(self, tokens: Tensor) -> Tensor:
        """Apply the layer to every token."""
        return self.net(tokens)


class _Expand(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, 4 * dim)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.proj(tokens)
        if torch.is_grad_enabled():
            return F.gelu(hidden, approximate="tanh")
        return torch.ops.aten.gelu_(hidden, approximate="tanh")


def joint_layout(
    shapes: Sequence[GridShape],
    txt_seq: int,
    lengths: Sequence[int] | None,
    axes_dims: Sequence[int],
    device: torch.device,
    *,
    layered: bool = False,
) -> Layout:
    """Return where text and picture tokens stand; see `MMDiT.layout`."""
    if not shapes:
        raise RequestError("MMDiT: expected the sizes of pictures or a layout, found neither")
    shapes = [GridShape(*shape) for shape in shapes]
    txt = text_positions(txt_seq, shapes, layered=layered).to(device)
    img = image_positions(shapes, layered=layered).to(device)
    mask = key_mask(lengths, txt_seq, len(img), device)
    return Layout(rotation(txt, axes_dims), rotation(img, axes_dims), mask, math.prod(shapes[0]))


def block_modulations(
    blocks: Iterable[nn.Module], embedded: Sequence[Sequence[Float[Tensor, "_ dim"]]]
) -> tuple[Float[Tensor, "rows layers levels six_dim"], Float[Tensor, "rows layers six_dim"]]:
    """Return what embedded noise levels do to the picture and, the first of them, to the text stream.

    Each level comes in groups of rows that its layers see together; a layer sees all of them before the next
    layer any, for its weights may have to be read from disk.
    """
    own = [block for block in blocks if isinstance(block, Block)]
    img = [torch.stack([_of_all(block.img_mod[1], level) for level in embedded], dim=1) for block in own]
    return torch.stack(img, dim=1), torch.stack(
        [_of_all(block.txt_mod[1], embedded[0]) for block in own], dim=1
    )


def _of_all(layer: nn.Module, groups: Sequence[Float[Tensor, "_ dim"]]) -> Tensor:
    return torch.cat([layer(group) for group in groups])


def tabulated(modulate: Callable[..., ModulationTable], sigmas: Float[Tensor, " steps"]) -> ModulationTable:
    """Return `modulate` of a schedule, in groups of one shape: a step's row is the same in every schedule."""
    padded = F.pad(sigmas, (0, -len(sigmas) % _ROWS), value=1.0)
    return ModulationTable(*(part[: len(sigmas)] for part in modulate(padded, rows=_ROWS)))


def sinusoid(sigma: Float[Tensor, " rows"]) -> Float[Tensor, "rows 256"]:
    """Return cosines, then sines, of 1000 sigma at 128 frequencies from 1 to 1/10000; fp32."""
    frequencies = torch.exp(-math.log(10000) * torch.arange(128, device=sigma.device).float() / 128)
    angle = 1000 * (sigma.float().unsqueeze(1) * frequencies)
    return torch.cat((angle.cos(), angle.sin()), dim=1)


def key_mask(
    lengths: Sequence[int] | None, txt_seq: int, img_seq: int, device: torch.device
) -> Bool[Tensor, "batch 1 1 seq"] | None:
    """Return which keys of [text, picture] exist; None where no text row is padded."""
    if lengths is None or all(length == txt_seq for length in lengths):
        return None
    txt = torch.arange(txt_seq) < torch.tensor(list(lengths)).unsqueeze(1)
    img = torch.ones(len(lengths), img_seq, dtype=torch.bool)
    return torch.cat((txt, img), dim=1)[:, None, None].to(device)


def _two_modulations(six: Tensor) -> tuple[Modulation, Modulation]:
    parts = six.chunk(6, dim=-1)
    return Modulation(*parts[:3]), Modulation(*parts[3:])


def _modulated(tokens: Tensor, modulation: Modulation, target: int = 0) -> Tensor:
    """Normalise and modulate; of two levels the target's tokens have the first, references the second."""
    shift, scale, _ = modulation
    if scale.shape[1] == 1:
        return modulated(tokens, 1 + scale, shift)
    parts = zip(tokens.tensor_split((target,), dim=1), scale.split(1, 1), shift.split(1, 1), strict=True)
    return torch.cat([modulated(part, 1 + scale, shift) for part, scale, shift in parts], dim=1)


def _gated(tokens: Tensor, modulation: Modulation, change: Tensor, target: int = 0) -> Tensor:
    """Add what a layer changes, times its gate; levels as in `_modulated`."""
    gate = modulation.gate
    if gate.shape[1] == 1:
        return torch.addcmul(tokens, gate, change)
    parts = zip(*(whole.tensor_split((target,), dim=1) for whole in (tokens, change)), strict=True)
    gates = gate.split(1, 1)
    return torch.cat([torch.addcmul(a, gate, b) for (a, b), gate in zip(parts, gates, strict=True)], dim=1)


def _finite(tokens: Tensor) -> Tensor:
    # fp16 alone overflows in the released 60 blocks; the reference clips there.
    return tokens.clamp(-65504, 65504) if tokens.dtype == torch.float16 else tokens
