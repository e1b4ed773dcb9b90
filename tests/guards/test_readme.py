"""The commands of README.md are the ones we run, and links in documents lead somewhere."""

import re
import shutil
import subprocess
import tomllib

import pytest

from tests.guards.files import ROOT, short, texts

COMMAND = re.compile(r"^<!-- command: (\w+) -->\n```console\n(.*?)\n```$", re.MULTILINE | re.DOTALL)
INSTALL = "python3 -m venv .venv && .venv/bin/pip install -q -c constraints.txt -e"
KNOWN = {
    "draw": f'{INSTALL} . && .venv/bin/danqing "a red apple on a blue table"',
    "test": f"{INSTALL} '.[test]' && .venv/bin/poe test",
}
LINK = re.compile(r"(?<!!)\[[^\]]+\]\((?!https?://|#|mailto:)([^)#\s]+)")
DOCUMENTS = [path for path in texts() if path.suffix == ".md"]


def _commands() -> dict[str, str]:
    return dict(COMMAND.findall((ROOT / "README.md").read_text()))


def test_the_marked_commands_are_known():
    assert _commands() == KNOWN


def test_the_commands_name_tasks_and_programs_that_exist():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    tasks, scripts = project["tool"]["poe"]["tasks"], project["project"]["scripts"]
    for command in _commands().values():
        program, *arguments = re.findall(r"&& \.venv/bin/(.+)$", command.rpartition("-e")[2])[0].split()
        assert program in scripts or (program == "poe" and arguments[0] in tasks)


def _run(folder, readme: str) -> subprocess.CompletedProcess:
    (folder / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", folder / ".ci" / "run")
    (folder / "README.md").write_text(readme)
    return subprocess.run([folder / ".ci" / "run"], capture_output=True, text=True, check=False)


def test_ci_runs_the_test_command_and_no_other(tmp_path):
    readme = (ROOT / "README.md").read_text()
    commands = _commands()
    readme = readme.replace(commands["draw"], "touch drawn").replace(commands["test"], "touch tested && pwd")
    done = _run(tmp_path, readme)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == [".ci", "README.md", "tested"]
    assert done.stdout.splitlines() == ["+ touch tested && pwd", str(tmp_path.resolve())]


def test_ci_fails_when_the_command_fails_or_is_missing(tmp_path):
    block = "<!-- command: test -->\n```console\nfalse && touch reached\n```\n"
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    assert _run(tmp_path / "one", block).returncode != 0
    missing = _run(tmp_path / "two", "```console\ntouch reached\n```\n")
    assert missing.returncode == 1
    assert "no console block" in missing.stderr
    assert list(tmp_path.rglob("reached")) == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=short)
def test_links_to_files_lead_somewhere(path):
    broken = [target for target in LINK.findall(texts()[path]) if not (path.parent / target).exists()]
    assert broken == []
