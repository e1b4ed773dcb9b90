"""Pictures as input: what may be asked for, and that a picture does not depend on its neighbours."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

import danqing
from danqing.conditioning.given import open_mask, open_picture
from danqing.conditioning.latents import mask_tokens, pack
from danqing.conditioning.pictures import fitted_size, mask_latents, resized_pixels
from danqing.errors import CheckpointError, RequestError
from danqing.pipelines.edit import EditRequest, edit
from danqing.pipelines.generate import GenerateRequest, generate
from danqing.pipelines.prepare import steps_taken
from danqing.pipelines.request import inside, parameters
from danqing.rng import seeded
from danqing.weights.layouts import QWEN_IMAGE, QWEN_IMAGE_EDIT, QWEN_IMAGE_EDIT_PLUS
from tests.editor import half, noisy, write_editor
from tests.tiny import INFO, with_batch

PICTURE = open_picture(noisy(60, 44), name="photo.png")
SECOND = open_picture(noisy(40, 70, seed=1), name="second.png")
MASK = open_mask(half(60, 44), name="mask.png")


@pytest.fixture(scope="module")
def editor(tiny_folder, tmp_path_factory):
    """The tiny checkpoint as one that edits."""
    folder = write_editor(tiny_folder, tmp_path_factory.mktemp("editor") / "editor")
    return danqing.load(folder, device="cpu", precision="fp32")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": " "}, 'expected some text, found none; try "make the apple green"'),
        ({"pictures": ()}, "pictures: expected one or more pictures to edit, found none"),
        ({"pictures": [PICTURE]}, "pictures: expected one or more pictures to edit"),
        ({"pictures": ("photo.png",)}, "pictures: expected an opened picture, found str"),
        ({"mask": PICTURE.image}, "mask: expected an opened picture, found Image"),
        ({"mask": open_mask(half(44, 60))}, "mask: expected the shape of the picture, 60x44, found 44x60"),
        ({"strength": 0}, "strength: expected 0.01 to 1, found 0"),
        ({"strength": 1.5}, "strength: expected 0.01 to 1, found 1.5"),
        ({"strength": "1"}, "strength: expected a number, found '1'"),
        ({"steps": 0}, "steps: expected 1 to 1000"),
    ],
)
def test_a_wrong_edit_is_one_line(change, message):
    with pytest.raises(RequestError, match=message) as caught:
        EditRequest(**{"pictures": (PICTURE,), "prompt": "x", **change})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["mask", "strength"])
def test_a_picture_to_start_from_is_needed(name):
    with pytest.raises(RequestError, match=f"{name}: expected an image to start from, found none"):
        GenerateRequest(prompt="x", **{name: MASK if name == "mask" else 0.5})


def test_a_checkpoint_says_what_it_can_do():
    with pytest.raises(RequestError, match="tiny cannot edit; it can generate"):
        EditRequest(pictures=(PICTURE,), prompt="x").resolved(INFO)
    with pytest.raises(RequestError, match="Qwen-Image-Edit cannot generate; it can edit"):
        GenerateRequest(prompt="x").resolved(QWEN_IMAGE_EDIT)
    with pytest.raises(RequestError, match="Qwen-Image-Edit edits with up to 1, found 2"):
        EditRequest(pictures=(PICTURE, SECOND), prompt="x").resolved(QWEN_IMAGE_EDIT)


def test_the_size_follows_the_last_picture_inside_the_checkpoints_range():
    released = EditRequest(pictures=(PICTURE, SECOND), prompt="x").resolved(QWEN_IMAGE_EDIT_PLUS)
    assert (released.size, released.steps, released.guidance) == ((768, 1344), 40, 4.0)
    given = EditRequest(pictures=(PICTURE,), prompt="x", size=(512, 256)).resolved(QWEN_IMAGE_EDIT)
    assert (given.size, given.steps) == ((512, 256), 50)
    drawn = GenerateRequest(prompt="x", image=SECOND).resolved(QWEN_IMAGE)
    assert drawn.size == (1008, 1760)
    assert fitted_size((1, 1), 1024 * 1024) == (1024, 1024)
    assert fitted_size((1, 199), 1000) == (32, 448)
    assert inside((32, 4000), INFO) == (32, 96)
    with pytest.raises(RequestError, match="sides of a ratio up to 200, found 1x201"):
        fitted_size((1, 201), 1000)


def test_strength_is_as_documented():
    assert GenerateRequest(prompt="x", image=PICTURE).resolved(INFO).strength == 0.6
    assert GenerateRequest(prompt="x", image=PICTURE, mask=MASK).resolved(INFO).strength == 1.0
    info = dataclasses.replace(INFO, tasks=("edit",))
    assert EditRequest(pictures=(PICTURE,), prompt="x").resolved(info).strength is None
    assert EditRequest(pictures=(PICTURE,), prompt="x", mask=MASK).resolved(info).strength == 1.0
    taken = [
        steps_taken(GenerateRequest(prompt="x", image=PICTURE, strength=share, steps=10).resolved(INFO))
        for share in (0.01, 0.25, 0.7, 1)
    ]
    assert taken == [1, 3, 7, 10]


def test_an_unknown_template_is_one_line(editor):
    info = dataclasses.replace(editor.info, edit_template="magic")
    broken = danqing.Model(dataclasses.replace(editor.components, info=info))
    with pytest.raises(CheckpointError, match="expected edit_template edit or edit_plus, found 'magic'"):
        broken.edit(PICTURE, "x")


def test_requests_in_any_batch_equal_those_alone(editor):
    requests = [
        EditRequest(pictures=(PICTURE,), prompt="make it green", seed=1, count=2),
        EditRequest(pictures=(PICTURE, SECOND), prompt="x", seed=3),
        EditRequest(pictures=(SECOND, PICTURE), prompt="put both on one mat", seed=4, mask=MASK),
        EditRequest(pictures=(PICTURE,), prompt="darker", seed=5, strength=0.7, guidance=1.0),
        EditRequest(pictures=(PICTURE,), prompt="darker", seed=6, mask=MASK, strength=0.8, size=(80, 64)),
    ]
    drawn = [one for progress in edit(editor.components, requests) for one in progress.drawn]
    assert [one.index for one in drawn] == [0, 0, 1, 2, 3, 4]
    assert len({one.image.tobytes() for one in drawn}) == 6
    assert [one.image.size for one in drawn[-2:]] == [(64, 32), (80, 64)]
    for one in drawn:
        (again,) = [d for progress in edit(editor.components, [one.request]) for d in progress.drawn]
        assert again.image.tobytes() == one.image.tobytes()
    parts = with_batch(editor, 3).components
    together = [one for progress in edit(parts, requests) for one in progress.drawn]
    for one, alone in zip(together, drawn, strict=True):
        close = np.asarray(one.image).astype(int) - np.asarray(alone.image)
        assert np.abs(close).max() <= 1


def test_starts_in_one_batch_equal_those_alone(tiny):
    requests = [
        GenerateRequest(prompt=prompt, seed=seed, image=image, mask=mask, strength=0.7, size=(64, 48))
        for prompt, seed, image, mask in [
            ("a cat", 1, PICTURE, None),
            ("a very long description of a cat", 2, SECOND, None),
            ("a cat", 3, PICTURE, MASK),
            ("a dog", 4, PICTURE, MASK),
        ]
    ]
    together = [
        one for progress in generate(with_batch(tiny, 2).components, requests) for one in progress.drawn
    ]
    for one, request in zip(together, requests, strict=True):
        alone = np.asarray(tiny.generate(request)).astype(int)
        assert np.abs(alone - np.asarray(one.image)).max() <= 1


def test_weak_changes_stay_near_the_picture_and_masks_keep_the_rest(tiny):
    """The kept latents are exactly a sample of the picture's; the drawn ones are not."""
    config = tiny.components.vae.config
    mean, log_variance = tiny.components.vae.posterior(resized_pixels(PICTURE.image, (64, 48))[None])
    shift, scale = (torch.tensor(v).view(1, -1, 1, 1) for v in (config.latents_mean, config.latents_std))
    sample = mean + (log_variance / 2).exp() * torch.randn(mean.shape, generator=seeded(7))
    known = pack((sample - shift) / scale)
    white = mask_tokens(mask_latents(MASK.image, (64, 48), 8), 16) > 0
    latents = {}
    for name, options in {"kept": {"mask": MASK}, "weak": {"strength": 0.1}, "strong": {}}.items():
        from danqing.pipelines import draw as drawing

        seen, decode = [], drawing.decode
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(drawing, "decode", lambda c, t, h, s=seen, d=decode: (s.append(t), d(c, t, h))[1])
            tiny.generate("x", image=PICTURE, size=(64, 48), seed=7, steps=10, **options)
        latents[name] = seen[0].reshape(known.shape)
    torch.testing.assert_close(latents["kept"][~white], known[~white], rtol=0, atol=1e-5)
    assert (latents["kept"][white] - known[white]).abs().mean() > 0.1
    error = {name: (latents[name] - known).square().mean() for name in ("weak", "strong")}
    assert error["weak"] < error["strong"]


def test_a_mask_that_lets_draw_nothing_is_one_line(tiny):
    black = Image.new("L", (60, 44))
    with pytest.raises(RequestError, match="expected white where to draw, found none"):
        tiny.generate("x", image=PICTURE, mask=black)


def test_a_mask_speaks_for_its_latents():
    mask = Image.new("L", (32, 16))
    mask.putpixel((0, 0), 128)
    mask.putpixel((16, 8), 127)
    mask.putpixel((25, 8), 255)  # not the first of its 8 x 8
    found = mask_latents(mask, (32, 16), 8)
    assert found.tolist() == [[1, 0, 0, 0], [0, 0, 0, 0]]
    assert torch.equal(mask_tokens(found, 16), pack(found.expand(1, 16, 2, 4)))


def test_a_stream_edits_like_edit(editor):
    steps = list(editor.stream("darker", pictures=[PICTURE, SECOND], seed=3))
    assert [(p.step, p.steps, len(p.drawn)) for p in steps] == [(1, 3, 0), (2, 3, 0), (3, 3, 1)]
    assert steps[0].preview()[0].size == steps[2].drawn[0].image.size
    request = EditRequest(pictures=(PICTURE, SECOND), prompt="darker", seed=3)
    assert [p.step for p in editor.stream(request)] == [1, 2, 3]
    alone = editor.edit([PICTURE, SECOND], "darker", seed=3)
    assert alone.tobytes() == steps[-1].drawn[0].image.tobytes()
    assert [one.size for one in editor.edit(PICTURE, "darker", seed=3, steps=1, count=2)] == [(64, 32)] * 2


def test_shorter_schedules_are_told(tiny):
    steps = list(tiny.stream("x", image=PICTURE.image, strength=0.5, steps=4, seed=1))
    assert [(p.step, p.steps) for p in steps] == [(1, 2), (2, 2)]
    assert steps[-1].sigma == 0


def test_metadata_names_the_pictures(editor):
    picture = editor.edit(
        [PICTURE, SECOND], "darker", seed=3, steps=1, mask=open_mask(half(40, 70), name="m")
    )
    told = __import__("json").loads(picture.info["danqing"])
    assert (told["pictures"], told["mask"], told["prompt"]) == (["photo.png", "second.png"], "m", "darker")
    assert (told["model"], told["strength"], told["seed"]) == ("editor", 1.0, 3)
    assert picture.info["parameters"].startswith("darker\n")
    assert parameters(GenerateRequest(prompt="x"))["image"] is None


def test_options_of_the_front_door(editor, tmp_path):
    PICTURE.image.save(tmp_path / "photo.png")
    from_file = editor.edit(tmp_path / "photo.png", "darker", seed=1, steps=1)
    assert from_file.tobytes() == editor.edit([PICTURE.image], "darker", seed=1, steps=1).tobytes()
    with pytest.raises(RequestError, match=r"unknown option 'step'; known: .*strength"):
        editor.edit(PICTURE, "x", step=3)
    with pytest.raises(RequestError, match="expected text or a GenerateRequest, found EditRequest"):
        editor.generate(EditRequest(pictures=(PICTURE,), prompt="x"))
    with pytest.raises(RequestError, match="width 50"):
        editor.edit(PICTURE, "x", size=(50, 64))


def test_half_precision_edits(tiny_folder, tmp_path):
    model = danqing.load(write_editor(tiny_folder, tmp_path / "e"), device="cpu", precision="bf16")
    assert model.edit([PICTURE, SECOND], "x", seed=1, steps=1, strength=0.9).size == (32, 64)
