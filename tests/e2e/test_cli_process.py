"""What only a real process shows: interrupts, terminals, pipes, start-up."""

import os
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

ENDLESS = ("--steps", 1000, "--size", "96x96", "-n", 1000, "-o", "a.png")


def _read_until(terminal: int, words: bytes, seconds: float = 60) -> bytes:
    """Read a terminal until `words` were seen."""
    seen, end = b"", time.monotonic() + seconds
    while words not in seen and time.monotonic() < end:
        seen += os.read(terminal, 65536)
    return seen


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_an_interrupt_leaves_whole_pictures_only(start, tiny_folder, tmp_path):
    ours, theirs = os.openpty()
    process = start("a cat", *ENDLESS, "--model", tiny_folder, stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    seen = _read_until(ours, b"/1000  step ")
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    os.close(ours)
    assert b"/1000  step " in seen
    assert process.returncode == 130
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(out.decode().split())
    for path in tmp_path.iterdir():
        Image.open(path).load()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_quiet_shows_nothing_on_a_terminal(start, tiny_folder):
    ours, theirs = os.openpty()
    process = start("a cat", "--model", tiny_folder, "--quiet", stdout=subprocess.PIPE, stderr=theirs)
    out, _ = process.communicate(timeout=60)
    os.set_blocking(ours, False)
    with pytest.raises(BlockingIOError):
        os.read(ours, 1)
    os.close(theirs)
    os.close(ours)
    assert (process.returncode, out.count(b"\n")) == (0, 1)


def test_a_prompt_comes_through_a_pipe(start, tiny_folder, tmp_path):
    process = start("-", "--model", tiny_folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    out, _ = process.communicate("一只猫\n", timeout=60)
    assert process.returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == [out.strip()]
    assert out.strip().endswith("-一只猫.png")


def test_a_mistake_is_one_line_and_code_2(start):
    process = start("genrate", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert err.startswith("error: unknown verb 'genrate'; did you mean 'generate'?")
    assert err.count("\n") == 1


def test_help_is_quick(start):
    """Help takes at most a quarter of a second more than Python itself; the best of three counts."""

    def seconds(process) -> float:
        began = time.perf_counter()
        process().communicate(timeout=60)
        return time.perf_counter() - began

    bare = [sys.executable, "-c", "pass"]
    python = min(seconds(lambda: subprocess.Popen(bare)) for _ in range(3))
    ours = min(seconds(lambda: start("--help", stdout=subprocess.DEVNULL)) for _ in range(3))
    assert ours - python < 0.25
