"""`--lora` and `--lightning` on tiny checkpoints: what they draw, say and refuse."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import danqing
from danqing.models.lora import LoRAConfig, new_adapter
from danqing.weights.adapters import save_adapter
from tests.editor import noisy, write_editor
from tests.layering import write_layered


@pytest.fixture(scope="module")
def files(tiny, tmp_path_factory):
    """Two adapters: ink.safetensors, and one distilled for four steps."""
    folder = tmp_path_factory.mktemp("adapters")
    for seed, (name, dialect) in enumerate([("ink", "kohya"), ("fast-4steps-V1.0", "comfyui")]):
        generator = torch.Generator().manual_seed(seed)
        config = LoRAConfig(rank=2, targets=("attn.to_q", "img_mod.1", "img_mlp.net.2"))
        adapter = new_adapter(tiny.components.transformer, config, generator)
        for delta in adapter.values():
            delta.up.data.normal_(generator=generator)
        save_adapter(folder / f"{name}.safetensors", adapter, dialect)
    return folder


@pytest.fixture
def draw(cli, tiny_folder):
    """Draw with the tiny checkpoint into out.png."""
    fixed = ("a red apple", "--model", tiny_folder, "--precision", "fp32", "--seed", 7, "-o", "out.png")
    return lambda *arguments: cli("generate", *fixed, *arguments)


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture).astype(int)


def told(path):
    with Image.open(path) as picture:
        return json.loads(picture.info["danqing"])


def test_the_picture_is_the_one_python_draws(draw, files, tiny_folder, tmp_path):
    path = files / "ink.safetensors"
    done = draw("--lora", f"{path}:0.7", "--lora", f"{files / 'fast-4steps-V1.0.safetensors'}:-.5", "--json")
    assert (done.code, done.err) == (0, "")
    strengths = {"ink": 0.7, "fast-4steps-V1.0": -0.5}
    assert json.loads(done.out)["loras"] == told(tmp_path / "out.png")["loras"] == strengths
    loras = [(path, 0.7), (files / "fast-4steps-V1.0.safetensors", -0.5)]
    model = danqing.load(tiny_folder, loras=loras, device="cpu", precision="fp32")
    assert model.loras == strengths
    ours = model.generate("a red apple", seed=7)
    assert np.array_equal(ours, pixels(tmp_path / "out.png"))
    plain = danqing.load(tiny_folder, device="cpu", precision="fp32").generate("a red apple", seed=7)
    assert np.abs(np.asarray(plain).astype(int) - ours).max() > 10
    assert "loras" not in json.loads(plain.info["danqing"])
    model.set_loras(dict.fromkeys(strengths, 0.0))
    assert np.array_equal(model.generate("a red apple", seed=7), plain)


def test_merged_adapters_draw_the_same(draw, files, tmp_path):
    path = files / "ink.safetensors"
    assert draw("--lora", path, "--overwrite").code == 0
    attached = pixels(tmp_path / "out.png")
    assert draw("--lora", path, "--merge-loras", "--overwrite").code == 0
    assert np.abs(pixels(tmp_path / "out.png") - attached).max() <= 1
    assert told(tmp_path / "out.png")["loras"] == {"ink": 1.0}


def test_a_distilled_adapter_brings_its_steps(draw, files, tmp_path):
    done = draw("--lightning", files / "fast-4steps-V1.0.safetensors", "--json")
    assert done.code == 0
    line = json.loads(done.out)
    assert (line["steps"], line["guidance"]) == (4, 1.0)
    assert line["loras"] == {"fast-4steps-V1.0": 1.0}


def test_steps_of_a_distilled_adapter_may_be_said(draw, files, tmp_path):
    nameless = tmp_path / "nameless.safetensors"
    nameless.write_bytes((files / "fast-4steps-V1.0.safetensors").read_bytes())
    assert draw("--lightning", nameless).is_mistake("nameless.safetensors", "say it with --steps")
    assert draw("--lightning", nameless, "--steps", 2, "--json").code == 0
    assert told(tmp_path / "out.png")["steps"] == 2


def test_edits_and_layers_know_adapters(cli, files, tiny_folder, tmp_path):
    editor = write_editor(tiny_folder, tmp_path / "editor")
    noisy(60, 44).save(tmp_path / "photo.png")
    done = cli(
        "edit", "photo.png", "darker", "--model", editor, "--lora", files / "ink.safetensors", "--json"
    )
    assert json.loads(done.out)["loras"] == {"ink": 1.0}
    layered = write_layered(tiny_folder, tmp_path / "layered")
    flags = ("--model", layered, "--steps", 2, "--prompt", "a cat", "--count", 1, "-o", "parts.png")
    done = cli("layers", "photo.png", *flags, "--lora", files / "ink.safetensors")
    assert done.code == 0
    assert told(tmp_path / done.lines[0])["loras"] == {"ink": 1.0}


def test_mistakes_cost_one_line_and_no_picture(draw, files, tmp_path):
    (tmp_path / "pickle.ckpt").write_bytes(b"\x80\x04.")
    for wrong, *said in (
        (("--lora", "nowhere.safetensors"), "nowhere.safetensors: expected an adapter, found no file"),
        (("--lora", "pickle.ckpt"), "expected a .safetensors file"),
        (("--lora", f"{files / 'ink.safetensors'}:101"), "expected a scale from -100 to 100, found 101"),
        (("--lora", files), "expected one adapter in the folder", "name the file"),
        (("--lightning", "nowhere-4steps.safetensors"), "expected an adapter, found no file"),
    ):
        assert draw(*wrong).is_mistake(*said), wrong
        assert not (tmp_path / "out.png").exists()


def test_an_adapter_of_another_model_is_refused_before_weights_are_read(cli, tiny_folder, tmp_path):
    shutil.copytree(tiny_folder, tmp_path / "hollow", ignore=shutil.ignore_patterns("*.safetensors"))
    save_file(
        {"double_blocks.0.img_attn.qkv.lora_A.weight": torch.zeros(2, 3)}, tmp_path / "flux.safetensors"
    )
    done = cli("generate", "a cat", "--model", "hollow", "--lora", "flux.safetensors")
    assert done.is_mistake("flux.safetensors", "made for another model")
