"""The cache that all programs of the Hugging Face hub share: where a file lies, and whether it is there.

`models--owner--name/` has `blobs/` (contents, called by their checksums), `snapshots/COMMIT/` (links to them
by their names) and `refs/` (the commit of a branch). Other programs find what we add, and we what they did.

Source: the description of the cache in the documentation of huggingface_hub.
"""

import json
import os
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danqing.errors import CheckpointError, ResourceError
from danqing.files import write_json, write_whole
from danqing.weights.hub_files import COMMIT, INDEX, Licence, RemoteFile, index_in

_ACCEPTED = "danqing-licence.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cached:
    """One repository in the cache, whether or not anything of it is there."""

    cache: Path
    repo: str

    @property
    def folder(self) -> Path:
        """Where everything of the repository is."""
        return self.cache / f"models--{self.repo.replace('/', '--')}"

    def snapshot(self, commit: str) -> Path:
        """Return the folder that shows the files of one commit."""
        return self.folder / "snapshots" / commit

    def commit(self, revision: str | None) -> str | None:
        """Return the commit that a branch, tag or commit last was here; None where nobody asked yet."""
        name = revision or "main"
        if self.snapshot(name).is_dir():
            return name
        try:
            commit = (self.folder / "refs" / name).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            return None
        return commit if COMMIT.fullmatch(commit) else None

    def blob(self, file: RemoteFile) -> Path:
        """Return where a file's content is, or would be."""
        return self.folder / "blobs" / file.digest

    def partial(self, file: RemoteFile) -> Path:
        """Return where a content lies while it is fetched."""
        return self.folder / "blobs" / f"{file.digest}.incomplete"

    def lock(self, file: RemoteFile) -> Path:
        """Return the lock that every program takes to fetch a file."""
        return self.cache / ".locks" / self.folder.name / f"{file.digest}.lock"

    def holds(self, file: RemoteFile, commit: str) -> bool:
        """Return whether a file is here in full, under its name or as content alone."""
        return any(_size(path) == file.size for path in (self.snapshot(commit) / file.path, self.blob(file)))

    def fetched(self, file: RemoteFile) -> int:
        """Return how many bytes of a file an earlier run left."""
        return min(_size(self.partial(file)) or 0, file.size)

    def show(self, file: RemoteFile, commit: str) -> Path:
        """Let a commit show a content that is here; a link, or on systems without them the file itself."""
        home = self.snapshot(commit)
        pointer = home / file.path
        pointer.parent.mkdir(parents=True, exist_ok=True)
        if not pointer.parent.resolve().is_relative_to(home.resolve()):
            raise CheckpointError(
                f"{pointer}: expected a file below {home}, found a link that leads out of it"
            )
        if _size(pointer) == file.size:
            return pointer
        blob = self.blob(file)
        pointer.unlink(missing_ok=True)
        try:
            pointer.symlink_to(os.path.relpath(blob, pointer.parent))
        except OSError:
            os.replace(blob, pointer)
        return pointer

    def note_revision(self, revision: str, commit: str) -> None:
        """Remember which commit a branch is at."""
        if revision == commit:
            return
        write_whole(self.folder / "refs" / revision, commit)

    def accepted(self, licence: Licence) -> bool:
        """Return whether the user accepted this licence before."""
        try:
            said = json.loads((self.folder / _ACCEPTED).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return isinstance(said, dict) and said.get("licence") == licence.name

    def accept(self, licence: Licence) -> None:
        """Remember that the user accepted a licence."""
        write_json(self.folder / _ACCEPTED, {"licence": licence.name, "link": licence.link})


def repository_of(folder: Path) -> str | None:
    """Return `owner/name` of a snapshot in a cache, or None for any other folder."""
    parts = folder.parts
    if len(parts) < 3 or parts[-2] != "snapshots" or not parts[-3].startswith("models--"):
        return None
    return parts[-3].removeprefix("models--").replace("--", "/", 1)


def lacks(folder: Path, parts: Collection[str]) -> str | None:
    """Return a file that a folder lacks to be a checkpoint with the weights of `parts`, or None."""
    needed = [INDEX, "scheduler/scheduler_config.json"]
    needed += [f"{part}/config.json" for part in ("transformer", "vae", "text_encoder")]
    for part in parts:
        names = [path.name for path in (folder / part).glob("*")]
        index = index_in(names)
        if index is not None:
            needed += [f"{part}/{name}" for name in _shards(folder / part / index)] or [f"{part}/{index}"]
        elif not any(_size(path) is not None for path in (folder / part).glob("*.safetensors")):
            needed.append(f"{part}/*.safetensors")
    words = (folder / place / name for place in ("tokenizer", "processor") for name in _WORDS)
    if not any(_size(path) is not None for path in words):
        needed.append("tokenizer/tokenizer.json")
    return next((name for name in needed if _size(folder / name) is None), None)


_WORDS = ("tokenizer.json", "vocab.json")


def _shards(index: Path) -> list[str]:
    try:
        mapped: Any = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    listed = mapped.get("weight_map") if isinstance(mapped, dict) else None
    return sorted({str(name) for name in listed.values()}) if isinstance(listed, Mapping) else []


def free_bytes(folder: Path) -> int:
    """Return how much room the disk of a folder has, be the folder there or not."""
    for place in (folder, *folder.parents):
        try:
            return shutil.disk_usage(place).free
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ResourceError(f"{folder}: expected a folder on a disk, cannot look ({error})") from None
    raise ResourceError(f"{folder}: expected a folder on a disk, found none")


def _size(path: Path) -> int | None:
    """Return the size of a regular file, through links; None where there is none."""
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:
        return None
