"""Plan, run, score: what is missing is drawn and judged, and nothing else."""

import dataclasses

import pytest

from danqing.errors import ConfigError, DataError, ResourceError
from danqing.evaluation.items import Clause, Item
from danqing.evaluation.prices import Budget
from danqing.evaluation.run import plan, run, score, shuffle
from danqing.evaluation.store import Store
from tests.evaluation_fakes import FakeJudge, FakePainter, colour_items, said_items


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "store.sqlite") as opened:
        yield opened


def test_what_is_there_is_not_drawn_again(store):
    painter, items, told = FakePainter(), colour_items(5), []
    wanted = plan(items, painter, [0, 1], store)
    assert (len(wanted.tasks), len(wanted.missing), wanted.there) == (10, 10, 0)
    assert painter.calls == []
    done = run(wanted, store, batch=2, tell=lambda *told_: told.append(told_))
    assert done.made == 10
    assert [len(call) for call in painter.calls] == [2, 2, 1, 2, 2, 1]
    assert told[0] == (2, 10, "background")
    assert told[-1] == (10, 10, "background")
    more = plan(colour_items(7), painter, [0, 1], store)
    assert (more.there, len(more.missing)) == (10, 4)
    assert "14 answers wanted, 10 there, 4 to make" in str(more)
    run(more, store)
    assert {attempt.state for attempt in store.attempts()} == {"ok"}
    assert len(store.attempts()) == len({attempt.key for attempt in store.attempts()}) == 14


def test_another_version_is_another_system(store):
    items = colour_items(3)
    run(plan(items, FakePainter(), [0], store), store)
    assert len(plan(items, FakePainter(wrong=0.5), [0], store).missing) == 3
    assert len(plan(items, FakePainter("another"), [0], store).missing) == 3


def test_items_with_the_same_request_share_a_picture(store):
    """The prompts of two rows, or a baseline that draws without a prompt."""

    class FakePromptless(FakePainter):
        def request(self, item, seed):
            return {"seed": seed}

    painter, items = FakePromptless(), colour_items(6)
    wanted = plan(items, painter, [0, 1], store)
    assert (len(wanted.tasks), len(wanted.missing)) == (12, 2)
    run(wanted, store)
    assert plan(items, painter, [0, 1], store).there == 12
    assert sum(len(call) for call in painter.calls) == 2


def test_a_refusal_is_an_outcome_and_a_failure_is_tried_again(store):
    items = colour_items(4)
    items[1] = dataclasses.replace(items[1], tags={"refuse": ""})
    items[2] = dataclasses.replace(items[2], tags={"fail": ""})
    painter = FakePainter()
    done = run(plan(items, painter, [0], store), store)
    assert (done.made, done.refused, done.failed) == (2, 1, 1)
    again = plan(items, painter, [0], store)
    assert (again.there, again.refused, [task.item for task in again.missing]) == (2, 1, [items[2]])
    reasons = [attempt.reason for attempt in store.attempts() if attempt.state != "ok"]
    assert reasons == ["the painter does not paint this", "the painter is ill"]
    items[2] = dataclasses.replace(items[2], tags={})
    assert run(plan(items, painter, [0], store), store).made == 1


def test_scoring_judges_once_and_never_draws(store):
    painter, judge, items = FakePainter(), FakeJudge(), colour_items(5)
    run(plan(items, painter, [0], store), store)
    painted = len(painter.calls)
    assert score(items, painter, [0, 1], judge, store) == 5
    assert score(items, painter, [0, 1], judge, store) == 0
    assert judge.calls == 5
    assert len(painter.calls) == painted
    assert {atoms[0].value for atoms in store.scores("fake judge", "1").values()} == {1.0}
    judge.version = "2"
    assert score(items, painter, [0], judge, store) == 5


def test_shuffled_pictures_are_judged_for_a_prompt_of_another_kind(store):
    painter, judge, items = FakePainter(), FakeJudge(), colour_items(12)
    run(plan(items, painter, [0], store), store)
    assert score(items, painter, [0], judge, store, shuffled=True) == 12
    assert {atoms[0].value for atoms in store.scores("fake judge", "1").values()} == {0.0}


def test_a_shuffled_partner_is_of_the_same_row_and_language_and_of_another_scene():
    def item(prompt, **options):
        return Item(row="object", prompt=prompt, include=(Clause(concept=prompt[0]),), **options)

    items = [item("a", cluster="1"), item("a!", cluster="2"), item("b", cluster="1"), item("c", cluster="3")]
    items += [item("d", language="de"), Item(row="colour", prompt="e", include=(Clause(colour="red"),))]
    found = shuffle(items)
    assert found.keys() == {one.id for one in items[:4]}
    for one in items[:4]:
        partner = found[one.id]
        assert partner.cluster != one.cluster
        assert partner.include != one.include
    assert found == shuffle(items[::-1])


def test_the_same_item_twice_is_a_mistake(store):
    items = colour_items(2)
    with pytest.raises(DataError, match="every item and every seed once"):
        plan([*items, items[0]], FakePainter(), [0], store)
    with pytest.raises(DataError, match="every item and every seed once"):
        plan(items, FakePainter(), [0, 0], store)


def test_a_system_that_draws_too_few_is_stopped(store):
    class FakeIdler(FakePainter):
        def answer(self, items, seed):
            return super().answer(items, seed)[1:]

    with pytest.raises(DataError, match="expected 2 answers, found 1"):
        run(plan(colour_items(2), FakeIdler(), [0], store), store)
    assert store.attempts() == []


def test_a_folder_is_not_asked_for_what_it_lacks(store):
    class FakeFolder(FakePainter):
        def has(self, item, seed):
            return item.prompt.endswith("red")

    items, folder = colour_items(7), FakeFolder()
    wanted = plan(items, folder, [0], store)
    assert (len(wanted.missing), wanted.absent) == (2, 5)
    assert "5 not in it, 2 to make" in str(wanted)
    assert run(wanted, store).made == 2
    assert folder.calls == [[items[0].prompt, items[6].prompt]]
    assert store.tasks(folder.name, folder.version)[1][0] == items[1].id  # wanted all the same


def test_a_system_is_asked_for_what_it_can_do(store):
    class FakeArtist(FakePainter):
        abilities = frozenset({"draw"})

    artist, items, judge = FakeArtist(), [*colour_items(2), *said_items(2)], FakeJudge()
    wanted = plan(items, artist, [0], store)
    assert [task.item for task in wanted.tasks] == items[:2]
    run(wanted, store)
    assert score(items, artist, [0], judge, store) == 2


def test_as_many_at_once_as_a_system_answers(store):
    painter = FakePainter()
    painter.concurrency = 6
    run(plan(colour_items(8), painter, [0], store), store)
    assert [len(call) for call in painter.calls] == [6, 2]


def test_a_wrong_key_ends_the_run_and_the_rest_stays_missing(store):
    class FakeStranger(FakePainter):
        def answer(self, items, seed):
            super().answer(items, seed)
            raise ConfigError("expected a valid key, found another")

    stranger, items = FakeStranger(), colour_items(9)
    done = run(plan(items, stranger, [0], store), store)
    assert (done.made, done.failed, done.stopped) == (0, 1, "expected a valid key, found another")
    assert [len(call) for call in stranger.calls] == [4, 1]
    assert len(plan(items, stranger, [0], store).missing) == 9


@pytest.mark.parametrize(
    ("said", "state"),
    [("timed out after 2 seconds", "timeout"), ("invalid picture: none", "invalid"), ("ill", "failed")],
)
def test_what_kept_an_answer_away_is_told_apart(store, said, state):
    class FakeSlow(FakePainter):
        def answer(self, items, seed):
            raise ResourceError(said)

    assert run(plan(colour_items(1), FakeSlow(), [0], store), store).failed == 1
    assert store.attempts()[0].state == state


def test_a_limit_of_cost_holds_between_batches(store):
    painter, items = FakePainter(), colour_items(9)
    painter.settings = {"vendor": "openai-compatible", "model": "dear", "price": 0.1}
    wanted = plan(items, painter, [0], store)
    assert wanted.cost.amount == pytest.approx(0.9)
    budget = Budget(0.85)
    done = run(wanted, store, budget=budget)
    assert (done.made, budget.spent) == (8, pytest.approx(0.8))
    assert done.stopped.startswith("--max-cost: expected at most 0.85 USD, found about 0.10 USD after 0.80")
    assert run(plan(items, painter, [0], store), store, budget=Budget(0.1)).made == 1
