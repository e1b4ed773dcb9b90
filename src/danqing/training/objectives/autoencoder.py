"""Train the VAE: reconstruct crops of scenes through a Gaussian posterior."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from danqing.conditioning.images import sheet, to_pixels
from danqing.data.pictures import PictureSource
from danqing.models.vae import VAE, VAEConfig


class Crops(NamedTuple):
    """A batch for the autoencoder."""

    pixels: Tensor
    """(batch, 3, crop, crop) in [-1, 1]."""
    noise: Tensor
    """Standard normal draws for the posterior sample, (batch, z, crop / ratio, crop / ratio)."""


class Autoencoding:
    """L1 + 0.5 MSE on a posterior sample, with a weak KL term that keeps latents near unit scale."""

    def __init__(
        self,
        source: PictureSource,
        config: VAEConfig,
        *,
        batch_size: int,
        crop: int,
        seed: int,
        kl_weight: float = 1e-4,
    ) -> None:
        self.source, self.config = source, config
        self.batch_size, self.crop, self.seed, self.kl_weight = batch_size, crop, seed, kl_weight

    def batch(self, step: int) -> Crops:
        """Render scenes and cut one random crop from each."""
        rng = np.random.default_rng([self.seed, step])
        pictures = self.source.pictures(rng, self.batch_size)
        crops = []
        for picture in pictures:
            top, left = rng.integers(0, np.array(picture.shape[:2]) - self.crop + 1)
            crops.append(picture[top : top + self.crop, left : left + self.crop])
        pixels = to_pixels(np.stack(crops))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        latent_side = self.crop // self.config.spatial_ratio
        noise = torch.randn(self.batch_size, self.config.z_dim, latent_side, latent_side, generator=generator)
        return Crops(pixels, noise)

    def loss(self, model: nn.Module, batch: Crops) -> tuple[Tensor, dict[str, float]]:
        """Return reconstruction error plus the weighted KL divergence to a unit Gaussian."""
        assert isinstance(model, VAE)
        device = next(model.parameters()).device
        pixels = batch.pixels.to(device).contiguous(memory_format=torch.channels_last)
        mean, log_variance = (part.float() for part in model.posterior(pixels))
        log_variance = log_variance.clamp(-20, 10)
        sample = mean + torch.exp(0.5 * log_variance) * batch.noise.to(device)
        restored = model.decoder.up(model.decoder.middle(model.post_quant_conv(sample))).float()
        squared = F.mse_loss(restored, pixels)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        loss = F.l1_loss(restored, pixels) + 0.5 * squared + self.kl_weight * divergence
        return loss, {"psnr": psnr(squared), "kl": divergence.item()}

    def flops(self, model: nn.Module, batch: Crops) -> float:
        """Return three times the forward's multiply-adds, counted from the convolutions."""
        return 3.0 * convolution_flops(model, self.crop) * self.batch_size

    def evaluate(self, model: nn.Module, folder: Path, step: int) -> dict[str, float]:
        """Return the PSNR of held-out scenes through the posterior mode; write a before/after sheet."""
        assert isinstance(model, VAE)
        device = next(model.parameters()).device
        pixels = to_pixels(np.stack(self.source.held_out(64))).to(device)
        restored = torch.cat([model.decode(model.encode(one)) for one in pixels.split(8)])
        errors = (restored - pixels).square().mean(dim=(1, 2, 3))
        pairs = torch.stack([pixels[:16], restored[:16]], dim=1).flatten(0, 1)
        sheet(pairs, columns=8).save(folder / f"sheet-{step:07d}.png")
        return {"held_out_psnr": float((10 * torch.log10(4 / errors)).mean())}


def psnr(squared_error: Tensor) -> float:
    """Return the peak signal-to-noise ratio in dB of a mean squared error on pixels in [-1, 1]."""
    return float(10 * torch.log10(4 / squared_error.detach()))


def convolution_flops(model: nn.Module, side: int) -> float:
    """Return forward floating-point operations of all convolutions for one `side` x `side` picture."""
    total = 0

    def count(module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        assert isinstance(module, nn.Conv2d)
        total += 2 * module.weight.numel() * output.shape[-1] * output.shape[-2]

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, nn.Conv2d)]
    try:
        with torch.no_grad():
            device = next(model.parameters()).device
            assert isinstance(model, VAE)
            model.decode(model.encode(torch.zeros(1, model.config.input_channels, side, side, device=device)))
    finally:
        for hook in hooks:
            hook.remove()
    return float(total)
