"""The command line with a checkpoint of 2.1: draw, edit, describe, rewrite, and what its licence says."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from danqing.model import _show_licence
from danqing.weights.layouts import Folder
from tests.editor import noisy
from tests.tiny21 import ORDER, PRECISE, REWRITE, WISH

NOTICE = "danqing: WARNING: tiny-2.1 comes under the Qwen Research License: no commercial use\n"


@pytest.fixture
def run(cli, tiny21_folder, tmp_path):
    """Run a verb with the tiny checkpoint; clear.png lies in the folder. The licence is news every time."""
    noisy(60, 44, "RGBA").save(tmp_path / "clear.png")

    def run(verb, *arguments):
        _show_licence.cache_clear()
        return cli(verb, "--model", tiny21_folder, "--precision", "fp32", *arguments)

    return run


def test_a_picture_with_transparency(run, tiny21):
    done = run("generate", WISH, "--seed", 7, "-o", "apple.png")
    assert (done.code, done.lines, done.err) == (0, ["apple.png"], NOTICE)
    expected = tiny21.generate(WISH, seed=7)
    with Image.open("apple.png") as picture:
        assert (picture.mode, picture.tobytes()) == ("RGBA", expected.tobytes())


def test_a_format_without_transparency_has_white_behind_it(run, cli, tiny21):
    assert run("generate", WISH, "--seed", 7, "-o", "apple.jpg").code == 0
    drawn = tiny21.generate(WISH, seed=7)
    white = Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn).convert("RGB")
    with Image.open("apple.jpg") as picture:
        assert picture.mode == "RGB"
        assert np.abs(np.asarray(picture).astype(int) - np.asarray(white)).mean() < 8
    assert "Seed: 7" in cli("info", "apple.jpg").out
    assert run("generate", WISH, "--seed", 7, "-o", "apple.webp").code == 0
    with Image.open("apple.webp") as picture:
        assert picture.mode == "RGBA"


def test_references_keep_their_transparency(run, tiny21):
    pictures = ["clear.png"] * 3
    assert run("edit", *pictures, "all of them", "--seed", 7, "--guidance", 2, "-o", "out.png").code == 0
    expected = tiny21.edit(pictures, "all of them", seed=7, guidance=2.0)
    with Image.open("out.png") as picture:
        assert picture.tobytes() == expected.tobytes()


def test_a_picture_is_described(run, tiny21):
    done = run("describe", "clear.png", "--max-tokens", 6)
    assert done.out == tiny21.describe("clear.png", max_tokens=6) + "\n"


def test_words_are_rewritten_only_when_asked(run, cli, tiny21):
    done = run("generate", WISH, "--enhance", "--seed", 1, "-o", "more.png", "--json")
    assert done.err == NOTICE + "a red apple{+ on a blue table+}\n"
    line = json.loads(done.out)
    assert (line["prompt"], line["wish"]) == (REWRITE, WISH)
    told = json.loads(cli("info", "more.png", "--json").out)
    assert (told["prompt"], told["wish"]) == (REWRITE, WISH)
    plain = json.loads(run("generate", REWRITE, "--seed", 1, "-o", "same.png", "--json").out)
    assert "wish" not in plain
    with Image.open("more.png") as more, Image.open("same.png") as same:
        assert more.tobytes() == same.tobytes()


def test_an_instruction_is_rewritten_and_what_it_lost_is_told(run, tmp_path):
    noisy(60, 44).save(tmp_path / "photo.png")
    done = run("edit", "photo.png", ORDER, "--enhance", "--seed", 1, "--json")
    assert "lost the words “HI”" in done.err
    assert 'write[- "HI"-] on [-it-]{+the red apple+}\n' in done.err
    assert json.loads(done.out)["prompt"] == PRECISE
    assert json.loads(done.out)["path"].startswith("danqing-1-write-hi-on-it")


def test_every_line_of_a_batch_is_rewritten(run, tmp_path):
    (tmp_path / "lines.jsonl").write_text(json.dumps({"prompt": WISH, "seed": 1, "count": 2}))
    lines = [
        json.loads(line) for line in run("generate", "--batch", "lines.jsonl", "--enhance", "--json").lines
    ]
    assert [(line["seed"], line["prompt"]) for line in lines] == [(1, REWRITE), (2, REWRITE)]


def test_what_cannot_be_rewritten_is_one_line(cli, tiny_folder):
    done = cli("generate", WISH, "--enhance", "--model", tiny_folder)
    assert done.is_mistake("tiny cannot enhance prompts; it can generate")


def test_the_checkpoint_is_described_for_people(cli, tiny21_folder, tmp_path):
    lines = cli("info", tiny21_folder).lines
    assert lines[0] == "tiny-2.1  (Qwen Research License: no commercial use)"
    for line in (
        "tasks      generate, edit, describe, enhance",
        "languages  en, zh",
        "size       64x96; sides of 32 to 160 in steps of 32",
        "also       128x64",
        "pictures   RGBA, transparent where asked for",
        "references up to 10, seen at the area of 64x64",
        "steps      2",
        "guidance   1 (off)",
        'negative   " "',
        "prompt     up to 200 tokens",
    ):
        assert line in lines
    # 16 tokens, their keys and values, 2 blocks of 32 numbers
    assert lines[-1] == "Each picture to look at takes another 0.0 MB in fp32 or 0.0 MB in bf16."
    said = json.loads(cli("info", tiny21_folder, "--json").out)
    assert said["reference_memory"] == {"fp32": 4 * 2048, "bf16": 2 * 2048}


def test_the_memory_is_that_of_what_is_loaded(cli, tiny21_folder):
    import danqing

    loaded = danqing.load(tiny21_folder, tasks=("generate",), device="cpu", precision="fp32").components
    modules = (loaded.transformer, loaded.vae, loaded.vlm)
    count = sum(value.numel() for module in modules for value in module.parameters())
    said = json.loads(cli("info", tiny21_folder, "--json").out)
    assert said["memory"] == {"fp32": 4 * count, "bf16": 2 * count}


def test_the_released_folder_tells_its_own_defaults(cli, tiny21_folder, tmp_path):
    folder = shutil.copytree(tiny21_folder, tmp_path / "Qwen-Image-2.1")
    (folder / "danqing.json").unlink()
    lines = cli("info", folder).lines
    assert "size       2048x2048; sides of 256 to 3072 in steps of 32" in lines
    assert "steps      40" in lines
    assert Folder(folder).info().max_references == 10
