"""`danqing convert` as users run it, and what `danqing info` then says."""

import json
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

import danqing
from danqing.cli.convert import convert
from danqing.cli.info import info
from danqing.errors import DanqingError


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a command in an empty folder; its standard output, or its error."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments, verb=convert):
        done = CliRunner().invoke(verb, [str(one) for one in arguments])
        if isinstance(done.exception, DanqingError):
            return str(done.exception)
        assert done.exit_code == 0, done.output
        return done.stdout

    return command


@pytest.fixture(scope="module")
def edit_2511(tiny_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("edit") / "Edit"
    shutil.copytree(tiny_folder, folder)
    (folder / "danqing.json").unlink()
    for file, change in (
        ("model_index.json", {"_class_name": "QwenImageEditPlusPipeline"}),
        ("transformer/config.json", {"zero_cond_t": True}),
    ):
        values = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(values | change))
    return folder


def drawn(folder, **given):
    model = danqing.load(folder, device="cpu", precision="fp32", **given)
    return np.asarray(model.generate("a red apple", seed=3))


def test_there_and_back(run, tiny, tiny_folder, tmp_path):
    said = run(tiny_folder, "-o", "one.safetensors")
    assert said.splitlines() == ["one.safetensors  0.4 MB  tensors: 77 in fp32", "0.4 MB written"]
    run(tiny_folder, "-o", "vae.safetensors", "--part", "vae")
    run(tiny_folder, "-o", "words.gguf", "--part", "text_encoder")
    files = ("--transformer", "one.safetensors", "--vae", "vae.safetensors")
    encoder = ("--text-encoder", "words.gguf", "--text-encoder", "words-mmproj.gguf")
    values = json.loads(
        run(tiny_folder, *files, *encoder, "-o", "new", "--max-shard-size", "100KB", "--json")
    )
    assert values["written"]
    assert sum(file["bytes"] for file in values["files"]) < values["bytes"]
    assert "tokenizer/tokenizer.json" in values["copied"]
    assert sorted(file["path"] for file in values["files"]) == sorted(
        str(file.relative_to(tmp_path)) for file in (tmp_path / "new").rglob("*.safetensors")
    )
    expected = np.asarray(tiny.generate("a red apple", seed=3))
    assert np.array_equal(drawn(tmp_path / "new"), expected)
    run("one.safetensors", "--like", tiny_folder, "-o", "again")
    assert np.array_equal(drawn(tmp_path / "again"), expected)


def test_a_dry_run_says_it_all_and_writes_nothing(run, tiny_folder, tmp_path):
    arguments = (tiny_folder, "-o", "x.gguf", "--precision", "q8_0")
    planned = json.loads(run(*arguments, "--dry-run", "--json"))
    assert list(tmp_path.iterdir()) == []
    done = json.loads(run(*arguments, "--json"))
    assert (tmp_path / "x.gguf").stat().st_size == planned["bytes"] == done["bytes"]
    assert planned == done | {"written": False}
    assert planned["files"][0]["precisions"] == {"F32": 65, "Q8_0": 12}
    assert "0.2 MB to write" in run(*arguments, "--dry-run", "--overwrite")


def test_converted_files_are_named_right(run, edit_2511, tiny_folder):
    for number, (arguments, kind, precision) in enumerate(
        (
            ((), "transformer", "fp32"),
            (("--precision", "fp8", "--prefix"), "transformer", "fp8 with scales"),
            (("--precision", "bf16", "--part", "vae"), "vae", "bf16"),
            (("--part", "text_encoder"), "text_encoder", "fp32"),
            (("--part", "all", "--precision", "fp16"), "checkpoint", "fp16"),
        )
    ):
        run(edit_2511, "-o", f"{number}.safetensors", *arguments)
        said = json.loads(run(f"{number}.safetensors", "--json", verb=info))
        assert (said["kind"], said["release"]) == (kind, "Qwen-Image-Edit-2511")
        assert (said["precisions"][0], said["licence"]) == (precision, "Apache-2.0")
    run(edit_2511, "-o", "x.gguf", "--precision", "q4_0")
    said = json.loads(run("x.gguf", "--json", verb=info))
    assert (said["release"], said["precisions"][0]) == ("Qwen-Image-Edit-2511", "Q4_0")
    for release in ("Qwen-Image", "Qwen-Image-2512"):
        run(tiny_folder, "-o", f"{release}.safetensors", "--release", release)
        assert json.loads(run(f"{release}.safetensors", "--json", verb=info))["release"] == release


def test_adapters(run, tiny_folder, tmp_path):
    layer = "transformer_blocks.0.attn.to_q"
    pair = {f"{layer}.lora_A.weight": torch.ones(2, 32), f"{layer}.lora_B.weight": torch.ones(32, 2)}
    save_file(pair, tmp_path / "ink.safetensors")
    for dialect, first in (
        ("diffusers", "transformer."),
        ("kohya", "lora_unet_"),
        (None, "diffusion_model."),
    ):
        flags = () if dialect is None else ("--dialect", dialect)
        run("ink.safetensors", "-o", "new.safetensors", "--like", tiny_folder, "--overwrite", *flags)
        said = json.loads(run("new.safetensors", "--json", verb=info))
        assert (said["kind"], said["about"]) == ("adapter", "LoRA")
        with (tmp_path / "new.safetensors").open("rb") as stream:
            assert f'"{first}'.encode() in stream.read(400)
    (tmp_path / "peft").mkdir()
    save_file(pair, tmp_path / "peft/adapter_model.safetensors")
    (tmp_path / "peft/adapter_config.json").write_text('{"r": 2, "lora_alpha": 1}')
    assert "3 in fp32" in run("peft", "-o", "peft.safetensors", "--like", tiny_folder)


def test_a_licence_is_carried(run, tiny21_folder):
    run(tiny21_folder, "-o", "x.safetensors")
    run("x.safetensors", "-o", "y.gguf")
    run("y.gguf", "-o", "z.safetensors")
    for file in ("x.safetensors", "y.gguf", "z.safetensors"):
        assert json.loads(run(file, "--json", verb=info))["licence"] == "Qwen Research License"


def test_mistakes(run, tiny_folder, edit_2511, tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"mine")
    run(tiny_folder, "-o", "one.safetensors")
    layer = "transformer_blocks.0.attn.to_q"
    save_file({f"{layer}.lora_A.weight": torch.ones(2, 32)}, tmp_path / "half.safetensors")
    before = sorted(tmp_path.rglob("*"))
    for arguments, said in (
        ((tiny_folder, "-o", "x.gguf"), "expected nothing there, found one; add --overwrite to replace it"),
        (
            (tiny_folder, "-o", "y.gguf", "--precision", "fp8"),
            "expected one of keep, bf16, fp16, q8_0, q4_0 for",
        ),
        ((tiny_folder, "-o", "y.gguf", "--part", "all"), "expected transformer or text_encoder"),
        (
            (tiny_folder, "-o", "y", "--part", "vae"),
            "part: expected it with --to file or gguf, found --to folder",
        ),
        (
            (tiny_folder, "-o", "y", "--dialect", "kohya"),
            "dialect: expected it with --to lora, found --to folder",
        ),
        ((tiny_folder, "-o", "y", "--max-shard-size", "big"), "expected a size like 5GB"),
        ((tiny_folder, "-o", "y", "--like", tiny_folder), "which has its own"),
        (
            (tiny_folder, "-o", "y.safetensors", "--release", "Qwen-Image-2.1"),
            "expected one of a QwenImagePipeline",
        ),
        ((tiny_folder, "-o", "y.safetensors", "--release", "nano"), "expected one of Qwen-Image, "),
        (("one.safetensors", "-o", "y"), "expected configs for a folder, found .*; add --like FOLDER"),
        (
            ("one.safetensors", "-o", "y.safetensors", "--part", "vae"),
            "expected a vae, found only transformer",
        ),
        (
            ("one.safetensors", "-o", "y", "--vae", "one.safetensors"),
            "expected a folder to take --transformer",
        ),
        (("half.safetensors", "-o", "y", "--like", tiny_folder), "expected the two halves of a LoRA"),
        (("half.safetensors", "-o", "y", "--to", "gguf"), "to: expected an adapter to write a lora"),
        (("nowhere", "-o", "y"), "expected a shipped model .* found nowhere"),
    ):
        found = run(*arguments)
        assert "\n" not in found
        words = said.split(".*")
        assert all(one in found for one in words), found
        assert sorted(tmp_path.rglob("*")) == before
