"""Train the denoiser by flow matching: predict the velocity between a scene's latents and noise."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from danqing.conditioning.latents import pack
from danqing.conditioning.text import encode_prompts
from danqing.data.cache import ExampleCache, Examples
from danqing.data.language import caption
from danqing.data.world import sample_scene
from danqing.models.mmdit import MMDiT
from danqing.models.rope import GridShape
from danqing.sampling.path import interpolate, velocity_target
from danqing.sampling.schedule import training_sigmas
from danqing.training.optim import short_attention

_EVALUATED_SIGMAS = (0.3, 0.6, 0.9, 1.0)
_HELD_OUT = 256  # scenes the evaluation loss is taken on


class Noised(NamedTuple):
    """A batch for the denoiser; text rows are padded on the right."""

    tokens: Tensor
    """(batch, img_seq, 4 z) packed clean latents."""
    noise: Tensor
    sigma: Tensor
    txt: Tensor
    lengths: list[int]


class Flow:
    """Mean squared error of the velocity; a share of the prompts is dropped, for guidance."""

    def __init__(
        self,
        cache: ExampleCache,
        *,
        batch_size: int,
        seed: int,
        shift: Callable[[int], float],
        uniform: float = 0.1,
        drop: float = 0.1,
        sample: Callable[[nn.Module, Path], None] | None = None,
    ) -> None:
        """`shift` is the noise shift at a step; `sample` draws a sheet of pictures with a model."""
        self.cache, self.batch_size, self.seed = cache, batch_size, seed
        self.shift, self.uniform, self.drop, self.sample = shift, uniform, drop, sample
        encoder = cache.encoder
        self.empty = encode_prompts(encoder.vlm, encoder.tokenizer, [" "]).txt[0].cpu()
        self._evaluated: Examples | None = None

    def batch(self, step: int) -> Noised:
        """Draw examples, noise and noise levels."""
        rng = np.random.default_rng([self.seed, step])
        latents, texts = self.cache.draw(rng, step * self.batch_size, self.batch_size)
        dropped = rng.random(self.batch_size) < self.drop
        texts = [self.empty if gone else text for gone, text in zip(dropped, texts, strict=True)]
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        tokens = pack(latents)
        return Noised(
            tokens=tokens,
            noise=torch.randn(tokens.shape, generator=generator),
            sigma=training_sigmas(self.batch_size, generator, shift=self.shift(step), uniform=self.uniform),
            txt=nn.utils.rnn.pad_sequence(texts, batch_first=True),
            lengths=[len(text) for text in texts],
        )

    def loss(self, model: nn.Module, batch: Noised) -> tuple[Tensor, dict[str, float]]:
        """Return the mean squared error of the velocity."""
        assert isinstance(model, MMDiT)
        device = next(model.parameters()).device
        tokens, noise, sigma = (part.to(device) for part in batch[:3])
        velocity = self._velocity(
            model, interpolate(tokens, noise, sigma), sigma, batch.txt.to(device), batch.lengths
        )
        return F.mse_loss(velocity.float(), velocity_target(tokens, noise)), {}

    def flops(self, model: nn.Module, batch: Noised) -> float:
        """Return three times the forward's multiply-adds: linears on their tokens, and attention."""
        assert isinstance(model, MMDiT)
        dim, layers = model.config.dim, model.config.num_layers
        img, txt = batch.tokens.shape[1], batch.txt.shape[1]
        linears = 24 * dim**2 * (img + txt)
        attention = 4 * dim * (img + txt) ** 2
        modulation = 24 * dim**2
        return 3.0 * len(batch.tokens) * layers * (linears + attention + modulation)

    def evaluate(self, model: nn.Module, folder: Path, step: int) -> dict[str, float]:
        """Return the clean estimate's error on held-out scenes at fixed noise levels; draw a sheet."""
        assert isinstance(model, MMDiT)
        device = next(model.parameters()).device
        examples = self._held_out()
        tokens = pack(examples.latents.float()).to(device)
        noise = torch.randn(tokens.shape, generator=torch.Generator().manual_seed(0)).to(device)
        texts = [examples.text(index).float() for index in range(_HELD_OUT)]
        txt = nn.utils.rnn.pad_sequence(texts, batch_first=True).to(device)
        metrics = {}
        for level in _EVALUATED_SIGMAS:
            sigma = torch.full((_HELD_OUT,), level, device=device)
            noised = interpolate(tokens, noise, sigma)
            velocity = self._velocity(model, noised, sigma, txt, [len(text) for text in texts])
            metrics[f"error_{level}"] = float((noised - level * velocity - tokens).square().mean())
        if self.sample is not None:
            self.sample(model, folder / f"sheet-{step:07d}.png")
        return metrics

    def _held_out(self) -> Examples:
        if self._evaluated is None:
            encoder, rng = self.cache.encoder, np.random.default_rng(2)
            scenes = [sample_scene(rng, encoder.atlas, "held_out") for _ in range(_HELD_OUT)]
            self._evaluated = encoder.encode(scenes, [caption(scene, "en", rng) for scene in scenes])
        return self._evaluated

    def _velocity(
        self, model: MMDiT, noised: Tensor, sigma: Tensor, txt: Tensor, lengths: list[int]
    ) -> Tensor:
        side = round(noised.shape[1] ** 0.5)
        with short_attention(noised.device):
            return model(
                noised, txt, model.modulate(sigma), shapes=[GridShape(1, side, side)], lengths=lengths
            )
