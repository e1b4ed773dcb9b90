"""`danqing edit`, and the pictures that `danqing generate` starts from."""

import json

import numpy as np
import pytest
from PIL import Image

import danqing
from tests.editor import half, noisy, write_editor


@pytest.fixture(scope="module")
def editor_folder(tiny_folder, tmp_path_factory):
    return write_editor(tiny_folder, tmp_path_factory.mktemp("editor") / "editor")


@pytest.fixture
def edit(cli, editor_folder, tmp_path):
    """Edit with the tiny checkpoint; photo.png, second.jpg and mask.png lie in the folder."""
    noisy(60, 44).save(tmp_path / "photo.png")
    noisy(40, 70, seed=1).save(tmp_path / "second.jpg")
    half(60, 44).save(tmp_path / "mask.png")
    return lambda *arguments: cli("edit", "--model", editor_folder, "--precision", "fp32", *arguments)


def files(folder):
    return sorted(path.name for path in folder.iterdir() if path.name not in GIVEN)


GIVEN = ("photo.png", "second.jpg", "mask.png")


def test_a_picture_and_an_instruction_are_enough(edit, tmp_path):
    done = edit("photo.png", "Make the apple green!")
    assert (done.code, done.err) == (0, "")
    (name,) = done.lines
    assert files(tmp_path) == [name]
    with Image.open(tmp_path / name) as picture:
        told = json.loads(picture.info["danqing"])
        assert picture.size == (64, 32)
    assert name == f"danqing-{told['seed']}-make-the-apple-green.png"
    assert (told["pictures"], told["prompt"]) == (["photo.png"], "Make the apple green!")


def test_the_picture_is_the_one_python_draws(edit, editor_folder, tmp_path):
    flags = ("--seed", 7, "--size", "32x48", "--steps", 2, "--guidance", 2, "--negative-prompt", "blurry")
    given = ("photo.png", tmp_path / "second.jpg", "darker")
    assert edit(*given, *flags, "--solver", "heun", "-o", "out.png").code == 0
    model = danqing.load(editor_folder, device="cpu", precision="fp32")
    expected = model.edit(
        ["photo.png", "second.jpg"],
        "darker",
        seed=7,
        size=(32, 48),
        steps=2,
        guidance=2.0,
        negative_prompt="blurry",
        solver="heun",
    )
    assert isinstance(expected, Image.Image)
    with Image.open("out.png") as picture:
        assert picture.tobytes() == expected.tobytes()
        told = json.loads(picture.info["danqing"])
    assert told["pictures"] == ["photo.png", "second.jpg"]  # no folders
    assert told == json.loads(expected.info["danqing"])


def test_json_tells_everything_on_one_line_a_picture(edit):
    given = ("photo.png", "darker", "--mask", "mask.png", "--strength", 0.9)
    done = edit(*given, "--seed", 7, "-n", 2, "--steps", 1, "--json")
    first, second = map(json.loads, done.lines)
    assert first.pop("seconds") > 0
    assert first == {
        "path": "danqing-7-darker-1.png",
        "prompt": "darker",
        "seed": 7,
        "size": [64, 32],
        "steps": 1,
        "guidance": 3.0,
        "pictures": ["photo.png"],
        "mask": "mask.png",
        "strength": 0.9,
        "model": "editor",
    }
    assert second["seed"] == 8


def test_an_input_is_not_overwritten(edit, tmp_path):
    before = (tmp_path / "photo.png").read_bytes()
    assert edit("photo.png", "darker", "-o", "photo.png").is_mistake("--overwrite")
    assert (tmp_path / "photo.png").read_bytes() == before
    assert edit("photo.png", "darker", "-o", "photo.png", "--overwrite", "--steps", 1).code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "expected pictures and an instruction"),
        (["photo.png"], "expected the instruction last"),
        (["darker"], "expected a picture before the instruction"),
        (["darker", "photo.png"], "expected the instruction last, found the picture photo.png"),
        (["missing.png", "darker"], "missing.png: expected a picture, found no file"),
        (["photo.png", "make", "it", "dark"], 'quote the instruction: "make it dark"'),
        (["photo.png", "no.png", "dark"], "no.png: expected a picture, found no file"),
        (["broken.png", "dark"], "broken.png: expected a whole picture"),
        (["photo.png", ""], "prompt: expected some text"),
        (["photo.png"] * 3 + ["dark"], "editor edits with up to 2, found 3"),
        (["photo.png", "dark", "--mask", "second.jpg"], "mask: expected the shape of the picture"),
        (["photo.png", "dark", "--mask", "no.png"], "no.png: expected a picture, found no file"),
        (["photo.png", "dark", "--strength", "2"], "strength: expected 0.01 to 1, found 2"),
        (["photo.png", "dark", "--size", "33x32"], "found width 33"),
        (["photo.png", "dark", "-o", "a.gif"], "ends in .png"),
        (["photo.png", "dark", "--model", "nano"], "danqing-nano cannot edit; it can generate"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(edit, tmp_path, arguments, said):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    done = edit(*arguments)
    assert done.is_mistake(said), done
    assert files(tmp_path) == ["broken.png"]


def test_generate_starts_from_a_picture(edit, cli, tiny_folder, tiny, tmp_path):
    draw = ("generate", "a cat", "--model", tiny_folder, "--precision", "fp32", "--image", "photo.png")
    start = ("--seed", 7, "--steps", 4)
    assert cli(*draw, *start, "-o", "weak.png", "--strength", 0.3).code == 0
    assert cli(*draw, *start, "-o", "masked.png", "--mask", "mask.png").code == 0
    for name, options in {"weak": {"strength": 0.3}, "masked": {"mask": "mask.png"}}.items():
        expected = tiny.generate("a cat", image="photo.png", seed=7, steps=4, **options)
        with Image.open(f"{name}.png") as picture:
            assert np.array_equal(np.asarray(picture), np.asarray(expected))
            told = json.loads(picture.info["danqing"])
        assert (told["image"], told["mask"]) == ("photo.png", options.get("mask"))
    assert json.loads(cli("info", "weak.png", "--json").out)["strength"] == 0.3


def test_a_batch_starts_from_one_picture(edit, cli, tiny_folder, tmp_path):
    (tmp_path / "lines.jsonl").write_text('{"prompt": "a cat", "seed": 1}\n{"prompt": "a dog", "seed": 1}\n')
    draw = ("generate", "--model", tiny_folder, "--batch", "lines.jsonl", "--image", "photo.png", "--json")
    lines = [json.loads(line) for line in cli(*draw).lines]
    assert [(line["image"], line["strength"]) for line in lines] == [("photo.png", 0.6)] * 2


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--mask", "mask.png"], "mask: expected an image to start from, found none"),
        (["--strength", "0.5"], "strength: expected an image to start from, found none"),
        (["--image", "no.png"], "no.png: expected a picture, found no file"),
        (["--image", "photo.png", "--strength", "0"], "strength: expected 0.01 to 1"),
    ],
)
def test_a_mistake_about_the_start_is_one_line(edit, cli, tiny_folder, tmp_path, flags, said):
    done = cli("generate", "a cat", "--model", tiny_folder, *flags)
    assert done.is_mistake(said), done
    assert files(tmp_path) == []


def test_the_flags_are_the_fields_of_a_request():
    from danqing.cli.edit import edit
    from danqing.pipelines.edit import EditRequest

    flags = {parameter.name for parameter in edit.params}
    assert set(EditRequest.__dataclass_fields__) - {"pictures", "prompt", "wish"} <= flags
