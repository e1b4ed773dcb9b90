"""COCO and Flickr30k from files as their projects keep them to rows, with models that see what is there."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from danqing.errors import DataError, ResourceError
from danqing.evaluation.benchmarks.coco import COCO, COCO_CN, FLICKR30K, QUESTIONS, karpathy, photograph
from danqing.evaluation.benchmarks.match_scores import packed, unpacked
from danqing.evaluation.benchmarks.picture_sets import jackknife
from danqing.evaluation.evaluate import Evaluation, evaluate
from danqing.evaluation.exam import Entered, benchmark_exam
from danqing.evaluation.items import Item
from danqing.evaluation.results import Answer
from danqing.scoring.looking import Looks
from tests.benchmark_world import COLOURS, KINDS, Painter, Thing, draw, read

FIXTURES = Path(__file__).parents[1] / "fixtures/benchmarks"
REAL = Path(__file__).parents[3] / "shared/evaldata/coco_cn_ext"
BOX = (20, 20, 90, 90)
TRUE = {"cup": "red", "zebra": "blue", "lamp": "yellow", "drum": "green"}
WORDS = (*KINDS, *COLOURS)


class Eyes:
    """Encoder and captioner of pictures of rectangles; a vector counts the kinds and colours it knows."""

    name, version, resize = "eyes", "1", "none to 8"

    def picture_vector(self, picture):
        return self.text_vector(" ".join(f"{one.kind} {one.colour}" for one in read(picture)))

    def text_vector(self, text):
        found = np.array([float(word in text.lower()) for word in WORDS] + [0.1])
        return found / np.linalg.norm(found)

    def similarity(self, picture, texts):
        return [float(self.picture_vector(picture) @ self.text_vector(text)) for text in texts]

    class_similarity = similarity

    def ask(self, picture, question):
        assert question == QUESTIONS["en"]
        return " and ".join(f"a {one.colour} {one.kind}" for one in read(picture)) + " on a gray wall."


class Teller:
    """Describes photographs with its own eyes."""

    name, version, abilities, settings = "teller", "1", frozenset({"describe"}), {}

    def __init__(self, folder):
        self._folder = folder

    def request(self, item, seed):
        return {"source": item.source}

    def answer(self, items, seed):
        return [Eyes().ask(photograph(self._folder, item), item.prompt) for item in items]


@pytest.fixture
def folder(tmp_path):
    """Return a folder with the file of captions and its photographs."""
    home = tmp_path / "coco"
    shutil.copytree(FIXTURES / "coco", home)
    (home / "val2014").mkdir()
    for number, (kind, colour) in enumerate(TRUE.items()):
        name = home / "val2014" / f"COCO_val2014_{number:012d}.jpg"
        draw([Thing(kind, BOX, colour)]).save(name, "PNG")  # JPEG would lose what the eyes read
    return home


def run(folder, out, wrong=(), looks=None):
    looks = Looks(clip=Eyes(), asker=Eyes()) if looks is None else looks
    exam = benchmark_exam(COCO, folder, profile="official", looks=lambda: looks, roles=("clip", "ask"))
    table = {
        f"A {colour} {kind} on a gray wall.": [[Thing("owl" if kind in wrong else kind, BOX, colour)]]
        for kind, colour in TRUE.items()
    }
    entered = (Entered(system=Painter(table), role="model"), Entered(system=Teller(folder), role="baseline"))
    painter = Entered(system=entered[0].system, role="model", abilities=frozenset({"draw"}))
    report = evaluate(Evaluation(exams=(exam,), entered=(painter, entered[1]), folder=out), command="x")
    return {row.name: row for row in report.rows}


def test_the_test_split_is_read_with_all_captions():
    found = karpathy(FIXTURES / "coco/dataset_coco.json")
    assert [len(one.captions) for one in found] == [6, 5, 5, 5]
    assert found[0].name == "val2014/COCO_val2014_000000000000.jpg"
    assert found[0].captions[3] == "a cup, red all over"
    assert len(karpathy(FIXTURES / "coco/dataset_coco.json", "train")) == 1
    with pytest.raises(DataError, match="split 'restval'"):
        karpathy(FIXTURES / "coco/dataset_coco.json", "restval")


def test_every_photograph_is_described_once_and_drawn_twice_from_one_prompt():
    items = COCO.read(FIXTURES / "coco")
    assert [item.row for item in items[::4]] == ["coco-described", "coco-cycle", "coco-pictures"]
    assert items[0].prompt == QUESTIONS["en"]
    assert items[4].prompt == items[8].prompt == "A red cup on a gray wall."
    assert len(FLICKR30K.read(FIXTURES / "flickr30k")) == 9
    assert FLICKR30K.read(FIXTURES / "flickr30k")[0].source == "photo_000000000000.jpg"


def test_chinese_captions_of_one_photograph_come_together():
    items = COCO_CN.read(FIXTURES / "coco-cn")
    assert [item.source for item in items[:3]] == [
        "val2014/COCO_val2014_000000000000.jpg",
        "train2014/COCO_train2014_000000000001.jpg",
        "val2014/COCO_val2014_000000000002.jpg",
    ]
    assert items[0].details["references"] == ["灰墙前有一个红色的杯子。", "一个红杯子"]
    assert (items[0].language, items[0].prompt) == ("zh", QUESTIONS["zh"])


@pytest.mark.skipif(not REAL.is_dir(), reason="the file of COCO-CN is not beside the checkout")
def test_the_real_file_of_coco_cn_is_read_whole():
    items = COCO_CN.read(REAL)
    assert len(items) == 3 * 4573
    assert sum(len(item.details["references"]) for item in items[:4573]) == 4712


def test_perfect_drawings_are_no_distance_from_the_photographs_and_are_found(folder, tmp_path):
    rows = run(folder, tmp_path / "out")
    cells = {name: row.cells["painter"] for name, row in rows.items()}
    assert cells["coco-pictures-frechet"].interval.mean == pytest.approx(0, abs=1e-6)
    assert cells["coco-pictures-cmmd"].interval.mean == pytest.approx(0, abs=1e-6)
    assert rows["coco-pictures-frechet"].cells["photographs"].interval is None
    for name in ("coco-pictures-texts-1", "coco-pictures-pictures-1", "coco-cycle-source-1"):
        assert cells[name].interval.mean == 1, name
    assert cells["coco-cycle-bleu-4"].interval.mean == pytest.approx(1)
    assert cells["coco-cycle-cider"].interval.mean > 200
    told = rows["coco-described-rouge"].cells["teller"]
    assert (told.judged, told.interval.mean) == (4, 1)
    assert rows["coco-described-texts-1"].cells["teller"].interval.mean == 1
    assert rows["coco-described-rouge"].cells["painter"].expected == 0


def test_wrong_drawings_are_told_apart_in_every_reading(folder, tmp_path):
    rows = run(folder, tmp_path / "out", wrong=("cup", "drum"))
    cells = {
        name: row.cells["painter"].interval.mean for name, row in rows.items() if "described" not in name
    }
    assert cells["coco-pictures-frechet"] > 1
    assert cells["coco-pictures-cmmd"] > 0.1
    assert cells["coco-cycle-bleu-4"] < 0.9
    true = {name: rows[name].cells["photographs"].interval.mean for name in ("coco-cycle-rouge",)}
    assert cells["coco-cycle-rouge"] < true["coco-cycle-rouge"]


def test_what_nobody_can_look_at_stays_unjudged_and_is_said(folder, tmp_path):
    rows = run(folder, tmp_path / "out", looks=Looks(clip=Eyes()))
    assert rows["coco-cycle-rouge"].cells["painter"].judged == 0
    assert rows["coco-pictures-clip-score"].cells["painter"].judged == 4


def test_a_likeness_without_vectors_is_no_encoder():
    class Plain:
        name, version = "plain", "1"

    judge = COCO.judge(Looks(clip=Plain()), "official")
    with pytest.raises(ResourceError, match="found plain"):
        judge.judge(draw([]), COCO.read(FIXTURES / "coco")[8])


def test_a_missing_photograph_is_named(folder):
    item = COCO.read(folder)[0]
    (folder / "val2014" / Path(item.source).name).unlink()
    with pytest.raises(DataError, match="put photographs there"):
        photograph(folder, item)
    with pytest.raises(DataError, match="inside"):
        photograph(folder, replace(item, details={"photograph": "../x.jpg"}))


@pytest.mark.parametrize("content", ["[]", '{"images": [{"split": "test"}]}', '{"images": []}', "{"])
def test_another_file_is_refused(tmp_path, content):
    (tmp_path / "dataset_coco.json").write_text(content)
    with pytest.raises(DataError, match="expected"):
        COCO.read(tmp_path)


def test_a_line_without_a_caption_is_refused(tmp_path):
    (tmp_path / "coco-cn_ext.icap2020.txt").write_text("COCO_val2014_000000000001#0\n")
    with pytest.raises(DataError, match="line 1: expected a name, a tab and a caption"):
        COCO_CN.read(tmp_path)


def test_vectors_survive_in_atoms():
    values = np.random.default_rng(0).normal(size=7).astype(np.float32)
    atom = packed("picture", values)
    item = Item(row="x", prompt="y")
    answer = Answer(item=item, seed=0, state="judged", atoms=(atom,), key="", store=None)
    assert np.array_equal(unpacked(answer, "picture")[0], values)
    assert json.loads(json.dumps(atom.to_json())) == atom.to_json()
    with pytest.raises(DataError, match="expected an atom 'other'"):
        unpacked(answer, "other")


def test_the_interval_of_a_mean_is_that_of_its_groups():
    means = np.random.default_rng(1).normal(5, 1, 20)
    found = jackknife(lambda groups: float(means[list(groups)].mean()), 20)
    spread = 2.093 * means.std(ddof=1) / np.sqrt(20)
    assert (found.mean, found.high) == pytest.approx((means.mean(), means.mean() + spread))
    few = jackknife(lambda groups: float(len(groups)), 3)
    assert (few.low, few.mean, few.high) == (3, 3, 3)
