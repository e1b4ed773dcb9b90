"""What an autoencoder keeps of a picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from danqing.conditioning.images import sheet, to_pixels
from danqing.data.atlas import Atlas, packaged_atlas
from danqing.data.world import Scene, render, sample_scene
from danqing.models.vae import VAE
from danqing.models.vae21 import VAE21

Autoencoder = VAE | VAE21
_SHOWN = 16


@torch.no_grad()
def restore(vae: Autoencoder, pixels: Tensor) -> Tensor:
    """Return pixels (batch, channels, height, width) encoded and decoded one by one, fp32 on the CPU.

    An autoencoder that knows transparency sees three channels as opaque.
    """
    like, channels = next(vae.parameters()), pixels.shape[1]
    known = vae.config.in_channels if isinstance(vae, VAE21) else vae.config.input_channels
    given = F.pad(pixels, (0, 0, 0, 0, 0, known - channels), value=1.0)
    restored = [vae.decode(vae.encode(one.to(like.device, like.dtype))) for one in given.split(1)]
    return torch.cat(restored)[:, :channels].float().cpu()


def held_out_scenes(count: int, atlas: Atlas) -> list[Scene]:
    """Return the first `count` held-out scenes of every kind, always the same ones."""
    rng = np.random.default_rng(0)
    return [sample_scene(rng, atlas, "held_out") for _ in range(count)]


def reconstruction(
    vae: Autoencoder,
    scenes: Sequence[Scene] | None = None,
    *,
    count: int = 64,
    size: int = 128,
    atlas: Atlas | None = None,
    out: Path | None = None,
) -> float:
    """Return the mean PSNR in dB of scenes (by default `count` held-out ones) through the VAE.

    `out` is a PNG to write: the first 16 scenes, each before and after. The small packaged atlas draws them
    when no other is given; numbers of two atlases do not compare.
    """
    atlas = atlas if atlas is not None else packaged_atlas()
    scenes = held_out_scenes(count, atlas) if scenes is None else scenes
    pixels = to_pixels(np.stack([render(scene, atlas, size) for scene in scenes]))
    restored = restore(vae, pixels)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        pairs = torch.stack([pixels[:_SHOWN], restored[:_SHOWN]], dim=1).flatten(0, 1)
        sheet(pairs, columns=8).save(out)
    errors = (restored - pixels).square().mean(dim=(1, 2, 3)).clamp_min(1e-10)
    return float((10 * torch.log10(4 / errors)).mean())
