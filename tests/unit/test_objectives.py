"""What training minimises: batches by step, losses that fall, targets that say what is meant."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from torch.nn import functional as F

from danqing.conditioning.images import to_pixels
from danqing.conditioning.latents import pack
from danqing.conditioning.text import encode_prompts
from danqing.data.atlas import packaged_atlas
from danqing.data.cache import ExampleCache, Mixture, SceneEncoder
from danqing.data.pictures import PictureSource
from danqing.models.mmdit import MMDiT
from danqing.models.vae import VAE
from danqing.training.objectives.autoencoder import Autoencoding, convolution_flops, psnr
from danqing.training.objectives.flow import Flow
from danqing.weights.layouts import Folder
from tests.tiny import AUTOENCODER, TRANSFORMER, randomized

APPLE, DOG = "1F34E", "1F415"
UNKNOWN = -100


def same_batch(first, second):
    return all(
        torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
        for one, other in zip(first, second, strict=True)
    )


def learn(objective, model, batches):
    """Take one AdamW step a batch."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    for batch in batches:
        optimizer.zero_grad()
        objective.loss(model, batch)[0].backward()
        optimizer.step()


# the denoiser


@pytest.fixture(scope="module")
def cache(tiny, tiny_folder, tmp_path_factory):
    """One shard of eight scenes, for as long as these tests draw."""
    parts = tiny.components
    vlm = Folder(tiny_folder).vlm(parts.device, torch.float32, vision=True)
    encoder = SceneEncoder(atlas=packaged_atlas(), vae=parts.vae, vlm=vlm, tokenizer=parts.tokenizer, size=32)
    folder = tmp_path_factory.mktemp("examples")
    mixture = Mixture(languages={"en": 0.6, "zh": 0.3})
    return ExampleCache(encoder, folder, seed=0, mixture=mixture, shard_size=8, reuse=10_000)


@pytest.fixture(scope="module")
def editing(cache, tmp_path_factory):
    """One shard of eight tasks, about half of them edits."""
    mixture = Mixture(languages={"en": 0.6, "zh": 0.3}, edits=0.5)
    folder = tmp_path_factory.mktemp("edits")
    return ExampleCache(cache.encoder, folder, seed=0, mixture=mixture, shard_size=8, reuse=10_000)


def flow(cache, **options):
    return Flow(cache, **{"batch_size": 4, "seed": 0, "shift": lambda step: 3.0} | options)


def denoiser():
    return randomized(MMDiT(TRANSFORMER), 1).requires_grad_(True)


def test_flow_batches_depend_on_the_step_alone(cache):
    first, second = flow(cache), flow(cache)
    second.batch(5)
    assert same_batch(first.batch(3)[0], second.batch(3)[0])
    assert not same_batch(first.batch(3)[0], first.batch(4)[0])
    assert not same_batch(first.batch(3)[0], flow(cache, seed=1).batch(3)[0])


def test_a_flow_batch_holds_packed_scenes_with_text_padded_among_its_like(cache):
    parts = flow(cache, batch_size=11).batch(0)
    assert [len(part.tokens) for part in parts] == [3, 3, 3, 2]
    assert all(max(short.lengths) <= min(long.lengths) for short, long in pairwise(parts))
    for part in parts:
        count = len(part.lengths)
        assert part.references is None
        assert part.tokens.shape == part.noise.shape == (count, 4, 64)
        assert part.sigma.shape == (count,)
        assert ((part.sigma > 0) & (part.sigma < 1)).all()
        assert part.txt.shape == (count, max(part.lengths), 32)
        for row, length in rows([part]):
            assert row[:length].abs().sum(-1).gt(0).all()
            assert not row[length:].any()


def test_the_shift_is_that_of_the_step(cache):
    objective = flow(cache, shift=lambda step: 1e6 if step else 1e-6)
    assert objective.batch(0)[0].sigma.max() < 0.1
    assert objective.batch(1)[0].sigma.min() > 0.9


def test_edits_have_the_picture_they_start_from_as_a_second_frame(editing):
    parts = flow(editing, batch_size=16).batch(0)
    drawings = [part for part in parts if part.references is None]
    edits = parts[-1]
    assert parts[: len(drawings)] == drawings
    assert edits.references.shape == edits.tokens.shape
    assert sum(len(part.tokens) for part in parts) == 16
    stored = [editing.shard(0)[index] for index in range(8)]
    pairs = [(pack(e.latents[None]), pack(e.reference[None])) for e in stored if e.reference is not None]
    for pair in zip(edits.tokens.split(1), edits.references.split(1), strict=True):
        assert any(torch.equal(pair[0], one) and torch.equal(pair[1], other) for one, other in pairs)
    model = denoiser()
    _, numbers = flow(editing).loss(model, [*drawings, edits])
    other = edits._replace(references=edits.references + 1)
    _, changed = flow(editing).loss(model, [*drawings, other])
    assert numbers["drawing"] == changed["drawing"]
    assert numbers["editing"] != changed["editing"]


def test_dropped_prompts_are_the_empty_prompt(cache):
    parts = cache.encoder
    empty = encode_prompts(parts.vlm, parts.tokenizer, [" "]).txt[0]
    dropped = flow(cache, drop=1.0).batch(0)
    assert [length for _, length in rows(dropped)] == [len(empty)] * 4
    assert all(torch.equal(row, empty) for row, _ in rows(dropped))
    kept = flow(cache, drop=0.0).batch(0)
    assert not any(length == len(empty) and torch.equal(row[:length], empty) for row, length in rows(kept))
    many = flow(cache, batch_size=400, drop=0.25).batch(0)
    share = np.mean([length == len(empty) and torch.equal(row[:length], empty) for row, length in rows(many)])
    assert share == pytest.approx(0.25, abs=0.06)


def rows(parts):
    return [pair for part in parts for pair in zip(part.txt, part.lengths, strict=True)]


def test_the_flow_loss_falls(cache):
    objective, model = flow(cache), denoiser()
    measured = [objective.batch(step) for step in range(100, 104)]

    def error():
        with torch.no_grad():
            return sum(objective.loss(model, batch)[0].item() for batch in measured)

    before = error()
    learn(objective, model, [objective.batch(step) for step in range(30)])
    assert error() < 0.9 * before


def test_padding_is_not_read(cache):
    objective, model = flow(cache), denoiser()
    parts = objective.batch(0)
    padded = [part._replace(txt=F.pad(part.txt, (0, 0, 0, 5), value=7.0)) for part in parts]
    loss, numbers = objective.loss(model, padded)
    assert loss.item() == pytest.approx(objective.loss(model, parts)[0].item(), rel=1e-5)
    assert numbers == {"drawing": pytest.approx(loss.item())}


def test_the_loss_is_the_mean_over_pictures_whatever_their_parts(cache):
    objective, model = flow(cache, batch_size=5), denoiser()
    parts = objective.batch(0)
    alone = [objective.loss(model, [part])[0].item() * len(part.lengths) for part in parts]
    assert objective.loss(model, parts)[0].item() == pytest.approx(sum(alone) / 5)


def test_the_error_is_taken_at_fixed_noise_levels(cache, tmp_path):
    drawn = []
    objective = flow(cache, sample=lambda model, path: drawn.append(path))
    model = denoiser().eval()
    with torch.no_grad():
        first = objective.evaluate(model, tmp_path, 7)
        again = objective.evaluate(model, tmp_path, 8)
        model.proj_out.weight.zero_()
        model.proj_out.bias.zero_()
        still = objective.evaluate(model, tmp_path, 9)
    assert first == again
    assert list(first) == ["error_0.3", "error_0.6", "error_0.9", "error_1.0", "prompt_0.9"]
    assert [path.name for path in drawn] == [f"sheet-000000{step}.png" for step in (7, 8, 9)]
    # without any velocity the clean estimate is the noised picture: sigma times (noise - latents) off
    for level in (0.3, 0.6, 0.9):
        assert still[f"error_{level}"] == pytest.approx(level**2 * still["error_1.0"], rel=1e-4)


def test_another_process_evaluates_on_the_same_scenes(cache, tmp_path):
    model = denoiser().eval()
    with torch.no_grad():
        first, second = (flow(cache, seed=seed).evaluate(model, tmp_path, 0) for seed in (0, 1))
    assert first == second


def test_flow_operations_are_proportional_to_the_batch(cache):
    objective, model = flow(cache), denoiser()
    one, *_ = objective.batch(0)
    two = one._replace(tokens=torch.cat([one.tokens, one.tokens]))
    assert objective.flops(model, [two]) == 2 * objective.flops(model, [one]) > 0
    edits = one._replace(references=one.tokens)
    longer = one._replace(tokens=torch.cat([one.tokens, one.tokens], dim=1))
    assert objective.flops(model, [edits]) == objective.flops(model, [longer])


# the autoencoder


def autoencoding(**options):
    source = PictureSource(packaged_atlas(), size=24)
    return Autoencoding(source, AUTOENCODER, **{"batch_size": 3, "crop": 16, "seed": 0} | options)


def autoencoder():
    return randomized(VAE(AUTOENCODER), 2).requires_grad_(True)


def test_crops_are_inside_their_pictures():
    objective = autoencoding(batch_size=6)
    crops = ((objective.batch(3).pixels + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    pictures = objective.source.pictures(np.random.default_rng([0, 3]), 6)
    corners = set()
    for picture, crop in zip(pictures, crops, strict=True):
        windows = sliding_window_view(picture, (16, 16, 3))[:, :, 0]
        found = np.argwhere((windows == crop).all((2, 3, 4)))
        assert len(found)
        corners.add(tuple(found[0]))
    assert len(corners) > 1


def test_a_crop_can_be_the_whole_picture():
    objective = autoencoding(crop=24)
    pictures = objective.source.pictures(np.random.default_rng([0, 1]), 3)
    assert torch.equal(objective.batch(1).pixels, to_pixels(np.stack(pictures)))
    assert objective.batch(1).noise.shape == (3, 16, 3, 3)


def test_autoencoder_batches_depend_on_the_step_alone():
    first, second = autoencoding(), autoencoding()
    second.batch(5)
    assert same_batch(first.batch(3), second.batch(3))
    assert not same_batch(first.batch(3), first.batch(4))
    assert not same_batch(first.batch(3), autoencoding(seed=1).batch(3))


def test_the_autoencoder_loss_falls():
    objective, model = autoencoding(), autoencoder()
    batch = objective.batch(0)
    before = objective.loss(model, batch)[0].item()
    learn(objective, model, [batch] * 15)
    assert objective.loss(model, batch)[0].item() < 0.9 * before


def test_the_weight_of_the_divergence():
    model = autoencoder()
    batch = autoencoding().batch(0)
    with torch.no_grad():
        free, numbers = autoencoding(kl_weight=0.0).loss(model, batch)
        weighted, _ = autoencoding(kl_weight=2.0).loss(model, batch)
    assert numbers["kl"] > 0
    assert (weighted - free).item() == pytest.approx(2 * numbers["kl"], rel=1e-3)


@pytest.mark.parametrize(("squared_error", "expected"), [(4.0, 0.0), (0.04, 20.0), (4e-4, 40.0)])
def test_psnr(squared_error, expected):
    assert psnr(torch.tensor(squared_error)) == pytest.approx(expected)


def test_evaluation_writes_a_sheet_of_held_out_scenes(tmp_path):
    source = PictureSource(packaged_atlas(), size=16)
    objective = Autoencoding(source, AUTOENCODER, batch_size=1, crop=16, seed=0)
    model = autoencoder().eval()
    with torch.no_grad():
        numbers = objective.evaluate(model, tmp_path, 12)
        pixels = to_pixels(np.stack(source.held_out(64)))
        errors = (model.decode(model.encode(pixels)) - pixels).square().mean((1, 2, 3))
    assert numbers == {"held_out_psnr": pytest.approx(np.mean([psnr(error) for error in errors]), rel=1e-3)}
    with Image.open(tmp_path / "sheet-0000012.png") as page:
        assert page.size == (8 * 18 - 2, 4 * 18 - 2)
        first = np.asarray(page)[:16, :16]
    assert np.array_equal(first, source.held_out(1)[0])


def test_autoencoder_operations_grow_with_the_area_and_the_batch():
    model = autoencoder()
    assert convolution_flops(model, 32) == 4 * convolution_flops(model, 16) > 0
    wide = replace(AUTOENCODER, base_dim=8)
    assert convolution_flops(VAE(wide), 16) > 2 * convolution_flops(model, 16)
    one, three = autoencoding(batch_size=1), autoencoding(batch_size=3)
    assert one.flops(model, one.batch(0)) == 3 * convolution_flops(model, 16)
    assert three.flops(model, three.batch(0)) == 3 * one.flops(model, one.batch(0))
    assert not any(module._forward_hooks for module in model.modules())
