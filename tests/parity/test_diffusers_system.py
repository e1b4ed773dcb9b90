"""A pipeline of diffusers as a system: the shipped model draws through it what danqing draws."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import danqing
from danqing.errors import CheckpointError, ConfigError, RequestError
from danqing.evaluation.items import Item
from danqing.evaluation.remote.diffusers_pipeline import DiffusersOptions, DiffusersSystem
from danqing.model import find_checkpoint
from danqing.weights.layouts import write_released_copy

DRAW = Item(row="page", prompt="a red apple on a blue table")
EDIT = Item(row="page", prompt="make it green", ability="edit", source="apple")


@pytest.fixture(scope="module")
def nano():
    return danqing.load("nano", device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("released") / "nano"
    write_released_copy(find_checkpoint("nano"), folder)
    return folder


@pytest.fixture(scope="module")
def rival(folder, nano):
    options = DiffusersOptions(size=nano.info.size, steps=4, guidance=nano.info.guidance, device="cpu")
    return DiffusersSystem(folder, options)


def test_the_rival_draws_what_danqing_draws_with_the_same_seed(rival, nano):
    for seed in (0, 7):
        (theirs,) = rival.answer([DRAW], seed)
        ours = nano.generate(DRAW.prompt, seed=seed, steps=4)
        difference = np.asarray(ours).astype(int) - np.asarray(theirs).astype(int)
        assert np.abs(difference).max() <= 1


def test_its_settings_tell_weights_and_options(rival, folder, nano):
    assert rival.settings["pipeline"] == "QwenImagePipeline"
    assert rival.settings["num_inference_steps"] == 4
    other = DiffusersSystem(folder, DiffusersOptions(size=nano.info.size, steps=5, device="cpu"))
    assert other.settings["weights"] == rival.settings["weights"]
    assert other.version != rival.version


def test_a_pipeline_that_takes_no_picture_refuses_edits(rival):
    assert rival.abilities == {"draw"}
    with pytest.raises(RequestError, match="found one to edit"):
        rival.answer([EDIT], 0)


def test_what_is_no_pipeline_is_said_in_one_line(tmp_path):
    with pytest.raises(CheckpointError, match="expected a pipeline of diffusers"):
        DiffusersSystem(tmp_path)


def test_options_that_the_pipeline_does_not_know_are_refused(folder, monkeypatch):
    from diffusers import QwenImagePipeline

    def plain(self, prompt=None, generator=None):
        """A pipeline without sizes."""

    monkeypatch.setattr(QwenImagePipeline, "__call__", plain)
    with pytest.raises(ConfigError, match="height"):
        DiffusersSystem(folder, DiffusersOptions(size=(64, 64), device="cpu"))


def test_a_pipeline_that_takes_a_picture_edits(folder, tmp_path):
    copy = tmp_path / "starts-from-a-picture"
    shutil.copytree(folder, copy)
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps(index | {"_class_name": "QwenImageImg2ImgPipeline"}))
    source = Image.new("RGB", (64, 96), "red")
    editor = DiffusersSystem(copy, DiffusersOptions(steps=2, device="cpu"), source_of=lambda item: source)
    assert editor.abilities == {"edit"}
    first, again, other = (editor.answer([EDIT], seed)[0] for seed in (0, 0, 1))
    assert first.size == source.size
    assert first.tobytes() == again.tobytes() != other.tobytes()
    with pytest.raises(RequestError, match="found one to draw"):
        editor.answer([DRAW], 0)
