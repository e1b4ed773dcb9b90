"""Files that are whole or not there, and text and JSON of limited size."""

import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from danqing.errors import CheckpointError

LONGER: Final = 24
"""Bytes that the temporary name of a file may be longer than its own."""
MAX_TEXT_BYTES: Final = 64 * 2**20
"""Of a file of text or JSON in a checkpoint."""


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a file a temporary name; it gets its own once the block ends well, and is gone otherwise.

    Folders above it are made. Processes and threads that write the same file do not meet before it is whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_native_id()}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file that is whole or not there; text in UTF-8."""
    with whole(path) as temporary:
        temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object, indented, that is whole or not there."""
    write_whole(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_text(path: Path) -> str:
    """Read a text of a checkpoint; raises CheckpointError for one that is missing, too large or no UTF-8."""
    try:
        size = path.stat().st_size
        if size > MAX_TEXT_BYTES:
            raise CheckpointError(f"{path}: expected at most {MAX_TEXT_BYTES} bytes, found {size}")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CheckpointError(f"{path}: expected a file, found none") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: expected text in UTF-8, found something else ({error})") from None


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of a checkpoint; anything else is a CheckpointError."""
    try:
        value = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected a JSON object, found something else ({error})") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found a {type(value).__name__}")
    return value
