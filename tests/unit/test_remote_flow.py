"""A live system through plan, run and results, then frozen: outcomes stay what they were."""

import pytest

from danqing.evaluation.frozen import FrozenSystem, export
from danqing.evaluation.items import Clause, Item
from danqing.evaluation.prices import Budget, cost
from danqing.evaluation.remote.names import system_named
from danqing.evaluation.results import Entrant, Row, read_results
from danqing.evaluation.run import plan, run, score
from danqing.evaluation.store import Store
from tests.evaluation_fakes import FakeJudge
from tests.vendor_stand_in import Reply, openai_error, openai_picture, vendor_stand_in

COLOURS = ["red", "blue", "green", "red", "blue"]
ITEMS = [
    Item(row="page", prompt=f"page {number} in {colour}", include=(Clause(background=colour),))
    for number, colour in enumerate(COLOURS)
]
ROWS = [Row(name="page")]
JUDGE = FakeJudge()


@pytest.fixture
def live(monkeypatch):
    """A system that refuses the second item, is slow with the third, and sends the fourth broken."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with vendor_stand_in() as vendor:
        vendor.replies[ITEMS[1].prompt] = [openai_error(400, "content_policy_violation", "No.")]
        vendor.replies[ITEMS[2].prompt] = [Reply(seconds=4.0)]
        vendor.replies[ITEMS[3].prompt] = [openai_picture(b"broken")]
        options = "seconds=2&attempts=1&concurrency=2&name=live"
        yield system_named(f"openai-compatible:{vendor.address}/v1#gpt-image-2?{options}"), vendor


def _results(system, store):
    run(plan(ITEMS, system, [0], store), store)
    score(ITEMS, system, [0], JUDGE, store)
    who = Entrant.of(system, "model")
    return read_results(store, rows=ROWS, entrants=[who], judges=[(JUDGE.name, JUDGE.version)], items=ITEMS)


def test_every_outcome_is_kept_with_its_reason_and_failures_are_tried_again(live, tmp_path):
    system, vendor = live
    with Store.open(tmp_path / "store.sqlite") as store:
        answers = _results(system, store).answers["live", "page"]
        states = [one.state for one in answers]
        assert states == ["judged", "refused", "timeout", "invalid", "judged"]
        assert [one.reason.partition(":")[0] for one in answers[1:4]] == [
            "refused (content_policy_violation)",
            "timed out after 2 seconds",
            "invalid picture",
        ]
        assert len(vendor.asked) == 5
        again = _results(system, store)
        assert [one.state for one in again.answers["live", "page"]] == ["judged", "refused", *["judged"] * 3]
        assert len(vendor.asked) == 7


def test_what_was_live_is_the_same_when_frozen(live, tmp_path):
    system, _ = live
    with Store.open(tmp_path / "store.sqlite") as store:
        first = _results(system, store)
        assert export(first, tmp_path / "frozen") == 2
        frozen = FrozenSystem(tmp_path / "frozen", name="frozen")
        wanted = [item for item in ITEMS if frozen.has(item, 0)]
        run(plan(wanted, frozen, [0], store), store)
        score(wanted, frozen, [0], JUDGE, store)
        who = Entrant.of(frozen, "baseline")
        told = read_results(store, rows=ROWS, entrants=[who], judges=[(JUDGE.name, JUDGE.version)])
        before = {one.item.id: one.atoms for one in first.answers["live", "page"] if one.there}
        assert {one.item.id: one.atoms for one in told.answers["frozen", "page"]} == before
        assert [one.item for one in told.answers["frozen", "page"]] == wanted


def test_what_runs_on_this_machine_costs_nothing_and_passes_any_limit(live, tmp_path):
    system, _ = live
    with Store.open(tmp_path / "store.sqlite") as store:
        missing = [task.item for task in plan(ITEMS, system, [0], store).missing]
        Budget(0).check([cost(system, missing)])
