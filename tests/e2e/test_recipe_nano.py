"""The recipe of nano from the command line: from nothing to a checkpoint that draws."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import danqing
from danqing.model import find_checkpoint
from tests.guards.files import ROOT

STAGES = ("language", "answers", "vision", "vae", "things", "sketch", "flow", "edit")
SMALLER = {
    "TEXTS = 25_000": "TEXTS = 300",
    "VOCABULARY = 5632": "VOCABULARY = 1200",
    "SIZE = 128": "SIZE = 32",
    "CROP = 64": "CROP = 16",
    "SKETCHED = 64": "SKETCHED = 16",
    "min_side=96": "min_side=32",
    "steps=24": "steps=2",
    "source.pictures(np.random.default_rng(1), 512)": "source.pictures(np.random.default_rng(1), 8)",
    "held_out_prompts(16, atlas)": "held_out_prompts(2, atlas)",
    "shard_size=512": "shard_size=8",
    "num_layers=6": "num_layers=1",
    "num_layers=4,\n        num_heads=6": "num_layers=1,\n        num_heads=6",
    "base_dim=24": "base_dim=4",
}
SETTINGS = [
    f"--set={stage}.{setting}" for stage in STAGES for setting in ("steps=2", "batch_size=2", "save_every=1")
]


def smaller_recipe(folder: Path) -> Path:
    """Write the recipe with few texts, scenes, layers and pixels, and return its path."""
    text = (ROOT / "recipes" / "nano.py").read_text()
    for old, new in SMALLER.items():
        assert text.count(old) == 1, f"recipes/nano.py: expected {old!r} once, found {text.count(old)}"
        text = text.replace(old, new)
    folder.mkdir(exist_ok=True)
    (folder / "nano.py").write_text(text)
    return folder / "nano.py"


@pytest.fixture
def train(cli, tmp_path) -> Callable:
    """Run the small recipe, two steps a stage."""
    recipe = smaller_recipe(tmp_path / "recipes")

    def run(folder: str, *arguments: object):
        done = cli("train", recipe, "--run-dir", folder, "--device", "cpu", *SETTINGS, *arguments)
        assert (done.code, done.lines) == (0, [folder]), done.err
        return done

    return run


def state(stage: Path) -> dict[str, torch.Tensor]:
    return load_file(stage / "state.safetensors")


def steps(stage: Path) -> int:
    return json.loads((stage / "progress.json").read_text())["step"]


def same_state(first: Path, second: dict[str, torch.Tensor]) -> bool:
    found = state(first)
    return found.keys() == second.keys() and all(torch.equal(found[name], second[name]) for name in found)


def stop_after_first_save(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    """Let the clock pass every deadline once a file is there."""
    clock = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: clock() + 1e6 * file.exists())


def test_a_checkpoint_from_nothing(train, tmp_path, monkeypatch):
    run = tmp_path / "run"

    # stopped in the middle of the first stage
    with monkeypatch.context() as patch:
        stop_after_first_save(patch, run / "language" / "state.safetensors")
        train("run", "--max-seconds", 1000)
    assert steps(run / "language") == 1
    assert not (run / "vae").exists()

    # the same command goes on to the end
    train("run")
    assert [steps(run / stage) for stage in STAGES] == [2] * len(STAGES)
    for stage in STAGES:
        metrics = [json.loads(line) for line in (run / stage / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in metrics] == [2]  # the evaluation after the last step
        assert all(value == value for line in metrics for value in line.values())  # none is NaN
    for stage in ("things", "sketch", "flow", "edit"):
        assert {path.name for path in (run / stage).glob("sheet-*.png")} == {"sheet-0000002.png"}

    # as if it had not been stopped
    shutil.copytree(run / "tokenizer", tmp_path / "whole" / "tokenizer")
    train("whole", "--stage", "language")
    assert same_state(tmp_path / "whole" / "language", state(run / "language"))

    # the checkpoint draws, edits and describes
    model = danqing.load(run / "nano", device="cpu", precision="fp32")
    assert model.info.name == "danqing-nano"
    picture = model.generate("a red apple on a blue table", seed=7)
    assert picture.size == (32, 32)
    assert model.edit([picture], "make the apple green", seed=7).size == (32, 32)
    assert model.describe(picture, max_tokens=4) is not None
    making = json.loads((run / "nano" / "making.json").read_text())
    assert {stage: made["step"] for stage, made in making.items()} == dict.fromkeys(STAGES, 2)
    assert all(made["flops"] > 0 and made["items"] == 4 for made in making.values())

    # once more does nothing new
    before = {stage: state(run / stage) for stage in STAGES}
    listed, weights = files(run), (run / "nano" / "transformer").glob("*.safetensors")
    written = {path: path.read_bytes() for path in weights}
    train("run")
    assert [stage for stage in STAGES if not same_state(run / stage, before[stage])] == []
    assert files(run) == listed
    assert all(path.read_bytes() == content for path, content in written.items())
    again = danqing.load(run / "nano", device="cpu", precision="fp32")
    assert again.generate("a red apple on a blue table", seed=7).tobytes() == picture.tobytes()


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_no_time_makes_the_tokenizer_and_stops(train, tmp_path):
    train("run", "--max-seconds", 0)
    assert steps(tmp_path / "run" / "language") == 0
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["language", "tokenizer"]


def test_an_unknown_stage_is_a_mistake(cli):
    done = cli("train", ROOT / "recipes" / "nano.py", "--run-dir", "run", "--stage", "flwo")
    known = "tokenizer, language, answers, vision, vae, things, sketch, flow, edit, export"
    assert done.is_mistake(f"--stage: expected some of {known}, found 'flwo'")


def test_a_checkpoint_is_trained_on(cli, tmp_path):
    recipe = ROOT / "recipes" / "nano.py"
    flags = [f"--set=flow.{setting}" for setting in ("steps=1", "batch_size=2", "evaluate_every=9")]
    flags += ["--stage", "flow", "--stage", "export"]
    small = tmp_path / "recipe.py"
    text = recipe.read_text().replace("shard_size=512", "shard_size=8").replace("steps=24", "steps=1")
    small.write_text(text.replace("held_out_prompts(16, atlas)", "held_out_prompts(1, atlas)"))
    done = cli("train", small, "--run-dir", "more", "--init", "nano", "--device", "cpu", *flags)
    assert done.code == 0, done.err
    before = load_file(find_checkpoint("nano").path / "transformer" / "diffusion_pytorch_model.safetensors")
    after = load_file(tmp_path / "more" / "nano" / "transformer" / "diffusion_pytorch_model.safetensors")
    moved = [(after[name].float() - before[name].float()).abs().max().item() for name in before]
    assert 0 < max(moved) < 0.02
    making = json.loads((tmp_path / "more" / "nano" / "making.json").read_text())
    assert making["flow"]["items"] == 2
    assert making["before"]["vae"]["items"] > 0
