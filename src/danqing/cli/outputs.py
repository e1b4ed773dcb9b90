"""Names of the files a verb writes, and writing them whole or not at all."""

import os
import tempfile
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path

from danqing.errors import RequestError, ResourceError

FORMATS = (".png", ".jpg", ".jpeg", ".webp")
_SLUG_CHARACTERS = 40


def slug(text: str) -> str:
    """Return the words of `text` for a file name: letters and digits of any script, joined by dashes."""
    kept = "".join(
        character if unicodedata.category(character)[0] in "LNM" else " "
        for character in unicodedata.normalize("NFKC", text).lower()
    )
    name = "-".join(kept.split())
    if len(name) > _SLUG_CHARACTERS:
        head, dash, _ = name[: _SLUG_CHARACTERS + 1].rpartition("-")
        name = head if dash and len(head) > _SLUG_CHARACTERS // 2 else name[:_SLUG_CHARACTERS]
    return name or "picture"


def numbered(path: Path, many: int) -> tuple[Path, ...]:
    """Return `path` itself for one picture, or `many` names that end in -1, -2, …"""
    if many == 1:
        return (path,)
    return tuple(path.with_name(f"{path.stem}-{number}{path.suffix}") for number in range(1, many + 1))


def default_paths(folder: Path, prompt: str, seed: int, many: int) -> tuple[Path, ...]:
    """Return `danqing-SEED-slug.png` for every picture of a request; seeds count up."""
    words = slug(prompt)
    if many == 1:
        return (folder / f"danqing-{seed}-{words}.png",)
    return tuple(folder / f"danqing-{seed + number}-{words}-{number + 1}.png" for number in range(many))


def paths_for(output: Path | None, prompt: str, seed: int, many: int) -> tuple[Path, ...]:
    """Return the files of a request: `output` itself, or free default names in a folder."""
    if output is None or output.is_dir():
        return tuple(free_path(path) for path in default_paths(output or Path(), prompt, seed, many))
    check_format(output)
    return numbered(output, many)


def check_format(path: Path) -> None:
    """Raise RequestError unless the name ends like a picture we write."""
    if path.suffix.lower() not in FORMATS:
        raise RequestError(f"{path}: expected a name that ends in {', '.join(FORMATS)}, found {path.name!r}")


def make_folder(folder: Path) -> None:
    """Create `folder` and what is above it, or raise ResourceError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from None


def check_writable(paths: Sequence[Path], *, overwrite: bool) -> None:
    """Raise, before any work is done, if a path cannot be written or would replace a file."""
    for folder in dict.fromkeys(path.parent for path in paths):
        if not folder.is_dir():
            raise RequestError(f"{folder}: expected a folder to write to, found none; create it first")
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise _unwritable(folder, error) from None
    for path in paths:
        if path.is_dir():
            raise RequestError(f"{path}: expected a file name, found a folder")
        if not overwrite and os.path.lexists(path):
            raise _exists(path)


@contextmanager
def writing(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a temporary name beside `path`, renamed when the block ends well and removed when it does not."""
    temporary = path.with_name(f".{os.getpid()}-{path.stem[:_SLUG_CHARACTERS]}.part{path.suffix}")
    try:
        yield temporary
        _publish(temporary, path, overwrite=overwrite)
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        raise _unwritable(path, error) from None
    finally:
        temporary.unlink(missing_ok=True)


def free_path(path: Path) -> Path:
    """Return `path`, or the first of path_2, path_3, … that does not exist."""
    names = chain([path], (path.with_name(f"{path.stem}_{number}{path.suffix}") for number in count(2)))
    return next(name for name in names if not os.path.lexists(name))


def _publish(temporary: Path, path: Path, *, overwrite: bool) -> None:
    """Rename; without `overwrite` by a hard link, which fails where a file appeared meanwhile."""
    if not overwrite:
        try:
            os.link(temporary, path)
            return
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            if os.path.lexists(path):
                raise FileExistsError(path) from None
    os.replace(temporary, path)


def _exists(path: Path) -> RequestError:
    return RequestError(f"{path}: expected a new file, found one; choose another name or add --overwrite")


def _unwritable(path: Path, error: OSError) -> ResourceError:
    return ResourceError(f"{path}: cannot write there ({error.strerror or error})")
