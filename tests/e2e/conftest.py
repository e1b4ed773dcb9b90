"""The command line as users run it: arguments in, exit code, stdout and stderr out."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from danqing.cli.main import main


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """How a run of the command line ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """Lines on stdout."""
        return self.out.splitlines()

    def is_mistake(self, *said: str) -> bool:
        """Return whether this is how a user's mistake looks: one line on stderr, exit code 2."""
        one_line = self.err.startswith("error: ") and self.err.count("\n") == 1
        return self.code == 2 and not self.out and one_line and all(words in self.err for words in said)


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys) -> Callable[..., Done]:
    """Run `danqing` with some arguments in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Done:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return Done(code=end.value.code, out=said.out, err=said.err)

    return run


@pytest.fixture
def start(tmp_path) -> Callable[..., subprocess.Popen]:
    """Start `danqing` as a process of its own, in an empty folder."""

    def run(*arguments: object, **streams: object) -> subprocess.Popen:
        command = [sys.executable, "-m", "danqing", *map(str, arguments)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}
        return subprocess.Popen(command, cwd=tmp_path, env=environment, **streams)

    return run
