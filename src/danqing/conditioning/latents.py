"""Latents as the VAE has them (a grid) and as the denoiser reads them (a sequence of patches).

A patch is 2x2 latents in 1.x and a single one in 2.1.
"""

from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from danqing.rng import sample_noise, seeded


def pack(latents: Float[Tensor, "batch z lat_h lat_w"], patch: int = 2) -> Float[Tensor, "batch seq dim"]:
    """Return one token for each `patch` x `patch` latents.

    Its numbers run channel by channel, then row, then column.
    """
    return rearrange(latents, "b z (h p) (w q) -> b (h w) (z p q)", p=patch, q=patch)


def unpack(
    tokens: Float[Tensor, "batch seq dim"], height: int, patch: int = 2
) -> Float[Tensor, "batch z lat_h lat_w"]:
    """Undo `pack`; `height` counts tokens."""
    return rearrange(tokens, "b (h w) (z p q) -> b z (h p) (w q)", h=height, p=patch, q=patch)


def noise_tokens(
    seeds: Sequence[int], *, channels: int, lat_h: int, lat_w: int, patch: int = 2
) -> Float[Tensor, "batch seq dim"]:
    """Return packed noise, one row a seed; row i is what seed i alone gives."""
    rows = [sample_noise((1, 1, channels, lat_h, lat_w), seed)[:, 0] for seed in seeds]
    return pack(torch.cat(rows), patch)


def mask_tokens(
    mask: Float[Tensor, "lat_h lat_w"], channels: int, patch: int = 2
) -> Float[Tensor, "1 seq dim"]:
    """Return a mask of latents in the shape of packed latents: the same number for every channel."""
    return pack(mask.expand(1, channels, *mask.shape), patch)


def sampled_tokens(
    posteriors: Sequence[tuple[Float[Tensor, "1 z lat_h lat_w"], Float[Tensor, "1 z lat_h lat_w"]]],
    seed: int,
    patch: int = 2,
) -> tuple[list[Float[Tensor, "1 seq dim"]], Float[Tensor, "1 seq dim"]]:
    """Return a sample of each posterior (mean, std) and the noise that goes with them, all packed.

    The stream of the seed gives the samples first, then the noise, as in the reference pipelines that start
    from a picture or are steered by some; the same seed without a picture has other noise.
    """
    stream = seeded(seed)
    samples = [
        pack(mean + std * torch.randn(mean.shape, generator=stream), patch) for mean, std in posteriors
    ]
    return samples, pack(torch.randn(posteriors[0][0].shape, generator=stream), patch)
