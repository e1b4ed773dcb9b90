"""`danqing generate` on a tiny checkpoint: what it writes, prints and refuses."""

import io
import json
import shutil
import sys

import pytest
from PIL import Image

import danqing


@pytest.fixture
def draw(cli, tiny_folder):
    """Draw with the tiny checkpoint."""
    return lambda *arguments: cli("generate", "--model", tiny_folder, *arguments)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_prompt_alone_draws(cli, tiny_folder, tmp_path):
    done = cli("A red apple, on a table", "--model", tiny_folder)
    assert (done.code, done.err) == (0, "")
    (name,) = done.lines
    assert files(tmp_path) == [name]
    with Image.open(tmp_path / name) as picture:
        drawn = json.loads(picture.info["danqing"])
        assert picture.size == (64, 48)
    assert name == f"danqing-{drawn['seed']}-a-red-apple-on-a-table.png"
    assert (drawn["model"], drawn["prompt"], drawn["steps"]) == ("tiny", "A red apple, on a table", 3)


def test_the_picture_is_the_one_python_draws(draw, tiny, tmp_path):
    flags = ("--seed", 7, "--size", "32x48", "--steps", 2, "--guidance", 2, "--negative-prompt", "blurry")
    assert draw("a cat", *flags, "--solver", "heun", "-o", "cat.png", "--precision", "fp32").code == 0
    expected = tiny.generate(
        "a cat", seed=7, size=(32, 48), steps=2, guidance=2.0, negative_prompt="blurry", solver="heun"
    )
    assert isinstance(expected, Image.Image)
    with Image.open(tmp_path / "cat.png") as picture:
        assert picture.tobytes() == expected.tobytes()
        assert picture.info["parameters"] == expected.info["parameters"]


def test_several_pictures_are_numbered_and_equal_single_ones(draw, tmp_path):
    done = draw("a cat", "--seed", 7, "-n", 2)
    assert done.lines == ["danqing-7-a-cat-1.png", "danqing-8-a-cat-2.png"]
    draw("a cat", "--seed", 8, "-o", "alone.png")
    with Image.open(done.lines[1]) as second, Image.open("alone.png") as alone:
        assert second.tobytes() == alone.tobytes()
    assert draw("a cat", "-n", 2, "-o", "out.png").lines == ["out-1.png", "out-2.png"]


def test_json_tells_everything_on_one_line_a_picture(draw):
    done = draw("一只猫", "--seed", 7, "-n", 2, "--steps", 1, "--json")
    first, second = map(json.loads, done.lines)
    assert first.pop("seconds") > 0
    assert first == {
        "path": "danqing-7-一只猫-1.png",
        "prompt": "一只猫",
        "seed": 7,
        "size": [64, 48],
        "steps": 1,
        "guidance": 3.0,
        "model": "tiny",
    }
    assert second["seed"] == 8


def test_nothing_is_overwritten_unless_asked(draw, tmp_path):
    assert draw("a cat", "--seed", 7).lines == ["danqing-7-a-cat.png"]
    assert draw("a cat", "--seed", 7).lines == ["danqing-7-a-cat_2.png"]
    (tmp_path / "a.png").write_bytes(b"precious")
    assert draw("a cat", "-o", "a.png").is_mistake("a.png: expected a new file", "--overwrite")
    assert (tmp_path / "a.png").read_bytes() == b"precious"
    (tmp_path / "b-2.png").touch()
    assert draw("a cat", "-o", "b.png", "-n", 2).is_mistake("b-2.png")
    assert not (tmp_path / "b-1.png").exists()
    assert draw("a cat", "-o", "a.png", "--overwrite").code == 0
    with Image.open("a.png") as picture:
        assert picture.size == (64, 48)


@pytest.mark.parametrize(("name", "form"), [("a.jpg", "JPEG"), ("a.webp", "WEBP"), ("a.PNG", "PNG")])
def test_the_name_chooses_the_format(draw, cli, name, form):
    assert draw("一只猫", "--seed", 7, "-o", name).lines == [name]
    with Image.open(name) as picture:
        assert picture.format == form
    assert "一只猫" in cli("info", name).out
    assert "eed: 7" in cli("info", name).out


def test_a_folder_takes_the_default_name(draw, tmp_path):
    (tmp_path / "pictures").mkdir()
    assert draw("a cat", "--seed", 7, "-o", "pictures").lines == ["pictures/danqing-7-a-cat.png"]


def test_the_prompt_may_come_from_a_file_or_stdin(draw, tmp_path, monkeypatch):
    (tmp_path / "prompt.txt").write_text("一只猫\n", encoding="utf-8")
    done = draw("--prompt-file", "prompt.txt", "--json")
    assert json.loads(done.out)["prompt"] == "一只猫"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a dog\n")))
    assert json.loads(draw("-", "--json").out)["prompt"] == "a dog"
    assert draw("--prompt-file", "none.txt").is_mistake("none.txt: expected a prompt")
    (tmp_path / "prompt.txt").write_bytes(b"\xff\xfe\xfd")
    assert draw("--prompt-file", "prompt.txt").is_mistake("UTF-8")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([""], "prompt: expected some text"),
        (["  \n"], "prompt: expected some text"),
        ([], "expected one prompt"),
        (["a", "red", "apple"], 'quote them: "a red apple"'),
        (["a cat", "--prompt-file", "p.txt"], "found several"),
        (["a cat", "--resume"], "--resume goes on with a --batch"),
        (["x" * 20_001], "at most 20000 characters"),
        (["a cat", "--size", "33x32"], "multiples of 16, found width 33"),
        (["a cat", "--size", "4096x4096"], "found width 4096"),
        (["a cat", "--size", "0x0"], "found width 0"),
        (["a cat", "--size", "big"], "WIDTHxHEIGHT"),
        (["a cat", "--steps", "0"], "steps: expected 1 to 1000"),
        (["a cat", "--steps", "many"], "'many' is not a valid integer"),
        (["a cat", "--guidance", "nan"], "guidance: expected 1"),
        (["a cat", "--seed", "-1"], "a seed is a whole number"),
        (["a cat", "--seed", str(2**63)], "a seed is a whole number"),
        (["a cat", "-n", "0"], "count: expected 1"),
        (["a cat", "--solver", "magic"], "solver: expected one of euler, heun"),
        (["a cat", "--precision", "fp8"], "fp8"),
        (["a cat", "--device", "tpu"], "device is one of"),
        (["a cat", "--threads", "0"], "threads"),
        (["a cat", "--colour", "red"], "No such option"),
        (["a cat", "-o", "no/such/folder/a.png"], "expected a folder to write to"),
        (["a cat", "-o", "a.gif"], "ends in .png"),
        (["a cat", "-o", "picture"], "ends in .png"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(draw, tmp_path, arguments, said):
    done = draw(*arguments)
    assert done.is_mistake(said), done
    assert files(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_one_line(draw, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    assert draw("a cat", "-o", "file/a.png").is_mistake("expected a folder")
    if sys.platform == "linux":  # where nobody may create files, not even root
        assert draw("a cat", "-o", "/proc/a.png").is_mistake("cannot write there")


def test_checkpoints_that_are_none(cli, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "model_index.json").write_text("<html>")
    assert cli("generate", "a cat", "--model", "missing").is_mistake("expected a shipped model (nano)")
    assert cli("generate", "a cat", "--model", "empty").is_mistake("model_index.json")
    assert cli("generate", "a cat", "--model", "other").is_mistake("found FluxPipeline")
    assert cli("generate", "a cat", "--model", "text").is_mistake("expected a JSON object")


def _break(folder, how):
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    if how == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif how == "empty":
        weights.write_bytes(b"")
    elif how == "missing":
        weights.unlink()
    elif how == "swapped":
        shutil.copy(folder / "vae" / weights.name, weights)
    elif how == "config":
        config = folder / "transformer" / "config.json"
        config.write_text(config.read_text().replace('"num_layers": 2', '"num_layers": 3'))
    elif how == "tokenizer":
        shutil.rmtree(folder / "tokenizer")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("truncated", "expected a whole safetensors file"),
        ("empty", "expected a whole safetensors file"),
        ("missing", "expected one .safetensors file"),
        ("swapped", "the tensors do not fit this model"),
        ("config", "missing (transformer_blocks.2"),
        ("tokenizer", "expected tokenizer.json"),
    ],
)
def test_a_broken_checkpoint_is_one_line(cli, tiny_folder, tmp_path, how, said):
    shutil.copytree(tiny_folder, tmp_path / "broken")
    _break(tmp_path / "broken", how)
    done = cli("generate", "a cat", "--model", "broken")
    assert done.is_mistake(said), done
    assert files(tmp_path) == ["broken"]


def test_the_flags_are_the_fields_of_a_request():
    from danqing.cli.generate import generate

    flags = {parameter.name for parameter in generate.params}
    assert set(danqing.GenerateRequest.__dataclass_fields__) - {"controls", "wish"} <= flags
    assert {"control", "control_mask"} <= flags
