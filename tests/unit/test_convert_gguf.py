"""GGUF files that danqing writes: the library's own numbers, the types that others use, names they read."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import danqing
from danqing.errors import CheckpointError, RequestError
from danqing.models.mmdit import MMDiT, MMDiTConfig
from danqing.weights.convert import carry_out
from danqing.weights.convert_folder import plan_folder
from danqing.weights.convert_gguf import plan_gguf
from danqing.weights.convert_source import PartSource, file_origin, folder_origin
from danqing.weights.file_names import Cut
from danqing.weights.headers import read_header
from danqing.weights.layouts import Folder
from danqing.weights.packing import Wanted, gguf_items
from danqing.weights.releases import identify, zero_cond_of
from danqing.weights.single_file import PartFiles
from danqing.weights.store import Shards
from tests.unit.test_gguf import llama

gguf = pytest.importorskip("gguf")


def fails(kind, message):
    """Expect an error of one line that matches `message`."""
    return pytest.raises(kind, match=rf"(?s)\A(?=.*{message})[^\n]+\Z")


def tensors(folder, part):
    shards = Shards.open(folder / part)
    return dict(shards.read(shards.tensors))


def read(files, part):
    source = PartFiles.open(files, part)
    return dict(source.read(source.tensors))


def written(plan):
    carry_out(plan)
    assert [file.path.stat().st_size for file in plan.files] == [file.size for file in plan.files]
    return [file.path for file in plan.files]


@pytest.fixture(scope="module")
def bf16_folder(tiny_folder, tmp_path_factory):
    """The tiny checkpoint in bf16."""
    target = tmp_path_factory.mktemp("bf16") / "tiny"
    carry_out(plan_folder(folder_origin(Folder(tiny_folder)), target, precision="bf16"))
    return target


@pytest.mark.parametrize("part", ["transformer", "text_encoder"])
@pytest.mark.parametrize("precision", ["keep", "bf16"])
def test_bf16_is_equal(bf16_folder, tmp_path, part, precision):
    plan = plan_gguf(folder_origin(Folder(bf16_folder)), tmp_path / "x.gguf", part=part, precision=precision)
    files = written(plan)
    found, expected = read(files, part), tensors(bf16_folder, part)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name].float()) for name in expected)
    assert set(plan.files[0].kinds) == {"BF16", "F32"}
    assert len(files) == (1 if part == "transformer" else 2)


@pytest.mark.parametrize("part", ["transformer", "text_encoder"])
@pytest.mark.parametrize(("precision", "error"), [("q8_0", 0.01), ("q4_0", 0.12), ("fp16", 0.001)])
def test_packed_weights_are_those_of_the_library(tiny_folder, tmp_path, monkeypatch, part, precision, error):
    monkeypatch.setattr("danqing.weights.packing._AT_ONCE", 100)
    origin = folder_origin(Folder(tiny_folder))
    files = written(plan_gguf(origin, tmp_path / "x.gguf", part=part, precision=precision))
    found, before = read(files, part), tensors(tiny_folder, part)
    stored = {one.name: one for file in files for one in gguf.GGUFReader(file).tensors}
    names = {"transformer": {}, "text_encoder": {}}[part]
    words, eyes = llama(before, split=True) if part == "text_encoder" else (before, names)
    assert stored.keys() == {**words, **eyes}.keys()
    packed = 0
    for name, weight in words.items():
        kind = stored[name].tensor_type
        values = weight.numpy().astype(np.float32)
        assert np.array_equal(stored[name].data.view(np.uint8), gguf.quantize(values, kind).view(np.uint8))
        packed += kind.name == precision.upper()
        unpacked = gguf.dequantize(stored[name].data, kind).reshape(values.shape)
        assert np.linalg.norm(unpacked - values) <= error * np.linalg.norm(values)
    assert packed > 3 or precision == "fp16"
    assert found.keys() == before.keys()


def test_a_packed_file_draws_nearly_the_same_picture(tiny, tiny_folder, tmp_path):
    origin = folder_origin(Folder(tiny_folder))
    denoiser = written(plan_gguf(origin, tmp_path / "denoiser.gguf", precision="q8_0"))[0]
    encoder = written(plan_gguf(origin, tmp_path / "words.gguf", part="text_encoder", precision="bf16"))
    model = danqing.load(
        tiny_folder, transformer=denoiser, text_encoder=encoder, device="cpu", precision="fp32"
    )
    found, expected = (np.asarray(one.generate("a red apple", seed=3)).astype(int) for one in (model, tiny))
    assert 0 < np.abs(found - expected).mean() < 2


def test_a_packed_file_becomes_a_folder(tiny_folder, tmp_path):
    file = written(plan_gguf(folder_origin(Folder(tiny_folder)), tmp_path / "x.gguf", precision="q8_0"))[0]
    origin = file_origin(file, like=Folder(tiny_folder), release=None)
    carry_out(plan_folder(origin, tmp_path / "new", precision="fp32"))
    found, expected = tensors(tmp_path / "new", "transformer"), read([file], "transformer")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_types_of_a_true_denoiser_are_those_of_the_files_people_use():
    """1,933 tensors of which 1,087 are fp32, 840 packed and 6 bf16."""
    with torch.device("meta"):
        shapes = {name: tuple(p.shape) for name, p in MMDiT(MMDiTConfig()).named_parameters()}
    wanted = {name: Wanted(Cut((name,)), shape, "BF16") for name, shape in shapes.items()}
    for precision, size in (("q8_0", 20.27), ("q4_0", None)):
        slots = [slot for item in gguf_items(wanted, precision) for slot in item.slots]
        kinds = [slot.kind for slot in slots]
        counts = {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}
        assert counts == {"F32": 1087, precision.upper(): 840, "BF16": 6}
        if size:
            assert sum(slot.size for slot in slots) / 2**30 == pytest.approx(size, abs=0.01)


def test_rows_that_do_not_fall_into_blocks_stay_as_they_are():
    wanted = {"blk.0.ffn_down.weight": Wanted(Cut(("a",)), (64, 48), "BF16")}
    (item,) = gguf_items(wanted, "q8_0")
    assert item.slots[0].kind == "BF16"


def test_both_architectures_and_what_no_tensor_shows(tiny_folder, tiny21_folder, tmp_path):
    shutil.copytree(tiny_folder, tmp_path / "edit")
    (tmp_path / "edit/danqing.json").unlink()
    for zero, release in ((True, "Qwen-Image-Edit-2511"), (False, "Qwen-Image-Edit-2509")):
        for file, change in (
            ("model_index.json", {"_class_name": "QwenImageEditPlusPipeline"}),
            ("transformer/config.json", {"zero_cond_t": zero}),
        ):
            values = json.loads((tmp_path / "edit" / file).read_text())
            (tmp_path / "edit" / file).write_text(json.dumps(values | change))
        plan = plan_gguf(folder_origin(Folder(tmp_path / "edit")), tmp_path / f"{zero}.gguf")
        header = read_header(written(plan)[0])
        assert ("__index_timestep_zero__" in header.tensors) is zero
        assert header.metadata["qwen_image.zero_cond_t"] is zero
        assert zero_cond_of(header, None) is zero
        assert identify(header).releases == (release,)
        assert header.metadata["general.architecture"] == "qwen_image"
        assert header.metadata["general.license"] == "Apache-2.0"
        assert header.metadata["danqing.source"] == "edit"
    header = read_header(written(plan_gguf(folder_origin(Folder(tiny21_folder)), tmp_path / "21.gguf"))[0])
    assert header.metadata["general.architecture"] == "qwen_image21"
    assert "transformer_blocks.0.img_mlp.gate_up.weight" in header.tensors
    found, expected = read([tmp_path / "21.gguf"], "transformer"), tensors(tiny21_folder, "transformer")
    assert all(torch.equal(found[name], expected[name].float()) for name in expected)


def test_a_conditioner_of_21(tiny21_folder, tmp_path):
    origin = folder_origin(Folder(tiny21_folder))
    files = written(plan_gguf(origin, tmp_path / "qwen3-Q8_0.gguf", part="text_encoder"))
    assert [file.name for file in files] == ["qwen3-Q8_0.gguf", "qwen3-mmproj.gguf"]
    found, expected = read(files, "text_encoder"), tensors(tiny21_folder, "text_encoder")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name].float()) for name in expected)
    words, eyes = (read_header(file).metadata for file in files)
    config = json.loads((tiny21_folder / "text_encoder/config.json").read_text())["text_config"]
    assert words["general.architecture"] == "qwen3vl"
    assert words["qwen3vl.block_count"] == config["num_hidden_layers"]
    assert eyes["general.architecture"] == "clip"
    assert eyes["clip.projector_type"] == "qwen3vl_merger"


def test_the_library_reads_every_number_back(tiny_folder, tmp_path):
    plan = plan_gguf(folder_origin(Folder(tiny_folder)), tmp_path / "x.gguf", part="text_encoder")
    fields = gguf.GGUFReader(written(plan)[0]).fields
    said = {key: field.contents() for key, field in fields.items() if not key.startswith("GGUF.")}
    assert said["qwen2vl.rope.dimension_sections"] == [2, 1, 1, 0]
    assert said["qwen2vl.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-6)
    assert said["qwen2vl.attention.head_count"] == 4
    assert (said["general.file_type"], said["general.quantization_version"]) == (0, 2)


def test_what_gguf_does_not_hold(tiny_folder, tmp_path):
    origin = folder_origin(Folder(tiny_folder))
    with fails(RequestError, "expected a denoiser or a conditioner, found an autoencoder"):
        plan_gguf(origin, tmp_path / "x.gguf", part="vae")
    with fails(RequestError, "expected one of keep, bf16, fp16, q8_0, q4_0 for a gguf, found 'fp8'"):
        plan_gguf(origin, tmp_path / "x.gguf", precision="fp8")
    state = tensors(tiny_folder, "transformer")
    state["transformer_blocks.0.img_mlp.net.2.weight"][0, 0] = torch.nan
    save_file(state, tmp_path / "nan.safetensors")
    broken = file_origin(tmp_path / "nan.safetensors", like=None, release=None)
    with fails(CheckpointError, "img_mlp.net.2.weight: expected finite numbers"):
        carry_out(plan_gguf(broken, tmp_path / "x.gguf", precision="q8_0"))
    assert [file.name for file in tmp_path.iterdir()] == ["nan.safetensors"]


def test_one_tensor_is_in_memory_at_a_time(tiny_folder, tmp_path):
    """Each is read when its turn comes, and nothing of it is kept."""
    read_so_far, alive = [], []

    class Watched:
        def __init__(self, inner):
            self.inner, self.tensors = inner, inner.tensors

        def read(self, names):
            for name, tensor in self.inner.read(names):
                read_so_far.append(name)
                yield name, tensor

    origin = folder_origin(Folder(tiny_folder))
    plan = plan_gguf(origin, tmp_path / "x.gguf")
    opened = plan.files[0].source._opened
    opened["transformer"] = PartSource(
        source=Watched(opened["transformer"].source), kinds=opened["transformer"].kinds
    )
    carry_out(plan, report=lambda name, size: alive.append(len(read_so_far)))
    assert alive == list(range(1, len(alive) + 1))
