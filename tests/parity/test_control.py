"""Steered pictures: the reference's ControlNet pipelines and ours over one checkpoint, same seed, fp32."""

import dataclasses
from unittest import mock

import numpy as np
import pytest
import torch

import danqing
from danqing.conditioning.given import open_mask, open_picture
from danqing.pipelines import draw as drawing
from danqing.pipelines.control import Control
from danqing.pipelines.generate import GenerateRequest, generate
from tests.parity.peer_cases import hole, picture
from tests.tiny import with_batch

diffusers = pytest.importorskip("diffusers")

SIZE = (96, 64)
SHORT, LONG = "a red cat on a mat", "a very long description of two blue dogs and one small green cat, 猫"
FIRST, SECOND = picture(*SIZE, 1), picture(130, 70, 2)


def sides(peers, name, pipeline):
    """Return the reference pipeline and our model with one ControlNet."""
    folder, net = peers.checkpoint("qwen-image"), peers.checkpoint(name)
    controlnet = diffusers.QwenImageControlNetModel.from_pretrained(net)
    reference = getattr(diffusers, pipeline).from_pretrained(folder, controlnet=controlnet)
    reference.set_progress_bar_config(disable=True)
    model = danqing.load(folder, controlnet=net, device="cpu", precision="fp32")
    small = dataclasses.replace(model.info, min_side=32, size=SIZE)
    return reference, danqing.Model(dataclasses.replace(model.components, info=small))


@pytest.fixture(scope="module")
def union(peers):
    return sides(peers, "controlnet", "QwenImageControlNetPipeline")


@pytest.fixture(scope="module")
def inpainting(peers):
    return sides(peers, "controlnet-inpaint", "QwenImageControlNetInpaintPipeline")


def draw_reference(pipeline, prompts, *, seeds, steps=4, guidance=4.0, size=SIZE, **call):
    last = {}

    def at_step(_pipeline, _index, _t, kwargs):
        last.update(kwargs)
        return {}

    images = pipeline(
        prompt=prompts,
        negative_prompt=[" "] * len(prompts),
        true_cfg_scale=guidance,
        width=size[0],
        height=size[1],
        num_inference_steps=steps,
        generator=seeds and [torch.Generator().manual_seed(seed) for seed in seeds],
        callback_on_step_end=at_step,
        **call,
    ).images
    return last["latents"], images


def draw(model, prompts, controls, *, seeds, steps=4, guidance=4.0, size=SIZE):
    requests = [
        GenerateRequest(
            prompt=prompt, size=size, seed=seed, steps=steps, guidance=guidance, controls=tuple(controls)
        )
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    latents, decode = [], drawing.decode

    def spy(components, tokens, height):
        latents.append(tokens)
        return decode(components, tokens, height)

    with mock.patch.object(drawing, "decode", spy):
        images = [drawn.image for one in generate(model.components, requests) for drawn in one.drawn]
    return torch.cat(latents), images


def control(image, **options):
    return Control(picture=open_picture(image), **options)


def assert_same(found, expected):
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=1e-4)
    assert len(found[1]) == len(expected[1])
    for mine, theirs in zip(found[1], expected[1], strict=True):
        a, b = np.asarray(mine).astype(int), np.asarray(theirs).astype(int)
        assert a.shape == b.shape
        assert b.std() > 5  # a flat picture would prove nothing
        assert np.abs(a - b).max() <= 1


@pytest.mark.parametrize("guidance", [1.0, 4.0], ids=["unguided", "guided"])
@pytest.mark.parametrize("scale", [0.7, 1.5])
def test_one_control(union, guidance, scale):
    pipeline, model = union
    same = {"seeds": [7], "guidance": guidance}
    expected = draw_reference(
        pipeline, [LONG], control_image=FIRST, controlnet_conditioning_scale=scale, **same
    )
    found = draw(model, [LONG], [control(FIRST, scale=scale)], **same)
    assert_same(found, expected)
    free, _ = draw(model, [LONG], [], **same)
    assert (free - found[0]).abs().max() > 0.1


@pytest.mark.parametrize(("start", "end"), [(0.0, 0.5), (0.25, 1.0), (0.3, 0.8), (0.26, 0.3)])
def test_a_part_of_the_schedule(union, start, end):
    pipeline, model = union
    window = {"control_guidance_start": start, "control_guidance_end": end}
    expected = draw_reference(pipeline, [SHORT], seeds=[1], control_image=SECOND, **window)
    assert_same(draw(model, [SHORT], [control(SECOND, start=start, end=end)], seeds=[1]), expected)


def test_several_controls(union):
    pipeline, model = union
    several = diffusers.QwenImageMultiControlNetModel([pipeline.controlnet])
    both = diffusers.QwenImageControlNetPipeline(**{**pipeline.components, "controlnet": several})
    both.set_progress_bar_config(disable=True)
    expected = draw_reference(
        both,
        [SHORT],
        seeds=[3],
        control_image=[FIRST, SECOND],
        controlnet_conditioning_scale=[0.5, 1.2],
        control_guidance_start=[0.0, 0.25],
        control_guidance_end=[0.75, 1.0],
    )
    controls = [control(FIRST, scale=0.5, end=0.75), control(SECOND, scale=1.2, start=0.25)]
    assert_same(draw(model, [SHORT], controls, seeds=[3]), expected)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_two_prompts_of_different_length(union, batch_size):
    pipeline, model = union
    same = {"seeds": [3, 5], "size": (64, 48)}
    expected = draw_reference(pipeline, [SHORT, LONG], control_image=FIRST, **same)
    found = draw(with_batch(model, batch_size), [SHORT, LONG], [control(FIRST)], **same)
    assert_same(found, expected)


@pytest.mark.parametrize("scale", [0.7, 1.0])
@pytest.mark.parametrize("size", [SIZE, (64, 80)])
def test_inpainting(inpainting, scale, size):
    """The reference samples its picture from the global generator; here that is the picture's own as well."""
    pipeline, model = inpainting
    mask = hole(110, 70).rotate(10)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        expected = draw_reference(
            pipeline,
            [SHORT],
            seeds=None,
            size=size,
            control_image=SECOND,
            control_mask=mask,
            controlnet_conditioning_scale=scale,
        )
    found = draw(model, [SHORT], [control(SECOND, mask=open_mask(mask), scale=scale)], seeds=[7], size=size)
    assert_same(found, expected)
