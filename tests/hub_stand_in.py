"""A stand-in for the Hugging Face hub: a server on this machine that speaks its wire formats, and breaks.

What it knows of them: what a repository holds (`/api/models/...`), small files with git's name as their ETag,
large ones behind a redirect to a second server with sha256 and size in headers, ranges, refusals with their
codes, and connections that break. The real client library understands it too (see test_hub.py).
"""

import hashlib
import json
import re
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = (".safetensors", ".gguf", ".bin")
TOKEN = "hf_of-nobody-and-for-nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request that came in."""

    method: str
    path: str
    store: bool
    """Whether it reached the second server, which is not to see tokens."""
    start: int
    authorised: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What goes wrong with one answer."""

    cut: int | None = None
    """Break the connection after so many bytes."""
    hold: int | None = None
    """Wait for `released` after so many bytes."""
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    corrupt: bool = False
    no_ranges: bool = False


@dataclass(slots=True, kw_only=True)
class Repository:
    """One repository at one commit."""

    files: dict[str, bytes]
    licence: dict[str, Any]
    gated: bool
    private: bool
    listing: Any = None
    """An answer in place of the true one."""

    @property
    def commit(self) -> str:
        """The name of the commit."""
        return hashlib.sha1(b"".join(k.encode() + v for k, v in sorted(self.files.items()))).hexdigest()

    def entry(self, path: str) -> dict[str, Any]:
        """Return what a listing says about a file."""
        data = self.files[path]
        name = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        entry: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": name}
        if path.endswith(LARGE):
            sha = hashlib.sha256(data).hexdigest()
            entry["lfs"] = {"sha256": sha, "size": len(data), "pointerSize": 134}
        return entry


class Server(ThreadingHTTPServer):
    """A server whose clients may leave without a word."""

    def __init__(self, hub: "HubStandIn", *, store: bool) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.hub, self.store = hub, store

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print only what is no broken connection."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class HubStandIn:
    """Repositories, the requests that came in for them, and faults by file, each used once."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.asked: list[Asked] = []
        self.sent: dict[str, int] = defaultdict(int)
        """Bytes of content sent, by file."""
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        self.released = threading.Event()
        self.lock = threading.Lock()
        self.hub = Server(self, store=False)
        self.store = Server(self, store=True)

    @property
    def url(self) -> str:
        """What `HF_ENDPOINT` is to be."""
        return f"http://127.0.0.1:{self.hub.server_port}"

    def add(self, repo: str, folder: Path, *, licence: str | None = "apache-2.0", **more: Any) -> Repository:
        """Publish the files of a folder."""
        files = {str(one.relative_to(folder)): one.read_bytes() for one in folder.rglob("*") if one.is_file()}
        return self.publish(repo, files, licence=licence, **more)

    def publish(
        self,
        repo: str,
        files: dict[str, bytes],
        *,
        licence: str | None = "apache-2.0",
        gated: bool = False,
        private: bool = False,
        **card: str,
    ) -> Repository:
        """Publish some files; `card` is more of the model card's metadata."""
        stated = {"license": licence, **card} if licence else {}
        self.repositories[repo] = Repository(files=files, licence=stated, gated=gated, private=private)
        return self.repositories[repo]

    def contents(self) -> list[str]:
        """Return the files whose content was asked for, each once."""
        return sorted({one.path for one in self.asked if one.method == "GET" and "/resolve/" in one.path})

    @contextmanager
    def running(self) -> Iterator["HubStandIn"]:
        """Serve during the block."""
        servers = (self.hub, self.store)
        threads = [threading.Thread(target=one.serve_forever, args=(0.02,), daemon=True) for one in servers]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            for server in servers:
                server.shutdown()
                server.server_close()
            for thread in threads:
                thread.join()


class Answers(BaseHTTPRequestHandler):
    """One connection to either server."""

    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        path = unquote(address.path)
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start, end = (int(span[1]), int(span[2] or -1) + 1) if span else (0, 0)
        authorised = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        with self.server.hub.lock:
            one = Asked(
                method=self.command, path=path, store=self.server.store, start=start, authorised=authorised
            )
            self.server.hub.asked.append(one)
        if self.server.store:
            self._content(*_file_of(path), (start, end))
        elif path.startswith("/api/models/"):
            self._listing(path, parse_qs(address.query), authorised)
        else:
            self._resolve(path, (start, end), authorised)

    def _listing(self, path: str, query: dict[str, list[str]], authorised: bool) -> None:
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/(.+))?", path)
        repository = self.server.hub.repositories.get(found[1]) if found else None
        if fault := self._fault("listing"):
            return self._refuse(fault.status or 500, "", fault.headers)
        if found is None or repository is None or (repository.private and not authorised):
            return self._refuse(401 if not authorised else 404, "RepoNotFound")
        if found[3] not in (None, "main", repository.commit):
            return self._refuse(404, "RevisionNotFound")
        entries = [repository.entry(path) for path in sorted(repository.files)]
        if found[2] == "tree":
            return self._json(
                [
                    {"type": "file", "path": one["rfilename"], "size": one["size"], "oid": one["blobId"]}
                    | ({"lfs": one["lfs"] | {"oid": one["lfs"]["sha256"]}} if "lfs" in one else {})
                    for one in entries
                ]
            )
        if repository.listing is not None:
            return self._json(repository.listing)
        if "blobs" not in query:
            entries = [{"rfilename": one["rfilename"]} for one in entries]
        tags = [f"license:{repository.licence['license']}"] if repository.licence else []
        return self._json(
            {"id": found[1], "sha": repository.commit, "gated": "manual" if repository.gated else False}
            | {"private": repository.private, "cardData": repository.licence, "tags": tags}
            | {"siblings": entries}
        )

    def _resolve(self, path: str, span: tuple[int, int], authorised: bool) -> None:
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        repository = self.server.hub.repositories.get(found[1]) if found else None
        if found is None or repository is None or (repository.private and not authorised):
            return self._refuse(401, "RepoNotFound")
        if repository.gated and not authorised:
            return self._refuse(401, "GatedRepo")
        if found[3] not in repository.files:
            return self._refuse(404, "EntryNotFound")
        entry = repository.entry(found[3])
        common = {"X-Repo-Commit": repository.commit, "Accept-Ranges": "bytes"}
        if "lfs" not in entry:
            return self._content(found[1], found[3], span, {**common, "ETag": f'"{entry["blobId"]}"'})
        self.send_response(302)
        sha = entry["lfs"]["sha256"]
        linked = {"X-Linked-Etag": f'"{sha}"', "X-Linked-Size": str(entry["size"]), "Content-Length": "0"}
        place = f"http://localhost:{self.server.hub.store.server_port}/{found[1]}/resolve/{sha}/{found[3]}?signed=1"
        for name, value in {**common, **linked, "Location": place}.items():
            self.send_header(name, value)
        self.end_headers()
        return None

    def _content(
        self, repo: str, path: str, span: tuple[int, int], headers: dict[str, str] | None = None
    ) -> None:
        data = self.server.hub.repositories[repo].files[path]
        fault = self._fault(path) or Fault()
        if fault.status:
            return self._refuse(fault.status, "", fault.headers)
        if fault.corrupt:
            data = bytes(byte ^ 1 for byte in data)
        start, end = (0, 0) if fault.no_ranges else span
        body = data[start : end or None]
        ranged = {"Content-Range": f"bytes {start}-{start + len(body) - 1}/{len(data)}"}
        ranged = ranged if start or end else {}
        self.send_response(206 if ranged else 200)
        for name, value in {**(headers or {}), **ranged, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return None
        held = fault.hold if fault.hold is not None else fault.cut
        self._send(path, body[:held])
        if fault.hold is not None and self.server.hub.released.wait(30):
            self._send(path, body[held:])
        if fault.cut is not None:
            self.close_connection = True
        return None

    def _send(self, path: str, body: bytes) -> None:
        try:
            self.wfile.write(body)
        except OSError:  # the client has gone
            self.close_connection = True
            return
        with self.server.hub.lock:
            self.server.hub.sent[path] += len(body)

    def _fault(self, path: str) -> Fault | None:
        with self.server.hub.lock:
            waits = self.command == "GET" and self.server.hub.faults.get(path)
            return self.server.hub.faults[path].pop(0) if waits else None

    def _json(self, values: Any) -> None:
        raw = json.dumps(values).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def _refuse(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"X-Error-Code": code, "Content-Length": "0", **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()


def _file_of(path: str) -> tuple[str, str]:
    owner, name, _, _, file = path.lstrip("/").split("/", 4)
    return f"{owner}/{name}", file
