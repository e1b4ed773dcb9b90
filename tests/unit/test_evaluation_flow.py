"""The whole evaluation with a tiny checkpoint that draws, edits and describes: rows chosen, all resumed."""

import json

import pytest

import danqing
from danqing.data.atlas import packaged_atlas
from danqing.errors import RequestError
from danqing.evaluation.evaluate import Evaluation, evaluate, plans
from danqing.evaluation.store import Store
from danqing.evaluation.world import asked
from danqing.evaluation.world.exam import World, world_evaluation
from tests.tiny import write_tiny


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def few(monkeypatch):
    counts = {"row": 2, "language": 0, "part": 0, "ambiguous": 0, "variety": 0}
    monkeypatch.setattr("danqing.evaluation.systems._MOST_TOKENS", 8)
    monkeypatch.setattr(asked, "COUNTS", {"smoke": counts})
    monkeypatch.setattr("danqing.evaluation.world.edits.COUNTS", {"smoke": counts})
    monkeypatch.setattr("danqing.evaluation.world.texts.COUNTS", {"smoke": counts})
    monkeypatch.setattr("danqing.evaluation.world.items.COUNTS", {"smoke": counts})


def world(folder, tasks, *rows, **options) -> World:
    info = folder / "danqing.json"
    told = {**json.loads(info.read_text()), "tasks": tasks, "reference_area": 64**2, "vision_area": 56**2}
    info.write_text(json.dumps(told))
    model = danqing.load(folder, device="cpu", precision="fp32")
    return World(model=model, atlas=packaged_atlas(), rows=rows, **options)


def evaluation(folder, tasks, output, *rows, baselines=True, **options) -> Evaluation:
    return world_evaluation(world(folder, tasks, *rows, **options), output, baselines=baselines)


def test_edits_and_descriptions_are_measured_and_nothing_is_made_twice(tiny, tmp_path):
    able = ["generate", "edit", "describe"]
    wanted = evaluation(tiny, able, tmp_path, "edit-outside", "describe", "questions", steps=1)
    report = evaluate(wanted, command="danqing evaluate world")
    assert [row.name for row in report.rows] == ["edit", "edit-outside", "describe", "questions"]
    rows = {row.name: row for row in report.rows}
    for name, row in rows.items():
        cell = row.cells["tiny"]
        assert (cell.judged, cell.refused, cell.failed) == (row.items, 0, 0), name
    assert rows["edit"].cells["pasted sprites"].interval.mean == 1
    assert rows["edit"].floor.mean == 0  # the source as it was
    assert rows["edit-outside"].cells["pasted sprites"].interval.mean == pytest.approx(0, abs=0.5)
    assert rows["describe"].cells["pasted sprites"].interval.mean == 1
    assert rows["questions"].cells["pasted sprites"].interval.mean == 1
    assert rows["describe"].cells["sprites, VAE"].expected == 0
    assert report.notes[0].startswith("changes made, by kind: ")
    with Store.open(tmp_path / "store.sqlite") as store:
        assert len(store.sources()) == 3 * 2
        assert all(not part.missing for part in plans(wanted, store))
        before = len(store.attempts())
        assert evaluate(wanted, command="danqing evaluate world").rows == report.rows
        assert len(store.attempts()) == before


def test_what_a_checkpoint_cannot_do_is_left_out_and_said(tiny, tmp_path):
    with pytest.raises(RequestError, match="tiny can generate; edit asks for more"):
        world(tiny, ["generate"], "edit").asked  # noqa: B018
    with pytest.raises(RequestError, match=r"expected beginnings of object, .*edit-outside.*found sorrow"):
        world(tiny, ["generate"], "sorrow").asked  # noqa: B018
    some = evaluation(tiny, ["describe"], tmp_path, baselines=False)
    report = evaluate(some, command="danqing evaluate world")
    assert {row.name.split("-")[0] for row in report.rows} == {"describe", "questions"}
    assert report.notes == ("tiny cannot generate or edit: those rows are left out",)
