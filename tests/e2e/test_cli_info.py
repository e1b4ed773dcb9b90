"""`danqing info` and `danqing doctor`."""

import json
import shutil

import pytest
from PIL import Image

import danqing


def test_a_checkpoint_is_described_from_headers(cli, tiny_folder, tiny):
    done = cli("info", tiny_folder, "--json")
    assert (done.code, done.err) == (0, "")
    said = json.loads(done.out)
    assert (said["name"], said["licence"], said["size"], said["steps"]) == ("tiny", "Apache-2.0", [64, 48], 3)
    assert [part["name"] for part in said["components"]] == ["transformer", "vae", "text_encoder"]
    assert {precision for part in said["components"] for precision in part["precisions"]} == {"fp32"}
    assert said["bytes"] == 4 * said["parameters"]
    parts = tiny.components
    modules = (parts.transformer, parts.vae, parts.vlm)
    loaded = sum(value.numel() for module in modules for value in module.parameters())
    assert said["memory"] == {"fp32": 4 * loaded, "bf16": 2 * loaded}


def test_a_checkpoint_is_described_for_people(cli, tiny_folder):
    done = cli("info", tiny_folder)
    assert done.lines[0] == "tiny  (Apache-2.0)"
    assert "size       64x48; sides of 32 to 96 in steps of 16" in done.lines
    assert any(line.startswith("transformer ") and line.endswith("fp32") for line in done.lines)


def test_a_picture_tells_how_it_was_drawn(cli, tiny, tmp_path):
    tiny.generate("一只猫", seed=7, steps=1).save(tmp_path / "cat.png")
    said = json.loads(cli("info", "cat.png", "--json").out)
    assert (said["path"], said["prompt"], said["seed"], said["model"]) == ("cat.png", "一只猫", 7, "tiny")
    assert "seed: 7" in cli("info", "cat.png").lines
    again = {key: said[key] for key in danqing.GenerateRequest.__dataclass_fields__}
    again |= {name: tuple(again[name]) for name in ("size", "controls")}
    redrawn = tiny.generate(danqing.GenerateRequest(**again))
    with Image.open(tmp_path / "cat.png") as picture:
        assert redrawn.tobytes() == picture.tobytes()


def test_what_cannot_be_described_is_one_line(cli, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    (tmp_path / "text.png").write_text("no picture")
    assert cli("info", "plain.png").is_mistake("expected parameters in its metadata")
    assert cli("info", "text.png").is_mistake("expected a picture")
    assert cli("info", "none.png").is_mistake("found no file")
    assert cli("info", "nowhere").is_mistake("expected a shipped model")


def test_the_doctor_finds_nothing(cli, tiny_folder):
    done = cli("doctor", "--model", tiny_folder)
    assert done.code == 0, done.out
    assert [line.split()[:2] for line in done.lines] == [
        ["ok", name] for name in ("python", "torch", "devices", "memory", "disk", "data", "model")
    ]


@pytest.mark.parametrize("as_json", [False, True])
def test_the_doctor_says_what_is_wrong(cli, tiny_folder, tmp_path, as_json):
    shutil.copytree(tiny_folder, tmp_path / "broken")
    weights = tmp_path / "broken" / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    done = cli("doctor", "--model", "broken", *(["--json"] if as_json else []))
    assert done.code == 1
    assert "expected a whole safetensors file" in done.lines[-1]
    if as_json:
        assert [json.loads(line)["ok"] for line in done.lines] == [True] * 6 + [False]
    else:
        assert done.lines[-1].startswith("FAIL  model")
