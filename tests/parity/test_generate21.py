"""Whole pictures of 2.1 from folders: the reference's pipeline and ours, same seed and settings, fp32."""

import dataclasses

import numpy as np
import pytest
import torch

import danqing
from danqing.conditioning.given import open_transparent
from danqing.conditioning.pictures import save_processor
from danqing.pipelines import draw as drawing
from danqing.pipelines.edit import EditRequest, edit
from danqing.pipelines.generate import GenerateRequest, generate
from danqing.weights.layouts import Folder, write_folder
from tests.parity import peer_parts as parts
from tests.parity.peer_cases import picture
from tests.tiny import with_batch

diffusers = pytest.importorskip("diffusers")
peer_21 = pytest.importorskip("tests.parity.peer_21")

SIDE = 128  # root of the area of references
SHORT, LONG = "a red apple", "a very long description of two blue dogs and one small green cat, 猫 {}"
PICTURES = [picture(90, 60, 0, "RGBA"), picture(50, 80, 1), picture(64, 64, 2, "RGBA")]
"""Of several sizes; the first and the last are transparent in places."""


@pytest.fixture(scope="module")
def sides(peers, tmp_path_factory):
    """The reference's pipeline, and our model over the folder that it wrote."""
    return open_both(peers, tmp_path_factory.mktemp("released") / "Qwen-Image-2.1")


@pytest.fixture(scope="module")
def turbo(peers, tmp_path_factory):
    return open_both(peers, tmp_path_factory.mktemp("released") / "Qwen-Image-2.1-Turbo", turbo=True)


def open_both(peers, folder, *, turbo=False):
    pipeline = peer_21.pipeline(peers.tokenizer, turbo=turbo)
    model = danqing.load(peer_21.write_checkpoint(folder, pipeline), device="cpu", precision="fp32")
    small = dataclasses.replace(model.info, min_side=32, reference_area=SIDE * SIDE)
    return pipeline, danqing.Model(dataclasses.replace(model.components, info=small))


def reference(pipeline, prompt, *, seed=7, guidance=1.0, steps=3, size=None, **call):
    """Return the last latents and the picture of one run of the reference."""
    last = {}

    def at_step(_pipeline, _index, _t, kwargs):
        last.update(kwargs)
        return {}

    if size is not None:
        call.update(width=size[0], height=size[1])
    if guidance > 1:
        call.update(negative_prompt=" ", true_cfg_scale=guidance)
    image = pipeline(
        prompt=prompt,
        num_inference_steps=steps,
        output_resolution=SIDE,
        generator=torch.Generator().manual_seed(seed),
        callback_on_step_end=at_step,
        **call,
    ).images[0]
    return last["latents"], image


@pytest.fixture
def watched(monkeypatch):
    """The last latents of every picture we draw, in order."""
    seen, decode = [], drawing.decode

    def spy(components, tokens, height):
        seen.extend(tokens.split(1))
        return decode(components, tokens, height)

    monkeypatch.setattr(drawing, "decode", spy)
    return seen


def assert_same(latents, image, expected):
    torch.testing.assert_close(latents, expected[0], rtol=0, atol=1e-4)
    assert image.mode == expected[1].mode == "RGBA"
    ours, theirs = (np.asarray(one).astype(int) for one in (image, expected[1]))
    assert ours.shape == theirs.shape
    assert theirs[..., :3].std() > 5  # a flat picture would prove nothing
    assert theirs[..., 3].std() > 5
    assert np.abs(ours - theirs).max() <= 1


def test_the_folder_says_how_it_wants_to_be_used(sides, turbo):
    for (_, model), name, steps in ((sides, "Qwen-Image-2.1", 40), (turbo, "Qwen-Image-2.1-Turbo", 8)):
        info = model.info
        assert (info.name, info.steps, info.guidance, info.size) == (name, steps, 1.0, (2048, 2048))
        assert info.tasks == ("generate", "edit", "describe", "enhance")
        assert not info.commercial
        request = GenerateRequest(prompt="x").resolved(info)
        assert (request.steps, request.guidance) == (steps, 1.0)


@pytest.mark.parametrize("guidance", [1.0, 3.0], ids=["unguided", "guided"])
@pytest.mark.parametrize("size", [(96, 64), (64, 160)])
def test_text_to_picture(sides, watched, size, guidance):
    pipeline, model = sides
    prompt = LONG.replace("{}", "")  # the reference takes braces for places to fill
    expected = reference(pipeline, prompt, size=size, guidance=guidance)
    ours = model.generate(prompt, seed=7, size=size, steps=3, guidance=guidance)
    assert_same(watched[0], ours, expected)


@pytest.mark.parametrize("guidance", [1.0, 3.0], ids=["unguided", "guided"])
@pytest.mark.parametrize(("count", "size"), [(1, None), (2, (96, 64)), (3, None)])
def test_references_of_different_sizes(sides, watched, count, size, guidance):
    pipeline, model = sides
    expected = reference(pipeline, SHORT, image=PICTURES[:count], size=size, guidance=guidance)
    ours = model.edit(PICTURES[:count], SHORT, seed=7, steps=3, guidance=guidance, size=size)
    assert_same(watched[0], ours, expected)


def test_ten_references(sides, watched):
    pipeline, model = sides
    pictures = [PICTURES[k % 3] for k in range(10)]
    expected = reference(pipeline, SHORT, image=pictures, size=(64, 64), steps=2)
    ours = model.edit(pictures, SHORT, seed=7, steps=2, size=(64, 64))
    assert_same(watched[0], ours, expected)


def test_turbo_has_its_own_levels(turbo, watched):
    pipeline, model = turbo
    expected = reference(pipeline, SHORT, size=(96, 64))
    ours = model.generate(SHORT, seed=7, size=(96, 64))
    assert_same(watched[0], ours, expected)
    expected = reference(pipeline, SHORT, image=PICTURES[:1])
    ours = model.edit(PICTURES[0], SHORT, seed=7)
    assert_same(watched[1], ours, expected)
    with pytest.raises(danqing.RequestError, match="Turbo was made for 8, found 4; leave steps out"):
        model.generate(SHORT, steps=4)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_prompts_of_different_length_together_equal_the_reference_alone(sides, watched, batch_size):
    """In the reference a padded prompt is another picture."""
    pipeline, model = sides
    texts = [SHORT, LONG.replace("{}", ""), "x"]
    requests = [
        GenerateRequest(prompt=text, seed=10 * row, steps=2, guidance=3.0, size=(64, 64), count=1 + row % 2)
        for row, text in enumerate(texts)
    ]
    loaded = with_batch(model, batch_size).components
    drawn = [one for progress in generate(loaded, requests) for one in progress.drawn]
    assert [one.request.seed for one in drawn] == [0, 10, 11, 20]
    for latents, one in zip(watched, drawn, strict=True):
        seed = one.request.seed
        expected = reference(pipeline, one.request.prompt, seed=seed, steps=2, guidance=3.0, size=(64, 64))
        assert_same(latents, one.image, expected)


def test_edits_together_equal_the_reference_alone(sides, watched):
    pipeline, model = sides
    given = tuple(map(open_transparent, PICTURES[:2]))
    turned = given[::-1]
    requests = [
        EditRequest(pictures=pictures, prompt=text, seed=seed, steps=2, size=(64, 64))
        for seed, (pictures, text) in enumerate(
            [(given, SHORT), (given, "make it green, all of it"), (turned, "x")]
        )
    ]
    loaded = with_batch(model, 3).components
    drawn = [one for progress in edit(loaded, requests) for one in progress.drawn]
    for seed, (one, latents) in enumerate(zip(drawn, watched, strict=True)):
        pictures = [picture.image for picture in requests[seed].pictures]
        expected = reference(
            pipeline, requests[seed].prompt, image=pictures, seed=seed, steps=2, size=(64, 64)
        )
        assert_same(latents, one.image, expected)


def test_a_folder_we_write_opens_in_the_reference(peers, turbo, tmp_path, watched):
    from transformers import Qwen3VLForConditionalGeneration

    _, model = turbo
    ours = model.components
    write_folder(
        tmp_path,
        transformer=(ours.transformer.config, ours.transformer.state_dict()),
        vae=(ours.vae.config, ours.vae.state_dict()),
        text_encoder=(ours.vlm.config, ours.vlm.state_dict()),
        schedule=ours.schedule,
    )
    save_processor(tmp_path / "processor", ours.tokenizer, ours.vlm.config.vision, ours.picture_limits)
    given = {
        "transformer": diffusers.QwenImage21Transformer2DModel,
        "vae": diffusers.AutoencoderKLQwenImage21,
        "text_encoder": Qwen3VLForConditionalGeneration,
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler,
    }
    loaded = {name: kind.from_pretrained(tmp_path / name) for name, kind in given.items()}
    pipeline = diffusers.QwenImage21Pipeline(
        **loaded,
        processor=parts.still_processor_3(peers.tokenizer),
        sample_sigmas=diffusers.QwenImage21Pipeline.load_config(tmp_path)["sample_sigmas"],
    )
    pipeline.set_progress_bar_config(disable=True)
    expected = reference(pipeline, SHORT, image=PICTURES[:2])
    ours = model.edit(PICTURES[:2], SHORT, seed=7)
    assert_same(watched[0], ours, expected)
    assert Folder(tmp_path).schedule() == model.components.schedule
