"""Whole pictures: the reference's pipeline and ours over one checkpoint, same seed and settings, fp32."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

import danqing
from danqing.pipelines.generate import GenerateRequest, generate
from danqing.weights.layouts import Folder, write_folder
from tests.tiny import with_batch

diffusers = pytest.importorskip("diffusers")

SHORT, LONG = "a red apple", "a very long description of two blue dogs and one small green cat, 猫"


def open_both(folder, **info):
    """Return the reference pipeline and our model over one folder."""
    pipeline = diffusers.QwenImagePipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    model = danqing.load(folder, device="cpu", precision="fp32")
    changed = dataclasses.replace(model.info, min_side=32, **info)
    return pipeline, danqing.Model(dataclasses.replace(model.components, info=changed))


@pytest.fixture(scope="module")
def tiny_pair(peers):
    return open_both(peers.checkpoint("qwen-image"))


@pytest.fixture(scope="module", params=["peers", "peers_qwen"], ids=["tiny", "released"])
def pair(request):
    """Both sides with the tiny and with the released vocabulary."""
    return open_both(request.getfixturevalue(request.param).checkpoint("qwen-image"))


def draw_reference(pipeline, prompts, *, size, seeds, steps=3, guidance=4.0, **options):
    width, height = size
    return pipeline(
        prompt=prompts,
        negative_prompt=[" "] * len(prompts) if guidance > 1 else None,
        true_cfg_scale=guidance,
        width=width,
        height=height,
        num_inference_steps=steps,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        **options,
    ).images


def draw(model, prompts, *, size, seeds, steps=3, guidance=4.0):
    requests = [
        GenerateRequest(prompt=prompt, size=size, seed=seed, steps=steps, guidance=guidance)
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    return [drawn.image for progress in generate(model.components, requests) for drawn in progress.drawn]


def assert_same(ours, expected):
    assert len(ours) == len(expected)
    for mine, theirs in zip(ours, expected, strict=True):
        a, b = np.asarray(mine).astype(int), np.asarray(theirs).astype(int)
        assert a.shape == b.shape
        assert b.std() > 5  # a flat picture would prove nothing
        assert np.abs(a - b).max() <= 1


@pytest.mark.parametrize("guidance", [1.0, 4.0], ids=["unguided", "guided"])
def test_one_picture(pair, guidance):
    pipeline, model = pair
    same = {"size": (96, 64), "seeds": [7], "guidance": guidance}
    assert_same(draw(model, [LONG], **same), draw_reference(pipeline, [LONG], **same))


@pytest.mark.parametrize("size", [(64, 64), (64, 96), (112, 48)])
def test_sizes(tiny_pair, size):
    pipeline, model = tiny_pair
    same = {"size": size, "seeds": [0], "steps": 5}
    assert_same(draw(model, [SHORT], **same), draw_reference(pipeline, [SHORT], **same))


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("guidance", [1.0, 4.0], ids=["unguided", "guided"])
def test_two_prompts_of_different_length(tiny_pair, batch_size, guidance):
    pipeline, model = tiny_pair
    same = {"size": (64, 48), "seeds": [3, 2**31], "guidance": guidance}
    ours = draw(with_batch(model, batch_size), [SHORT, LONG], **same)
    assert_same(ours, draw_reference(pipeline, [SHORT, LONG], **same))


@pytest.mark.parametrize(("max_length", "tokens"), [(1024, 1000), (512, 512)])
def test_a_long_prompt(peers, max_length, tokens):
    pipeline, model = open_both(peers.checkpoint("qwen-image"), max_length=max_length)
    prompt = "Describe the shape of the table " * 111
    found = pipeline.encode_prompt([prompt], max_sequence_length=max_length)[0].shape[1]
    assert tokens * 0.9 <= found <= max_length
    same = {"size": (48, 48), "seeds": [1], "steps": 2}
    expected = draw_reference(pipeline, [prompt], **same, max_sequence_length=max_length)
    assert_same(draw(model, [prompt], **same), expected)


def test_the_same_through_the_front_door(tiny_pair):
    pipeline, model = tiny_pair
    same = {"size": (64, 48), "steps": 3, "guidance": 2.5}
    ours = model.generate(SHORT, seed=11, count=2, negative_prompt=" ", **same)
    assert_same(ours, draw_reference(pipeline, [SHORT, SHORT], seeds=[11, 12], **same))


@torch.no_grad()
def test_heun(tiny_pair):
    """Karras et al. (2022), algorithm 1, written out over the reference's transformer and VAE."""
    pipeline, model = tiny_pair
    ours = model.generate(LONG, seed=5, size=(64, 48), steps=4, guidance=3.0, solver="heun")
    cond, uncond = (pipeline.encode_prompt([text], max_sequence_length=1024)[0] for text in (LONG, " "))
    sigmas = reference_sigmas(pipeline, 4, 12)

    def velocity(latents, sigma):
        shared = {"hidden_states": latents, "timestep": sigma.view(1), "img_shapes": [[(1, 3, 4)]]}
        with_text = pipeline.transformer(**shared, encoder_hidden_states=cond, return_dict=False)[0]
        without = pipeline.transformer(**shared, encoder_hidden_states=uncond, return_dict=False)[0]
        mixed = without + 3.0 * (with_text - without)
        return mixed * with_text.norm(dim=-1, keepdim=True) / mixed.norm(dim=-1, keepdim=True)

    generator = torch.Generator().manual_seed(5)
    latents = pipeline.prepare_latents(1, 16, 48, 64, torch.float32, torch.device("cpu"), generator)
    for here, there in itertools.pairwise(sigmas):
        first = velocity(latents, here)
        guess = latents + (there - here) * first
        latents = latents + (there - here) * (first + velocity(guess, there)) / 2 if there > 0 else guess
    latents = pipeline._unpack_latents(latents, 48, 64, 8)
    mean = torch.tensor(pipeline.vae.config.latents_mean).view(1, -1, 1, 1, 1)
    std = torch.tensor(pipeline.vae.config.latents_std).view(1, -1, 1, 1, 1)
    decoded = pipeline.vae.decode(latents * std + mean).sample[:, :, 0]
    assert_same([ours], pipeline.image_processor.postprocess(decoded))


def reference_sigmas(pipeline, steps, num_tokens):
    from diffusers.pipelines.qwenimage.pipeline_qwenimage import calculate_shift

    scheduler = pipeline.scheduler
    mu = calculate_shift(num_tokens, 256, 8192, 0.5, 0.9)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps), mu=mu)
    return scheduler.sigmas.clone()


def test_a_folder_we_write_opens_in_the_reference(peers, tmp_path):
    source = peers.checkpoint("qwen-image")
    _, model = open_both(source)
    ours = model.components
    folder = Folder(source)
    vlm = folder.vlm(ours.device, ours.dtype, vision=True, head=True)
    write_folder(
        tmp_path,
        transformer=(ours.transformer.config, ours.transformer.state_dict()),
        vae=(ours.vae.config, ours.vae.state_dict()),
        text_encoder=(vlm.config, vlm.state_dict()),
        schedule=ours.schedule,
    )
    ours.tokenizer.save(tmp_path / "tokenizer")
    pipeline, again = open_both(tmp_path)
    same = {"size": (64, 48), "seeds": [4]}
    first = draw(model, [SHORT], **same)
    assert np.array_equal(np.asarray(first[0]), np.asarray(draw(again, [SHORT], **same)[0]))
    assert_same(first, draw_reference(pipeline, [SHORT], **same))
