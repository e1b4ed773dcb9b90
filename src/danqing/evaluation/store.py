"""Answers and scores in one SQLite file, found by what made them.

An answer, a picture or a text, is found by the digest of the system, its version and its request, so asking
twice makes it once. A score is found by the digest of the pixels or the text, the item and the judge, so
judging never draws. The pictures that edits and questions are about are kept by name. Every attempt is kept:
a refusal is an outcome, and what was made how often can be counted. Each write is a transaction; a program
killed at any point leaves whole answers behind, and others may read while one writes.
"""

import hashlib
import io
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, Self

from PIL import Image

from danqing.errors import DataError
from danqing.evaluation.items import Atom, Item, Judge, Made, System, content_key
from danqing.evaluation.remote.answers import notes_of

Gap = Literal["refused", "failed", "timeout", "invalid"]
"""Why there is no answer: refused, failed, not in time, or something that is no picture."""
State = Literal["ok"] | Gap
Kind = Literal["png", "text"]

VERSION: Final = 3
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
CREATE TABLE blobs (digest TEXT PRIMARY KEY, content BLOB NOT NULL, kind TEXT NOT NULL DEFAULT 'png');
CREATE TABLE sources (name TEXT PRIMARY KEY, digest TEXT NOT NULL REFERENCES blobs);
CREATE TABLE answers (
  key TEXT PRIMARY KEY, digest TEXT NOT NULL REFERENCES blobs, request TEXT NOT NULL, seconds REAL NOT NULL,
  created REAL NOT NULL, notes TEXT NOT NULL DEFAULT '{}'
);
CREATE TABLE scores (
  digest TEXT REFERENCES blobs, item TEXT, judge TEXT, version TEXT, atoms TEXT NOT NULL,
  seconds REAL NOT NULL, created REAL NOT NULL, PRIMARY KEY (digest, item, judge, version)
);
"""
_ATTEMPTS: Final = """
CREATE TABLE attempts (
  number INTEGER PRIMARY KEY, key TEXT NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL,
  created REAL NOT NULL, CHECK (state IN ('ok', 'refused', 'failed', 'timeout', 'invalid'))
);
CREATE INDEX attempts_of_key ON attempts (key);
CREATE TRIGGER attempts_stay BEFORE DELETE ON attempts BEGIN SELECT RAISE (ABORT, 'attempts are kept'); END;
CREATE TRIGGER attempts_last BEFORE UPDATE ON attempts BEGIN SELECT RAISE (ABORT, 'attempts are kept'); END;
"""
_UPGRADES: Final[Mapping[int, str]] = {
    1: """
ALTER TABLE blobs RENAME COLUMN png TO content;
ALTER TABLE blobs ADD COLUMN kind TEXT NOT NULL DEFAULT 'png';
ALTER TABLE pictures RENAME TO answers;
CREATE TABLE sources (name TEXT PRIMARY KEY, digest TEXT NOT NULL REFERENCES blobs);
""",
    2: f"""
ALTER TABLE answers ADD COLUMN notes TEXT NOT NULL DEFAULT '{{}}';
DROP TRIGGER IF EXISTS attempts_stay;
DROP TRIGGER IF EXISTS attempts_last;
DROP INDEX IF EXISTS attempts_of_key;
ALTER TABLE attempts RENAME TO attempts_before;
{_ATTEMPTS}
INSERT INTO attempts SELECT number, key, state, reason, created FROM attempts_before;
DROP TABLE attempts_before;
""",
}
"""By the version they start from: 1 knew pictures alone, 2 no notes and fewer states."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One answer that is wanted."""

    item: Item
    seed: int
    key: str
    request: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Kept:
    """An answer of the store."""

    key: str
    digest: str
    """Of its pixels, or of its text."""
    kind: Kind
    content: bytes
    seconds: float
    """What making it took."""
    notes: Mapping[str, Any]
    """What a vendor said of it, as plain JSON: the prompt as it was revised, tokens used."""

    @cached_property
    def made(self) -> Made:
        """The picture, decoded, or the text."""
        return decoded(self.kind, self.content)


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """An answer as a store keeps it."""

    digest: str
    content: bytes
    kind: Kind
    notes: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """How answering went once."""

    key: str
    state: State
    reason: str


def answer_key(system: System, request: Mapping[str, Any]) -> str:
    """Return the key of what `system` makes of `request`."""
    return content_key({"system": system.name, "version": system.version, "request": request})


class Store:
    """An open store; use `Store.open`, and `close` it or use it in a `with` statement."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @classmethod
    def open(cls, path: Path, *, readonly: bool = False) -> Self:
        """Open the store at `path`, made when missing unless `readonly`.

        A store of an older version is brought up to date when it may be written. Raises DataError when the
        file is something else or of a version that is not known.
        """
        if not path.is_file() and (readonly or path.exists()):
            raise DataError(f"expected a store of answers and scores, found none at {path}; run one first")
        try:
            if not readonly:
                path.parent.mkdir(parents=True, exist_ok=True)
            connection = _connect(path, readonly=readonly)
        except (sqlite3.Error, OSError) as error:
            raise DataError(f"{path}: expected a store of answers and scores, found: {error}") from error
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

    def add_answers(self, made: Sequence[tuple[Task, Made]], seconds: float) -> None:
        """Keep answers that were made together in `seconds`; all or none of them are there afterwards."""
        self.add_encoded([(task, encoded(one)) for task, one in made], seconds)

    def add_encoded(self, rows: Sequence[tuple[Task, Encoded]], seconds: float) -> None:
        """Keep answers that somebody else encoded, all or none of them."""
        each, now = seconds / max(len(rows), 1), time.time()
        with self._write() as run:
            _keep(run, [one for _, one in rows])
            run.executemany(
                "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (task.key, one.digest, _dumps(task.request), each, now, _dumps(one.notes))
                    for task, one in rows
                ],
            )
            _attempt(run, [(task.key, "ok", "", now) for task, _ in rows])

    def add_sources(self, pictures: Mapping[str, Image.Image]) -> None:
        """Keep the pictures that edits and questions are about, by name; those that are there stay."""
        rows = {name: encoded(picture) for name, picture in pictures.items()}
        with self._write() as run:
            _keep(run, list(rows.values()))
            run.executemany(
                "INSERT OR IGNORE INTO sources VALUES (?, ?)",
                [(name, one.digest) for name, one in rows.items()],
            )

    def add_refusal(self, task: Task, state: Gap, reason: str) -> None:
        """Keep that there is no answer, and why."""
        with self._write() as run:
            _attempt(run, [(task.key, state, reason, time.time())])

    def add_scores(
        self, judge: Judge, scores: Iterable[tuple[str, str, Sequence[Atom]]], seconds: float
    ) -> None:
        """Keep what a judge said in `seconds` of (digest of an answer, id of an item)."""
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
        """Return the digest of the pixels or the text of each key that has an answer."""
        return dict(self._many("SELECT key, digest FROM answers WHERE key IN", keys))

    def kept(self, key: str) -> Kept:
        """Return an answer; raises DataError when there is none."""
        query = "SELECT key, digest, kind, content, seconds, notes FROM answers JOIN blobs USING (digest)"
        query += " WHERE key = ?"
        row = self._connection.execute(query, (key,)).fetchone()
        if row is None:
            raise DataError(f"expected an answer with key {key}, found none; run the plan first")
        notes = json.loads(row[5])
        return Kept(key=row[0], digest=row[1], kind=row[2], content=row[3], seconds=row[4], notes=notes)

    def sources(self) -> frozenset[str]:
        """Return the names of the pictures that edits and questions are about, of those that are there."""
        return frozenset(name for (name,) in self._connection.execute("SELECT name FROM sources"))

    def source(self, name: str) -> Image.Image:
        """Return the picture that an edit or a question is about; raises DataError when there is none."""
        query = "SELECT content FROM sources JOIN blobs USING (digest) WHERE name = ?"
        row = self._connection.execute(query, (name,)).fetchone()
        if row is None:
            raise DataError(f"expected a source named {name}, found none; keep it with add_sources first")
        return _decoded(row[0])

    def seconds(self, keys: Sequence[str]) -> list[float]:
        """Return what making each of these answers took, of those that are there."""
        return [seconds for (seconds,) in self._many("SELECT seconds FROM answers WHERE key IN", keys)]

    def days(self, keys: Sequence[str]) -> tuple[str, str] | None:
        """Return the days, in UTC, of the first and the last of these answers; None without any."""
        times = [time for (time,) in self._many("SELECT created FROM answers WHERE key IN", keys)]
        if not times:
            return None
        first, last = (datetime.fromtimestamp(end, UTC).date() for end in (min(times), max(times)))
        return first.isoformat(), last.isoformat()

    def notes(self, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return what vendors said of each of these answers, of those that are there."""
        rows = self._many("SELECT key, notes FROM answers WHERE key IN", keys)
        return {key: json.loads(notes) for key, notes in rows}

    def attempts(self, keys: Sequence[str] | None = None) -> list[Attempt]:
        """Return the attempts at some keys, or all, in the order they were made."""
        query = "SELECT number, key, state, reason FROM attempts"
        rows = self._connection.execute(query) if keys is None else self._many(f"{query} WHERE key IN", keys)
        return [Attempt(key=key, state=state, reason=why) for _, key, state, why in sorted(rows)]

    def last_attempts(self, keys: Sequence[str]) -> dict[str, Attempt]:
        """Return the last attempt at each key that was tried."""
        return {attempt.key: attempt for attempt in self.attempts(keys)}

    def scores(self, judge: str, version: str) -> dict[tuple[str, str], tuple[Atom, ...]]:
        """Return all that a judge said, by digest of an answer and id of an item."""
        query = "SELECT digest, item, atoms FROM scores WHERE judge = ? AND version = ?"
        rows = self._connection.execute(query, (judge, version))
        return {
            (digest, item): tuple(Atom(**atom) for atom in json.loads(atoms)) for digest, item, atoms in rows
        }

    def judging_seconds(self, judge: str, version: str) -> float | None:
        """Return the mean seconds that judging one answer for one item took; None when it never did."""
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
                _execute(run, _SCHEMA + _ATTEMPTS)
                run.execute(f"PRAGMA application_id = {_APPLICATION}")
                run.execute(f"PRAGMA user_version = {VERSION}")
            application, version = _header(run)
            for older in range(version, VERSION) if application == _APPLICATION and version else ():
                _execute(run, _UPGRADES[older])
                run.execute(f"PRAGMA user_version = {older + 1}")
    application, version = _header(connection)
    if application != _APPLICATION:
        raise DataError(f"{path}: expected a store of answers and scores, found another SQLite file")
    if version != VERSION:
        advice = "open it once for writing" if version < VERSION else "start a new one"
        raise DataError(f"{path}: expected version {VERSION} of the store, found {version}; {advice}")
    if not readonly:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")


def _header(connection: sqlite3.Connection) -> tuple[int, int]:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return application, version


def _execute(run: sqlite3.Connection, script: str) -> None:
    """Run the statements of a script one by one; `executescript` would end the transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            run.execute(statement)
            statement = ""


def _keep(run: sqlite3.Connection, rows: Sequence[Encoded]) -> None:
    run.executemany(
        "INSERT OR IGNORE INTO blobs (digest, content, kind) VALUES (?, ?, ?)",
        [(one.digest, one.content, one.kind) for one in rows],
    )


def _attempt(run: sqlite3.Connection, rows: Sequence[tuple[str, State, str, float]]) -> None:
    run.executemany("INSERT INTO attempts (key, state, reason, created) VALUES (?, ?, ?, ?)", rows)


def encoded(made: Made) -> Encoded:
    """Return an answer as a store keeps it: the digest of a text, or of a picture's pixels, and PNG."""
    notes = notes_of(made)
    if isinstance(made, str):
        digest = hashlib.sha256(b"text " + made.encode()).hexdigest()
        return Encoded(digest=digest, content=made.encode(), kind="text", notes=notes)
    plain = made if made.mode in ("RGB", "RGBA") else made.convert("RGB")
    head = f"{plain.mode} {plain.width} {plain.height} ".encode()
    with closing(io.BytesIO()) as file:
        Image.frombytes(plain.mode, plain.size, pixels := plain.tobytes()).save(file, "PNG", compress_level=6)
        digest = hashlib.sha256(head + pixels).hexdigest()
        return Encoded(digest=digest, content=file.getvalue(), kind="png", notes=notes)


def decoded(kind: Kind, content: bytes) -> Made:
    """Return the answer that was encoded."""
    return content.decode() if kind == "text" else _decoded(content)


def _decoded(png: bytes) -> Image.Image:
    with Image.open(io.BytesIO(png), formats=("PNG",)) as picture:
        picture.load()
        return picture


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
