"""Our ControlNets against the reference, same weights, fp32."""

import pytest
import torch

from danqing.models.controlnet import ControlNet, ControlNetConfig, Residuals
from danqing.models.mmdit import MMDiT, MMDiTConfig
from danqing.models.rope import GridShape
from tests.parity import peer_parts as parts

diffusers = pytest.importorskip("diffusers")

SHAPE = GridShape(1, 3, 5)


def make_pair(num_layers=2, extra=0):
    """Return the reference ControlNet and ours with the same weights."""
    config = {**parts.DIT, "num_layers": num_layers, "extra_condition_channels": extra}
    reference = parts.randomize(diffusers.QwenImageControlNetModel(**config), 41)
    ours = ControlNet(ControlNetConfig(**config)).eval()
    ours.load_state_dict(reference.state_dict())
    return reference, ours


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def inputs(lengths, extra=0):
    batch, txt_seq = len(lengths), max(lengths)
    img, txt, control = draw(batch, 15, 64), draw(batch, txt_seq, 64), draw(batch, 15, 64 + extra, seed=1)
    return img, txt, control, torch.linspace(0.9, 0.3, batch)


def for_reference(img, txt, sigma, lengths):
    mask = torch.arange(txt.shape[1]) < torch.tensor(lengths).unsqueeze(1)
    return {
        "hidden_states": img,
        "encoder_hidden_states": txt,
        "encoder_hidden_states_mask": None if mask.all() else mask,
        "timestep": sigma,
        "img_shapes": [SHAPE] * len(lengths),
        "return_dict": False,
    }


def close(ours, expected, atol):
    torch.testing.assert_close(ours, expected, rtol=0, atol=atol)


@torch.no_grad()
@pytest.mark.parametrize("extra", [0, 4], ids=["union", "inpainting"])
@pytest.mark.parametrize("lengths", [[6], [6, 2]], ids=["one", "padded"])
def test_residuals(extra, lengths):
    reference, ours = make_pair(extra=extra)
    img, txt, control, sigma = inputs(lengths, extra)
    expected = reference(controlnet_cond=control, **for_reference(img, txt, sigma, lengths))
    found = ours(img, txt, control, ours.modulate(sigma), shape=SHAPE, lengths=lengths)
    assert len(found) == len(expected) == 2
    for mine, theirs in zip(found, expected, strict=True):
        close(mine, theirs, 1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("blocks", "num_layers"), [(2, 2), (4, 2), (5, 2), (3, 1), (5, 3)])
def test_the_denoiser_with_residuals(blocks, num_layers):
    """Every residual serves its own part of the blocks, rounded up as the reference does."""
    config = {**parts.DIT, "num_layers": blocks}
    peer = parts.randomize(diffusers.QwenImageTransformer2DModel(**config), 31)
    model = MMDiT(MMDiTConfig(**config)).eval()
    model.load_state_dict(peer.state_dict())
    img, txt, _, sigma = inputs([6, 3])
    samples = [draw(2, 15, 48, seed=index) for index in range(num_layers)]
    expected = peer(controlnet_block_samples=samples, **for_reference(img, txt, sigma, [6, 3]))[0]
    table, residual = model.modulate(sigma), Residuals(samples, blocks)
    found = model(img, txt, table, shapes=[SHAPE], lengths=[6, 3], residual=residual)
    close(found, expected, 1e-4)
    assert (found - model(img, txt, table, shapes=[SHAPE], lengths=[6, 3])).abs().max() > 0.1


@torch.no_grad()
def test_several_controls_of_one_net_add_up():
    reference, ours = make_pair()
    several = diffusers.QwenImageMultiControlNetModel([reference])
    img, txt, first, sigma = inputs([6])
    second = draw(1, 15, 64, seed=9)
    expected = several(
        controlnet_cond=[first, second],
        conditioning_scale=[0.7, 1.5],
        **for_reference(img, txt, sigma, [6]),
    )
    table = ours.modulate(sigma)
    one, two = (ours(img, txt, control, table, shape=SHAPE) for control in (first, second))
    for theirs, a, b in zip(expected, one, two, strict=True):
        close(0.7 * a + 1.5 * b, theirs, 1e-5)


@torch.no_grad()
def test_the_modulation_table_is_the_modulation_of_each_level():
    _, ours = make_pair()
    sigmas = torch.linspace(1, 0.02, 19)
    table = ours.modulation_table(sigmas)
    for step in (0, 7, 18):
        for row, alone in zip(table.at(step), ours.modulate(sigmas[step : step + 1]), strict=True):
            close(row, alone, 1e-5)


def test_the_released_sizes():
    with torch.device("meta"):
        union = ControlNet(ControlNetConfig())
        inpainting = ControlNet(ControlNetConfig(num_layers=6, extra_condition_channels=4))
    sizes = [sum(p.numel() for p in net.parameters()) for net in (union, inpainting)]
    assert [round(2 * size / 1e9, 2) for size in sizes] == [3.54, 4.23]  # GB in bf16, as the cards say
