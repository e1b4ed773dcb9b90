"""Layers: what may be asked for, how close they come, and what other checkpoints answer."""

import dataclasses
import math

import numpy as np
import pytest
from PIL import Image

import danqing
from danqing.conditioning.given import open_transparent
from danqing.errors import RequestError
from danqing.pipelines.documents import flatten
from danqing.pipelines.layered import LayersRequest, caption, composite_psnr, draw_layers
from danqing.weights.layouts import QWEN_IMAGE, QWEN_IMAGE_LAYERED
from tests.editor import noisy
from tests.layering import write_layered

PICTURE = open_transparent(noisy(60, 44), name="poster.png")


@pytest.fixture(scope="module")
def model(tiny_folder, tmp_path_factory):
    """The tiny checkpoint as one that takes pictures apart."""
    folder = write_layered(tiny_folder, tmp_path_factory.mktemp("layered") / "layered")
    return danqing.load(folder, device="cpu", precision="fp32")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"picture": "poster.png"}, "picture: expected an opened picture, found str"),
        ({"count": 0}, "count: expected 1 to 1000, found 0"),
        ({"count": 21}, "count: expected 1 to 20 layers, found 21"),
        ({"resolution": 800}, "resolution: expected 640 or 1024, found 800"),
        ({"language": "fr"}, "language: expected en or zh, found 'fr'; or give a prompt"),
        ({"picture": open_transparent(Image.new("RGB", (2010, 10)))}, "crop the picture"),
    ],
)
def test_a_wrong_value_is_named(change, message):
    with pytest.raises(RequestError, match=message):
        LayersRequest(**{"picture": PICTURE, **change})


def test_the_release_draws_the_aspect_of_the_picture_at_its_own_area():
    def size(width, height, **more):
        given = open_transparent(Image.new("RGB", (width, height)))
        return LayersRequest(picture=given, **more).resolved(QWEN_IMAGE_LAYERED).size

    assert size(300, 300) == (640, 640)
    assert size(1920, 1080) == (864, 480)
    assert size(1920, 1080, resolution=1024) == (1376, 768)
    resolved = LayersRequest(picture=PICTURE).resolved(QWEN_IMAGE_LAYERED)
    assert (resolved.steps, resolved.guidance, resolved.negative_prompt) == (50, 4.0, " ")


def test_a_checkpoint_that_draws_no_layers_says_so():
    with pytest.raises(RequestError, match="Qwen-Image cannot draw layers; it can generate"):
        LayersRequest(picture=PICTURE).resolved(QWEN_IMAGE)


def test_layers_come_lowest_first_with_what_drew_them(model):
    layers = model.layers(noisy(60, 44), "a cat", count=3, steps=2, seed=7)
    assert [layer.mode for layer in layers] == ["RGBA"] * 3
    assert {layer.size for layer in layers} == {(96, 64)}
    assert '"prompt": "a cat"' in layers[0].info["danqing"]
    again = model.layers(noisy(60, 44), "a cat", count=3, steps=2, seed=7)
    assert all(np.array_equal(a, b) for a, b in zip(layers, again, strict=True))


def test_every_step_has_a_preview_of_the_whole_picture(model):
    request = LayersRequest(picture=PICTURE, prompt="a cat", count=2, steps=2, seed=1)
    first, last = draw_layers(model.components, [request])
    assert not first.drawn
    assert [preview.size for preview in first.preview()] == [(96, 64)]
    (drawn,) = last.drawn
    assert np.array_equal(drawn.image, flatten(drawn.layers))


def test_without_a_prompt_the_conditioner_writes_one(model, monkeypatch):
    monkeypatch.setattr("danqing.pipelines.layered.CAPTION_TOKENS", 5)
    request = LayersRequest(picture=PICTURE, count=1, steps=1, seed=1)
    (step,) = draw_layers(model.components, [request])
    prompt = step.drawn[0].request.prompt
    assert prompt
    assert prompt == caption(model.components, PICTURE.image.resize((96, 64), Image.Resampling.LANCZOS))
    told = model.layers(PICTURE.image, prompt, count=1, steps=1, seed=1)
    assert np.array_equal(told[0], step.drawn[0].layers[0])


def test_heun_and_guidance_reach_the_layers(model):
    same = {"count": 1, "steps": 2, "seed": 1}
    plain = model.layers(PICTURE.image, "a cat", guidance=1.0, **same)[0]
    for change in (
        {"guidance": 4.0},
        {"guidance": 4.0, "rescale": True},
        {"solver": "heun", "guidance": 1.0},
    ):
        assert not np.array_equal(plain, model.layers(PICTURE.image, "a cat", **same, **change)[0])


def test_a_hole_does_not_pass_for_what_is_behind_it():
    white = Image.new("RGBA", (8, 8), "white")
    hole = Image.new("RGBA", (8, 8), (255, 255, 255, 0))
    assert composite_psnr(white, [white, hole]) == math.inf
    assert composite_psnr(white, [hole]) == 0.0
    assert composite_psnr(hole, [Image.new("RGBA", (8, 8), (0, 0, 0, 0))]) == math.inf
    grey = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    assert composite_psnr(Image.new("RGBA", (8, 8), "black"), [grey]) == pytest.approx(
        -10 * math.log10((127 / 255) ** 2 / 4)
    )


def test_several_requests_are_drawn_one_after_the_other(model):
    batched = dataclasses.replace(model.components, batch_size=2)
    requests = [
        LayersRequest(picture=PICTURE, prompt="a cat", count=count, steps=1, seed=seed)
        for count, seed in ((1, 3), (1, 4), (2, 4))
    ]
    together = [one for step in draw_layers(batched, requests) for one in step.drawn]
    assert [(one.index, len(one.layers)) for one in together] == [(0, 1), (1, 1), (2, 2)]
    for request, drawn in zip(requests, together, strict=True):
        (alone,) = (one for step in draw_layers(model.components, [request]) for one in step.drawn)
        for a, b in zip(drawn.layers, alone.layers, strict=True):
            assert np.abs(np.asarray(a).astype(int) - np.asarray(b)).max() <= 1
