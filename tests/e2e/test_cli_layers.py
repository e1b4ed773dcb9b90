"""`danqing layers` and `--control` on tiny checkpoints: what they write, print and refuse."""

import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from tests.editor import noisy
from tests.layering import write_controlnet, write_layered


@pytest.fixture(scope="module")
def folder(tiny_folder, tmp_path_factory):
    return write_layered(tiny_folder, tmp_path_factory.mktemp("layered") / "layered")


@pytest.fixture
def layers(cli, folder, tmp_path):
    """Take `poster.png` apart with the tiny checkpoint."""
    noisy(60, 44).save(tmp_path / "poster.png")
    fixed = ("poster.png", "--model", folder, "--steps", 2, "--seed", 7, "--prompt", "a cat")
    return lambda *arguments: cli("layers", *fixed, *arguments)


def test_layers_are_numbered_from_the_lowest(layers, tmp_path):
    done = layers("--count", 3)
    assert done.code == 0
    assert done.lines == ["poster-1.png", "poster-2.png", "poster-3.png"]
    assert done.err.startswith("laid over each other they are the picture at ")
    for name in done.lines:
        with Image.open(tmp_path / name) as layer:
            assert (layer.mode, layer.size) == ("RGBA", (96, 64))
    assert layers("--count", 3).lines == ["poster-1_2.png", "poster-2_2.png", "poster-3_2.png"]


def test_one_layer_does_not_replace_the_picture(layers, tmp_path):
    before = (tmp_path / "poster.png").read_bytes()
    assert layers("--count", 1).lines == ["poster-1.png"]
    assert (tmp_path / "poster.png").read_bytes() == before


def test_a_document_holds_the_same_layers(layers, tmp_path):
    names = layers("--count", 2, "-o", "parts").lines
    assert names == ["parts/poster-1.png", "parts/poster-2.png"]
    assert layers("--count", 2, "-o", "poster.ora").lines == ["poster.ora"]
    with zipfile.ZipFile(tmp_path / "poster.ora") as archive:
        for number, name in enumerate(names, 1):
            inside = Image.open(archive.open(f"data/layer{number}.png"))
            assert np.array_equal(inside, Image.open(tmp_path / name))
    webp = layers("--count", 2, "-o", "flat.webp").lines
    assert webp == ["flat-1.webp", "flat-2.webp"]
    opaque = np.asarray(Image.open(tmp_path / names[0]))[..., 3] > 0
    assert np.array_equal(
        np.asarray(Image.open(tmp_path / webp[0]).convert("RGBA"))[opaque],
        np.asarray(Image.open(tmp_path / names[0]))[opaque],
    )


def test_json_tells_everything_on_one_line_a_layer(layers):
    done = layers("--count", 2, "--json")
    assert not done.err
    first, second = map(json.loads, done.lines)
    assert (first.pop("path"), second.pop("path")) == ("poster-1.png", "poster-2.png")
    assert (first.pop("layer"), second.pop("layer")) == (1, 2)
    assert first == second
    assert 0 < first.pop("psnr") < 60
    assert first == {
        "layers": 2,
        "prompt": "a cat",
        "seed": 7,
        "size": [96, 64],
        "steps": 2,
        "guidance": 2.0,
        "model": "tiny",
    }


def test_mistakes(layers, cli, folder, tiny_folder):
    assert layers("--count", 21).is_mistake("count: expected 1 to 20 layers")
    assert layers("-o", "a.jpg").is_mistake("expected a folder or a name that ends in .ora, .png, .webp")
    assert layers("--resolution", 100).is_mistake("resolution: expected 640 or 1024, found 100")
    assert cli("layers", "none.png", "--model", folder).is_mistake(
        "none.png: expected a picture, found no file"
    )
    wrong = cli("layers", "poster.png", "--model", tiny_folder)
    assert wrong.is_mistake("tiny cannot draw layers; it can generate")


def test_a_control_steers(cli, tiny_folder, tmp_path):
    noisy(64, 48).save(tmp_path / "edges.png")
    net = write_controlnet(tmp_path / "net")
    drawn = {}
    for scale in ("0", "1"):
        flags = ("--control", f"edges.png:{scale}:0:0.9", "--controlnet", net, "-o", f"{scale}.png")
        done = cli("generate", "a cat", "--model", tiny_folder, "--seed", 7, *flags)
        assert (done.code, done.lines) == (0, [f"{scale}.png"])
        drawn[scale] = np.asarray(Image.open(tmp_path / f"{scale}.png"))
    assert not np.array_equal(drawn["0"], drawn["1"])
    lone = cli("generate", "a cat", "--model", tiny_folder, "--control", "edges.png")
    assert lone.is_mistake("expected --controlnet FOLDER with --control, found none")
