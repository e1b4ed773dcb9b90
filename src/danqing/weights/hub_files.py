"""Hub repositories: their names, what they list, and which of it a checkpoint needs; no network and no disk.

A listing comes from a stranger: every name, size and checksum in it is checked before it becomes a path.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danqing.errors import CheckpointError, RequestError

PARTS = ("transformer", "vae", "text_encoder")
"""Folders of a checkpoint that hold weights."""
INDEX = "model_index.json"
PERMISSIVE = frozenset(
    (
        *(
            "apache-2.0",
            "mit",
            "bsd",
            "bsd-2-clause",
            "bsd-3-clause",
            "bsd-3-clause-clear",
            "isc",
            "zlib",
            "ncsa",
        ),
        *(
            "bsl-1.0",
            "unlicense",
            "wtfpl",
            "cc0-1.0",
            "cc-by-2.0",
            "cc-by-2.5",
            "cc-by-3.0",
            "cc-by-4.0",
            "pddl",
        ),
        *("cdla-permissive-1.0", "cdla-permissive-2.0", "artistic-2.0", "ecl-2.0", "postgresql", "odc-by"),
    )
)
"""Licences, as the hub spells them, under which weights and pictures may be used for money."""
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_REVISION = r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}"
_REPO = re.compile(
    rf"(?:hf:/{{1,2}})?(?P<repo>{_NAME}/{_NAME})(?:@(?P<revision>{_REVISION}(?:/{_REVISION})*))?"
)
_FILE = re.compile(
    rf"(?P<repo>{_NAME}/{_NAME})(?:@(?P<revision>{_REVISION}(?:/{_REVISION})*))?:(?P<path>[^:]+)"
)
_FILE_URL = re.compile(
    rf"hf:/{{1,2}}(?P<repo>{_NAME}/{_NAME})(?:@(?P<revision>{_REVISION}))?/(?P<path>[^:]+)"
)
COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_WEIGHTS = (".safetensors", ".gguf")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".msgpack", ".h5")
_INDEX_SUFFIX = ".safetensors.index.json"
_CONFIGS = frozenset({INDEX, "danqing.json", "system_prompt.txt"})
_CONFIG_FOLDERS = frozenset({*PARTS, "scheduler"})
_WORD_FOLDERS = frozenset({"tokenizer", "processor"})
_MAX_FILES = 20_000
_MAX_BYTES = 2**42  # of one file
_MAX_SMALL = 64 * 2**20  # of a config or a tokenizer file
_MAX_PATH = 1000
_SHOWN = 80  # characters of a stranger's text in a line of ours


@dataclass(frozen=True, slots=True, kw_only=True)
class HubId:
    """A repository of the hub or one file in it, as a user names it."""

    repo: str
    revision: str | None = None
    """Branch, tag or commit; None for the main branch."""
    path: str | None = None

    def __str__(self) -> str:
        """Return the name that a user would give."""
        at = f"@{self.revision}" if self.revision else ""
        return f"{self.repo}{at}{f':{self.path}' if self.path else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """One file of a repository."""

    path: str
    size: int
    digest: str
    """sha256 of a large file (64 digits), git's object name of a small one (40); what the cache calls it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Licence:
    """What a repository says about its licence."""

    name: str
    link: str | None = None

    @property
    def permissive(self) -> bool:
        """Whether it is known to let weights and pictures be used for anything."""
        return self.name in PERMISSIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What the hub says about one commit of a repository."""

    repo: str
    commit: str
    licence: Licence
    gated: bool
    """Whether one must ask for access."""
    files: Mapping[str, RemoteFile]


def parse_hub_id(text: str) -> HubId | None:
    """Return the repository that `owner/name`, `owner/name@revision` or `hf://owner/name` names, or None."""
    found = _REPO.fullmatch(text)
    return None if found is None or text.lower().endswith(_WEIGHTS) else _checked(found)


def parse_hub_file(text: str) -> HubId | None:
    """Return the file that `owner/name:path` or `hf://owner/name/path` names, or None."""
    found = _FILE.fullmatch(text) or _FILE_URL.fullmatch(text)
    return None if found is None else _checked(found)


def is_hub_id(text: str) -> bool:
    """Return whether a text names a repository of the hub, and nothing that lies here."""
    return parse_hub_id(text) is not None and not Path(text).exists()


def is_hub_file(text: str) -> bool:
    """Return whether a text names a file of the hub, and nothing that lies here."""
    return parse_hub_file(text) is not None and not Path(text).exists()


def wanted_parts(tasks: Collection[str] | None, given: Collection[str] = ()) -> tuple[str, ...]:
    """Return the folders whose weights `tasks` need, without those `given` from elsewhere.

    To describe pictures or rewrite prompts alone takes the conditioner.
    """
    speaks = tasks is not None and set(tasks) <= {"describe", "enhance"}
    return tuple(part for part in (("text_encoder",) if speaks else PARTS) if part not in given)


def parse_listing(repo: str, values: Any) -> Listing:
    """Return what the hub's answer about a repository says; what cannot be trusted is a CheckpointError."""
    commit, siblings = _get(values, "sha"), _get(values, "siblings")
    if not isinstance(commit, str) or not COMMIT.fullmatch(commit) or not isinstance(siblings, list):
        raise CheckpointError(f"{repo}: expected a commit and its files from the hub, found something else")
    if len(siblings) > _MAX_FILES:
        raise CheckpointError(f"{repo}: expected at most {_MAX_FILES} files, found {len(siblings)}")
    files: dict[str, RemoteFile] = {}
    for one in siblings:
        file = _file(repo, one)
        if file.path in files:
            raise CheckpointError(f"{repo}: expected every file once, found {shown(file.path)} twice")
        files[file.path] = file
    return Listing(
        repo=repo,
        commit=commit,
        licence=_licence(values),
        gated=bool(_get(values, "gated")),
        files=files,
    )


def config_files(listing: Listing, parts: Collection[str]) -> list[RemoteFile]:
    """Return the small files that say what a checkpoint is, and the indexes of the weights of `parts`.

    Raises CheckpointError for a repository that is no checkpoint.
    """
    if INDEX not in listing.files:
        raise CheckpointError(
            f"{listing.repo}: expected a checkpoint with {INDEX}, found {_instead(listing)}"
        )
    chosen = [file for path, file in listing.files.items() if path in _CONFIGS]
    chosen += [
        file
        for path, file in listing.files.items()
        if (place := _place(path)) and place[0] in _CONFIG_FOLDERS and _is_config(place[1])
    ]
    chosen += [index for part in parts if (index := index_of(listing, part)) is not None]
    for file in chosen:
        if file.size > _MAX_SMALL:
            raise CheckpointError(
                f"{listing.repo}: {file.path}: expected a small file, found {file.size} bytes"
            )
    return chosen


def word_files(listing: Listing) -> list[RemoteFile]:
    """Return the files of the tokenizer and of the processor."""
    return [
        file
        for path, file in listing.files.items()
        if (place := _place(path))
        and place[0] in _WORD_FOLDERS
        and place[1].endswith((".json", ".txt", ".jinja"))
        and file.size <= _MAX_SMALL
    ]


def index_of(listing: Listing, part: str) -> RemoteFile | None:
    """Return the index of a part's shards, or None where it has none."""
    name = index_in(_names(listing, part))
    return None if name is None else listing.files[f"{part}/{name}"]


def index_in(names: Collection[str]) -> str | None:
    """Return the index among the files of a folder; those of variants such as fp16 do not count."""
    plain = [
        name for name in names if name.endswith(_INDEX_SUFFIX) and "." not in name.removesuffix(_INDEX_SUFFIX)
    ]
    return min(plain, default=None)


def weight_files(listing: Listing, part: str, index: Mapping[str, Any] | None) -> list[RemoteFile]:
    """Return the safetensors files of a part: those that its index names, or its only one.

    Variants such as `model.fp16.safetensors` are left. Raises CheckpointError where there are pickles alone.
    """
    names = _names(listing, part)
    where = f"{listing.repo}: {part}"
    if index is not None:
        listed = index.get("weight_map")
        mapped = sorted({str(name) for name in listed.values()}) if isinstance(listed, dict) else []
        if pickles := [name for name in mapped if name.endswith(_PICKLES)]:
            raise CheckpointError(_pickled(where, pickles))
        if not mapped:
            raise CheckpointError(f"{where}: expected a weight_map of tensor names to files, found none")
        for name in mapped:
            if name not in names or not name.endswith(".safetensors"):
                raise CheckpointError(f"{where}: its index names {shown(name)}, which is not there")
        return [listing.files[f"{part}/{name}"] for name in mapped]
    single = [
        name
        for name in names
        if name.endswith(".safetensors") and "." not in name.removesuffix(".safetensors")
    ]
    if len(single) == 1:
        return [listing.files[f"{part}/{single[0]}"]]
    if not single and (pickles := [name for name in names if name.endswith(_PICKLES)]):
        raise CheckpointError(_pickled(where, pickles))
    found = ", ".join(map(shown, single[:3])) or "none"
    raise CheckpointError(f"{where}: expected one .safetensors file or an index of several, found {found}")


def single_file(listing: Listing, path: str) -> RemoteFile:
    """Return one file of weights by its path."""
    if not path.lower().endswith(_WEIGHTS):
        raise RequestError(f"{listing.repo}: expected a .safetensors or .gguf file, found {shown(path)}")
    if path not in listing.files:
        have = [name for name in listing.files if name.lower().endswith(_WEIGHTS)]
        near = f"; it has {', '.join(map(shown, have[:5]))}{' …' if len(have) > 5 else ''}" if have else ""
        raise CheckpointError(f"{listing.repo}: expected {shown(path)}, found no such file{near}")
    return listing.files[path]


def shown(text: object) -> str:
    """Return a stranger's text for a line of ours: printable, and not long."""
    clean = "".join(one if one.isprintable() else "?" for one in str(text)[: 2 * _SHOWN])
    return clean[:_SHOWN] + "…" if len(clean) > _SHOWN else clean


def _checked(found: re.Match[str]) -> HubId | None:
    named = {key: value for key, value in found.groupdict().items() if value}
    plain = all(_is_safe(part) for part in named.values()) and "--" not in named["repo"]
    return HubId(**named) if plain else None


def _is_safe(path: object) -> bool:
    """Return whether a path stays below the folder that it is joined to, on any system."""
    return (
        isinstance(path, str)
        and 0 < len(path) <= _MAX_PATH
        and not any(one < " " or one in "\\\x7f" for one in path)
        and all(part.strip(" .") for part in path.split("/"))
    )


def _get(values: Any, key: str) -> Any:
    return values.get(key) if isinstance(values, dict) else None


def _file(repo: str, values: Any) -> RemoteFile:
    path, lfs = _get(values, "rfilename"), _get(values, "lfs")
    if not _is_safe(path):
        raise CheckpointError(f"{repo}: refused, since it lists a file called {shown(path)!r}")
    size = _get(lfs, "size") if lfs else _get(values, "size")
    digest = _get(lfs, "sha256") if lfs else _get(values, "blobId")
    if type(size) is not int or not 0 <= size <= _MAX_BYTES:
        raise CheckpointError(f"{repo}: {shown(path)}: expected a size, found {shown(size)}")
    if not isinstance(digest, str) or not (_SHA256 if lfs else COMMIT).fullmatch(digest):
        raise CheckpointError(f"{repo}: {shown(path)}: expected a checksum, found {shown(digest)}")
    return RemoteFile(path=path, size=size, digest=digest)


def _licence(values: Any) -> Licence:
    card, tags = _get(values, "cardData"), _get(values, "tags")
    stated = _get(card, "license")
    if not stated and isinstance(tags, list):
        marked = [str(tag).removeprefix("license:") for tag in tags if str(tag).startswith("license:")]
        stated = marked[0] if marked else None
    # several licences: whether one may choose or must keep them all is for people to read
    names = [shown(one).lower() for one in (stated if isinstance(stated, list) else [stated]) if one]
    name = " and ".join(names[:4]) or "no licence stated"
    if name in ("other", "unknown"):
        name = shown(_get(card, "license_name") or name).lower()
        name = f"{name} (of its own)" if name in PERMISSIVE else name
    link = _get(card, "license_link")
    return Licence(
        name=name,
        link=shown(link) if isinstance(link, str) and re.match(r"https?://", link) else None,
    )


def _place(path: str) -> tuple[str, str] | None:
    """Return folder and name of a path of that depth."""
    folder, _, name = path.partition("/")
    return (folder, name) if name and "/" not in name else None


def _names(listing: Listing, part: str) -> list[str]:
    return sorted(place[1] for path in listing.files if (place := _place(path)) and place[0] == part)


def _is_config(name: str) -> bool:
    return name.endswith("config.json") and "index" not in name


def _instead(listing: Listing) -> str:
    files = [path for path in listing.files if path.lower().endswith(_WEIGHTS)]
    if not files:
        return "no weights that are safetensors or GGUF"
    flag = f"--transformer {listing.repo}:{shown(files[0])}"
    return f"single files; take one into another checkpoint with {flag}"


def _pickled(where: str, names: list[str]) -> str:
    return (
        f"{where}: refused, since its weights are pickles alone ({shown(names[0])}), which run code when "
        "they are read; look for a repository with safetensors"
    )
