"""constraints.txt pins everything the commands in README.md install."""

import re
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
LINES = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]


def _pins() -> dict[str, str]:
    return dict(line.split("==") for line in LINES)


def _reach(requirement: Requirement, seen: set[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield (name, version) of every installed distribution that `requirement` pulls in."""
    for extra in ("", *requirement.extras):
        key = (canonicalize_name(requirement.name), extra)
        if key in seen:
            continue
        seen.add(key)
        found = distribution(requirement.name)
        yield key[0], found.version
        for line in found.requires or ():
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                yield from _reach(needed, seen)


def test_every_line_is_one_exact_version_without_an_address():
    wrong = [line for line in LINES if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line)]
    assert wrong == []
    assert len(_pins()) == len(LINES)


def test_everything_installed_for_the_test_command_is_pinned():
    installed = dict(_reach(Requirement("danqing[test]"), set()))
    del installed["danqing"]
    assert {"torch", "click", "diffusers", "poethepoet", "tiktoken"} <= installed.keys()
    pins = _pins()
    assert sorted(installed.keys() - pins.keys()) == []
    public = {name: Version(version).public for name, version in installed.items()}  # without "+cpu"
    different = {name: (pins[name], found) for name, found in public.items() if pins[name] != found}
    assert different == {}, "(pinned, installed): install with -c constraints.txt"


def test_the_build_backend_is_pinned_to_the_same_version():
    required = re.search(r'^requires = \["(.*)"\]$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert required
    assert required[1] in LINES
