"""Files of benchmarks come whole and unchanged, into their folder and nowhere else, or not at all."""

import hashlib
import os
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from danqing.errors import DataError, RequestError, ResourceError
from danqing.evaluation.benchmarks import BENCHMARKS, benchmark
from danqing.evaluation.benchmarks.benchmark import File
from danqing.evaluation.fetch import fetch, fetch_files, place
from tests.unit.test_benchmark_readers import REAL

TEXT = b"one prompt\r\nanother" * 40_000
SHA256 = hashlib.sha256(TEXT).hexdigest()
BLOB = hashlib.sha1(b"blob %d\0" % len(TEXT) + TEXT).hexdigest()


class Server(BaseHTTPRequestHandler):
    def do_GET(self):
        places = {"/moved": "/whole", "/away": "ftp://127.0.0.1/file", "/round": "/round"}
        if self.path in places:
            self.send_response(302)
            self.send_header("Location", places[self.path])
            self.end_headers()
            return
        if self.path not in ("/whole", "/other", "/cut"):
            self.send_error(404)
            return
        content = TEXT if self.path != "/other" else b"something else"
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:-7] if self.path == "/cut" else content)

    def log_message(self, format, *args):
        pass


@pytest.fixture(scope="module")
def address():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def wanted(*files, licence="MIT"):
    return replace(benchmark("geneval"), title="Ours", licence=licence, files=files)


def left(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_file_comes_with_its_licence_told(address, tmp_path):
    told: list[str] = []
    file = File(name="data/prompts.txt", address=f"{address}/moved", sha256=SHA256, git_blob=BLOB)
    (path,) = fetch_files(wanted(file), tmp_path, show=told.append)
    assert path.read_bytes() == TEXT
    assert left(tmp_path) == ["data/prompts.txt"]
    assert "MIT" in told[0]
    assert "github.com/djghosh13/geneval" in told[0]


def test_what_is_there_stays_and_is_checked(address, tmp_path):
    file = File(name="prompts.txt", address=f"{address}/whole", sha256=SHA256)
    fetch_files(wanted(file), tmp_path, show=lambda _: None)
    before = os.stat(tmp_path / "prompts.txt").st_mtime_ns
    told: list[str] = []
    fetch_files(wanted(replace(file, address=f"{address}/gone")), tmp_path, show=told.append)
    assert told[-1] == "prompts.txt: there"
    assert os.stat(tmp_path / "prompts.txt").st_mtime_ns == before
    (tmp_path / "prompts.txt").write_bytes(b"mine")
    with pytest.raises(DataError, match="move it away"):
        fetch_files(wanted(file), tmp_path, show=lambda _: None)
    assert (tmp_path / "prompts.txt").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("path", "checksum", "error", "told"),
    [
        ("/other", {"sha256": SHA256}, DataError, "expected sha256"),
        ("/other", {"git_blob": BLOB}, DataError, "expected git"),
        ("/cut", {}, ResourceError, "try again|connection"),
        ("/gone", {}, ResourceError, "HTTP 404"),
        ("/away", {}, DataError, "begins with https"),
        ("/round", {}, ResourceError, "redirects"),
    ],
)
def test_another_file_a_part_of_it_and_none_leave_nothing(address, tmp_path, path, checksum, error, told):
    file = File(name="prompts.txt", address=address + path, **checksum)
    with pytest.raises(error, match=told):
        fetch_files(wanted(file), tmp_path, show=lambda _: None)
    assert left(tmp_path) == []


def test_an_optional_file_that_is_gone_is_told(address, tmp_path):
    file = File(name="more.txt", address=f"{address}/gone", optional=True)
    told: list[str] = []
    assert fetch_files(wanted(file), tmp_path, show=told.append) == []
    assert "left out" in told[-1]
    assert "404" in told[-1]


def test_nobody_answers(tmp_path):
    file = File(name="prompts.txt", address="http://127.0.0.1:9/prompts.txt")
    with pytest.raises(ResourceError, match="no connection"):
        fetch_files(wanted(file), tmp_path, show=lambda _: None)


@pytest.mark.parametrize(
    "address", ["http://example.com/x", "ftp://127.0.0.1/x", "file:///etc/hosts", "https://"]
)
def test_only_safe_connections_are_made(address, tmp_path):
    with pytest.raises(DataError, match="https"):
        fetch_files(wanted(File(name="x", address=address)), tmp_path, show=lambda _: None)


@pytest.mark.parametrize(
    "name", ["", "../x", "a/../../x", "/etc/x", "..", ".", "a/..", "C:\\x", "\\\\host\\x", "a\\..\\x", "a/"]
)
def test_names_stay_in_the_folder(name, tmp_path):
    with pytest.raises(DataError, match="inside the folder"):
        place(tmp_path, name)


def test_a_link_does_not_lead_out_of_the_folder(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/link").symlink_to(tmp_path)
    with pytest.raises(DataError, match="link"):
        place(tmp_path / "folder", "link/x")


def test_without_a_licence_nothing_is_fetched_but_a_folder_is_taken(address, tmp_path):
    (tmp_path / "mine/deep").mkdir(parents=True)
    (tmp_path / "mine/deep/prompts.txt").write_bytes(TEXT)
    files = File(name="prompts.txt", address=f"{address}/whole", sha256=SHA256)
    unlicensed = wanted(files, licence="")
    with pytest.raises(RequestError, match="--from"):
        fetch_files(unlicensed, tmp_path / "out", show=lambda _: None)
    (path,) = fetch_files(unlicensed, tmp_path / "out", show=lambda _: None, given=tmp_path / "mine")
    assert path.read_bytes() == TEXT


def test_a_file_without_an_address_is_asked_for_before_the_first_byte(address, tmp_path):
    files = (File(name="a.txt", address=f"{address}/whole"), File(name="b.txt"))
    with pytest.raises(RequestError, match=r"address of b\.txt"):
        fetch_files(wanted(*files), tmp_path, show=lambda _: None)
    assert left(tmp_path) == []


def test_a_folder_of_the_user_must_hold_one_such_file(tmp_path):
    chosen = wanted(File(name="prompts.txt"), File(name="more.txt", optional=True))
    given = tmp_path / "given"
    with pytest.raises(RequestError, match="expected a folder"):
        fetch_files(chosen, tmp_path / "out", show=lambda _: None, given=given)
    for part in ("a", "b"):
        (given / part).mkdir(parents=True)
    with pytest.raises(DataError, match=r"expected prompts\.txt"):
        fetch_files(chosen, tmp_path / "out", show=lambda _: None, given=given)
    for part in ("a", "b"):
        (given / part / "prompts.txt").write_bytes(TEXT)
    with pytest.raises(DataError, match="name the folder"):
        fetch_files(chosen, tmp_path / "out", show=lambda _: None, given=given)
    assert fetch_files(chosen, tmp_path / "out", show=lambda _: None, given=given / "a")


def test_every_benchmark_can_be_fetched_or_says_how_it_is_had():
    for one in BENCHMARKS:
        for file in one.files:
            assert file.optional or not file.address or file.address.startswith("https://")
            assert not file.address or (one.licence and (file.sha256 or file.git_blob)), (one.name, file.name)
            place(REAL, file.name)


@pytest.mark.skipif(not REAL.is_dir(), reason="the files of the benchmarks are not beside the checkout")
def test_real_files_are_copied_from_a_folder(tmp_path):
    found = fetch("compbench", tmp_path, show=lambda _: None, given=REAL)
    assert len(found) == len(benchmark("compbench").files)
    assert len(benchmark("compbench").read(tmp_path)) == 2400
