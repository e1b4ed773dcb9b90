"""Pictures as input: the reference's pipelines and ours over one checkpoint, same seed, fp32."""

import dataclasses
import json
from functools import cache

import numpy as np
import pytest
import torch

import danqing
from danqing.conditioning.given import open_picture
from danqing.model import find_checkpoint
from danqing.pipelines import draw as drawing
from danqing.pipelines.edit import EditRequest, edit
from danqing.weights.layouts import write_released_copy
from tests.parity.peer_cases import hole, picture
from tests.tiny import with_batch

diffusers = pytest.importorskip("diffusers")
peer_edit = pytest.importorskip("tests.parity.peer_edit")

SMALL = (256 * 256, 96 * 96)  # pixels of a picture for the autoencoder and for the conditioner
RELEASED = (1024 * 1024, 384 * 384)
SHORT, LONG = "make it green", "put the small red cat of the first picture on the mat of the second, 猫"
SIZES = [(83, 61), (64, 96), (120, 40)]
PICTURES = [picture(*size, seed) for seed, size in enumerate(SIZES)]
PLUS = "qwen-image-edit-2509", "qwen-image-edit-2511"


@pytest.fixture(scope="module")
def sides(peers, tmp_path_factory):
    """Both sides of an edit checkpoint: the reference's components, and our model."""

    @cache
    def make(name, areas=SMALL):
        found = peer_edit.components(peers, name)
        folder = tmp_path_factory.mktemp("edit") / name
        model = danqing.load(peer_edit.write_checkpoint(folder, name, found), device="cpu", precision="fp32")
        return found, with_areas(model, areas)

    return make


def with_areas(model, areas):
    info = model.info
    vision = areas[0] if info.edit_template == "edit" else areas[1]
    info = dataclasses.replace(info, min_side=32, reference_area=areas[0], vision_area=vision)
    return danqing.Model(dataclasses.replace(model.components, info=info))


def reference(pipeline, *, seed=0, steps=3, guidance=4.0, size=None, areas=SMALL, **call):
    """Return the last latents and the picture of one run of a reference pipeline."""
    last = {}

    def at_step(_pipeline, _index, _t, kwargs):
        last.update(kwargs)
        return {}

    if size is not None:
        call.update(width=size[0], height=size[1])
    with peer_edit.areas(*areas):
        image = pipeline(
            **call,
            negative_prompt=" ",
            true_cfg_scale=guidance,
            num_inference_steps=steps,
            generator=torch.Generator().manual_seed(seed),
            callback_on_step_end=at_step,
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
    ours, theirs = (np.asarray(one).astype(int) for one in (image, expected[1]))
    assert ours.shape == theirs.shape
    assert theirs.std() > 5  # a flat picture would prove nothing
    assert np.abs(ours - theirs).max() <= 1


@pytest.mark.parametrize("guidance", [1.0, 4.0], ids=["unguided", "guided"])
@pytest.mark.parametrize("size", [None, (64, 96)])
def test_edit(sides, watched, size, guidance):
    found, model = sides("qwen-image-edit")
    expected = reference(
        peer_edit.pipeline("QwenImageEditPipeline", found),
        image=PICTURES[0],
        prompt=LONG,
        size=size,
        guidance=guidance,
    )
    ours = model.edit(PICTURES[0], LONG, seed=0, steps=3, guidance=guidance, size=size)
    assert ours.size == (size or (288, 224))
    assert_same(watched[0], ours, expected)


@pytest.mark.parametrize("name", PLUS)
@pytest.mark.parametrize(("count", "size"), [(1, None), (2, (48, 112)), (3, None)])
def test_edit_with_several_pictures(sides, watched, name, count, size):
    found, model = sides(name)
    pipeline = peer_edit.pipeline("QwenImageEditPlusPipeline", found)
    expected = reference(pipeline, image=PICTURES[:count], prompt=SHORT, size=size, seed=5)
    assert model.components.transformer.config.zero_cond_t is (name == PLUS[1])
    ours = model.edit(PICTURES[:count], SHORT, seed=5, steps=3, guidance=4.0, size=size)
    assert_same(watched[0], ours, expected)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_instructions_of_different_length_together_equal_the_reference_alone(sides, watched, batch_size):
    """The reference refuses more than one instruction."""
    found, model = sides(PLUS[1])
    pipeline = peer_edit.pipeline("QwenImageEditPlusPipeline", found)
    texts = [SHORT, LONG, "x"]
    given = tuple(map(open_picture, PICTURES[:2]))
    requests = [
        EditRequest(pictures=given, prompt=text, seed=seed, steps=2, guidance=4.0, size=(64, 64))
        for seed, text in enumerate(texts)
    ]
    parts = with_batch(model, batch_size).components
    drawn = [one for progress in edit(parts, requests) for one in progress.drawn]
    assert [one.index for one in drawn] == [0, 1, 2]
    for seed, one in enumerate(drawn):
        expected = reference(
            pipeline, image=PICTURES[:2], prompt=texts[seed], seed=seed, steps=2, size=(64, 64)
        )
        assert_same(watched[seed], one.image, expected)


@pytest.fixture(scope="module")
def plain(peers):
    folder = peers.checkpoint("qwen-image")
    model = danqing.load(folder, device="cpu", precision="fp32")
    info = dataclasses.replace(model.info, min_side=32)
    return folder, danqing.Model(dataclasses.replace(model.components, info=info))


def opened(kind, folder):
    pipeline = getattr(diffusers, kind).from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize(("steps", "strength"), [(5, 0.6), (5, 0.5), (3, 0.1), (4, 1.0)])
def test_picture_to_picture(plain, watched, steps, strength):
    folder, model = plain
    same = {"image": PICTURES[0], "prompt": LONG, "strength": strength}
    pipeline = opened("QwenImageImg2ImgPipeline", folder)
    expected = reference(pipeline, **same, steps=steps, size=(96, 64), seed=3)
    same.pop("prompt")
    ours = model.generate(LONG, **same, steps=steps, size=(96, 64), seed=3, guidance=4.0)
    assert_same(watched[0], ours, expected)


@pytest.mark.parametrize("guidance", [1.0, 4.0], ids=["unguided", "guided"])
@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_inpaint(plain, watched, strength, guidance):
    folder, model = plain
    mask = hole(83, 61)
    pipeline = opened("QwenImageInpaintPipeline", folder)
    expected = reference(
        pipeline,
        image=PICTURES[0],
        mask_image=mask,
        prompt=SHORT,
        strength=strength,
        steps=5,
        guidance=guidance,
        size=(112, 80),
        seed=3,
    )
    ours = model.generate(
        SHORT,
        image=PICTURES[0],
        mask=mask,
        strength=strength,
        steps=5,
        guidance=guidance,
        size=(112, 80),
        seed=3,
    )
    assert_same(watched[0], ours, expected)


def test_outpaint(plain, watched):
    """A padded picture, and a mask that is white over the padding."""
    folder, model = plain
    canvas, mask = picture(128, 64, 7), hole(64, 32).resize((128, 64)).point(lambda grey: 255 - grey)
    pipeline = opened("QwenImageInpaintPipeline", folder)
    same = {"image": canvas, "strength": 1.0, "steps": 3, "size": (128, 64)}
    expected = reference(pipeline, prompt=SHORT, mask_image=mask, **same)
    ours = model.generate(SHORT, mask=mask, seed=0, guidance=4.0, **same)
    assert_same(watched[0], ours, expected)


@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_edit_inpaint(sides, watched, strength):
    found, model = sides("qwen-image-edit")
    mask = hole(83, 61)
    pipeline = peer_edit.pipeline("QwenImageEditInpaintPipeline", found)
    expected = reference(
        pipeline, image=PICTURES[0], mask_image=mask, prompt=LONG, strength=strength, steps=5, seed=9
    )
    ours = model.edit(PICTURES[0], LONG, mask=mask, strength=strength, steps=5, seed=9, guidance=4.0)
    assert_same(watched[0], ours, expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen-image-edit", *PLUS])
def test_edit_at_the_released_areas(sides, watched, name):
    found, model = sides(name, RELEASED)
    pictures = PICTURES[:1] if name == "qwen-image-edit" else PICTURES[:2]
    call = {"image": pictures[0] if len(pictures) == 1 else pictures, "prompt": SHORT, "steps": 2}
    pipeline = peer_edit.pipeline(peer_edit.CLASSES[name], found)
    expected = reference(pipeline, **call, size=(64, 64), areas=RELEASED)
    ours = model.edit(pictures, SHORT, seed=0, steps=2, guidance=4.0, size=(64, 64))
    assert_same(watched[0], ours, expected)


def test_nano_edits_as_the_reference_does(tmp_path, watched):
    """`QwenImageEditPlusPipeline` over a copy of the shipped folder; the areas are nano's own."""
    write_released_copy(find_checkpoint("nano"), tmp_path)
    own = tmp_path / "danqing.json"
    areas = (128 * 128, 128 * 128)
    changed = {"tasks": ["generate", "edit"], "reference_area": areas[0], "vision_area": areas[1]}
    own.write_text(json.dumps({**json.loads(own.read_text()), **changed}))
    model = danqing.load(tmp_path, device="cpu", precision="fp32")
    parts = dict(opened("QwenImagePipeline", tmp_path).components)
    pictures = [picture(160, 96), picture(100, 100, 1)]
    pipeline = peer_edit.pipeline("QwenImageEditPlusPipeline", parts)
    pipeline.processor = peer_edit.picture_processor(parts["tokenizer"], model.components.picture_limits)
    expected = reference(
        pipeline, image=pictures, prompt="make it green", steps=4, guidance=3.0, areas=areas, seed=2
    )
    ours = model.edit(pictures, "make it green", steps=4, guidance=3.0, seed=2)
    assert ours.size == (128, 128)
    assert_same(watched[0], ours, expected)
