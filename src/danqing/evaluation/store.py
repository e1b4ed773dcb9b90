"""Pictures and scores in one SQLite file, found by what made them.

A picture is found by the digest of the system, its version and its request, so asking twice draws once. A
score is found by the digest of the pixels, the item and the judge, so judging never draws. Every attempt is
kept: a refusal is an outcome, and what was drawn how often can be counted. Each write is a transaction; a
program killed at any point leaves whole pictures behind, and others may read while one writes.
"""

import hashlib
import io
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, Self

from PIL import Image

from danqing.errors import DataError
from danqing.evaluation.items import Atom, Item, Judge, System, content_key

State = Literal["ok", "refused", "failed"]

VERSION: Final = 1
_APPLICATION: Final = 0x64716576  # "dqev", in the header of the file
_PATIENCE: Final = 60.0  # seconds to wait for another writer
_MANY: Final = 500  # values in one query

_SCHEMA: Final = """
CREATE TABLE systems (name TEXT, version TEXT, settings TEXT NOT NULL, PRIMARY KEY (name, version));
CREATE TABLE items (id TEXT PRIMARY KEY, content TEXT NOT NULL);
CREATE TABLE tasks (
  system TEXT, version TEXT, item TEXT REFERENCES items, seed INTEGER, key TEXT NOT NULL,
  PRIMARY KEY (system, version, item, seed), FOREIGN KEY (system, version) REFERENCES systems
);
CREATE TABLE blobs (digest TEXT PRIMARY KEY, png BLOB NOT NULL);
CREATE TABLE pictures (
  key TEXT PRIMARY KEY, digest TEXT NOT NULL REFERENCES blobs, request TEXT NOT NULL, seconds REAL NOT NULL,
  created REAL NOT NULL
);
CREATE TABLE attempts (
  number INTEGER PRIMARY KEY, key TEXT NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL,
  created REAL NOT NULL, CHECK (state IN ('ok', 'refused', 'failed'))
);
CREATE INDEX attempts_of_key ON attempts (key);
CREATE TRIGGER attempts_stay BEFORE DELETE ON attempts BEGIN SELECT RAISE (ABORT, 'attempts are kept'); END;
CREATE TRIGGER attempts_last BEFORE UPDATE ON attempts BEGIN SELECT RAISE (ABORT, 'attempts are kept'); END;
CREATE TABLE scores (
  digest TEXT REFERENCES blobs, item TEXT, judge TEXT, version TEXT, atoms TEXT NOT NULL,
  seconds REAL NOT NULL, created REAL NOT NULL, PRIMARY KEY (digest, item, judge, version)
);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One picture that is wanted."""

    item: Item
    seed: int
    key: str
    request: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture of the store."""

    key: str
    digest: str
    """Of its pixels."""
    png: bytes
    seconds: float
    """What drawing it took."""

    @cached_property
    def image(self) -> Image.Image:
        """The picture, decoded."""
        with Image.open(io.BytesIO(self.png), formats=("PNG",)) as picture:
            picture.load()
            return picture


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """How drawing went once."""

    key: str
    state: State
    reason: str


def picture_key(system: System, request: Mapping[str, Any]) -> str:
    """Return the key of what `system` draws for `request`."""
    return content_key({"system": system.name, "version": system.version, "request": request})


class Store:
    """An open store; use `Store.open`, and `close` it or use it in a `with` statement."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @classmethod
    def open(cls, path: Path, *, readonly: bool = False) -> Self:
        """Open the store at `path`, made when missing unless `readonly`.

        Raises DataError when the file is something else or has another version.
        """
        if not path.is_file() and (readonly or path.exists()):
            raise DataError(f"expected a store of pictures and scores, found none at {path}; run one first")
        try:
            if not readonly:
                path.parent.mkdir(parents=True, exist_ok=True)
            connection = _connect(path, readonly=readonly)
        except (sqlite3.Error, OSError) as error:
            raise DataError(f"{path}: expected a store of pictures and scores, found: {error}") from error
        return cls(connection)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add_tasks(self, system: System, tasks: Iterable[Task]) -> None:
        """Note what is wanted of a system, so that a report needs nothing but the store."""
        tasks = list(tasks)
        settings = json.dumps(dict(system.settings), sort_keys=True, ensure_ascii=False)
        items = {task.item.id: task.item for task in tasks}
        with self._write() as run:
            run.execute(
                "INSERT INTO systems VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET settings = excluded.settings",
                (system.name, system.version, settings),
            )
            run.executemany(
                "INSERT INTO items VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET content = excluded.content",
                [(name, json.dumps(item.to_json(), ensure_ascii=False)) for name, item in items.items()],
            )
            run.executemany(
                "INSERT INTO tasks VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET key = excluded.key",
                [(system.name, system.version, task.item.id, task.seed, task.key) for task in tasks],
            )

    def add_pictures(self, drawn: Sequence[tuple[Task, Image.Image]], seconds: float) -> None:
        """Keep pictures that were drawn together in `seconds`; all or none of them are there afterwards."""
        rows = [(task, *_encoded(picture)) for task, picture in drawn]
        each, now = seconds / max(len(rows), 1), time.time()
        with self._write() as run:
            run.executemany("INSERT OR IGNORE INTO blobs VALUES (?, ?)", [row[1:] for row in rows])
            run.executemany(
                "INSERT OR IGNORE INTO pictures VALUES (?, ?, ?, ?, ?)",
                [(task.key, digest, _dumps(task.request), each, now) for task, digest, _ in rows],
            )
            _attempt(run, [(task.key, "ok", "", now) for task, *_ in rows])

    def add_refusal(self, task: Task, state: Literal["refused", "failed"], reason: str) -> None:
        """Keep that a picture was refused or failed, and why."""
        with self._write() as run:
            _attempt(run, [(task.key, state, reason, time.time())])

    def add_scores(
        self, judge: Judge, scores: Iterable[tuple[str, str, Sequence[Atom]]], seconds: float
    ) -> None:
        """Keep what a judge said in `seconds` of (digest of a picture, id of an item)."""
        rows = list(scores)
        each, now = seconds / max(len(rows), 1), time.time()
        with self._write() as run:
            run.executemany(
                "INSERT OR IGNORE INTO scores VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    (digest, item, judge.name, judge.version, _dumps([a.to_json() for a in atoms]), each, now)
                    for digest, item, atoms in rows
                ],
            )

    def digests(self, keys: Sequence[str]) -> dict[str, str]:
        """Return the digest of the pixels of each key that has a picture."""
        return dict(self._many("SELECT key, digest FROM pictures WHERE key IN", keys))

    def picture(self, key: str) -> Picture:
        """Return a picture; raises DataError when there is none."""
        query = "SELECT key, digest, png, seconds FROM pictures JOIN blobs USING (digest) WHERE key = ?"
        row = self._connection.execute(query, (key,)).fetchone()
        if row is None:
            raise DataError(f"expected a picture with key {key}, found none; run the plan first")
        return Picture(key=row[0], digest=row[1], png=row[2], seconds=row[3])

    def seconds(self, keys: Sequence[str]) -> list[float]:
        """Return what drawing each of these pictures took, of those that are there."""
        return [seconds for (seconds,) in self._many("SELECT seconds FROM pictures WHERE key IN", keys)]

    def attempts(self, keys: Sequence[str] | None = None) -> list[Attempt]:
        """Return the attempts at some keys, or all, in the order they were made."""
        query = "SELECT number, key, state, reason FROM attempts"
        rows = self._connection.execute(query) if keys is None else self._many(f"{query} WHERE key IN", keys)
        return [Attempt(key=key, state=state, reason=why) for _, key, state, why in sorted(rows)]

    def last_attempts(self, keys: Sequence[str]) -> dict[str, Attempt]:
        """Return the last attempt at each key that was tried."""
        return {attempt.key: attempt for attempt in self.attempts(keys)}

    def scores(self, judge: str, version: str) -> dict[tuple[str, str], tuple[Atom, ...]]:
        """Return all that a judge said, by digest of a picture and id of an item."""
        query = "SELECT digest, item, atoms FROM scores WHERE judge = ? AND version = ?"
        rows = self._connection.execute(query, (judge, version))
        return {
            (digest, item): tuple(Atom(**atom) for atom in json.loads(atoms)) for digest, item, atoms in rows
        }

    def judging_seconds(self, judge: str, version: str) -> float | None:
        """Return the mean seconds that judging one picture for one item took; None when it never did."""
        query = "SELECT AVG(seconds) FROM scores WHERE judge = ? AND version = ?"
        (mean,) = self._connection.execute(query, (judge, version)).fetchone()
        return None if mean is None else float(mean)

    def systems(self) -> list[tuple[str, str]]:
        """Return name and version of every system that something was wanted of, in order of arrival."""
        return list(self._connection.execute("SELECT name, version FROM systems ORDER BY rowid"))

    def settings(self, system: str, version: str) -> dict[str, Any]:
        """Return the settings of a system; raises DataError when nothing was wanted of it."""
        query = "SELECT settings FROM systems WHERE name = ? AND version = ?"
        row = self._connection.execute(query, (system, version)).fetchone()
        if row is None:
            known = ", ".join(f"{name} {other}" for name, other in self.systems()) or "none"
            raise DataError(f"expected a system of this store ({known}), found {system} {version}")
        settings: dict[str, Any] = json.loads(row[0])
        return settings

    def tasks(self, system: str, version: str) -> list[tuple[str, int, str]]:
        """Return (id of the item, seed, key) of all that was wanted of a system."""
        query = "SELECT item, seed, key FROM tasks WHERE system = ? AND version = ? ORDER BY rowid"
        return list(self._connection.execute(query, (system, version)))

    def items(self, ids: Sequence[str]) -> dict[str, Item]:
        """Return the items with these ids, of those that are there."""
        rows = self._many("SELECT id, content FROM items WHERE id IN", ids)
        return {name: Item.from_json(json.loads(content)) for name, content in rows}

    def _many(self, query: str, values: Sequence[str]) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = []
        for start in range(0, len(values), _MANY):
            part = values[start : start + _MANY]
            found += self._connection.execute(f"{query} ({', '.join('?' * len(part))})", list(part))
        return found

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """Do all that happens inside, or nothing."""
        try:
            with _transaction(self._connection) as run:
                yield run
        except sqlite3.Error as error:
            raise DataError(f"expected to write into the store, found: {error}") from error


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _connect(path: Path, *, readonly: bool) -> sqlite3.Connection:
    address = f"{path.resolve().as_uri()}?mode={'ro' if readonly else 'rwc'}"
    connection = sqlite3.connect(address, uri=True, timeout=_PATIENCE, isolation_level=None)
    try:
        _prepare(connection, path, readonly=readonly)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path, *, readonly: bool) -> None:
    connection.execute("PRAGMA foreign_keys = ON")
    if not readonly:
        with _transaction(connection) as run:  # two programs may start on the same new file
            if _header(run) == (0, 0) and not run.execute("SELECT 1 FROM sqlite_master").fetchone():
                for statement in _statements(_SCHEMA):
                    run.execute(statement)
                run.execute(f"PRAGMA application_id = {_APPLICATION}")
                run.execute(f"PRAGMA user_version = {VERSION}")
    application, version = _header(connection)
    if application != _APPLICATION:
        raise DataError(f"{path}: expected a store of pictures and scores, found another SQLite file")
    if version != VERSION:
        raise DataError(f"{path}: expected version {VERSION} of the store, found {version}; start a new one")
    if not readonly:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")


def _header(connection: sqlite3.Connection) -> tuple[int, int]:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return application, version


def _statements(script: str) -> Iterator[str]:
    """Yield the statements of a script one by one; `executescript` would end the transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _attempt(run: sqlite3.Connection, rows: Sequence[tuple[str, State, str, float]]) -> None:
    run.executemany("INSERT INTO attempts (key, state, reason, created) VALUES (?, ?, ?, ?)", rows)


def _encoded(picture: Image.Image) -> tuple[str, bytes]:
    """Return the digest of a picture's pixels and the picture as PNG."""
    plain = picture if picture.mode in ("RGB", "RGBA") else picture.convert("RGB")
    head = f"{plain.mode} {plain.width} {plain.height} ".encode()
    with closing(io.BytesIO()) as file:
        Image.frombytes(plain.mode, plain.size, pixels := plain.tobytes()).save(file, "PNG", compress_level=6)
        return hashlib.sha256(head + pixels).hexdigest(), file.getvalue()


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
