"""Our 2.1 autoencoder against the reference one, same weights, fp32."""

import pytest
import torch

from danqing.errors import RequestError
from danqing.models.vae import fold
from danqing.models.vae21 import VAE21, VAE21Config, unfold
from tests.parity import peer_parts as parts

diffusers = pytest.importorskip("diffusers")

SIZES = [(64, 64), (48, 80), (16, 16), (32, 176)]


def make_pair(**changes):
    """Return the reference autoencoder and ours with the same weights."""
    config = {**parts.VAE21, **changes}
    reference = parts.randomize(diffusers.AutoencoderKLQwenImage21(**config), 23)
    ours = VAE21(VAE21Config(**config)).eval()
    ours.load_state_dict(folded(reference.state_dict()))
    return reference, ours


def folded(state):
    return {name: value for name, tensor in state.items() if (value := fold(name, tensor)) is not None}


@pytest.fixture(scope="module", params=[1, 2], ids=["1-block", "2-blocks"])
def pair(request):
    return make_pair(num_res_blocks=request.param)


def pixels(height, width, channels=4, batch=2):
    generator = torch.Generator().manual_seed(height + width)
    return 2 * torch.rand(batch, channels, height, width, generator=generator) - 1


def close(ours, expected, atol=1e-5):
    torch.testing.assert_close(ours.contiguous(), expected.contiguous(), rtol=0, atol=atol)


def statistics(reference):
    mean = torch.tensor(reference.config.latents_mean).view(1, -1, 1, 1)
    return mean, torch.tensor(reference.config.latents_std).view(1, -1, 1, 1)


@torch.no_grad()
@pytest.mark.parametrize("stage", range(5))
def test_stages(pair, stage):
    for part, blocks in (("encoder", "down_blocks"), ("decoder", "up_blocks")):
        peer, block = (getattr(getattr(vae, part), blocks)[stage] for vae in pair)
        hidden = torch.randn(2, block.resnets[0].conv1.in_channels, 6, 10)
        # What the reference passes for a first frame; the cache keeps its temporal resamplers out.
        memory = {"feat_cache": [None] * 99, "feat_idx": [0]} | (
            {"first_chunk": True} if part == "decoder" else {}
        )
        close(block(hidden), peer(hidden.unsqueeze(2), **memory)[:, :, 0])


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
    assert expected.shape == (2, 4, *size)
    close(ours.decode(latents), expected)


@torch.no_grad()
@pytest.mark.parametrize("tile", [1, 3, 40])
def test_tiles_change_nothing(pair, tile):
    _, ours = pair
    picture = pixels(480, 32, batch=1)  # longer than a tile with its halo on both sides
    latents = ours.encode(picture)
    close(ours.encode(picture, tile=tile), latents)
    close(ours.decode(latents, tile=tile), ours.decode(latents))


@torch.no_grad()
def test_three_channels():
    reference, ours = make_pair(in_channels=3, out_channels=3)
    picture = pixels(32, 48, 3)
    posterior = reference.encode(picture.unsqueeze(2)).latent_dist
    close(ours.posterior(picture)[0], posterior.mode()[:, :, 0])
    with pytest.raises(RequestError, match="expected 3 channels, found 4"):
        ours.encode(pixels(32, 48))


def test_the_backward_pass_is_that_of_the_reference():
    reference, ours = make_pair()
    picture = pixels(32, 48, batch=1)

    def gradient(run):
        leaf = picture.clone().requires_grad_()
        run(leaf).square().mean().backward()
        return leaf.grad

    def run_reference(leaf):
        return reference.decode(reference.encode(leaf.unsqueeze(2)).latent_dist.mode()).sample

    expected = gradient(run_reference)
    assert expected.abs().max() > 1e-5
    close(gradient(lambda leaf: ours.decode(ours.encode(leaf))), expected, 1e-6)


@torch.no_grad()
def test_bf16_stays_with_the_reference():
    reference, ours = make_pair()
    picture = pixels(64, 48)
    exact = ours.decode(ours.encode(picture))
    latents = ours.encode(picture).bfloat16()
    mean, std = (part.bfloat16() for part in statistics(reference))
    expected = reference.bfloat16().decode((latents * std + mean).unsqueeze(2)).sample[:, :, 0]
    low = ours.bfloat16().decode(latents)
    assert low.dtype == torch.bfloat16
    assert (low - exact).norm() <= 1.2 * (expected - exact).norm()


@torch.no_grad()
def test_unfolded_weights_load_into_the_reference_and_draw_the_same(pair):
    reference, ours = pair
    released = unfold(ours.config, ours.state_dict())
    peer = diffusers.AutoencoderKLQwenImage21(**reference.config).eval()
    peer.load_state_dict(released)
    picture = pixels(32, 48).unsqueeze(2)
    expected = reference.encode(picture).latent_dist.mode()
    close(peer.encode(picture).latent_dist.mode(), expected)
    close(peer.decode(expected).sample, reference.decode(expected).sample)
    back = folded(released)
    assert all(torch.equal(back[name], value) for name, value in ours.state_dict().items())
