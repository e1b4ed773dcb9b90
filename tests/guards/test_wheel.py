"""The wheel holds all the package needs."""

import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import danqing
from tests.guards.files import ROOT, SOURCE, tracked


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory):
    """The wheel built from a copy of the tracked files."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("out")
    for path in tracked():
        if path.is_relative_to(SOURCE) or path.parent == ROOT:
            target = copy / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(copy)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_every_tracked_file_of_the_package_is_inside(wheel):
    expected = {
        path.relative_to(SOURCE.parent).as_posix() for path in tracked() if path.is_relative_to(SOURCE)
    }
    inside = {name for name in wheel.namelist() if name.startswith("danqing/")}
    assert sorted(expected - inside) == []
    assert sorted(inside - expected) == []


def test_licence_notice_command_and_metadata_are_inside(wheel):
    names = {Path(name).name: name for name in wheel.namelist() if ".dist-info/" in name}
    assert {"LICENSE", "NOTICE"} <= names.keys()
    assert "danqing = danqing.cli.main:main" in wheel.read(names["entry_points.txt"]).decode()
    metadata = Parser().parsestr(wheel.read(names["METADATA"]).decode())
    assert metadata["Version"] == danqing.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == "<3.13,>=3.11"
