"""An evaluation killed with SIGKILL goes on where it was, pictures and texts; and nano the same way."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

import danqing
from danqing.evaluation.items import Clause, Item
from danqing.evaluation.run import plan, run, score
from danqing.evaluation.store import Store
from danqing.evaluation.systems import ModelSystem
from tests.evaluation_fakes import FakeJudge, FakePainter, colour_items, said_items

ROOT = Path(__file__).parents[2]
COUNT, BATCH = 48, 3
PROGRAM = f"""
import sys
from pathlib import Path
from danqing.evaluation.run import plan, run, score
from danqing.evaluation.store import Store
from tests.evaluation_fakes import FakeJudge, FakePainter, colour_items, said_items
folder = Path(sys.argv[1])
painter = FakePainter(seconds=0.02, log=folder / "log")
items = [*colour_items({COUNT // 2}), *said_items({COUNT // 2})]
with Store.open(folder / "store.sqlite") as store:
    run(plan(items, painter, [0], store), store, batch={BATCH})
    score(items, painter, [0], FakeJudge(), store)
"""


def test_a_killed_run_goes_on_without_drawing_anything_again(tmp_path):
    store, log = tmp_path / "store.sqlite", tmp_path / "log"
    kept: dict[str, float] = {}
    for part in (0.2, 0.45, 0.7):
        _kill_when(_start(tmp_path), log, part * COUNT)
        there = _created(store)
        assert kept.items() <= there.items()  # what was there is untouched
        assert len(kept) < len(there) < COUNT
        kept = there
    assert _start(tmp_path).wait(timeout=60) == 0

    painter, judge = FakePainter(), FakeJudge()
    items = [*colour_items(COUNT // 2), *said_items(COUNT // 2)]
    with Store.open(store, readonly=True) as opened:
        assert plan(items, painter, [0], opened).there == COUNT
        tried = Counter(attempt.key for attempt in opened.attempts())
        assert len(tried) == COUNT
        assert set(tried.values()) == {1}  # each answer was made and kept once
        assert kept.items() <= _created(store).items()
        assert len(opened.scores(judge.name, judge.version)) == COUNT
    painted = Counter(log.read_text().splitlines())
    assert len(painted) == COUNT
    assert painted.total() <= COUNT + 3 * BATCH  # a kill costs the batch in hand, and no more


def test_nano_is_drawn_once_and_as_generate_draws_it(tmp_path):
    model = danqing.load("nano", device="cpu", precision="fp32")
    system = ModelSystem(model, steps=2)
    items = [
        Item(row="background", prompt=f"a dog on a {colour} background", include=(Clause(background=colour),))
        for colour in ("red", "blue")
    ]
    with Store.open(tmp_path / "store.sqlite") as store:
        assert run(plan(items, system, [0, 1], store), store).made == 4
        again = plan(items, ModelSystem(model, steps=2), [0, 1], store)
        assert (again.there, again.missing) == (4, ())
        assert again.seconds > 0
        assert len(plan(items, ModelSystem(model, steps=3), [0, 1], store).missing) == 4
        picture = store.kept(again.tasks[2].key).made
        judge = FakeJudge()
        assert score(items, system, [0, 1], judge, store) == 4
    assert (again.tasks[2].item, again.tasks[2].seed) == (items[0], 1)
    alone = model.generate(items[0].prompt, seed=1, steps=2)
    assert np.array_equal(np.asarray(picture), np.asarray(alone))


def _start(folder: Path) -> subprocess.Popen:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", PROGRAM, str(folder)], env=environment)


def _kill_when(process: subprocess.Popen, log: Path, painted: float) -> None:
    """Kill a process once so many pictures were painted, wherever it is then."""
    deadline = time.monotonic() + 60
    while not log.is_file() or len(log.read_text().splitlines()) < painted:
        assert process.poll() is None, "the run ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def _created(path: Path) -> dict[str, float]:
    """Return when each picture of a store was kept."""
    with Store.open(path, readonly=True) as store:
        return dict(store._connection.execute("SELECT key, created FROM answers"))
