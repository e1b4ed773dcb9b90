"""Train the denoiser by flow matching: predict the velocity between a picture's latents and noise."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from danqing.conditioning.latents import pack
from danqing.conditioning.text import encode_prompts
from danqing.data.cache import UNTOLD, Example, ExampleCache, Examples, Task
from danqing.data.language import caption
from danqing.models.mmdit import MMDiT
from danqing.models.rope import GridShape
from danqing.sampling.path import interpolate, velocity_target
from danqing.sampling.schedule import training_sigmas
from danqing.training.optim import short_attention

_EVALUATED_SIGMAS = (0.3, 0.6, 0.9, 1.0)
_PROMPTED_SIGMA = 0.9  # noise level at which the use of prompts is measured
_HELD_OUT = 256  # scenes the evaluation loss is taken on
_PARTS = 4  # by length of text, in which a batch is computed


class Noised(NamedTuple):
    """Examples that are denoised together; text rows are padded on the right."""

    tokens: Tensor
    """(batch, img_seq, 4 z) packed clean latents."""
    noise: Tensor
    sigma: Tensor
    txt: Tensor
    lengths: list[int]
    references: Tensor | None
    """(batch, img_seq, 4 z) packed pictures that are edited; None where pictures are drawn from nothing."""


class Told(NamedTuple):
    """An example and what it is denoised with."""

    example: Example
    txt: Tensor
    """(txt_seq, dim), the example's own or that of no prompt."""


class Flow:
    """Mean squared error of the velocity; a share of the prompts is dropped, for guidance.

    The picture that an edit starts from is a second frame of clean tokens, as for Qwen-Image-Edit.
    """

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
        self.empty = encode_prompts(encoder.vlm, encoder.tokenizer, [UNTOLD]).txt[0].cpu()
        self._evaluated: Examples | None = None

    def batch(self, step: int) -> list[Noised]:
        """Draw examples, noise and noise levels: pictures from nothing first, then edits."""
        rng = np.random.default_rng([self.seed, step])
        examples = self.cache.draw(rng, step * self.batch_size, self.batch_size)
        dropped = rng.random(self.batch_size) < self.drop
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        shift = self.shift(step)
        told = [
            Told(example, self.empty if gone and example.reference is None else example.txt)
            for example, gone in zip(examples, dropped, strict=True)
        ]
        parts: list[Noised] = []
        for some in _alike(told):
            tokens = pack(torch.stack([one.example.latents for one in some]))
            references = [one.example.reference for one in some if one.example.reference is not None]
            parts.append(
                Noised(
                    tokens=tokens,
                    noise=torch.randn(tokens.shape, generator=generator),
                    sigma=training_sigmas(len(some), generator, shift=shift, uniform=self.uniform),
                    txt=nn.utils.rnn.pad_sequence([one.txt for one in some], batch_first=True),
                    lengths=[len(one.txt) for one in some],
                    references=pack(torch.stack(references)) if references else None,
                )
            )
        return parts

    def loss(self, model: nn.Module, batch: list[Noised]) -> tuple[Tensor, dict[str, float]]:
        """Return the mean squared error of the velocity."""
        assert isinstance(model, MMDiT)
        total, numbers = torch.zeros((), device=next(model.parameters()).device), {}
        for name, parts in _by_task(batch).items():
            errors = [self._error(model, part) * len(part.tokens) for part in parts]
            summed = torch.stack(errors).sum()
            total = total + summed / sum(len(part.tokens) for part in batch)
            numbers[name] = summed.item() / sum(len(part.tokens) for part in parts)
        return total, numbers

    def flops(self, model: nn.Module, batch: list[Noised]) -> float:
        """Return three times the forward's multiply-adds: linears on their tokens, and attention."""
        assert isinstance(model, MMDiT)
        dim, layers, total = model.config.dim, model.config.num_layers, 0.0
        for part in batch:
            img = part.tokens.shape[1] * (1 if part.references is None else 2)
            txt = part.txt.shape[1]
            linears = 24 * dim**2 * (img + txt)
            attention = 4 * dim * (img + txt) ** 2
            modulation = 24 * dim**2
            total += 3.0 * len(part.tokens) * layers * (linears + attention + modulation)
        return total

    def evaluate(self, model: nn.Module, folder: Path, step: int) -> dict[str, float]:
        """Return the clean estimate's error on held-out scenes at fixed noise levels; draw a sheet.

        `prompt_0.9` is the share of the error at that level that is there only with the prompt of another
        scene: how much of a prompt is used, long before a picture shows it.
        """
        assert isinstance(model, MMDiT)
        device = next(model.parameters()).device
        examples = self._held_out()
        drawn = [examples[index] for index in range(_HELD_OUT)]
        tokens = pack(torch.stack([example.latents for example in drawn])).to(device)
        noise = torch.randn(tokens.shape, generator=torch.Generator().manual_seed(0)).to(device)
        texts = [example.txt for example in drawn]

        def error(level: float, texts: list[Tensor]) -> float:
            sigma = torch.full((_HELD_OUT,), level, device=device)
            noised = interpolate(tokens, noise, sigma)
            txt = nn.utils.rnn.pad_sequence(texts, batch_first=True).to(device)
            velocity = _velocity(model, noised, sigma, txt, [len(text) for text in texts])
            return float((noised - level * velocity - tokens).square().mean())

        metrics = {f"error_{level}": error(level, texts) for level in _EVALUATED_SIGMAS}
        exchanged = error(_PROMPTED_SIGMA, texts[1:] + texts[:1])
        metrics[f"prompt_{_PROMPTED_SIGMA}"] = 1 - metrics[f"error_{_PROMPTED_SIGMA}"] / exchanged
        if self.sample is not None:
            self.sample(model, folder / f"sheet-{step:07d}.png")
        return metrics

    def _held_out(self) -> Examples:
        if self._evaluated is None:
            encoder, mixture, rng = self.cache.encoder, self.cache.mixture, np.random.default_rng(2)
            scenes = [mixture.scene(rng, encoder.atlas, "held_out") for _ in range(_HELD_OUT)]
            self._evaluated = encoder.encode(
                [Task(scene=scene, prompt=caption(scene, "en", rng)) for scene in scenes]
            )
        return self._evaluated

    def _error(self, model: MMDiT, part: Noised) -> Tensor:
        device = next(model.parameters()).device
        tokens, noise, sigma, txt = (tensor.to(device) for tensor in part[:4])
        references = None if part.references is None else part.references.to(device)
        noised = interpolate(tokens, noise, sigma)
        velocity = _velocity(model, noised, sigma, txt, part.lengths, references)
        return F.mse_loss(velocity.float(), velocity_target(tokens, noise))


def _by_task(batch: Sequence[Noised]) -> dict[str, list[Noised]]:
    parts: dict[str, list[Noised]] = {}
    for part in batch:
        parts.setdefault("drawing" if part.references is None else "editing", []).append(part)
    return parts


def _alike(told: Sequence[Told]) -> list[list[Told]]:
    """Divide a batch into pictures from nothing and edits, and each into four by the length of its texts.

    A row is padded to the longest of its part: in four parts the texts of 128 examples of `recipes/nano.py`
    take half the tokens that they take in one.
    """
    parts: list[list[Told]] = []
    for edits in (False, True):
        some = [one for one in told if (one.example.reference is not None) == edits]
        some.sort(key=lambda one: len(one.txt))
        size = max(1, -(-len(some) // _PARTS))
        parts += [some[start : start + size] for start in range(0, len(some), size)]
    return parts


def _velocity(
    model: MMDiT,
    noised: Tensor,
    sigma: Tensor,
    txt: Tensor,
    lengths: list[int],
    references: Tensor | None = None,
) -> Tensor:
    side = round(noised.shape[1] ** 0.5)
    shapes, img = [GridShape(1, side, side)], noised
    if references is not None:
        shapes, img = shapes * 2, torch.cat((noised, references), dim=1)
    with short_attention(noised.device):
        velocity = model(img, txt, model.modulate(sigma), shapes=shapes, lengths=lengths)
    return velocity[:, : noised.shape[1]]
