"""The files that git tracks."""

import ast
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "danqing"


@cache
def tracked() -> tuple[Path, ...]:
    """Return every tracked file that is still there."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    paths = (ROOT / name for name in listed.stdout.split("\0") if name)
    return tuple(path for path in paths if path.is_file())


@cache
def texts() -> dict[Path, str]:
    """Return the tracked files that are text, except the licence."""
    found = {}
    for path in tracked():
        content = path.read_bytes()
        if b"\0" not in content[:8192] and path.name != "LICENSE":
            found[path] = content.decode()
    return found


@cache
def modules() -> dict[Path, ast.Module]:
    """Return the syntax tree of every tracked Python file."""
    return {path: ast.parse(text) for path, text in texts().items() if path.suffix == ".py"}


def short(path: Path) -> str:
    """Return `path` as written in the repository."""
    return path.relative_to(ROOT).as_posix()
