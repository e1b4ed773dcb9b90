"""Benchmarks run, at their smallest setting, and report numbers that can be right."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SMALLEST = {
    "compose": "--count 4 --batch 2 --size 32 --rounds 1",
    "cuda_step": "--device cpu --heads 1 --blocks 1 --size 64 --text 4 --repeats 1",
    "fits": "--memory 16 --format plain",
    "load": "--heads 1 --blocks 1 --repeats 1",
    "nano": "--steps 1 --repeats 1",
    "step": "--heads 2 --blocks 1 --tokens 16 --text 4 --repeats 1",
    "vae": "--base-dim 8 --size 32x48 --work decode --precision fp32 --repeats 1",
}
COMMANDS = {path.stem for path in BENCHMARKS.glob("*.py") if "__main__" in path.read_text(encoding="utf-8")}


def command(name, arguments, folder):
    """Return a benchmark's command, its report going to `folder`."""
    return [sys.executable, str(BENCHMARKS / f"{name}.py"), *arguments, "--json", str(folder / "report.json")]


def report_of(name, folder, *arguments):
    """Run a benchmark and return what it reports and what it prints."""
    done = subprocess.run(command(name, arguments, folder), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "report.json").read_text()), done.stdout


def numbers(value):
    """Yield every number in a report."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from numbers(one)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


@pytest.mark.parametrize("name", SMALLEST)
def test_a_benchmark_runs_and_says_on_what(name, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    where = ["--folder", str(disk)] if name == "load" else []
    report, printed = report_of(name, tmp_path, *SMALLEST[name].split(), *where)
    assert report["benchmark"] == name
    assert printed
    found = list(numbers(report))
    assert found
    assert all(abs(number) < float("inf") for number in found)
    assert report["machine"]["torch"]
    assert list(disk.iterdir()) == []
    if name in TELLING:
        TELLING[name](report)


def of_load(report):
    """Check that loading was compared with what takes time."""
    assert report["load_over_dd"] > 0


def of_step(report):
    """Check that both sides compute the same, and that eight bits are near."""
    assert report["differences"]["diffusers fp32"] < 1e-5
    assert report["differences"]["danqing int8"] < 0.1
    assert report["ratios"]["diffusers bf16 / danqing bf16"]["cpu"] > 0


def of_vae(report):
    """Check that both sides decode the same picture."""
    (result,) = report["results"]
    assert result["largest_difference"]["danqing"] < 0.01


TELLING = {"load": of_load, "step": of_step, "vae": of_vae}


def test_every_benchmark_is_run_here():
    assert {*SMALLEST, "family", "true_shape"} == COMMANDS


@pytest.mark.slow
def test_the_table_of_the_family_has_every_stage(tmp_path):
    report, _ = report_of("family", tmp_path, "--only", "qwen-image", "--blocks", "1")
    assert report["rows"]["qwen-image"]["seconds"].keys() == {"modulation", "step", "decode"}


@pytest.mark.parametrize(("release", "budgets"), [("qwen-image", ["free", "2GB"]), ("2.1", ["2GB"])])
def test_a_checkpoint_of_true_layout_is_written_drawn_and_removed(release, budgets, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    arguments = ["--tiny", "--release", release, "--size", "256x256", "--threads", "1"]
    for budget in budgets:
        arguments += ["--memory", budget]
    report, printed = report_of("true_shape", tmp_path, *arguments, "--folder", str(disk))
    (result,) = report["releases"]
    assert result["failures"] == []
    assert result["runs"]["2GB"]["peak_bytes"] > result["bytes"] / 2
    assert f"| {release}, " in printed
    assert list(disk.iterdir()) == []


def test_an_interrupted_proof_removes_its_checkpoint(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    arguments = [
        "--release",
        "2.1",
        "--blocks",
        "2",
        "--layers",
        "2",
        "--memory",
        "all",
        "--folder",
        str(disk),
    ]
    with subprocess.Popen(
        command("true_shape", arguments, tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        until = time.monotonic() + 60
        while not list(disk.rglob("*.safetensors")) and time.monotonic() < until:
            time.sleep(0.05)
        assert list(disk.rglob("*.safetensors"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
    assert list(disk.iterdir()) == []
