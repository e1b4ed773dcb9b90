"""Our picture-only autoencoder against the reference video autoencoder, same weights, fp32."""

import pytest
import torch
from torch.nn import functional as F

from danqing.models.vae import VAE, VAEConfig, fold, unfold
from tests.parity import peer_parts as parts

diffusers = pytest.importorskip("diffusers")

SIZES = [(32, 32), (24, 40), (8, 8)]
LAYERS = [
    "encoder.down_blocks.0",
    "encoder.down_blocks.2",
    "encoder.down_blocks.3",
    "encoder.down_blocks.5",
    "encoder.mid_block.resnets.0",
    "encoder.mid_block.attentions.0",
    "encoder.mid_block",
    "encoder.norm_out",
    "quant_conv",
    "post_quant_conv",
    "decoder.conv_in",
    "decoder.up_blocks.0",
    "decoder.up_blocks.1.upsamplers.0",
    "decoder.up_blocks.2.upsamplers.0",
    "decoder.up_blocks.3",
    "decoder.conv_out",
    "encoder",
    "decoder",
]


def folded(state):
    return {name: value for name, tensor in state.items() if (value := fold(name, tensor)) is not None}


def make_pair(**changes):
    """Return the reference autoencoder and ours with the same weights."""
    config = {**parts.VAE, **changes}
    reference = parts.randomize(diffusers.AutoencoderKLQwenImage(**config), 21)
    ours = VAE(VAEConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in config.items()})).eval()
    ours.load_state_dict(folded(reference.state_dict()))
    return reference, ours


@pytest.fixture(scope="module", params=[1, 2], ids=["1-block", "2-blocks"])
def pair(request):
    return make_pair(num_res_blocks=request.param)


def pixels(height, width, channels=3):
    noise = torch.rand(2, channels, height, width, generator=torch.Generator().manual_seed(height + width))
    return noise * 2 - 1


def close(ours, expected, atol=1e-5):
    torch.testing.assert_close(ours.contiguous(), expected.contiguous(), rtol=0, atol=atol)


def statistics(reference):
    mean = torch.tensor(reference.config.latents_mean).view(1, -1, 1, 1)
    return mean, torch.tensor(reference.config.latents_std).view(1, -1, 1, 1)


@torch.no_grad()
@pytest.mark.parametrize("name", LAYERS)
def test_layers(pair, name):
    reference, ours = (vae.get_submodule(name) for vae in pair)
    channels = (
        next(p for p in ours.parameters() if p.dim() == 4).shape[1] if name != "encoder.norm_out" else 32
    )
    hidden = torch.randn(1, channels, 6, 10, generator=torch.Generator().manual_seed(1))
    if name in ("encoder", "decoder"):
        hidden = F.interpolate(hidden, (16, 24))
    result = reference(hidden.unsqueeze(2))[:, :, 0]
    close(ours.up(ours.middle(hidden)) if name == "decoder" else ours(hidden), result)


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES)
def test_encode(pair, size):
    reference, ours = pair
    posterior = reference.encode(pixels(*size).unsqueeze(2)).latent_dist
    mean, std = statistics(reference)
    close(ours.posterior(pixels(*size))[0], posterior.mode()[:, :, 0])
    close(ours.posterior(pixels(*size))[1].clamp(-30, 20), posterior.logvar[:, :, 0])
    close(ours.encode(pixels(*size)), (posterior.mode()[:, :, 0] - mean) / std)


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES)
def test_decode(pair, size):
    reference, ours = pair
    latents = ours.encode(pixels(*size))
    mean, std = statistics(reference)
    expected = reference.decode((latents * std + mean).unsqueeze(2)).sample[:, :, 0]
    close(ours.decode(latents), expected)
    for tile in (1, 3):
        close(ours.decode(latents, tile=tile), expected)


@torch.no_grad()
def test_four_channels():
    reference, ours = make_pair(input_channels=4)
    expected = reference.encode(pixels(16, 24, 4).unsqueeze(2)).latent_dist.mode()[:, :, 0]
    close(ours.posterior(pixels(16, 24, 4))[0], expected)


def test_folding_twice_changes_nothing(pair):
    state = pair[1].state_dict()
    again = folded(state)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], state[name]) for name in state)


@torch.no_grad()
def test_unfolded_weights_load_into_the_reference_and_draw_the_same(pair):
    reference, ours = pair
    released = unfold(ours.config, ours.state_dict())
    peer = diffusers.AutoencoderKLQwenImage(**reference.config).eval()
    peer.load_state_dict(released)
    picture = pixels(24, 40).unsqueeze(2)
    expected = reference.encode(picture).latent_dist.mode()
    close(peer.encode(picture).latent_dist.mode(), expected)
    close(peer.decode(expected).sample, reference.decode(expected).sample)
    back = folded(released)
    assert all(torch.equal(back[name], value) for name, value in ours.state_dict().items())
