"""`danqing train` and `danqing data`."""

from pathlib import Path

import pytest
from PIL import Image

RECIPE = """
import json
from danqing.training.config import TrainConfig, override

STAGES = {"flow": TrainConfig(steps=3, batch_size=1, learning_rate=1e-3)}

def train(run):
    stages = override(STAGES, run.settings)
    told = {"device": str(run.device), "seconds": run.max_seconds, "stages": run.stages}
    told |= {"atlas": str(run.atlas), "steps": stages["flow"].steps}
    (run.run_dir / "told.json").write_text(json.dumps(told))
"""


@pytest.fixture
def recipe(tmp_path) -> Path:
    """A recipe that writes down what it was told."""
    path = tmp_path / "mine.py"
    path.write_text(RECIPE)
    return path


def test_a_recipe_is_told_about_its_run(cli, recipe, tmp_path):
    (tmp_path / "atlas.safetensors").touch()
    flags = ("--max-seconds", 2, "--set", "flow.steps=7", "--stage", "flow", "--atlas", "atlas.safetensors")
    done = cli("train", recipe, "--run-dir", "runs/a", "--device", "cpu", *flags)
    assert done.lines == ["runs/a"], done.err
    assert (tmp_path / "runs" / "a" / "told.json").read_text() == (
        '{"device": "cpu", "seconds": 2.0, "stages": ["flow"], "atlas": "atlas.safetensors", "steps": 7}'
    )


def test_runs_have_a_home(cli, recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("DANQING_RUNS", str(tmp_path / "all"))
    assert cli("train", recipe).lines == [str(tmp_path / "all" / "mine")]
    monkeypatch.delenv("DANQING_RUNS")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert cli("train", recipe).lines == [str(tmp_path / "me" / ".cache" / "danqing" / "runs" / "mine")]


def test_mistakes_are_one_line(cli, recipe, tmp_path):
    (tmp_path / "empty.py").touch()
    (tmp_path / "file").touch()
    assert cli("train", "none.py").is_mistake("none.py: expected a recipe")
    assert cli("train", "empty.py", "--run-dir", "r").is_mistake("defines train(run)")
    assert cli("train", recipe, "--run-dir", "r", "--set", "steps").is_mistake("expected stage.key=value")
    assert cli("train", recipe, "--run-dir", "r", "--set", "flow.step=1").is_mistake("did you mean 'steps'")
    assert cli("train", recipe, "--run-dir", "r", "--atlas", "none").is_mistake("expected an atlas")
    assert cli("train", recipe, "--run-dir", "file/r").is_mistake("cannot write there")
    assert cli("train", recipe, "--run-dir", "r", "--max-seconds", "-1").is_mistake("max-seconds")


def test_scenes_are_previewed(cli, tmp_path):
    flags = ("--count", 3, "--seed", 1, "--language", "de")
    assert cli("data", "preview", *flags, "-o", "a.png").lines == ["a.png"]
    assert cli("data", "preview", *flags, "-o", "b.png").lines == ["b.png"]
    with Image.open("a.png") as first, Image.open("b.png") as second:
        assert first.size[0] == second.size[0] > 0
        assert first.tobytes() == second.tobytes()
    assert cli("data", "preview", "-o", "a.png").is_mistake("--overwrite")
    assert cli("data", "preview", "--language", "xx").is_mistake("language")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_an_atlas_is_not_built_over_another_file(cli, tmp_path):
    (tmp_path / "atlas.safetensors").touch()
    assert cli("data", "build").is_mistake("--overwrite")
    assert cli("data", "build", "-o", "atlas.png").is_mistake("ends in .safetensors")


def test_an_atlas_needs_npm(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert cli("data", "build").is_mistake("install Node.js")
    assert list(tmp_path.iterdir()) == []
