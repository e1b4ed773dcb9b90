"""Benchmarks of questions and words: which answers count, and what they come to together."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danqing.errors import DataError
from danqing.evaluation.benchmarks import benchmark
from danqing.evaluation.benchmarks.dpg import category_score, category_weight, held, held_in_order, score
from danqing.evaluation.benchmarks.longtext import recall, units, weight
from danqing.evaluation.items import Atom, Item
from danqing.evaluation.results import Answer
from danqing.scoring.looking import Looks
from tests.benchmark_world import Sight, Thing, draw
from tests.unit.test_benchmark_readers import FIXTURES

ON_ANY_MACHINE = settings(max_examples=60, deadline=None)
TREE = {1: [], 2: [1], 3: [2], 4: [1, 3]}


def answered(item, *said, seed=3):
    """Return an answer to an item of DPG, given yes or no for each question."""
    questions = item.details["questions"]
    atoms = tuple(
        Atom(name=one["category"], value=float(yes), wanted="", seen="")
        for one, yes in zip(questions, said, strict=True)
    )
    return Answer(item=item, seed=seed, state="judged", atoms=atoms, key="", store=None)


def test_a_question_counts_only_when_those_above_it_hold():
    assert held({1: True, 2: False, 3: True, 4: True}, TREE) == {1: True, 2: False, 3: False, 4: False}
    assert held({1: False, 2: True, 3: True, 4: True}, TREE) == dict.fromkeys(TREE, False)


@ON_ANY_MACHINE
@given(st.lists(st.booleans(), min_size=4, max_size=4))
def test_in_the_order_of_the_file_both_ways_agree(said):
    answers = dict(zip(TREE, said, strict=True))
    assert held(answers, TREE) == held_in_order(answers, TREE)


@ON_ANY_MACHINE
@given(st.permutations(list(TREE)), st.lists(st.booleans(), min_size=4, max_size=4))
def test_the_order_of_questions_does_not_matter(order, said):
    answers = dict(zip(TREE, said, strict=True))
    turned = {one: answers[one] for one in order}
    assert held(turned, TREE) == held(answers, TREE)


def test_officially_a_parent_that_comes_later_counts_as_answered():
    answers, parents = {1: False, 2: True, 3: True}, {2: [3], 3: [1]}
    assert held_in_order(answers, parents) == {1: False, 2: True, 3: False}
    assert held(answers, parents) == {1: False, 2: False, 3: False}


def test_questions_in_a_circle_end():
    assert held({1: True, 2: True}, {1: [2], 2: [1], 3: [9]}) == {1: True, 2: True}


def test_officially_the_first_prompt_drops_out_with_its_first_question():
    first, second = benchmark("dpg").read(FIXTURES / "dpg")
    assert score(answered(first, True, True), variant="official") is None
    assert score(answered(first, True, True), variant="fixed") == 1
    for variant in ("official", "fixed"):
        assert score(answered(second, True, True, False, True, True), variant=variant) == 0.6


def test_officially_categories_are_of_the_last_picture_and_know_no_parents():
    _, second = benchmark("dpg").read(FIXTURES / "dpg")
    said = (False, True, True, True, True)
    last, third = answered(second, *said), answered(second, *said, seed=2)
    assert category_score(last, category="attribute", variant="official") == 1
    assert category_score(third, category="attribute", variant="official") is None
    assert category_score(third, category="attribute", variant="fixed") == 0
    assert category_score(last, category="other", variant="fixed") is None
    assert category_weight(second, category="entity", variant="official") == 2


def test_officially_a_skipped_question_weighs_nothing():
    first, _ = benchmark("dpg").read(FIXTURES / "dpg")
    assert category_weight(first, category="entity", variant="official") == 0
    assert category_weight(first, category="entity", variant="fixed") == 1


def test_prompts_without_questions_cannot_be_judged():
    item = Item(row="dpg", prompt="A kettle.", details={"id": "0"})
    judge = benchmark("dpg").judge(Looks(vqa=Sight()), "fixed")
    with pytest.raises(DataError, match="expected questions"):
        judge.judge(draw([]), item)


def test_the_variants_of_dpg_share_what_was_judged():
    looks = Looks(vqa=Sight())
    official, fixed = (benchmark("dpg").judge(looks, variant) for variant in ("official", "fixed"))
    assert (official.name, official.version) == (fixed.name, fixed.version)


@pytest.mark.parametrize(
    ("text", "language", "found"),
    [
        ("Fresh FIGS,\n  café!", "en", ["fresh", "figs", "café"]),
        ("今日，营业 A1", "zh", ["今", "日", "营", "业", "A", "1"]),
        ("— … !", "en", []),
    ],
)
def test_units_of_a_text(text, language, found):
    assert units(text, language) == found


def test_words_count_as_often_as_they_are_wanted():
    wanted = ["Fresh figs, fresh dates", "Café"]
    assert recall(wanted, "café fresh figs", "en") == (3, 5)
    assert recall(wanted, "fresh fresh fresh dates figs café and more", "en") == (5, 5)
    assert recall(wanted, "No text recognized.", "en") == (0, 5)


@ON_ANY_MACHINE
@given(st.lists(st.sampled_from(["a", "b", "c"]), min_size=1), st.lists(st.sampled_from(["a", "b", "d"])))
def test_recall_by_crossing_out(wanted, read):
    left, crossed = list(read), 0
    for word in wanted:
        if word in left:
            left.remove(word)
            crossed += 1
    assert recall(wanted, " ".join(read), "en") == (crossed, len(wanted))


def test_long_texts_weigh_more():
    english, short, chinese = benchmark("longtext").read(FIXTURES / "longtext")
    assert [weight(one) for one in (english, short, chinese)] == [5, 3, 4]
    judge = benchmark("longtext").judge(Looks(words=Sight(lines=("Fresh figs", "CAFÉ"))), "official")
    (atom,) = judge.judge(draw([]), english)
    assert (atom.value, atom.measure) == (0.6, 3)


def test_checklists_are_asked_one_question_at_a_time():
    item = benchmark("corebench").read(FIXTURES / "corebench")[0]
    sight = Sight()
    atoms = benchmark("corebench").judge(Looks(vqa=sight), "official").judge(draw([]), item)
    assert [atom.name for atom in atoms] == ["instance_pos", "question", "question"]
    assert len(sight.asked) == 3
    for asked, atom in zip(sight.asked, atoms, strict=True):
        assert item.prompt in asked
        assert [one in asked for one in (other.wanted for other in atoms)].count(True) == 1
        assert atom.wanted in asked


def test_parti_asks_whether_the_prompt_is_shown():
    item = Item(row="parti", prompt="a red cup", details={"prompt": "a red cup"}, tags={"category": "Arts"})
    judge = benchmark("parti").judge(Looks(vqa=Sight()), "official")
    shown, other = (draw([Thing("cup", (0, 0, 50, 50), colour)]) for colour in ("red", "blue"))
    assert [judge.judge(picture, item)[0].value for picture in (shown, other)] == [0.9, 0.2]


def test_every_judge_tells_which_models_look():
    kinds = ("blip_vqa", "detector", "depth", "clip", "vqa", "words")
    whole = Looks(**dict.fromkeys(kinds, Sight()))
    surer = Looks(**dict.fromkeys(kinds, Sight()), sure=(0.1, 0.2))
    for name in ("compbench", "geneval", "dpg", "longtext", "corebench", "parti"):
        judge = benchmark(name).judge(whole, benchmark(name).variants[0])
        assert set(judge.models) == set(benchmark(name).judges)
        again = benchmark(name).judge(surer, benchmark(name).variants[0])
        assert (judge.version == again.version) == ("open-detector" not in judge.models)
    judges = [benchmark(name).judge(whole, "fixed").name for name in ("geneval", "longtext", "corebench")]
    assert all(one != other for one, other in itertools.combinations(judges, 2))
