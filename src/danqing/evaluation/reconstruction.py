"""What an autoencoder keeps of a picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from danqing.conditioning.images import sheet, to_pixels
from danqing.data.atlas import Atlas, packaged_atlas
from danqing.data.world import Scene, render, sample_scene
from danqing.models.vae import VAE

_SHOWN = 16


@torch.no_grad()
def restore(vae: VAE, pixels: Tensor) -> Tensor:
    """Return pixels (batch, channels, height, width) encoded and decoded one by one, fp32 on the CPU."""
    like = next(vae.parameters())
    restored = [vae.decode(vae.encode(one.to(like.device, like.dtype))) for one in pixels.split(1)]
    return torch.cat(restored).float().cpu()


def held_out_scenes(count: int, atlas: Atlas) -> list[Scene]:
    """Return the first `count` held-out scenes of every kind, always the same ones."""
    rng = np.random.default_rng(0)
    return [sample_scene(rng, atlas, "held_out") for _ in range(count)]


def reconstruction(
    vae: VAE,
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
