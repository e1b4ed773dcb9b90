"""The connection to the Hugging Face hub, or to any endpoint that speaks like it (`HF_ENDPOINT`).

The client library gives the connections, the token, the place of the cache and its locks. The transfer is
ours: the library forgets what it had of a file when its process ends, and compares no checksums. Here a file
goes on where it stopped, and has the sha256 of the listing (a small file git's object name) before its name.
"""

import errno
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, urlsplit

from danqing import __version__
from danqing.errors import CheckpointError, ResourceError
from danqing.weights.hub_cache import Cached
from danqing.weights.hub_files import HubId, RemoteFile, shown

Show = Callable[[str, int], None]
"""Told what is being fetched, and how many bytes of all have been."""
_WORKERS = 4
_TRIES = 5  # in a row without a byte, before a transfer is given up
_PAUSE = 1.0  # seconds before the second of them, twice as long before each further one
_LONGEST_PAUSE = 60.0
_PIECE = 2**20
_MAX_ANSWER = 64 * 2**20
_FIRST_BYTES = 2**18  # of a safetensors file: mostly the whole header
_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})


class _Interrupted(ResourceError):
    """A transfer that failed for now; `pause` is how long the hub asks to wait, in seconds."""

    def __init__(self, message: str, pause: float | None = None) -> None:
        super().__init__(message)
        self.pause = pause


class _Stopped(Exception):
    """Another transfer failed, or the user stopped them all."""


def is_offline() -> bool:
    """Return whether the user's settings forbid to ask the hub (`HF_HUB_OFFLINE=1`)."""
    return bool(_constants().HF_HUB_OFFLINE)


def cache_folder() -> Path:
    """Return the folder of the cache, as `HF_HUB_CACHE` or `HF_HOME` says."""
    return Path(_constants().HF_HUB_CACHE).expanduser()


def endpoint() -> str:
    """Return the address of the hub, as `HF_ENDPOINT` says."""
    address = str(_constants().ENDPOINT)
    parts = urlsplit(address)
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise ResourceError(
            f"HF_ENDPOINT: expected an address like https://huggingface.co, found {shown(address)!r}"
        )
    return address


def listing_address(hub: HubId) -> str:
    """Return where the hub says what a repository holds."""
    return f"{endpoint()}/api/models/{hub.repo}/revision/{quote(hub.revision or 'main', safe='')}?blobs=true"


def fetch_json(hub: HubId, address: str) -> Any:
    """Return the JSON that an address answers with, of limited size."""
    raw = bytearray()
    for piece in _patiently(lambda: _whole(hub, address), threading.Event()):
        raw += piece
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        raise CheckpointError(
            f"{hub}: expected JSON from {_host()}, found something else; does HF_ENDPOINT name a hub?"
        ) from None


def fetch_all(hub: HubId, commit: str, files: Sequence[RemoteFile], place: Cached, show: Show | None) -> None:
    """Fetch files into the cache, some at a time and the largest first; what an earlier run left is kept."""
    stop, meter = threading.Event(), _Meter(show)
    largest_first = sorted(files, key=lambda file: -file.size)
    with ThreadPoolExecutor(_WORKERS) as pool:
        jobs = [pool.submit(_fetch, hub, commit, file, place, stop, meter) for file in largest_first]
        try:
            for job in as_completed(jobs):
                job.result()
        except OSError as error:
            raise _disk_trouble(place, error) from None
        finally:
            stop.set()
            for job in jobs:
                job.cancel()


def fetch_heads(
    hub: HubId, commit: str, files: Sequence[RemoteFile], place: Cached, most: int
) -> dict[str, bytes]:
    """Return the headers of safetensors files by their paths: from the cache, else by asking for a range.

    Raises CheckpointError for a header of more than `most` bytes.
    """

    def head(file: RemoteFile) -> bytes:
        if place.holds(file, commit):
            with place.show(file, commit).open("rb") as stream:
                return _header(hub, file, lambda start, end: _at(stream, start, end), most)
        address = _address(hub, commit, file)
        return _header(hub, file, lambda start, end: _range(hub, address, start, end), most)

    with ThreadPoolExecutor(2 * _WORKERS) as pool:
        return dict(zip((file.path for file in files), pool.map(head, files), strict=True))


# ---------------------------------------------------------------------------------------------- one file


def _fetch(
    hub: HubId, commit: str, file: RemoteFile, place: Cached, stop: threading.Event, meter: "_Meter"
) -> None:
    """Bring one file into the cache, checked, and let the commit show it."""
    blob, partial = place.blob(file), place.partial(file)
    blob.parent.mkdir(parents=True, exist_ok=True)
    with _alone(place.lock(file), stop):
        for last in (False, True):
            if place.holds(file, commit):  # another program was faster
                break
            digest = _transfer(hub, _address(hub, commit, file), file, partial, stop, meter)
            if digest == file.digest:
                os.replace(partial, blob)
                break
            partial.unlink()
            if last:
                raise CheckpointError(
                    f"{hub}: {shown(file.path)}: expected content of checksum {file.digest[:12]}, found "
                    f"{digest[:12]} twice; it was removed, try again later"
                )
        place.show(file, commit)


def _transfer(
    hub: HubId, address: str, file: RemoteFile, target: Path, stop: threading.Event, meter: "_Meter"
) -> str:
    """Write a content to `target`, going on after what is there, and return its checksum."""
    with target.open("a+b") as stream:
        if stream.tell() > file.size:
            stream.truncate(0)
        digest = _checksum(file)
        stream.seek(0)
        while piece := stream.read(_PIECE):
            digest.update(piece)
        have = stream.tell()
        for piece in _patiently(
            lambda: _rest(hub, address, stream.tell(), file.size), stop, file.size - have
        ):
            stream.write(piece)
            digest.update(piece)
            meter.add(file.path, len(piece))
        stream.flush()
        os.fsync(stream.fileno())
    return str(digest.hexdigest())


def _checksum(file: RemoteFile) -> Any:
    """Return a hash that gives the digest of a listing: sha256, or git's name of an object."""
    if len(file.digest) == 64:
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)


@contextmanager
def _alone(lock: Path, stop: threading.Event) -> Iterator[None]:
    """Hold the lock that all programs take for a content; give up waiting when the transfers stop."""
    from filelock import Timeout
    from huggingface_hub.utils import WeakFileLock

    lock.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        while not stop.is_set():
            try:
                held.enter_context(WeakFileLock(lock, timeout=1))
            except Timeout:
                continue
            yield
            return
        raise _Stopped


class _Meter:
    """Bytes of all transfers together."""

    def __init__(self, show: Show | None) -> None:
        self._show, self._lock = show, threading.Lock()
        self._done = 0

    def add(self, path: str, count: int) -> None:
        """Count bytes of a file, and tell."""
        with self._lock:
            self._done += count
            if self._show is not None:
                self._show(shown(path), self._done)


# ---------------------------------------------------------------------------------------------- answers


def _patiently(
    attempt: Callable[[], Iterator[bytes]], stop: threading.Event, expected: int | None = None
) -> Iterator[bytes]:
    """Yield what attempts yield, making a new one after each interruption, with pauses that grow.

    An attempt goes on where the last one ended. Without `expected` bytes the first that ends well will do.
    """
    failed, have = 0, 0
    while expected is None or have < expected:
        before, pause = have, None
        trouble = _Interrupted("the hub ends its answers early; try again later")
        try:
            for piece in attempt():
                if stop.is_set():
                    raise _Stopped
                have += len(piece)
                yield piece
            if expected is None:
                return
        except _Interrupted as error:
            if expected is None and have:
                raise
            trouble, pause = error, error.pause
        failed = 1 if have > before else failed + 1
        if failed >= _TRIES:
            raise trouble
        if have < (expected or 1) and stop.wait(min(pause or _PAUSE * 2 ** (failed - 1), _LONGEST_PAUSE)):
            raise _Stopped


def _whole(hub: HubId, address: str) -> Iterator[bytes]:
    size = 0
    with _answer(hub, address) as response:
        for piece in response.iter_bytes():
            size += len(piece)
            if size > _MAX_ANSWER:
                raise CheckpointError(f"{hub}: expected a listing of at most {_MAX_ANSWER} bytes, found more")
            yield piece


def _rest(hub: HubId, address: str, start: int, end: int, *, whole: bool = True) -> Iterator[bytes]:
    """Yield a file's bytes from `start` to `end`, as they come, so that none are lost when it breaks off.

    A server that knows no ranges starts anew, and what is known of it is skipped.
    """
    wanted = {"Range": f"bytes={start}-{end - 1}"} if start or not whole else {}
    with _answer(hub, address, wanted) as response:
        skipped = start if response.status_code != 206 else 0
        for piece in response.iter_bytes():
            if skipped >= len(piece):
                skipped -= len(piece)
                continue
            kept = piece[skipped : skipped + end - start]
            skipped, start = 0, start + len(kept)
            if kept:
                yield kept
            if start == end:
                return


def _range(hub: HubId, address: str, start: int, end: int) -> bytes:
    raw = bytearray()
    rest = lambda: _rest(hub, address, start + len(raw), end, whole=False)  # noqa: E731
    for piece in _patiently(rest, threading.Event(), end - start):
        raw += piece
    return bytes(raw)


def _at(stream: IO[bytes], start: int, end: int) -> bytes:
    stream.seek(start)
    return stream.read(end - start)


def _header(hub: HubId, file: RemoteFile, read: Callable[[int, int], bytes], most: int) -> bytes:
    """Return length and header of a safetensors file; `read` gives the bytes from a place to another."""
    first = read(0, min(_FIRST_BYTES, file.size))
    end = 8 + int.from_bytes(first[:8], "little")
    if not 10 <= end <= min(8 + most, file.size):
        raise CheckpointError(
            f"{hub}: {shown(file.path)}: expected a safetensors file, found a broken header"
        )
    return first[:end] + (read(len(first), end) if end > len(first) else b"")


@contextmanager
def _answer(hub: HubId, address: str, headers: dict[str, str] | None = None) -> Iterator[Any]:
    """Open an answer of the hub or of where it sends us; whatever goes wrong is one line."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HTTPError
    from huggingface_hub.utils import get_session, get_token

    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    sent = {"User-Agent": f"danqing/{__version__}", "Accept-Encoding": "identity"} | (headers or {})
    if token:  # taken off where the hub sends us on to another host
        sent["Authorization"] = f"Bearer {token}"
    wait = float(constants.HF_HUB_DOWNLOAD_TIMEOUT)
    try:
        with get_session().stream(
            "GET", address, headers=sent, timeout=wait, follow_redirects=True
        ) as response:
            if response.status_code >= 400:
                raise _refusal(hub, response.status_code, response.headers, known=bool(token))
            yield response
    except HTTPError as error:
        kind = type(error).__name__
        raise _Interrupted(
            f"{hub}: no answer from {_host()} ({kind}); is there a network? --offline takes the cache alone"
        ) from None


def _refusal(hub: HubId, status: int, headers: Any, *, known: bool) -> ResourceError | CheckpointError:
    """Return what to say for an answer that is an error."""
    code = headers.get("X-Error-Code", "")
    token = "set HF_TOKEN or run hf auth login" if not known else "is your token for it?"
    if code == "GatedRepo":
        return ResourceError(
            f"{hub}: expected access, found a gated repository; ask for access at {endpoint()}/{hub.repo}, "
            f"then {'repeat' if known else token}"
        )
    if code == "RevisionNotFound":
        return CheckpointError(
            f"{hub}: expected the revision {hub.revision or 'main'}, found none of that name"
        )
    if code == "EntryNotFound":
        return CheckpointError(f"{hub}: expected a file that its listing names, found none; try again later")
    if code == "RepoNotFound" or status in (401, 404):
        return ResourceError(
            f"{hub}: expected a folder here or a repository at {_host()}, found neither; "
            f"for a private one {token}"
        )
    if status in _BUSY:
        asked = str(headers.get("Retry-After", ""))
        pause = float(asked) if asked.isascii() and asked.isdigit() else None
        why = "asks to wait" if status == 429 else "has trouble"
        return _Interrupted(f"{hub}: {_host()} {why} (status {status}); try again later", pause)
    return ResourceError(f"{hub}: {_host()} refuses (status {status}); {token}")


def _disk_trouble(place: Cached, error: OSError) -> ResourceError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceError(
            f"{place.cache}: the disk is full; free some and repeat, it goes on where it stopped"
        )
    return ResourceError(f"{place.cache}: expected a folder to write to ({error.strerror or error})")


def _address(hub: HubId, commit: str, file: RemoteFile) -> str:
    return f"{endpoint()}/{hub.repo}/resolve/{commit}/{quote(file.path)}"


def _host() -> str:
    return urlsplit(endpoint()).hostname or ""


def _constants() -> Any:
    try:
        from huggingface_hub import constants
    except ImportError:
        raise ResourceError(
            "expected huggingface_hub to reach the hub, found none; pip install 'danqing[hub]'"
        ) from None
    return constants
