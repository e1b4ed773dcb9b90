"""Tiled decoding, for every size of picture and tile."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from danqing.errors import ConfigError, RequestError
from danqing.models.vae import VAE, VAEConfig
from tests.tiny import randomized


def make(num_res_blocks):
    vae = randomized(VAE(VAEConfig(base_dim=4, num_res_blocks=num_res_blocks)), 2)
    vae.decoder.conv_out.weight *= 0.1  # the clamp would hide differences
    return vae


VAES = {blocks: make(blocks) for blocks in (1, 2)}
SIDE = st.integers(1, 26)


def draw(height, width):
    return torch.randn(1, 16, height, width, generator=torch.Generator().manual_seed(height * 100 + width))


@torch.no_grad()
@settings(max_examples=12, deadline=None)
@given(blocks=st.sampled_from([1, 2]), height=SIDE, width=SIDE, tile=st.sampled_from([1, 2, 5, 8, 13, 64]))
def test_tiles_are_exact(blocks, height, width, tile):
    height, width = (min(height, 3 * tile + 2), min(width, 3 * tile + 2))  # at most sixteen tiles
    latents = draw(height, width)
    whole = VAES[blocks].decode(latents)
    assert whole.shape == (1, 3, 8 * height, 8 * width)
    torch.testing.assert_close(VAES[blocks].decode(latents, tile=tile), whole, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("blocks", [1, 2])
def test_a_row_of_single_latents_is_exact(blocks):
    latents = draw(2, 24)
    whole = VAES[blocks].decode(latents)
    torch.testing.assert_close(VAES[blocks].decode(latents, tile=1), whole, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("blocks", [1, 2])
def test_the_halo_is_needed(blocks, monkeypatch):
    whole = VAES[blocks].decode(draw(2, 24))
    assert whole.abs().max() < 1
    monkeypatch.setattr(VAEConfig, "halo", 1)
    assert (VAES[blocks].decode(draw(2, 24), tile=6) - whole).abs().max() > 1e-5


def test_errors():
    with pytest.raises(RequestError, match="expected a tile of at least 1 latent, found 0"):
        VAES[1].decode(draw(2, 2), tile=0)
    with pytest.raises(RequestError, match=r"expected height and width divisible by 8, found \(20, 16\)"):
        VAES[1].encode(torch.zeros(1, 3, 20, 16))
    with pytest.raises(ConfigError, match="expected no attn_scales"):
        VAEConfig(attn_scales=(1.0,))
    with pytest.raises(ConfigError, match="expected 8 latent means and stds"):
        VAEConfig(z_dim=8)
