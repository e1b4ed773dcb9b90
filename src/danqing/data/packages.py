"""Pinned packages of pictures and names: fetched with npm, verified, read in memory.

Packages come through the ordinary `npm` client, pinned by version and by the sha512 of their archive. Nothing
is unpacked to disk and no code of theirs runs.
"""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final, Literal

from danqing.errors import DataError, ResourceError

Layout = Literal["coded", "named", "files", "text"]

_MAX_MEMBER: Final = 160 * 2**20  # the largest set is 98 MB of SVG with gradients, in one file


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One pinned package of pictures or names."""

    name: str
    version: str
    integrity: str
    """Subresource integrity of the archive: "sha512-" and base64."""
    licence: str
    attribution: str
    style: str = ""
    """The style word of captions; empty for packages without pictures."""
    layout: Layout = "text"
    """Where pictures lie: one JSON of SVG bodies with a table of code points ("coded") or with names alone
    ("named"), or assets/CODE.webp ("files"); "text" has none."""
    names: "Source | None" = None
    """A "coded" set whose names a "named" set shares; what they do not share is in `slugs.json`."""

    @property
    def archive(self) -> str:
        """File name of the archive, as npm writes it."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


def fetch(source: Source, folder: Path) -> Path:
    """Return the verified archive of `source` in `folder`, packing it with npm when it is not there yet."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(f"{folder}: cannot keep packages there ({error.strerror or error})") from None
    path = folder / source.archive
    if path.exists():
        _verify(source, path)
        return path
    npm = shutil.which("npm")
    if npm is None:
        raise ResourceError(
            f"expected npm to fetch {source.name}@{source.version}, found none; install Node.js"
        )
    with tempfile.TemporaryDirectory(dir=folder) as scratch:  # an interrupted download leaves nothing behind
        command = [npm, "pack", "--loglevel=error", "--ignore-scripts", f"{source.name}@{source.version}"]
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
        packed = Path(scratch) / source.archive
        if done.returncode or not packed.exists():
            lines = [line for line in done.stderr.splitlines() if line.startswith("npm error ")]
            said = lines[0].removeprefix("npm error ") if lines else "no message"
            raise DataError(
                f"npm could not pack {source.name}@{source.version}: {said}; check the network and npm's "
                "registry, then try again"
            )
        _verify(source, packed)
        os.replace(packed, path)
    return path


def read_member(archive: Path, member: str) -> bytes:
    """Read one file of a package archive, refusing more than 160 MiB."""
    with tarfile.open(archive) as tar:
        try:
            entry = tar.getmember(f"package/{member}")
        except KeyError:
            raise DataError(f"expected {member} in {archive.name}, found none") from None
        if not entry.isfile() or entry.size > _MAX_MEMBER:
            raise DataError(f"expected {member} of {archive.name} to be a file up to {_MAX_MEMBER} bytes")
        return tar.extractfile(entry).read()  # type: ignore[union-attr]


def open_pictures(source: Source, folder: Path) -> dict[str, bytes]:
    """Map code ("1F34E", without variation selectors) to SVG or WebP bytes for every picture of a package.

    The archives lie in `folder`, or are fetched into it.
    """
    archive = fetch(source, folder)
    if source.layout == "files":
        with tarfile.open(archive) as tar:
            return {
                plain_code(Path(entry.name).stem): tar.extractfile(entry).read()  # type: ignore[union-attr]
                for entry in tar
                if entry.isfile() and entry.name.endswith(".webp") and entry.size < 2**20
            }
    icons = json.loads(read_member(archive, "icons.json"))
    names: dict[str, str | None] = {}
    if source.layout == "coded":
        names |= _coded_names(archive)
    elif source.names is not None:
        names |= _join(icons, fetch(source.names, folder))
    names |= slugs().get(source.name, {})
    pictures = {code: _svg(icons, name) for code, name in names.items() if name is not None}
    return {code: picture for code, picture in pictures.items() if picture is not None}


@cache
def slugs() -> dict[str, dict[str, str | None]]:
    """Return package -> code -> name of its picture, where no rule finds it; None leaves a picture out."""
    return json.loads((resources.files("danqing.data") / "slugs.json").read_text("utf-8"))


def plain_code(code: str) -> str:
    """Upper-case a hexadecimal code and drop variation selectors, by which the sets differ."""
    return "-".join(part for part in code.upper().split("-") if part != "FE0F")


def _verify(source: Source, path: Path) -> None:
    found = "sha512-" + base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    if found != source.integrity:
        raise DataError(
            f"expected {path.name} with {source.integrity}, found {found}; delete it and try again"
        )


def _coded_names(archive: Path) -> dict[str, str]:
    codes = json.loads(read_member(archive, "chars.json"))
    return {plain_code(code): name for code, name in codes.items()}


def _join(icons: dict[str, Any], other: Path) -> dict[str, str]:
    """Map code to name for a set without code points, by the names and aliases of another set's archive.

    A set that draws something twice numbers the pictures; the first is taken.
    """
    own = icons["icons"].keys() | icons.get("aliases", {}).keys()
    aliases = json.loads(read_member(other, "icons.json")).get("aliases", {})
    same: dict[str, list[str]] = {}
    for alias, entry in aliases.items():
        same.setdefault(entry["parent"], []).append(alias)
    found: dict[str, str] = {}
    for code, name in _coded_names(other).items():
        parent = aliases.get(name, {}).get("parent", name)
        for candidate in (name, parent, *same.get(parent, ())):
            picture = next((n for n in (candidate, f"{candidate}-1") if n in own), None)
            if picture is not None:
                found.setdefault(code, picture)
    return found


def _svg(icons: dict[str, Any], name: str) -> bytes | None:
    """Return one picture as an SVG file; None for a name without a picture."""
    alias = icons.get("aliases", {}).get(name, {})
    icon = icons["icons"].get(alias.get("parent", name))
    if icon is None:
        return None
    width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
    body = icon["body"]
    if alias.get("hFlip"):  # some sets keep one of two mirrored hands
        body = f'<g transform="translate({width} 0) scale(-1 1)">{body}</g>'
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{body}</svg>').encode()
