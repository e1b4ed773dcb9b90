"""The store of answers and scores: everything once, nothing half, and only files that are stores."""

import io
import sqlite3

import numpy as np
import pytest
from PIL import Image

from danqing.errors import DataError
from danqing.evaluation.items import Atom, Clause, Item
from danqing.evaluation.remote.answers import noted
from danqing.evaluation.store import Store, Task, answer_key
from tests.evaluation_fakes import FakeJudge, FakePainter

ITEM = Item(row="background", prompt="a red page", include=(Clause(background="red"),))
PAINTER, JUDGE = FakePainter(), FakeJudge()


def task(item: Item = ITEM, seed: int = 0) -> Task:
    request = PAINTER.request(item, seed)
    return Task(item=item, seed=seed, key=answer_key(PAINTER, request), request=request)


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "runs" / "store.sqlite") as opened:
        opened.add_tasks(PAINTER, [task()])
        yield opened


def test_a_picture_comes_back_as_it_was(store):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 4), np.uint8)
    store.add_answers([(task(), Image.fromarray(pixels))], 1.5)
    found = store.kept(task().key)
    assert np.array_equal(np.asarray(found.made), pixels)
    assert found.seconds == 1.5
    assert store.digests([task().key, "other"]) == {task().key: found.digest}
    with pytest.raises(DataError, match="expected an answer with key other"):
        store.kept("other")


def test_a_text_comes_back_as_it_was(store):
    said = ["红色的苹果\n", ""]
    two = [task(), task(seed=1)]
    store.add_answers(list(zip(two, said, strict=True)), 1.0)
    assert [store.kept(one.key).made for one in two] == said
    assert {store.kept(one.key).kind for one in two} == {"text"}
    assert len(set(store.digests([one.key for one in two]).values())) == 2


def test_the_picture_that_an_edit_is_about_is_kept_by_name(store):
    red, blue = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    store.add_sources({"first": red})
    store.add_sources({"first": blue, "second": blue})  # what is there stays
    assert store.sources() == {"first", "second"}
    assert store.source("first").getpixel((0, 0)) == (255, 0, 0)
    with pytest.raises(DataError, match="expected a source named third"):
        store.source("third")


def test_equal_pixels_are_kept_once(store):
    two = [task(), task(seed=1)]
    store.add_answers([(one, Image.new("RGB", (4, 4), "red")) for one in two], 1.0)
    assert len(set(store.digests([one.key for one in two]).values())) == 1
    assert store._connection.execute("SELECT COUNT(*) FROM blobs").fetchone() == (1,)
    assert store.seconds([one.key for one in two]) == [0.5, 0.5]


def test_scores_belong_to_a_picture_an_item_and_a_judge(store):
    store.add_answers([(task(), Image.new("RGB", (4, 4), "red"))], 1.0)
    digest = store.kept(task().key).digest
    atoms = (Atom(name="background", value=1.0, wanted="red", seen="red"),)
    store.add_scores(JUDGE, [(digest, ITEM.id, atoms)], 0.1)
    assert store.scores(JUDGE.name, JUDGE.version) == {(digest, ITEM.id): atoms}
    assert store.scores(JUDGE.name, "2") == {}
    assert store.judging_seconds(JUDGE.name, JUDGE.version) == pytest.approx(0.1)
    with pytest.raises(DataError, match="FOREIGN KEY"):
        store.add_scores(JUDGE, [("no such picture", ITEM.id, atoms)], 0.1)


def test_the_store_alone_tells_what_was_wanted(store):
    assert store.systems() == [(PAINTER.name, PAINTER.version)]
    assert store.settings(PAINTER.name, PAINTER.version) == dict(PAINTER.settings)
    assert store.tasks(PAINTER.name, PAINTER.version) == [(ITEM.id, 0, task().key)]
    assert store.items([ITEM.id, "other"]) == {ITEM.id: ITEM}
    with pytest.raises(DataError, match=r"expected a system of this store \(fake painter"):
        store.settings("nobody", "1")


def test_attempts_are_never_taken_back(store):
    store.add_refusal(task(), "failed", "no connection")
    store.add_refusal(task(), "refused", "too red")
    assert [attempt.state for attempt in store.attempts()] == ["failed", "refused"]
    assert store.last_attempts([task().key])[task().key].reason == "too red"
    for statement in ("DELETE FROM attempts", "UPDATE attempts SET state = 'ok'"):
        with pytest.raises(sqlite3.IntegrityError, match="attempts are kept"):
            store._connection.execute(statement)


def test_pictures_drawn_together_are_all_there_or_none(store):
    broken = Task(item=ITEM, seed=3, key="broken", request={"seed": object()})
    page = Image.new("RGB", (4, 4))
    with pytest.raises(TypeError):
        store.add_answers([(task(), page), (broken, page)], 1.0)
    assert store.digests([task().key]) == {}
    assert store.attempts() == []
    assert store._connection.execute("SELECT COUNT(*) FROM blobs").fetchone() == (0,)


def test_others_read_while_one_writes(store, tmp_path):
    path = tmp_path / "runs" / "store.sqlite"
    with Store.open(path, readonly=True) as reader, store._write() as writing:
        writing.execute("INSERT INTO blobs VALUES ('half', x'00', 'png')")
        assert reader.systems() == [(PAINTER.name, PAINTER.version)]
    with Store.open(path, readonly=True) as reader, pytest.raises(DataError, match="readonly"):
        reader.add_refusal(task(), "failed", "")


def test_a_file_that_is_no_store_is_refused(tmp_path):
    with pytest.raises(DataError, match="found none"):
        Store.open(tmp_path / "missing.sqlite", readonly=True)
    with pytest.raises(DataError, match="found none"):
        Store.open(tmp_path)
    text = tmp_path / "notes.txt"
    text.write_text("these are notes, long enough to be looked at " * 40)
    with pytest.raises(DataError, match="not a database"):
        Store.open(text)
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE songs (title TEXT)")
    connection.close()
    before = other.read_bytes()
    with pytest.raises(DataError, match="another SQLite file"):
        Store.open(other)
    assert other.read_bytes() == before


OLD = """
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
  created REAL NOT NULL
);
CREATE TABLE scores (
  digest TEXT REFERENCES blobs, item TEXT, judge TEXT, version TEXT, atoms TEXT NOT NULL,
  seconds REAL NOT NULL, created REAL NOT NULL, PRIMARY KEY (digest, item, judge, version)
);
PRAGMA application_id = 1685153142;
PRAGMA user_version = 1;
"""


def test_a_store_of_pictures_alone_is_brought_up_to_date(tmp_path):
    path = tmp_path / "store.sqlite"
    png = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(png, "PNG")
    with sqlite3.connect(path) as connection:
        connection.executescript(OLD)
        connection.execute("INSERT INTO blobs VALUES ('digest', ?)", (png.getvalue(),))
        connection.execute("INSERT INTO pictures VALUES (?, 'digest', '{}', 1.5, 0)", (task().key,))
        connection.execute("INSERT INTO scores VALUES ('digest', 'item', 'judge', '1', '[]', 0.1, 0)")
    connection.close()
    with pytest.raises(DataError, match="expected version 3 of the store, found 1; open it once for writing"):
        Store.open(path, readonly=True)
    for _ in range(2):
        with Store.open(path) as store:
            assert store.kept(task().key).made.getpixel((0, 0)) == (255, 0, 0)
            assert store.kept(task().key).seconds == 1.5
            assert store.scores("judge", "1") == {("digest", "item"): ()}
            store.add_tasks(PAINTER, [task(), task(seed=1)])
            store.add_answers([(task(seed=1), "red")], 1.0)


def test_a_store_without_notes_is_brought_up_to_date(tmp_path):
    path = tmp_path / "store.sqlite"
    with Store.open(path) as store:
        store.add_tasks(PAINTER, [task()])
        store.add_answers([(task(), "red")], 1.0)
        store.add_refusal(task(seed=1), "refused", "no")
    with sqlite3.connect(path) as connection:
        connection.executescript(
            "ALTER TABLE answers DROP COLUMN notes; DROP TABLE attempts;"
            "CREATE TABLE attempts (number INTEGER PRIMARY KEY, key TEXT NOT NULL, state TEXT NOT NULL,"
            " reason TEXT NOT NULL, created REAL NOT NULL, CHECK (state IN ('ok', 'refused', 'failed')));"
            "CREATE INDEX attempts_of_key ON attempts (key);"
            "CREATE TRIGGER attempts_stay BEFORE DELETE ON attempts BEGIN SELECT RAISE (ABORT, 'no'); END;"
            "INSERT INTO attempts VALUES (7, 'key', 'refused', 'no', 0); PRAGMA user_version = 2;"
        )
    connection.close()
    with Store.open(path) as store:
        assert store.kept(task().key).notes == {}
        store.add_refusal(task(seed=2), "timeout", "timed out after 2 seconds")
        assert [(one.state, one.reason[:2]) for one in store.attempts()] == [
            ("refused", "no"),
            ("timeout", "ti"),
        ]
        with pytest.raises(sqlite3.IntegrityError, match="attempts are kept"):
            store._connection.execute("DELETE FROM attempts")


def test_what_a_vendor_said_comes_back_with_the_picture(store):
    picture = noted(Image.new("RGB", (4, 4)), {"revised_prompt": "ein Apfel", "usage": {"output_tokens": 7}})
    store.add_answers([(task(), picture)], 1.0)
    said = {"revised_prompt": "ein Apfel", "usage": {"output_tokens": 7}}
    assert store.kept(task().key).notes == said
    assert store.notes([task().key, "other"]) == {task().key: said}


def test_a_store_of_another_version_is_refused(tmp_path):
    path = tmp_path / "store.sqlite"
    Store.open(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(DataError, match="expected version 3 of the store, found 99"):
        Store.open(path)
