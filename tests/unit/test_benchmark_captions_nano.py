"""The drawn world in words: five captions a scene, a captioner that reads, and what each measure says."""

from pathlib import Path

import numpy as np
import pytest

from danqing.data.atlas import packaged_atlas
from danqing.errors import DataError, RequestError
from danqing.evaluation.benchmarks import benchmark
from danqing.evaluation.benchmarks.caption_scores import CaptionJudge, caption_atoms, ciders
from danqing.evaluation.benchmarks.captioned_scenes import (
    SCENES,
    captioned_scenes,
    true_picture,
    true_renders,
)
from danqing.evaluation.evaluate import Evaluation, evaluate
from danqing.evaluation.exam import Entered, benchmark_exam
from danqing.evaluation.items import Clause, Item
from danqing.evaluation.results import Answer
from danqing.evaluation.world.captioner import WorldCaptioner, scene_of
from danqing.scoring.captions import cider_d, spaced
from danqing.scoring.reading import Box, Found, Reading

HERE = Path()


def measured(name, entered, out):
    """Return the report of a benchmark."""
    exam = benchmark_exam(benchmark(name), HERE)
    return evaluate(Evaluation(exams=(exam,), entered=(entered,), folder=out), command="x")


def reading(*things, background="blue"):
    found = tuple(
        Found(concept=code, colour=colour, box=Box(x=x, y=y, width=0.2, height=0.2), confidence=1)
        for code, colour, x, y in things
    )
    return Reading(things=found, boards=(), faces=(), background=background, background_kind="solid")


def test_scenes_have_five_captions_and_one_more_in_each_language():
    scenes = captioned_scenes()
    assert len(scenes) == SCENES
    for one in scenes:
        for language in ("en", "zh"):
            said = {*one.captions[language], one.sixth[language]}
            assert len(said) == 6
            assert not any(text.casefold().startswith(("draw", "please", "请")) for text in said)
    items = benchmark("caption-nano").read(HERE)
    assert len({item.id for item in items}) == len(items) == 2 * SCENES
    assert len({item.cluster for item in items}) == SCENES


def test_a_reading_is_worded_as_the_world_words_scenes():
    captioner, atlas = WorldCaptioner(), packaged_atlas()
    pair = reading(("1F34E", "green", 0.2, 0.5), ("1F415", None, 0.8, 0.5))
    assert scene_of(pair, atlas).relation == "left"
    assert captioner.worded(pair, "en") == "a green apple to the left of a dog on a blue background"
    three = reading(*(("1F415", None, 0.2 * n, 0.5) for n in range(1, 4)))
    assert captioner.worded(three, "en").startswith("3 dogs")
    middle = reading(("1F415", None, 0.8, 0.5), ("1F34E", "green", 0.5, 0.5), ("1F408", None, 0.2, 0.5))
    assert "green apple between" in captioner.worded(middle, "en")
    assert captioner.worded(reading(), "en") == "nothing on a blue background"
    assert captioner.worded(reading(), "zh") == "蓝色背景上什么都没有"
    with pytest.raises(RequestError, match="in en or zh, found 'de'"):
        captioner.describe(true_picture(captioned_scenes()[0].source), "de")


def test_what_is_read_off_true_pictures_says_their_facts_though_no_system_can_describe(tmp_path):
    painter = Entered(system=true_renders(), role="model", abilities=frozenset({"draw"}))
    report = measured("caption-nano", painter, tmp_path)
    assert report.notes == ("Captions of the drawn world: refused, pasted sprites cannot describe",)
    rows = {row.name: row.cells for row in report.rows}
    assert rows["caption-nano-en"]["world reader"].interval.mean > 0.9
    assert rows["caption-nano-en"]["one more caption"].interval.mean == 1
    assert rows["caption-nano-zh-bleu-4"]["world reader"].interval.mean > 0.6
    assert rows["caption-nano-en-length"]["world reader"].interval.mean < 20
    assert rows["caption-nano-en-cider"]["world reader"].interval.low > 50


class Mistaken:
    """Draws the scene after the one that is asked for."""

    name, version, settings = "mistaken", "1", {}

    def request(self, item, seed):
        return {"item": item.id}

    def answer(self, items, seed):
        scenes = captioned_scenes()
        return [true_picture(scenes[(int(one.tags["scene"]) + 1) % SCENES].source) for one in items]


def test_true_pictures_go_round_the_cycle_and_find_their_captions_and_others_do_not(tmp_path):
    wrong, rows = Entered(system=Mistaken(), role="model"), {}
    for name in ("cycle-nano", "retrieval-nano"):
        rows |= {row.name: row.cells for row in measured(name, wrong, tmp_path / name).rows}
    for name in (
        "cycle-nano-en",
        "cycle-nano-zh",
        "cycle-nano-zh-source-1",
        "retrieval-nano-texts-1",
        "retrieval-nano-pictures-1",
    ):
        true, mistaken = (rows[name][who].interval.mean for who in ("pasted sprites", "mistaken"))
        assert true > 0.7, name
        assert mistaken < 0.5, name  # five prompts: some are found by chance
    assert rows["cycle-nano-en-cider"]["mistaken"].interval.mean < 100


def item(*references, row="x", **more):
    return Item(
        row=row, prompt="", ability="describe", source="s", details={"references": references}, **more
    )


def answer(said, asked, state="judged"):
    atoms = caption_atoms(said, asked) if state == "judged" else ()
    return Answer(item=asked, seed=0, state=state, atoms=atoms, key="", store=None)


def test_cider_counts_rare_words_in_the_references_of_all_that_was_asked():
    asked = [item("a red cup", "one red cup"), item("a blue owl", "an owl"), item("two drums", "drums")]
    said = ["a red cup", "an owl", "drums"]
    whole = ciders([answer(text, one) for text, one in zip(said, asked, strict=True)])
    expected = cider_d(said, [one.details["references"] for one in asked]).each
    assert whole == pytest.approx([100 * value for value in expected])
    some = ciders([answer(said[0], asked[0]), answer("", asked[1], "refused"), answer(said[2], asked[2])])
    assert some == pytest.approx([whole[0], None, whole[2]])


def test_atoms_of_a_caption_hold_rouge_words_and_facts():
    apple = item(
        "a red apple on a blue background", include=(Clause(concept="1F34E"), Clause(background="blue"))
    )
    kept, thing, background = CaptionJudge().judge("an apple on a green background", apple)
    assert (kept.seen, kept.measure) == ("an apple on a green background", 6)
    assert 0 < kept.value < 1
    assert (thing.value, background.value) == (1, 0)
    with pytest.raises(DataError, match="found a picture"):
        CaptionJudge().judge(true_picture(captioned_scenes()[0].source), apple)
    with pytest.raises(DataError, match="captions in the details"):
        caption_atoms("x", Item(row="x", prompt="y"))


def test_chinese_is_measured_in_characters():
    (kept,) = caption_atoms("三只狗。", item("三只狗", language="zh"))
    assert (kept.value, kept.measure) == (1, 3)
    assert spaced("三只狗。", "zh") == "三 只 狗"


def test_the_same_captions_are_drawn_every_time():
    first = [one.captions for one in captioned_scenes()]
    captioned_scenes.cache_clear()
    assert [one.captions for one in captioned_scenes()] == first
    rng = np.random.default_rng(0)
    chosen = captioned_scenes()[int(rng.integers(SCENES))]
    assert true_picture(chosen.source).size == (128, 128)
