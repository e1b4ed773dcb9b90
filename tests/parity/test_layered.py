"""Layers: the reference's pipeline and ours over one checkpoint, same seed and settings, fp32."""

import dataclasses
from unittest import mock

import numpy as np
import pytest
import torch

import danqing
from danqing.conditioning.given import open_transparent
from danqing.pipelines import draw as drawing
from danqing.pipelines import layered
from danqing.pipelines.documents import flatten
from danqing.pipelines.layered import CAPTION_PROMPTS, LayersRequest, draw_layers
from tests.parity import peer_parts as parts
from tests.parity.peer_cases import picture

diffusers = pytest.importorskip("diffusers")
peer_edit = pytest.importorskip("tests.parity.peer_edit")
peer_layered = pytest.importorskip("diffusers.pipelines.qwenimage.pipeline_qwenimage_layered")

SHARE = 1 / 64  # of the reference's smallest area, 640 x 640
PROMPT = "a red cat in front of a blue wall with the word 猫"


def components(peers):
    """Return the reference components of the layered release."""
    dit = diffusers.QwenImageTransformer2DModel(
        **parts.DIT, use_layer3d_rope=True, use_additional_t_cond=True
    )
    return {
        **peers.components,
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(**parts.LAYERED_SCHEDULER),
        "vae": parts.randomize(diffusers.AutoencoderKLQwenImage(**parts.VAE, input_channels=4), 22),
        "transformer": parts.randomize(dit, 33),
    }


@pytest.fixture(scope="module")
def pair(peers, tmp_path_factory):
    """The reference pipeline, and our components at a share of its area."""
    found = components(peers)
    processor = peer_edit.picture_processor(found["tokenizer"])
    pipeline = diffusers.QwenImageLayeredPipeline(**found, processor=processor)
    pipeline.set_progress_bar_config(disable=True)
    folder = tmp_path_factory.mktemp("layered") / "qwen-image-layered"
    with mock.patch.dict(peer_edit.CLASSES, {folder.name: "QwenImageLayeredPipeline"}):
        peer_edit.write_checkpoint(folder, folder.name, found)
    model = danqing.load(folder, device="cpu", precision="fp32")
    assert "layers" in model.info.tasks
    small = dataclasses.replace(model.info, min_side=32, reference_area=round(640 * 640 * SHARE))
    return pipeline, dataclasses.replace(model.components, info=small)


def reference(pipeline, image, *, steps=3, guidance=4.0, seed=0, share=SHARE, **call):
    """Return the last latents and the layers of one run of the reference."""
    last = {}

    def at_step(_pipeline, _index, _t, kwargs):
        last.update(kwargs)
        return {}

    def smaller(area, ratio, whole=peer_layered.calculate_dimensions):
        return whole(area * share, ratio)

    with mock.patch.object(peer_layered, "calculate_dimensions", smaller):
        images = pipeline(
            image=image.convert("RGBA"),
            negative_prompt=" ",
            true_cfg_scale=guidance,
            num_inference_steps=steps,
            generator=torch.Generator().manual_seed(seed),
            callback_on_step_end=at_step,
            **call,
        ).images[0]
    return last["latents"], images


def ours(components, image, *, steps=3, guidance=4.0, seed=0, **options):
    """Return the last latents and what we draw."""
    request = LayersRequest(
        picture=open_transparent(image), steps=steps, guidance=guidance, seed=seed, **options
    )
    latents, drawn = [], drawing._drawn
    with mock.patch.object(drawing, "_drawn", lambda c, job, row: latents.append(row) or drawn(c, job, row)):
        *_, last = draw_layers(components, [request])
    return latents[0], last.drawn[0]


def assert_same(found, expected):
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.mode == theirs.mode == "RGBA"
        a, b = np.asarray(mine).astype(int), np.asarray(theirs).astype(int)
        assert a.shape == b.shape
        assert b.std() > 5  # a flat picture would prove nothing
        assert np.abs(a - b).max() <= 1


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_layers(pair, count, mode):
    pipeline, model = pair
    image = picture(80, 64, count, mode)
    expected, layers = reference(pipeline, image, layers=count, prompt=PROMPT)
    latents, drawn = ours(model, image, count=count, prompt=PROMPT)
    torch.testing.assert_close(latents, expected, rtol=0, atol=1e-4)
    assert_same(drawn.layers, layers)
    assert np.array_equal(drawn.image, flatten(drawn.layers))


@pytest.mark.parametrize("size", [(61, 83), (300, 90), (64, 64)])
def test_sizes(pair, size):
    pipeline, model = pair
    image = picture(*size, 5, "RGBA")
    expected, layers = reference(pipeline, image, layers=2, prompt=PROMPT, steps=4)
    latents, drawn = ours(model, image, count=2, prompt=PROMPT, steps=4)
    torch.testing.assert_close(latents, expected, rtol=0, atol=1e-4)
    assert_same(drawn.layers, layers)


@pytest.mark.parametrize(("guidance", "rescale"), [(1.0, False), (2.5, False), (4.0, True)])
def test_guidance(pair, guidance, rescale):
    pipeline, model = pair
    image = picture(64, 64, 3, "RGBA")
    same = {"prompt": PROMPT, "guidance": guidance, "seed": 7}
    expected, layers = reference(pipeline, image, layers=2, cfg_normalize=rescale, **same)
    latents, drawn = ours(model, image, count=2, rescale=rescale, **same)
    torch.testing.assert_close(latents, expected, rtol=0, atol=1e-4)
    assert_same(drawn.layers, layers)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_caption_of_its_own(pair, language, monkeypatch):
    """Tokens are equal: the reference asks its conditioner for at most as many as we do."""
    pipeline, model = pair
    image = picture(90, 70, 4, "RGBA")
    english = language == "en"
    asked = {"en": pipeline.image_caption_prompt_en, "zh": pipeline.image_caption_prompt_cn}
    assert asked[language] == CAPTION_PROMPTS[language]
    generate = pipeline.text_encoder.generate
    short = 24
    monkeypatch.setattr(layered, "CAPTION_TOKENS", short)
    with mock.patch.object(
        pipeline.text_encoder,
        "generate",
        lambda max_new_tokens, **call: generate(max_new_tokens=short, **call),
    ):
        expected, layers = reference(pipeline, image, layers=1, prompt="", use_en_prompt=english)
        seen = image.resize((96, 64)), english, pipeline.device
        told = pipeline.get_image_caption(*seen)
    latents, drawn = ours(model, image, count=1, language=language)
    assert drawn.request.prompt
    torch.testing.assert_close(latents, expected, rtol=0, atol=1e-4)
    assert_same(drawn.layers, layers)
    assert told == layered.caption(model, seen[0], language=language)


@torch.no_grad()
def test_the_autoencoder_of_pictures_with_alpha(pair):
    pipeline, model = pair
    pixels = torch.rand(1, 4, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    peer = pipeline.vae
    mode = peer.encode(pixels.unsqueeze(2)).latent_dist.mode()
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1, 1)
        for values in (peer.config.latents_mean, peer.config.latents_std)
    )
    latents = model.vae.encode(pixels)
    torch.testing.assert_close(latents, ((mode - mean) / std)[:, :, 0], rtol=0, atol=1e-5)
    decoded = peer.decode(mode).sample[:, :, 0]
    torch.testing.assert_close(model.vae.decode(latents), decoded, rtol=0, atol=1e-5)
