"""What an autoencoder keeps: either kind, with or without transparency, picture by picture."""

import pytest
import torch

from danqing.evaluation.world.reconstruction import restore
from danqing.models.vae import VAE, VAEConfig
from danqing.models.vae21 import VAE21, VAE21Config
from tests.tiny import randomized

KINDS = {
    "opaque": lambda: VAE(VAEConfig(base_dim=4, num_res_blocks=1)),
    "transparent": lambda: VAE21(
        VAE21Config(
            base_dim=4,
            decoder_base_dim=4,
            z_dim=8,
            num_res_blocks=1,
            latents_mean=(0.0,) * 8,
            latents_std=(1.0,) * 8,
        )
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_comes_back_in_its_own_shape_whatever_its_neighbours(kind):
    vae = randomized(KINDS[kind](), 0)
    pixels = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    restored = restore(vae, pixels)
    assert restored.shape == pixels.shape
    assert torch.equal(restored[1:], restore(vae, pixels[1:]))
    assert not torch.equal(restored[0], restored[1])
