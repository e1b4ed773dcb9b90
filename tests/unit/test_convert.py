"""Checkpoints come out of other files as they went in, and what cannot be said is refused first."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import danqing
from danqing.errors import CheckpointError, RequestError, ResourceError
from danqing.models.mmdit import MMDiT, MMDiTConfig
from danqing.models.single_stream import SingleStream, SingleStreamConfig
from danqing.weights.convert import carry_out, plan_file
from danqing.weights.convert_folder import plan_folder, shard_bytes
from danqing.weights.convert_source import PARTS, file_origin, folder_origin
from danqing.weights.file_names import Cut, stored
from danqing.weights.headers import read_header
from danqing.weights.layouts import Folder
from danqing.weights.packing import PACKED, Wanted, safetensors_items
from danqing.weights.parts import GivenParts
from danqing.weights.releases import identify, zero_cond_of
from danqing.weights.single_file import PartFiles
from danqing.weights.store import Shards
from danqing.weights.streaming import _layout
from tests.tiny import write_tiny
from tests.unit.test_single_file import wan, wan22

FAST = {"device": "cpu", "precision": "fp32"}


def fails(kind, message):
    """Expect an error of one line that matches `message`."""
    return pytest.raises(kind, match=rf"(?s)\A(?=.*{message})[^\n]+\Z")


def tensors(folder, part):
    shards = Shards.open(folder / part)
    return dict(shards.read(shards.tensors))


def read(file, part, dtype=torch.float32):
    source = PartFiles.open([file], part, dtype=dtype)
    return dict(source.read(source.tensors))


def same(found, expected):
    assert found.keys() == expected.keys()
    assert all(found[name].dtype == expected[name].dtype for name in expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def written(plan, **options):
    carry_out(plan, **options)
    return plan.target


@pytest.fixture(scope="module")
def bf16_folder(tiny_folder, tmp_path_factory):
    """The tiny checkpoint in bf16."""
    target = tmp_path_factory.mktemp("bf16") / "tiny"
    return written(plan_folder(folder_origin(Folder(tiny_folder)), target, precision="bf16"))


@pytest.fixture(scope="module")
def edit_2511(tiny_folder, tmp_path_factory):
    """The tiny checkpoint as an Edit-2511, whose switch no tensor shows."""
    folder = tmp_path_factory.mktemp("edit") / "tiny"
    shutil.copytree(tiny_folder, folder)
    (folder / "danqing.json").unlink()
    for file, change in (
        ("model_index.json", {"_class_name": "QwenImageEditPlusPipeline"}),
        ("transformer/config.json", {"zero_cond_t": True}),
    ):
        values = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(values | change))
    return folder


@pytest.mark.parametrize("size", ["tiny_folder", "bf16_folder", "tiny21_folder"])
@pytest.mark.parametrize("part", PARTS)
def test_a_file_and_back_is_bit_equal(request, tmp_path, size, part):
    folder = request.getfixturevalue(size)
    origin = folder_origin(Folder(folder))
    plan = plan_file(origin, tmp_path / "new.safetensors", parts=[part])
    file = written(plan)
    assert file.stat().st_size == plan.size
    assert [one.name for one in tmp_path.iterdir()] == ["new.safetensors"]
    expected = tensors(folder, part)
    dtype = next(iter(expected.values())).dtype
    same(read(file, part, dtype), expected)
    assert {tensor.dtype for tensor in load_file(file).values()} == {dtype}
    back = plan_folder(file_origin(file, like=Folder(folder), release=None), tmp_path / "back")
    same(tensors(written(back), part), expected)


def test_names_are_those_that_comfyui_loads(tiny_folder, tiny21_folder):
    for folder, spelling in ((tiny_folder, wan), (tiny21_folder, wan22)):
        names = Shards.open(folder / "vae").tensors
        assert stored(names, "vae", "comfyui").keys() == {spelling(name) for name in names}
    names = stored(Shards.open(tiny21_folder / "text_encoder").tensors, "text_encoder", "comfyui")
    assert {"model.layers.0.mlp.up_proj.weight", "model.visual.deepstack_merger_list.0.norm.weight"} <= {
        *names
    }
    names = stored(Shards.open(tiny21_folder / "transformer").tensors, "transformer", "comfyui")
    fused = names["transformer_blocks.0.img_mlp.gate_up.weight"]
    assert [name.split(".")[3] for name in fused.sources] == ["gate_layer", "proj"]


def test_names_that_a_spelling_lacks():
    with fails(CheckpointError, "text_encoder that files of llama have names for, found others .model.x"):
        stored(["model.norm.weight", "model.x.mlp.y"], "text_encoder", "llama")


def test_three_parts_in_one_file(tiny_folder, tmp_path):
    plan = plan_file(folder_origin(Folder(tiny_folder)), tmp_path / "all.safetensors", parts=PARTS)
    names = set(load_file(written(plan)))
    assert {"vae.encoder.conv1.weight", "model.diffusion_model.img_in.weight"} <= names
    assert "text_encoders.qwen25_7b.transformer.model.norm.weight" in names
    for part in PARTS:
        same(read(plan.target, part), tensors(tiny_folder, part))
    origin = file_origin(plan.target, like=Folder(tiny_folder), release=None)
    back = written(plan_folder(origin, tmp_path / "back"))
    for part in PARTS:
        same(tensors(back, part), tensors(tiny_folder, part))


def test_what_no_tensor_shows_is_written_down(edit_2511, tiny_folder, tmp_path):
    origin = folder_origin(Folder(edit_2511))
    assert (origin.release, origin.zero_cond) == ("Qwen-Image-Edit-2511", True)
    file = written(plan_file(origin, tmp_path / "edit.safetensors", prefix=True))
    assert load_file(file)["model.diffusion_model.__index_timestep_zero__"].shape == (0,)
    header = read_header(file)
    assert identify(header).releases == ("Qwen-Image-Edit-2511",)
    assert header.metadata["modelspec.license"] == "Apache-2.0"
    assert header.metadata["danqing.source"] == "tiny"
    again = written(plan_file(file_origin(file, like=None, release=None), tmp_path / "again.safetensors"))
    assert zero_cond_of(read_header(again), None) is True
    hidden = tmp_path / "hidden.safetensors"  # without the marker, and without metadata
    save_file(read(file, "transformer"), hidden)
    unknown = file_origin(hidden, like=None, release=None)
    assert unknown.zero_cond is None
    assert "say it with --release" in plan_file(unknown, tmp_path / "x.safetensors").notes[0]
    for release, zero in (("Qwen-Image-Edit-2509", False), ("Qwen-Image-Edit-2511", True)):
        origin = file_origin(hidden, like=None, release=release)
        told = written(plan_file(origin, tmp_path / f"{release}.safetensors"))
        assert zero_cond_of(read_header(told), None) is zero
        assert identify(read_header(told)).releases == (release,)
        folder = written(
            plan_folder(file_origin(told, like=Folder(edit_2511), release=None), tmp_path / release)
        )
        assert json.loads((folder / "transformer/config.json").read_text())["zero_cond_t"] is zero
    with fails(CheckpointError, "needs a folder of QwenImageEditPlusPipeline"):
        file_origin(file, like=Folder(tiny_folder), release=None)


def test_a_release_that_only_its_name_shows(edit_2511, tiny_folder, tmp_path):
    for folder, release in ((edit_2511, "Qwen-Image-Edit-2511"), (tiny_folder, "Qwen-Image-2512")):
        assert folder_origin(Folder(folder)).called(release).release == release
    with fails(RequestError, "expected one of a QwenImageEditPlusPipeline like tiny, found .*2509"):
        folder_origin(Folder(edit_2511)).called("Qwen-Image-Edit-2509")
    for place, release in (
        ("models--Qwen--Qwen-Image-2512/snapshots/0123abc", "Qwen-Image-2512"),
        ("Qwen/Qwen-Image", "Qwen-Image"),
        ("Qwen/mine", None),
    ):
        shutil.copytree(tiny_folder, tmp_path / place)
        (tmp_path / place / "danqing.json").unlink()
        origin = folder_origin(Folder(tmp_path / place))
        assert (origin.name, origin.release) == (release or "mine", release)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_precisions(tiny_folder, tmp_path, precision):
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    folder = written(plan_folder(folder_origin(Folder(tiny_folder)), tmp_path / "new", precision=precision))
    for part in PARTS:
        same(tensors(folder, part), {name: t.to(dtype) for name, t in tensors(tiny_folder, part).items()})


def test_numbers_beyond_fp16(tiny_folder, tmp_path):
    state = tensors(tiny_folder, "transformer")
    state["proj_out.weight"][0, 0] = 1e6
    save_file(state, tmp_path / "large.safetensors")
    plan = plan_file(
        file_origin(tmp_path / "large.safetensors", like=None, release=None),
        tmp_path / "new.safetensors",
        precision="fp16",
    )
    with fails(
        CheckpointError, "proj_out.weight: expected numbers that fp16 holds, found some beyond 65,504"
    ):
        carry_out(plan)
    assert [file.name for file in tmp_path.iterdir()] == ["large.safetensors"]


def test_fp8_has_a_scale_for_each_matrix_of_a_block(tiny_folder, tmp_path):
    plan = plan_file(folder_origin(Folder(tiny_folder)), tmp_path / "x.safetensors", precision="fp8")
    stored_now, before = load_file(written(plan)), tensors(tiny_folder, "transformer")
    found = read(plan.target, "transformer")
    assert found.keys() == before.keys()
    packed = [name for name in before if stored_now[name].dtype == torch.float8_e4m3fn]
    assert len(packed) == 28
    for name, weight in before.items():
        if name not in packed:
            assert torch.equal(found[name], weight)
            continue
        layer = name.removesuffix(".weight")
        note = bytes(stored_now[f"{layer}.comfy_quant"].tolist())
        assert json.loads(note) == {"format": "float8_e4m3fn"}
        scale = stored_now[f"{layer}.weight_scale"]
        assert torch.equal(scale, weight.abs().max() / 448)
        error = (found[name] - weight).abs()
        assert (error <= torch.maximum(weight.abs() / 16, scale * 2**-10)).all()  # half a step of e4m3


def test_packed_weights_become_plain_again(tiny_folder, tmp_path):
    origin = folder_origin(Folder(tiny_folder))
    packed = written(plan_file(origin, tmp_path / "fp8.safetensors", precision="fp8"))
    again = plan_file(file_origin(packed, like=None, release=None), tmp_path / "plain.safetensors")
    assert set(again.files[0].kinds) == {"BF16", "F32"}
    name = "transformer_blocks.0.attn.to_q.weight"
    expected = read(packed, "transformer", torch.bfloat16)[name]
    assert torch.equal(load_file(written(again))[name], expected)


def unpacked(folder, target):
    """Return the parts of a folder in fp32, whatever they were stored in."""
    plain = written(plan_folder(folder_origin(Folder(folder)), target, precision="fp32"))
    return {part: tensors(plain, part) for part in PARTS}


def check_error(found, expected, precision):
    assert found.keys() == expected.keys()
    errors = {name: (found[name] - expected[name]).norm() / expected[name].norm() for name in expected}
    assert 0 < max(errors.values()) < (0.02 if precision == "int8" else 0.2)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_whole_numbers_in_folders(tiny_folder, tmp_path, precision):
    plan = plan_folder(folder_origin(Folder(tiny_folder)), tmp_path / "new", precision=precision)
    folder = written(plan)
    assert plan.notes == (f"diffusers does not read {precision}; danqing does",)
    kinds = {file.path.parts[0]: file.kinds for file in plan.files}
    assert set(kinds["vae"]) == {"F32"}
    assert kinds["transformer"]["I8" if precision == "int8" else "F16"] == 28
    found = unpacked(folder, tmp_path / "plain")
    same(found["vae"], tensors(tiny_folder, "vae"))
    for part in ("transformer", "text_encoder"):
        check_error(found[part], tensors(tiny_folder, part), precision)


@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("size", ["tiny_folder", "tiny21_folder"])
def test_whole_numbers_in_a_file(request, tmp_path, size, precision):
    folder = request.getfixturevalue(size)
    for part in ("transformer", "text_encoder"):
        plan = plan_file(
            folder_origin(Folder(folder)), tmp_path / "x.safetensors", parts=[part], precision=precision
        )
        file = written(plan, overwrite=True)
        assert file.stat().st_size == plan.size
        back = plan_file(
            file_origin(file, like=None, release=None), tmp_path / "y.safetensors", precision="fp32"
        )
        check_error(read(written(back, overwrite=True), part), tensors(folder, part), precision)


def test_a_file_in_whole_numbers_draws_nearly_the_same_picture(tiny, tiny_folder, tmp_path):
    plan = plan_file(folder_origin(Folder(tiny_folder)), tmp_path / "x.safetensors", precision="int8")
    model = danqing.load(tiny_folder, transformer=written(plan), **FAST)
    found, expected = (np.asarray(one.generate("a red apple", seed=3)).astype(int) for one in (model, tiny))
    assert 0 < np.abs(found - expected).mean() < 2


def test_a_whole_folder(tiny_folder, tmp_path):
    plan = plan_folder(folder_origin(Folder(tiny_folder)), tmp_path / "new", max_shard_bytes=50_000)
    folder = written(plan)
    index = json.loads((folder / "transformer/diffusion_pytorch_model.safetensors.index.json").read_text())
    shards = sorted((folder / "transformer").glob("*.safetensors"))
    assert len(shards) > 5
    assert all(file.stat().st_size < 60_000 for file in shards)
    assert {*index["weight_map"].values()} == {file.name for file in shards}
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in tensors(folder, "transformer").values())
    named = {str(file.relative_to(tiny_folder)) for file in tiny_folder.rglob("*.*") if file.is_file()}
    assert {name for name in named if not name.endswith(".safetensors")} <= {
        str(file.relative_to(folder)) for file in folder.rglob("*.*")
    }
    for part in PARTS:
        same(tensors(folder, part), tensors(tiny_folder, part))
    found, expected = (
        np.asarray(danqing.load(one, **FAST).generate("a red apple", seed=3)) for one in (folder, tiny_folder)
    )
    assert np.array_equal(found, expected)


def test_an_autoencoder_for_pictures_alone_becomes_whole(tiny_folder, tmp_path):
    folded = write_tiny(tmp_path / "folded", folded_vae=True)
    assert tensors(folded, "vae")["quant_conv.weight"].dim() == 4
    file = written(plan_file(folder_origin(Folder(folded)), tmp_path / "vae.safetensors", parts=["vae"]))
    same(read(file, "vae"), tensors(tiny_folder, "vae"))


def test_a_denoiser_alone(tiny_folder, tmp_path):
    save_file(tensors(tiny_folder, "transformer"), tmp_path / "x.safetensors")
    origin = file_origin(tmp_path / "x.safetensors", like=None, release=None)
    with fails(RequestError, "expected configs for a folder, found .*; add --like FOLDER or --release NAME"):
        plan_folder(origin, tmp_path / "new")
    origin = file_origin(tmp_path / "x.safetensors", like=None, release="Qwen-Image-Edit")
    with fails(
        CheckpointError, r"do not fit the config, \d+ are wrong .time_text_embed.*expected .3072, 256"
    ):
        plan_folder(origin, tmp_path / "new")
    save_file(tensors(tiny_folder, "vae"), tmp_path / "vae.safetensors")
    with fails(RequestError, "expected configs for a folder, found a single file .*; add --like FOLDER$"):
        plan_folder(file_origin(tmp_path / "vae.safetensors", like=None, release=None), tmp_path / "new")


@pytest.mark.parametrize("release", ["Qwen-Image-Edit-2511", "Qwen-Image-Layered", "Qwen-Image-2.1"])
def test_a_true_denoiser_needs_its_release_alone(tmp_path, release):
    """A sparse file of 40 GB: the plan is made of its header."""
    with torch.device("meta"):
        layered = release == "Qwen-Image-Layered"
        if release == "Qwen-Image-2.1":
            model = SingleStream(SingleStreamConfig())
        else:
            model = MMDiT(MMDiTConfig(use_additional_t_cond=layered, use_layer3d_rope=layered))
    cuts = {name: Wanted(Cut((name,)), tuple(p.shape), "BF16") for name, p in model.named_parameters()}
    header, _, total = _layout(safetensors_items(cuts, "keep"), {})
    with (tmp_path / "x.safetensors").open("wb") as stream:
        stream.write(header)
        stream.truncate(len(header) + total)
    plan = plan_folder(file_origin(tmp_path / "x.safetensors", like=None, release=release), tmp_path / "new")
    assert total < plan.size < total + 1_000_000
    assert all(file.size < 5.001e9 for file in plan.files)
    assert len(plan.files) == -(-total // 5_000_000_000)
    config = plan.texts["transformer/config.json"]
    assert config.get("zero_cond_t", False) is (release == "Qwen-Image-Edit-2511")
    assert config.get("use_layer3d_rope", False) is (release == "Qwen-Image-Layered")
    name = "QwenImage21Transformer2DModel" if "2.1" in release else "QwenImageTransformer2DModel"
    assert config["_class_name"] == name
    assert plan.notes == (
        f"only the transformer of {release} is written; put it in the place of that of a whole folder",
    )


def test_parts_of_another_size_are_refused_before_anything_is_written(tiny_folder, tmp_path):
    state = tensors(tiny_folder, "vae")
    del state["quant_conv.bias"]
    save_file(state, tmp_path / "vae.safetensors")
    given = GivenParts(vae=tmp_path / "vae.safetensors")
    with fails(CheckpointError, "vae: the tensors do not fit the config, 1 are wrong .quant_conv.bias"):
        plan_folder(folder_origin(Folder(tiny_folder, given)), tmp_path / "new")


def test_nothing_is_overwritten_unasked(tiny_folder, tmp_path, monkeypatch):
    origin = folder_origin(Folder(tiny_folder))
    plan = plan_file(origin, tmp_path / "x.safetensors")
    plan.target.write_text("mine")
    with fails(RequestError, "expected nothing there, found one; add --overwrite"):
        carry_out(plan)
    assert plan.target.read_text() == "mine"
    carry_out(plan, overwrite=True)
    assert read(plan.target, "transformer")
    folder = plan_folder(origin, tmp_path / "new")
    carry_out(folder)
    (folder.target / "note.txt").write_text("mine")
    with fails(RequestError, "expected nothing there"):
        carry_out(folder)
    carry_out(folder, overwrite=True)
    assert not (folder.target / "note.txt").exists()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["new", "x.safetensors"]
    with fails(RequestError, "expected another folder than the one that is read"):
        carry_out(plan_folder(folder_origin(Folder(folder.target)), folder.target), overwrite=True)
    with fails(RequestError, "expected a file or nothing there, found another thing"):
        carry_out(plan_file(origin, folder.target), overwrite=True)


def test_a_full_disk_is_told_before(tiny_folder, tmp_path, monkeypatch):
    plan = plan_file(folder_origin(Folder(tiny_folder)), tmp_path / "x.safetensors")
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1_000))
    with fails(ResourceError, "expected 1 MB of free disk, found 0 MB"):
        carry_out(plan)
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_leaves_nothing(tiny_folder, tmp_path):
    def stop(name, size):
        raise KeyboardInterrupt

    origin = folder_origin(Folder(tiny_folder))
    for plan in (plan_file(origin, tmp_path / "x.safetensors"), plan_folder(origin, tmp_path / "new")):
        with pytest.raises(KeyboardInterrupt):
            carry_out(plan, report=stop)
    assert list(tmp_path.iterdir()) == []


def test_what_a_target_does_not_take(tiny_folder, tmp_path):
    origin = folder_origin(Folder(tiny_folder))
    with fails(RequestError, "expected one of keep, fp32, bf16, fp16, int8, int4 for a folder, found 'fp8'"):
        plan_folder(origin, tmp_path / "new", precision="fp8")
    for precision in PACKED:
        with fails(RequestError, "expected fp32, bf16 or fp16 for an autoencoder"):
            plan_file(origin, tmp_path / "x.safetensors", parts=["vae"], precision=precision)
    save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors")
    with fails(CheckpointError, "expected a denoiser, an autoencoder, .*found unknown: no part of"):
        file_origin(tmp_path / "a.safetensors", like=None, release=None)
    assert shard_bytes("1.5gb") == 1_500_000_000
    for text in ("5", "GB", "-1MB", "nanGB", "5TB"):
        with fails(RequestError, "expected a size like 5GB or 500MB"):
            shard_bytes(text)
