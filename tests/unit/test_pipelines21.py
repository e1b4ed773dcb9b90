"""Drawing with 2.1: batches, transparency, starts and masks, rewrites, and what is kept of a prompt."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

import danqing
from danqing.conditioning.given import open_mask, open_picture, open_transparent
from danqing.conditioning.latents import pack, unpack
from danqing.errors import CheckpointError, ConfigError, RequestError
from danqing.model import load_describer
from danqing.models.qwen3_vl import Qwen3VL
from danqing.models.single_stream import SingleStream
from danqing.pipelines.edit import EditRequest, edit
from danqing.pipelines.generate import GenerateRequest, generate
from danqing.pipelines.reading import seen_by_conditioner
from danqing.pipelines.request import size_of_aspect
from danqing.sampling.schedule import TURBO, ScheduleConfig
from danqing.weights.layouts import QWEN_IMAGE, QWEN_IMAGE_21, Folder
from tests.editor import half, noisy
from tests.layering import write_controlnet
from tests.tiny import with_batch
from tests.tiny21 import INFO, ORDER, PRECISE, REWRITE, WISH, write_tiny21

CLEAR = open_transparent(noisy(60, 44, "RGBA"), name="clear.png")
SECOND = open_transparent(noisy(40, 70, seed=1), name="second.png")


def close(one, other):
    return np.abs(np.asarray(one).astype(int) - np.asarray(other)).max() <= 1


def test_pictures_are_transparent_and_say_what_drew_them(tiny21, tmp_path):
    drawn = tiny21.generate(WISH, seed=3)
    assert (drawn.mode, drawn.size) == ("RGBA", (64, 96))
    drawn.save(tmp_path / "apple.png")
    with Image.open(tmp_path / "apple.png") as picture:
        assert picture.tobytes() == drawn.tobytes()
        told = json.loads(picture.info["danqing"])
    assert (told["model"], told["steps"], told["guidance"]) == ("tiny-2.1", 2, 1.0)


def test_requests_in_any_batch_equal_those_alone(tiny21):
    requests = [
        EditRequest(pictures=(CLEAR,), prompt="make it green", seed=1, count=2),
        EditRequest(pictures=(CLEAR,), prompt="make all of it as green as grass", seed=3),
        EditRequest(pictures=(SECOND, CLEAR), prompt="x", seed=4, guidance=2.0),
        EditRequest(pictures=(CLEAR, SECOND), prompt="x", seed=5, guidance=2.0, size=(64, 64)),
    ]
    together = [
        one for progress in edit(with_batch(tiny21, 3).components, requests) for one in progress.drawn
    ]
    assert len({one.image.tobytes() for one in together}) == 5
    for one in together:
        assert close(one.image, tiny21.edit(list(one.request.pictures), one.request.prompt, **same(one)))


def same(drawn):
    return {name: getattr(drawn.request, name) for name in ("seed", "size", "steps", "guidance")}


def test_a_prompt_is_read_once_for_all_its_pictures(tiny21, monkeypatch):
    read, prefix = [], SingleStream.prefix
    monkeypatch.setattr(
        SingleStream, "prefix", lambda *given, **more: (read.append(1), prefix(*given, **more))[1]
    )
    parts = with_batch(tiny21, 4).components
    list(generate(parts, [GenerateRequest(prompt="a cat", seed=1, count=4, steps=3)]))
    assert len(read) == 1
    requests = [GenerateRequest(prompt=text, seed=1, count=2, guidance=2.0) for text in ("a cat", "a dog")]
    list(generate(parts, requests))
    assert len(read) == 1 + 4  # with the prompt and without, twice


def test_transparency_reaches_the_autoencoder_and_lies_over_white_before_the_conditioner(tiny21):
    clear = noisy(64, 64, "RGBA")
    clear.putalpha(0)
    flat = Image.new("RGB", clear.size, "white")
    (seen,) = seen_by_conditioner(tiny21.components, [clear])
    assert torch.equal(seen, torch.ones_like(seen))
    assert tiny21.edit(clear, "x", seed=1).tobytes() != tiny21.edit(flat, "x", seed=1).tobytes()


def test_transparency_is_laid_over_white_where_the_checkpoint_knows_none(tiny):
    assert tiny.generate("x", image=CLEAR, seed=1).mode == "RGB"
    white = open_picture(CLEAR.image)
    expected = tiny.generate("x", image=white, seed=1)
    assert tiny.generate("x", image=CLEAR, seed=1).tobytes() == expected.tobytes()


def test_starts_and_masks(tiny21):
    """No reference draws 2.1 from a picture: what is kept is the picture's own sample, as in 1.x."""
    weak = tiny21.generate("x", image=CLEAR, strength=0.1, steps=10, seed=1)
    strong = tiny21.generate("x", image=CLEAR, strength=1.0, steps=10, seed=1)
    vae, parts = tiny21.components.vae, tiny21.components
    pixels = torch.from_numpy(np.array(CLEAR.image.resize(weak.size))).permute(2, 0, 1)[None] / 127.5 - 1
    known = vae.encode(pixels)
    errors = [
        (vae.encode(torch.from_numpy(np.array(one)).permute(2, 0, 1)[None] / 127.5 - 1) - known)
        .square()
        .mean()
        for one in (weak, strong)
    ]
    assert errors[0] < errors[1]
    white, black = open_mask(Image.new("L", (60, 44), 255)), open_mask(half(60, 44))
    options = {"image": CLEAR, "seed": 1, "steps": 3}
    assert parts.patch == 1
    assert (
        tiny21.generate("x", mask=white, **options).tobytes()
        != tiny21.generate("x", mask=black, **options).tobytes()
    )
    assert tiny21.edit(CLEAR, "x", mask=black, seed=1).mode == "RGBA"


def test_a_patch_of_one_latent_is_packed_row_by_row():
    latents = torch.arange(2 * 3 * 2 * 5).float().view(2, 3, 2, 5)
    assert torch.equal(pack(latents, 1), latents.flatten(2).mT)
    assert torch.equal(unpack(pack(latents, 1), 2, 1), latents)


def test_a_prompt_that_is_too_long_is_refused(tiny21):
    with pytest.raises(RequestError, match=r"tiny-2.1 reads up to 200 tokens, found .*; shorten it"):
        tiny21.generate("a very long prompt " * 80)


def test_a_rewrite_is_drawn_and_the_wish_is_kept(tiny21):
    drawn = tiny21.generate(WISH, seed=1, enhance=True)
    told = json.loads(drawn.info["danqing"])
    assert (told["prompt"], told["wish"], told["enhance"]) == (REWRITE, WISH, False)
    assert drawn.info["parameters"].startswith(REWRITE)
    assert drawn.tobytes() == tiny21.generate(REWRITE, seed=1).tobytes()
    changed = tiny21.edit(noisy(60, 44), ORDER, seed=1, enhance=True, count=2)
    assert {json.loads(one.info["danqing"])["prompt"] for one in changed} == {PRECISE}
    assert json.loads(tiny21.generate(WISH, seed=1).info["danqing"])["wish"] is None


def test_lost_words_are_told(tiny21, caplog):
    tiny21.generate(WISH, seed=1, enhance=True)
    assert not caplog.records
    tiny21.edit(noisy(60, 44), ORDER, seed=1, enhance=True)
    assert "lost the words “HI”; draw without --enhance to keep them" in caplog.text


@pytest.mark.parametrize(
    ("info", "ratio", "size"),
    [
        (QWEN_IMAGE_21, (16, 9), (2752, 1536)),
        (QWEN_IMAGE_21, (3, 2), (2528, 1696)),
        (QWEN_IMAGE_21, (2, 1), (2912, 1440)),
        (QWEN_IMAGE, (1, 1), (1328, 1328)),
        (QWEN_IMAGE, (100, 1), (3072, 256)),
    ],
)
def test_a_ratio_is_the_checkpoints_own_size(info, ratio, size):
    assert size_of_aspect(info, ratio) == size


def test_what_a_checkpoint_cannot_do_is_one_line(tiny, tiny21, tiny21_folder, tmp_path):
    with pytest.raises(RequestError, match="tiny cannot enhance prompts; it can generate"):
        tiny.generate(WISH, enhance=True)
    some = danqing.load(tiny21_folder, tasks=("generate",), device="cpu", precision="fp32")
    assert not some.components.vlm.has_vision
    assert not some.components.vlm.has_head
    expected = tiny21.generate(WISH, seed=1)
    assert some.generate(WISH, seed=1).tobytes() == expected.tobytes()
    for ask in (lambda: some.edit(CLEAR, "x"), lambda: some.describe(CLEAR)):
        with pytest.raises(RequestError, match=r"tiny-2.1 cannot (edit|describe); it can generate"):
            ask()
    with pytest.raises(RequestError, match=r"tiny-2.1 cannot draw layers; it can generate, edit"):
        danqing.load(tiny21_folder, tasks=("layers",))
    with pytest.raises(CheckpointError, match="expected no ControlNet, found one"):
        danqing.load(tiny21_folder, controlnet=write_controlnet(tmp_path / "net"))
    with pytest.raises(RequestError, match="edits with up to 10, found 11"):
        tiny21.edit([CLEAR] * 11, "x")
    with pytest.raises(RequestError, match="multiples of 32, found width 80"):
        tiny21.generate("x", size=(80, 64))


def test_describing(tiny21, tiny21_folder):
    alone = load_describer(tiny21_folder, device="cpu", precision="fp32")
    assert isinstance(alone.vlm, Qwen3VL)
    said = tiny21.describe(CLEAR, max_tokens=6)
    assert said == "".join(danqing.pipelines.describe.describe(alone, request(CLEAR)))
    assert said


def request(picture):
    return danqing.DescribeRequest(pictures=(picture,), max_tokens=6)


def test_a_licence_without_commercial_use_is_told_once(tiny21_folder, caplog):
    danqing.model._show_licence.cache_clear()
    for _ in range(2):
        load_describer(tiny21_folder, device="cpu", precision="fp32")
    line = "tiny-2.1 comes under the Qwen Research License: no commercial use"
    assert [record.message for record in caplog.records] == [line]
    assert QWEN_IMAGE.notice is None


def test_a_folder_as_released(tiny21_folder, tmp_path):
    """Without `danqing.json` the values are the release's; Turbo is told by its levels."""
    plain, turbo = (
        write_tiny21(tmp_path / "plain", info=None),
        write_tiny21(tmp_path / "turbo", info=None, turbo=TURBO),
    )
    assert Folder(plain).info() == dataclasses.replace(QWEN_IMAGE_21, name="plain")
    assert Folder(plain).schedule() == ScheduleConfig()
    assert Folder(turbo).info() == dataclasses.replace(QWEN_IMAGE_21, name="turbo", steps=8, fixed_steps=True)
    assert Folder(turbo).schedule() == TURBO
    index = json.loads((turbo / "model_index.json").read_text())
    assert index["_class_name"] == "QwenImage21Pipeline"
    assert "tokenizer" not in index
    scheduler = json.loads((turbo / "scheduler" / "scheduler_config.json").read_text())
    assert "sample_sigmas" not in scheduler
    model = danqing.load(turbo, device="cpu", precision="fp32")
    small = dataclasses.replace(INFO, steps=8, fixed_steps=True)
    model = danqing.Model(dataclasses.replace(model.components, info=small))
    assert [step.sigma for step in model.stream("x", seed=1)] == [
        *map(pytest.approx, TURBO.sample_sigmas[1:]),
        0,
    ]
    with pytest.raises(RequestError, match="was made for 8, found 4; leave steps out"):
        model.generate("x", steps=4)


def test_a_config_that_is_no_release_is_one_line(tiny21_folder, tmp_path):
    import shutil

    folder = shutil.copytree(tiny21_folder, tmp_path / "odd")
    path = folder / "transformer" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "causal_condition": False}))
    with pytest.raises(ConfigError, match="expected causal_condition True"):
        danqing.load(folder)


def test_half_precision(tiny21_folder):
    model = danqing.load(tiny21_folder, device="cpu", precision="bf16")
    assert model.components.transformer.img_in.weight.dtype == torch.bfloat16
    assert model.edit([CLEAR, SECOND], "x", seed=1, guidance=2.0).mode == "RGBA"
