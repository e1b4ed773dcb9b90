"""A folder with parts from single files draws what the whole folder draws, or says what is missing."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import danqing
from danqing.errors import CheckpointError, RequestError
from danqing.model import find_checkpoint
from danqing.weights.parts import GivenParts
from danqing.weights.store import Shards
from tests.unit.test_gguf import llama, plain, write
from tests.unit.test_single_file import wan


def fails(kind, message):
    """Expect an error of one line that matches `message`."""
    return pytest.raises(kind, match=rf"(?s)\A(?=.*{message})[^\n]+\Z")


def stored(folder, part):
    shards = Shards.open(folder / part)
    return dict(shards.read(shards.tensors))


@pytest.fixture(scope="module")
def files(tiny_folder, tmp_path_factory):
    """Every part of the tiny checkpoint as other programs keep it."""
    folder = tmp_path_factory.mktemp("files")
    transformer = stored(tiny_folder, "transformer")
    comfy = {f"model.diffusion_model.{name}": tensor for name, tensor in transformer.items()}
    save_file(comfy, folder / "comfy.safetensors")
    marked = comfy | {"model.diffusion_model.__index_timestep_zero__": torch.empty(0)}
    save_file(marked, folder / "2511.safetensors")
    write(folder / "denoiser.gguf", plain(transformer))
    vae = {wan(name): tensor for name, tensor in stored(tiny_folder, "vae").items()}
    save_file(vae, folder / "vae.safetensors")
    words, eyes = llama(stored(tiny_folder, "text_encoder"), split=True)
    write(folder / "words.gguf", plain(words), arch="qwen2vl")
    write(folder / "mmproj.gguf", plain(eyes), arch="clip")
    return folder


@pytest.fixture(scope="module")
def without_weights(tiny_folder, tmp_path_factory):
    """The tiny checkpoint without a single weight."""
    folder = tmp_path_factory.mktemp("bare") / "tiny"
    shutil.copytree(tiny_folder, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    return folder


@pytest.fixture(scope="module")
def edit_plus(tiny_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("edit") / "tiny"
    shutil.copytree(tiny_folder, folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["_class_name"] = "QwenImageEditPlusPipeline"
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize("denoiser", ["comfy.safetensors", "denoiser.gguf"])
def test_single_files_draw_the_same_picture(tiny, without_weights, files, denoiser):
    model = danqing.load(
        without_weights,
        transformer=files / denoiser,
        vae=files / "vae.safetensors",
        text_encoder=[files / "words.gguf", files / "mmproj.gguf"],
        device="cpu",
        precision="fp32",
    )
    found, expected = (np.asarray(one.generate("a red apple", seed=3)) for one in (model, tiny))
    assert np.array_equal(found, expected)


def test_words_alone_are_enough_to_draw(tiny, tiny_folder, files):
    model = danqing.load(
        tiny_folder, text_encoder=files / "words.gguf", tasks=["generate"], device="cpu", precision="fp32"
    )
    found, expected = (np.asarray(one.generate("a red apple", seed=3)) for one in (model, tiny))
    assert np.array_equal(found, expected)


def test_what_no_tensor_shows_is_asked_for(edit_plus, files):
    def config(**given):
        return find_checkpoint(edit_plus, GivenParts(**given)).new_transformer().config

    plain_file, marked = files / "comfy.safetensors", files / "2511.safetensors"
    with fails(CheckpointError, "do not show whether it is .*2509 or .*2511; say it with --release"):
        config(transformer=plain_file)
    assert config(transformer=plain_file, release="Qwen-Image-Edit-2511").zero_cond_t
    assert not config(transformer=plain_file, release="Qwen-Image-Edit-2509").zero_cond_t
    assert config(transformer=marked).zero_cond_t
    assert not config().zero_cond_t


def test_files_of_another_release(tiny_folder, files):
    def opened(**given):
        return find_checkpoint(tiny_folder, GivenParts(**given)).new_transformer()

    with fails(CheckpointError, "needs a folder of QwenImageEditPlusPipeline, found one of"):
        opened(transformer=files / "2511.safetensors")
    with fails(CheckpointError, "expected a denoiser, found vae"):
        opened(transformer=files / "vae.safetensors")
    with fails(CheckpointError, "expected Qwen-Image-2.1, found tensors of Qwen-Image or"):
        opened(transformer=files / "comfy.safetensors", release="Qwen-Image-2.1")
    with fails(RequestError, "expected one of Qwen-Image, .*found 'nano'"):
        opened(release="nano")
    with fails(RequestError, "expected a transformer file that is of Qwen-Image, found none"):
        opened(release="Qwen-Image")


def test_a_wrong_file_is_named(tiny_folder, files):
    with fails(CheckpointError, "mmproj.gguf: the tensors do not fit this model"):
        danqing.load(tiny_folder, text_encoder=files / "mmproj.gguf", device="cpu")
    with fails(CheckpointError, "none.gguf: expected"):
        danqing.load(tiny_folder, vae=files / "none.gguf", device="cpu")
