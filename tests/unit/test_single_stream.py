"""The networks of Qwen-Image 2.1: sizes, positions, and what they refuse."""

import math

import pytest
import torch

from danqing.errors import ConfigError, RequestError
from danqing.models.rope import GridShape, document_end, document_positions, target_positions
from danqing.models.single_stream import SingleStream, SingleStreamConfig, is_modulation
from danqing.models.vae21 import VAE21, VAE21Config, averaged, unfold, with_repeats
from danqing.sampling.schedule import TURBO, ScheduleConfig, sigma_grid
from tests.tiny import randomized

CONFIG = SingleStreamConfig(
    in_channels=8,
    out_channels=8,
    num_layers=2,
    attention_head_dim=16,
    num_attention_heads=2,
    context_in_dim=24,
    axes_dims_rope=(4, 6, 6),
)
SHAPE = GridShape(1, 2, 3)


def draw(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_the_released_sizes():
    with torch.device("meta"):
        model, vae = SingleStream(SingleStreamConfig()), VAE21(VAE21Config())
        released = unfold(vae.config, vae.state_dict())
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    assert len(sizes) == 297
    assert sum(sizes.values()) == 7_115_124_736
    assert 1.0e8 < sum(size for name, size in sizes.items() if is_modulation(name)) < 1.1e8
    assert len(released) == 238
    for part, millions in (("encoder", 78.7), ("decoder", 259.0)):
        numbers = sum(tensor.numel() for name, tensor in released.items() if name.startswith(part))
        assert round(numbers / 1e6, 1) == millions


def test_text_counts_on_and_pictures_stand_at_the_cursor():
    positions = document_positions(5, [GridShape(1, 2, 3)], [2]).tolist()
    assert positions[:2] == [[0, 0, 0], [1, 1, 1]]
    assert positions[2:8] == [[2, h, w] for h in (-1, 0) for w in (-2, -1, 0)]
    assert positions[8:] == [[5, 5, 5], [6, 6, 6], [7, 7, 7]]  # the picture's longer side is 3
    assert document_end(5, [GridShape(1, 2, 3)]) == 8
    rows = target_positions(GridShape(1, 1, 2), [8, 4])
    assert rows.tolist() == [[[8, -1, -1], [8, -1, 0]], [[4, -1, -1], [4, -1, 0]]]


def test_sampling_needs_no_modulation_layers():
    model = randomized(SingleStream(CONFIG), 1)
    sigmas, txt, img = torch.tensor([1.0, 0.7, 0.2]), draw(1, 4, 24), draw(1, 6, 8)
    table = model.modulation_table(sigmas)
    with torch.no_grad():
        modulation = model.modulate(sigmas[1:2])
        whole = model(img, model.prefix(txt, modulation), modulation, shape=SHAPE)
        for name, parameter in list(model.named_parameters()):
            if is_modulation(name):
                owner, _, leaf = name.rpartition(".")
                setattr(model.get_submodule(owner), leaf, torch.nn.Parameter(parameter.to("meta")))
        gone = model(img, model.prefix(txt, table), table.at(1), shape=SHAPE)
    assert torch.allclose(whole, gone, atol=1e-6)


@torch.no_grad()
def test_the_future_of_a_text_changes_nothing_before_it():
    model = randomized(SingleStream(CONFIG), 1)
    modulation, txt = model.modulate(torch.tensor([0.5])), draw(1, 6, 24)
    references = {"references": draw(1, 6, 8), "shapes": [SHAPE], "before": [2]}
    whole, begun = (model.prefix(part, modulation, **references) for part in (txt, txt[:, :3]))
    for long, short in zip(whole.values, begun.values, strict=True):
        torch.testing.assert_close(long[:, :, : short.shape[2]], short, rtol=0, atol=1e-6)


@torch.no_grad()
def test_what_does_not_fit_together_is_refused():
    model = randomized(SingleStream(CONFIG), 1)
    modulation, txt = model.modulate(torch.tensor([0.5])), draw(2, 4, 24)
    prefix = model.prefix(txt, modulation)
    with pytest.raises(RequestError, match=r"expected 6 target tokens .* found 5"):
        model(draw(2, 5, 8), prefix, modulation, shape=SHAPE)
    with pytest.raises(RequestError, match="expected a prefix of 1 or 3 rows, found 2"):
        model(draw(3, 6, 8), prefix, modulation, shape=SHAPE)
    with pytest.raises(RequestError, match="expected 6 reference tokens, found 0"):
        model.prefix(txt, modulation, shapes=[SHAPE], before=[1])
    references = {"references": draw(2, 6, 8), "shapes": [SHAPE]}
    with pytest.raises(RequestError, match="expected the place of each of 1 references"):
        model.prefix(txt, modulation, **references)
    with pytest.raises(RequestError, match="in order and before any padding"):
        model.prefix(txt, modulation, before=[3], lengths=[4, 2], **references)


@pytest.mark.parametrize("changes", [{"patch_size": 2}, {"causal_condition": False}])
def test_configs_that_no_release_has_are_refused(changes):
    with pytest.raises(ConfigError, match="no release has it"):
        SingleStreamConfig(**changes)


@pytest.mark.parametrize("changes", [{"patch_size": 2}, {"is_residual": False}, {"scale_factor_spatial": 8}])
def test_autoencoders_that_no_release_has_are_refused(changes):
    with pytest.raises(ConfigError, match="no release has it"):
        VAE21Config(**changes)


def test_a_released_autoencoder_needs_few_latents_around_a_tile():
    assert VAE21Config().encoder_halo == VAE21Config().decoder_halo == 3


def test_a_shortcut_down_averages_a_picture_with_an_empty_frame():
    pixels = torch.arange(8.0).view(1, 2, 2, 2)
    assert averaged(pixels, 4, 1).flatten().tolist() == [0.5, 2.5, 4.5, 6.5]
    assert averaged(pixels, 4, 2).flatten().tolist() == [0, 1.5, 0, 5.5]
    assert averaged(pixels, 2, 2).flatten().tolist() == [0.75, 2.75]


@pytest.mark.parametrize("frames", [1, 2])
def test_a_shortcut_up_is_the_same_with_and_without_gradients(frames):
    doubled, hidden = draw(1, 4, 6, 4), draw(1, 8, 3, 2)
    expected = with_repeats(doubled, hidden, frames)
    with torch.no_grad():
        assert torch.equal(with_repeats(doubled.clone(), hidden, frames), expected)


def test_turbo_has_its_own_levels():
    grid = sigma_grid(TURBO, 8, 16384)
    assert grid[0] == 1
    assert grid[-1] == 0
    assert math.isclose(float(grid[4]), 0.89508, rel_tol=1e-6)
    with pytest.raises(RequestError, match="steps: this checkpoint was made for 8, found 20"):
        sigma_grid(TURBO, 20, 16384)
    for levels in ((), (0.5, 0.7), (1.2, 0.5), (1.0, 0.0)):
        with pytest.raises(ConfigError, match="fall from at most 1 to above 0"):
            ScheduleConfig(sample_sigmas=levels)
