"""Get the files of a benchmark: from where its authors keep them, or from a folder of the user's.

Nothing is fetched that no licence permits to pass on, and every file is compared with the one that the reader
was written for: prompts that changed make scores that do not compare.
"""

import hashlib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPResponse
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Final
from urllib.parse import urljoin, urlsplit

from danqing import __version__
from danqing.errors import DataError, RequestError, ResourceError
from danqing.evaluation.benchmarks import benchmark
from danqing.evaluation.benchmarks.benchmark import Benchmark, File
from danqing.files import whole

Show = Callable[[str], None]
"""Is told, a line at a time, what is fetched and under which licence."""

_LARGEST: Final = 512 * 2**20
_SECONDS: Final = 60  # without a byte
_PIECE: Final = 2**18
_REDIRECTS: Final = 5
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")


def fetch(name: str, folder: Path, *, show: Show, given: Path | None = None) -> list[Path]:
    """Put the files of a benchmark into `folder`, and return where they lie; what is there stays.

    With `given` they are copied from that folder, wherever in it they lie. A file has its name only when it
    is whole and the right one.

    Raises RequestError for an unknown benchmark and for one that may not be fetched, DataError for a file
    that is not the expected one, ResourceError when the network fails.
    """
    chosen = benchmark(name)
    return fetch_files(chosen, folder, show=show, given=given)


def fetch_files(chosen: Benchmark, folder: Path, *, show: Show, given: Path | None = None) -> list[Path]:
    """Do the same for a benchmark that is not in the list."""
    if given is not None and not given.is_dir():
        raise RequestError(f"--from: expected a folder, found none at {given}")
    show(f"{chosen.title}: {chosen.licence or 'no licence'}; {chosen.source}")
    if not chosen.files:
        show("its prompts are made here; there is nothing to fetch")
    if given is None:
        _check_permitted(chosen)
    found = []
    for file in chosen.files:
        target = place(folder, file.name)
        if target.is_file():
            _check(file, _digests(target), f"{target}", "move it away, then fetch again")
            show(f"{file.name}: there")
        elif not _get(chosen, file, target, given, show):
            continue
        found.append(target)
    return found


def place(folder: Path, name: str) -> Path:
    """Return where a file of this name lies in a folder; raises DataError for a name that leaves it."""
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    parts = {*posix.parts, *windows.parts}
    if not posix.parts or posix.is_absolute() or windows.anchor or {"..", "."} & parts or name.endswith("/"):
        raise DataError(f"expected the name of a file inside the folder, found {name!r}")
    target = folder.joinpath(*posix.parts)
    if not target.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"expected a file inside {folder}, found {target}, which a link leads out of it")
    return target


def _check_permitted(chosen: Benchmark) -> None:
    """Raise before the first byte when a file that is needed may not be fetched."""
    missing = [file.name for file in chosen.files if not file.address and not file.optional]
    if chosen.files and not chosen.licence:
        raise RequestError(
            f"{chosen.title}: expected a licence that lets its files be fetched, found none; get them from "
            f"{chosen.source}, and name their folder with --from"
        )
    if missing:
        raise RequestError(
            f"{chosen.title}: expected an address of {', '.join(missing)}, found none; get it from "
            f"{chosen.source}, and name its folder with --from"
        )


def _get(chosen: Benchmark, file: File, target: Path, given: Path | None, show: Show) -> bool:
    """Fetch or copy one file; False where an optional one cannot be had, which is shown."""
    try:
        if given is not None:
            source = _among(given, file.name)
            size = _keep(file, target, _read(source), str(source))
        elif file.address:
            size = _keep(file, target, _download(file.address), file.address)
        else:
            raise ResourceError("it has no address")
    except (ResourceError, FileNotFoundError) as error:
        if not file.optional:
            if isinstance(error, FileNotFoundError):
                raise DataError(f"{chosen.title}: expected {file.name} in {given}, found none") from None
            raise
        show(f"{file.name}: left out, {error}")
        return False
    show(f"{file.name}: {size} bytes{'' if file.sha256 or file.git_blob else ', of unknown checksum'}")
    return True


def _among(folder: Path, name: str) -> Path:
    """Return the file of a name, or the one with its last part, in a folder or below."""
    direct = place(folder, name)
    if direct.is_file():
        return direct
    found = [path for path in sorted(folder.rglob(PurePosixPath(name).name)) if path.is_file()]
    if not found:
        raise FileNotFoundError(f"not in {folder}")
    if len(found) > 1:
        told = ", ".join(str(path) for path in found)
        raise DataError(f"expected one {name} in {folder}, found {told}; name the folder it lies in")
    return found[0]


def _keep(file: File, target: Path, pieces: Iterator[bytes], where: str) -> int:
    """Write a file under a temporary name and give it its own when it is the expected one."""
    with whole(target) as temporary:
        with temporary.open("wb") as opened:
            for piece in pieces:
                opened.write(piece)
        _check(file, _digests(temporary), where, "it changed at its source, or on the way")
        return temporary.stat().st_size


def _digests(path: Path) -> tuple[str, str]:
    """Return the sha256 of a file, and its name in git."""
    whole, blob = hashlib.sha256(), hashlib.sha1(f"blob {path.stat().st_size}\0".encode())
    for piece in _read(path):
        whole.update(piece)
        blob.update(piece)
    return whole.hexdigest(), blob.hexdigest()


def _check(file: File, digests: tuple[str, str], where: str, hint: str) -> None:
    for kind, wanted, found in zip(("sha256", "git"), (file.sha256, file.git_blob), digests, strict=True):
        if wanted and wanted != found:
            raise DataError(f"{where}: expected {kind} {wanted}, found {found}; {hint}")


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece


def _download(address: str) -> Iterator[bytes]:
    try:
        with _open(address) as answer:
            size = 0
            while piece := answer.read(_PIECE):
                size += len(piece)
                if size > _LARGEST:
                    raise DataError(f"{address}: expected at most {_LARGEST} bytes, found more")
                yield piece
            wanted = answer.headers.get("Content-Length")
            if wanted is not None and int(wanted) != size:
                raise ResourceError(f"{address}: expected {wanted} bytes, found {size}; try again")
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise ResourceError(f"{address}: expected the file, found no connection ({reason})") from None


def _open(address: str) -> HTTPResponse:
    """Return the answer to a request; each address that a server leads to is looked at before it is asked."""
    opener = urllib.request.OpenerDirector()  # without handlers of files, FTP and redirects
    for handler in (urllib.request.ProxyHandler, urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
        opener.add_handler(handler())
    asked = address
    for _ in range(_REDIRECTS):
        _check_address(asked)
        request = urllib.request.Request(asked, headers={"User-Agent": f"danqing/{__version__}"})
        answer: HTTPResponse = opener.open(request, timeout=_SECONDS)
        onward = answer.headers.get("Location")
        if answer.status in (301, 302, 303, 307, 308) and onward is not None:
            asked = urljoin(asked, onward)
            answer.close()
        elif answer.status == 200:
            return answer
        else:
            answer.close()
            raise ResourceError(f"{asked}: expected the file, found HTTP {answer.status} {answer.reason}")
    raise ResourceError(f"{address}: expected the file, found {_REDIRECTS} redirects")


def _check_address(address: str) -> None:
    parts = urlsplit(address)
    safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
    if not safe or parts.hostname is None:
        raise DataError(f"expected an address that begins with https, found {address!r}")
