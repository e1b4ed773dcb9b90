"""ControlNets of Qwen-Image 1.x: small networks that read a control picture and steer the denoiser.

`ControlNet` is a copy of the denoiser's first blocks whose outputs are added to the picture stream (Zhang et
al., arXiv 2302.05543), as released by InstantX: Union reads edges, depth or poses without being told which,
Inpainting reads a picture with a hole. Parameter names are those of `InstantX/Qwen-Image-ControlNet-Union`.
`BlockwiseControlNet` is the other design in use, of DiffSynth: no copy, one small network a block.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from danqing.errors import ConfigError
from danqing.models.layers import RMSNorm
from danqing.models.mmdit import (
    Block,
    Layout,
    MMDiTConfig,
    ModulationTable,
    TimeEmbedding,
    block_modulations,
    joint_layout,
    tabulated,
)
from danqing.models.rope import GridShape


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlNetConfig:
    """Sizes of a ControlNet; the defaults are those of InstantX Union."""

    patch_size: int = 2
    in_channels: int = 64
    out_channels: int = 16
    num_layers: int = 5
    attention_head_dim: int = 128
    num_attention_heads: int = 24
    joint_attention_dim: int = 3584
    axes_dims_rope: tuple[int, int, int] = (16, 56, 56)
    extra_condition_channels: int = 0
    """Numbers of a control token beyond its latents; 4 for Inpainting, one 2x2 patch of the mask."""

    def __post_init__(self) -> None:
        if self.extra_condition_channels not in (0, 4):
            raise ConfigError(
                f"ControlNet: expected extra_condition_channels 0 or 4, found {self.extra_condition_channels}"
            )

    @property
    def masked(self) -> bool:
        """Whether it reads a mask with the control picture."""
        return self.extra_condition_channels > 0

    def blocks(self) -> MMDiTConfig:
        """Return the sizes of its blocks."""
        return MMDiTConfig(
            num_layers=self.num_layers,
            attention_head_dim=self.attention_head_dim,
            num_attention_heads=self.num_attention_heads,
            joint_attention_dim=self.joint_attention_dim,
            axes_dims_rope=self.axes_dims_rope,
        )


class ControlNet(nn.Module):
    """Noised picture, text and control picture → residuals for the denoiser's picture stream."""

    def __init__(self, config: ControlNetConfig) -> None:
        super().__init__()
        self.config = config
        blocks = config.blocks()
        dim = blocks.dim
        self.time_text_embed = TimeEmbedding(dim, additional=False)
        self.txt_norm = RMSNorm(config.joint_attention_dim, eps=1e-6)
        self.img_in = nn.Linear(config.in_channels, dim)
        self.txt_in = nn.Linear(config.joint_attention_dim, dim)
        self.transformer_blocks = nn.ModuleList(
            Block(blocks, last=index == config.num_layers - 1) for index in range(config.num_layers)
        )
        self.controlnet_blocks = nn.ModuleList(nn.Linear(dim, dim) for _ in range(config.num_layers))
        self.controlnet_x_embedder = nn.Linear(config.in_channels + config.extra_condition_channels, dim)

    def forward(
        self,
        img: Float[Tensor, "batch img_seq in_channels"],
        txt: Float[Tensor, "batch txt_seq text_dim"],
        control: Float[Tensor, "batch img_seq control_channels"],
        modulation: ModulationTable,
        *,
        shape: GridShape | None = None,
        lengths: Sequence[int] | None = None,
        layout: Layout | None = None,
    ) -> list[Float[Tensor, "batch img_seq dim"]]:
        """Return one residual for each of its blocks; see `Residuals` for where they go.

        `control` are the packed latents of the control picture, of the noised picture's size, with the mask
        (1 = keep) behind them where the config says so. A `layout`, made of shape and lengths once for many
        steps, takes their place.
        """
        if layout is None:
            shapes = () if shape is None else (shape,)
            layout = self.layout(shapes, txt.shape[1], lengths, device=img.device)
        layout.check(img.shape[1], txt.shape[1])
        img = self.img_in(img) + self.controlnet_x_embedder(control)
        txt = self.txt_in(self.txt_norm(txt))
        residuals = []
        layers = zip(self.transformer_blocks, self.controlnet_blocks, strict=True)
        for index, (block, out) in enumerate(layers):
            txt, img = block(img, txt, modulation.img[:, index], modulation.txt[:, index], layout)
            residuals.append(out(img))
        return residuals

    def layout(
        self,
        shapes: Sequence[GridShape],
        txt_seq: int,
        lengths: Sequence[int] | None = None,
        *,
        device: torch.device,
    ) -> Layout:
        """Return where the tokens of the picture and of the text stand; see `MMDiT.layout`."""
        return joint_layout(shapes, txt_seq, lengths, self.config.axes_dims_rope, device)

    def modulate(self, sigma: Float[Tensor, " rows"], *, rows: int | None = None) -> ModulationTable:
        """Return the modulation of every block for each noise level, where its layers are; `out` is empty.

        With `rows` each layer sees so many levels at a time.
        """
        sigma = sigma.to(next(self.time_text_embed.parameters()).device)
        groups = [
            F.silu(self.time_text_embed(part, self.img_in.weight.dtype, None))
            for part in sigma.split(rows or len(sigma))
        ]
        img, txt = block_modulations(self.transformer_blocks, [groups])
        return ModulationTable(img, txt, torch.cat(groups)[:, :0])

    @torch.no_grad()
    def modulation_table(self, sigmas: Float[Tensor, " steps"]) -> ModulationTable:
        """Return the modulation of a whole schedule, computed once, where its layers are."""
        return tabulated(self.modulate, sigmas)


@dataclass(frozen=True, slots=True)
class Residuals:
    """A ControlNet's residuals as the denoiser asks for them; n of them serve its blocks in n equal parts."""

    parts: Sequence[Float[Tensor, "rows img_seq dim"]]
    """Where the denoiser has more rows, they serve each `rows` of them: both branches of guidance."""
    num_blocks: int
    """Blocks of the denoiser."""

    def __call__(self, index: int, img: Float[Tensor, "batch img_seq dim"]) -> Tensor:
        """Return the residual after block `index`."""
        part = self.parts[index // math.ceil(self.num_blocks / len(self.parts))]
        return part.repeat(len(img) // len(part), 1, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockwiseConfig:
    """Sizes of a blockwise ControlNet; the defaults are those of the DiffSynth releases."""

    num_layers: int = 60
    """Blocks of the denoiser it was made for."""
    in_channels: int = 64
    dim: int = 3072
    extra_condition_channels: int = 0

    @property
    def masked(self) -> bool:
        """Whether it reads a mask with the control picture."""
        return self.extra_condition_channels > 0


class BlockwiseControlNet(nn.Module):
    """A small network after each block of the denoiser, which reads the stream itself; no text, no time.

    Source: DiffSynth-Studio, `Qwen-Image-Blockwise-ControlNet-Canny`, `-Depth` and `-Inpaint`, whose
    parameter names these are.
    """

    def __init__(self, config: BlockwiseConfig) -> None:
        super().__init__()
        self.config = config
        self.img_in = nn.Linear(config.in_channels + config.extra_condition_channels, config.dim)
        self.controlnet_blocks = nn.ModuleList(_ControlBlock(config.dim) for _ in range(config.num_layers))

    def forward(
        self, control: Float[Tensor, "batch img_seq control_channels"]
    ) -> Float[Tensor, "batch img_seq dim"]:
        """Return the embedded control picture, the same for all blocks and noise levels."""
        return self.img_in(control)

    def residual(
        self, index: int, img: Float[Tensor, "batch img_seq dim"], control: Float[Tensor, "batch img_seq dim"]
    ) -> Float[Tensor, "batch img_seq dim"]:
        """Return what is added to the picture stream after block `index`."""
        return self.controlnet_blocks[index](img, control)


class _ControlBlock(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.x_rms, self.y_rms = RMSNorm(dim, eps=1e-6), RMSNorm(dim, eps=1e-6)
        self.input_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)

    def forward(self, img: Tensor, control: Tensor) -> Tensor:
        return self.output_proj(F.gelu(self.input_proj(self.x_rms(img) + self.y_rms(control))))
