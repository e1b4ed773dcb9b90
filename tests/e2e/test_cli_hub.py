"""Downloads by the command line, in processes of their own, from a stand-in for the hub at HF_ENDPOINT."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from danqing.cli.hub import HubChoice, local_file, local_model
from danqing.cli.info import describe_checkpoint, describe_hub
from danqing.errors import RequestError
from tests.hub_stand_in import TOKEN, Fault, HubStandIn

DOWNLOAD = "from danqing.cli.hub import download; from danqing.cli.main import danqing, main; "
DOWNLOAD += "danqing.add_command(download); main()"
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture
def hub(tiny_folder):
    """A hub with the tiny checkpoint."""
    stand_in = HubStandIn()
    stand_in.add("someone/tiny", tiny_folder)
    with stand_in.running():
        yield stand_in


@pytest.fixture
def environment(hub, tmp_path):
    """The variables of a user who has nothing yet."""
    known = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    ours = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "127.0.0.1,localhost"}
    return known | ours | {"OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}


@pytest.fixture
def run(environment, tmp_path):
    """Run `danqing` with arguments and more variables."""

    def start(*arguments, **more):
        command = [sys.executable, "-c", DOWNLOAD, *map(str, arguments)]
        everything = environment | more
        return subprocess.run(
            command, cwd=tmp_path, env=everything, capture_output=True, text=True, timeout=120
        )

    return start


def test_a_picture_of_a_downloaded_checkpoint(run, cli, tiny_folder):
    done = run("download", "someone/tiny")
    assert done.returncode == 0, done.stderr
    assert "licence   apache-2.0" in done.stderr
    assert "download  1.5 MB in 9 files" in done.stderr
    for folder, name in ((done.stdout.strip(), "ours.png"), (tiny_folder, "theirs.png")):
        common = ["a red apple", "--seed", 7, "--device", "cpu", "--precision", "fp32"]
        drawn = cli("generate", *common, "--model", folder, "-o", name)
        assert drawn.code == 0, drawn.err
    assert Image.open("ours.png").tobytes() == Image.open("theirs.png").tobytes()


def test_a_dry_run_says_what_would_be_done(run, hub):
    done = run("download", "someone/tiny", "--dry-run", "--json", "--tasks", "describe")
    said = json.loads(done.stdout)
    wanted = [file["path"] for file in said["files"] if file["path"].endswith(".safetensors")]
    assert wanted == ["text_encoder/model.safetensors"]
    assert said["licence"] == {"name": "apache-2.0", "link": None, "permissive": True, "accepted": True}
    assert said["to_fetch"] > 300_000
    assert not hub.sent.keys() & set(wanted)


@pytest.mark.parametrize(
    ("arguments", "variables", "said"),
    [
        (["someone/none"], {}, "expected a folder here or a repository at 127.0.0.1, found neither"),
        (["someone/tiny", "--revision", "v9"], {}, "expected the revision v9, found none of that name"),
        (["someone/tiny"], {"HF_HUB_OFFLINE": "1"}, "found HF_HUB_OFFLINE=1; unset it"),
        (["someone/tiny"], {"HF_ENDPOINT": "mirror"}, "HF_ENDPOINT: expected an address"),
        (["someone/tiny", "--parts", "unet"], {}, "--parts: expected some of transformer, vae, text_encoder"),
        (["nano"], {}, "expected a repository of the hub like Qwen/Qwen-Image, found 'nano'"),
    ],
)
def test_mistakes_are_one_line(run, arguments, variables, said):
    done = run("download", *arguments, **variables)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr


def test_a_licence_is_asked_for_and_a_token_never_shown(run, hub, tiny_folder):
    hub.add("someone/tiny", tiny_folder, licence="other", license_name="qwen-research", gated=True)
    done = run("download", "someone/tiny", HF_TOKEN=TOKEN)
    assert done.returncode == 2
    assert "licence   qwen-research: not known to allow every use" in done.stderr
    assert "repeat with --accept-licence" in done.stderr
    assert WEIGHTS not in hub.sent
    done = run("download", "someone/tiny", "--accept-licence", HF_TOKEN=TOKEN, HF_DEBUG="0")
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    assert run("download", "someone/tiny").returncode == 0  # nothing is missing, so nothing is asked


def test_a_download_that_was_stopped_goes_on(hub, environment, tmp_path):
    big = "vae/diffusion_pytorch_model.safetensors"
    hub.repositories["someone/tiny"].files[big] = bytes(20_000_000)
    hub.faults[big] = [Fault(hold=15_000_000)]
    command = [sys.executable, "-c", DOWNLOAD, "download", "someone/tiny"]
    first = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while hub.sent[big] < 15_000_000 and time.monotonic() < until:
        time.sleep(0.05)
    first.send_signal(signal.SIGINT)
    time.sleep(0.5)
    hub.released.set()
    said = first.communicate(timeout=60)[1]
    assert first.returncode == 130, said
    assert "Traceback" not in said
    partial = max(one.stat().st_size for one in (tmp_path / "home").rglob("*.incomplete"))
    assert partial > 1_000_000
    hub.sent.clear()
    second = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert second.returncode == 0, second.stderr
    assert hub.sent[big] == 20_000_000 - partial


def test_values_of_flags_become_what_is_here(hub, environment, tiny_folder, tmp_path, monkeypatch, capsys):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    choice = HubChoice()
    assert local_model("nano", choice) == "nano"
    assert local_model(str(tiny_folder), choice) == str(tiny_folder)
    said = describe_hub("someone/tiny", choice)
    assert said["components"] == describe_checkpoint(str(tiny_folder))["components"]
    assert hub.sent[WEIGHTS] <= 2**18  # its header

    def memory(folder):
        return [f"{describe_checkpoint(str(folder))['parameters']} numbers", "a second line"]

    folder = local_model("someone/tiny", choice, memory=memory)
    assert capsys.readouterr().err.splitlines()[-2:] == [
        "  memory    349519 numbers",
        "            a second line",
    ]
    assert (Path(folder) / WEIGHTS).is_file()
    assert local_file(Path("hf://someone/tiny") / WEIGHTS, HubChoice(offline=True)) == Path(folder) / WEIGHTS
    assert local_file("here.safetensors", choice) == Path("here.safetensors")
    with pytest.raises(RequestError, match="--revision is for a repository of the hub, found --model nano"):
        local_model("nano", HubChoice(revision="main"))
