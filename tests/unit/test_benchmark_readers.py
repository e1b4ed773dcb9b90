"""Files of benchmarks as their projects keep them: every prompt is read, with all that its judge needs."""

import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from danqing.errors import DataError, RequestError
from danqing.evaluation.benchmarks import BENCHMARKS, benchmark
from danqing.evaluation.benchmarks.geneval import CLASSES, GENEVAL_LONG, TAGS
from danqing.evaluation.items import Item

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "tests/fixtures/benchmarks"
REAL = ROOT.parent / "shared/evaldata"
NAMES = ("compbench", "geneval", "dpg", "dsg", "longtext", "corebench", "parti")


def items(name: str) -> list[Item]:
    return benchmark(name).read(FIXTURES / name)


@pytest.mark.parametrize("name", NAMES)
def test_items_are_many_things_apart_and_survive_json(name):
    found = items(name)
    assert len({item.id for item in found}) == len(found) > 0
    again = [Item.from_json(json.loads(json.dumps(item.to_json()))) for item in found]
    assert [item.id for item in again] == [item.id for item in found]


@pytest.mark.parametrize("name", NAMES)
def test_every_item_has_a_row_and_every_row_items_of_its_benchmark(name):
    chosen = benchmark(name)
    for variant in chosen.variants:
        rows = chosen.rows(variant)
        assert len({row.name for row in rows}) == len(rows)
        assert {row.items for row in rows} == {item.row for item in items(name)}


def test_rows_of_all_benchmarks_can_stand_in_one_table():
    names = [row.name for one in BENCHMARKS for row in one.rows(one.variants[0])]
    assert len(set(names)) == len(names)


def test_compbench_lines_end_as_they_like():
    prompts = [item.prompt for item in items("compbench")]
    assert "a violet drum and a white door" in prompts
    assert "a brown owl and a red cart" in prompts
    assert all(prompt == prompt.strip() for prompt in prompts)


def test_compbench_tells_what_its_judge_needs():
    found = {item.prompt: item for item in items("compbench")}
    assert found["a brown owl and a red cart"].tags["part"] == "unseen"
    counted = found["three owls and one traffic light"].details["quantities"]
    assert counted == [["owl", 3], ["traffic light", 1]]
    assert found["two sheep slept near a woman"].details["quantities"] == [["sheep", 2], ["woman", 1]]
    kinds = [item.details["kind"] for item in items("compbench") if item.row == "compbench-complex"]
    assert kinds == ["spatial", "action", "spatialaction"]


def test_geneval_keeps_the_record_as_it_was():
    first = items("geneval")[4]
    assert first.details["include"][1]["position"] == ["left of", 0]
    assert {item.tags["tag"] for item in items("geneval")} == set(TAGS)


def test_questions_know_their_parents_and_words_among_them_are_left_out():
    second = items("dpg")[1].details["questions"]
    assert [one["parents"] for one in second] == [[], [1], [], [1, 3], []]
    assert items("dsg")[0].details["questions"][2]["parents"] == [1, 2]
    assert items("dpg")[0].details["skipped"] == [1]
    assert "skipped" not in items("dpg")[1].details


def test_dpg_prompts_without_questions_can_be_drawn(tmp_path):
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "7.txt").write_text("A kettle.\n")
    (found,) = benchmark("dpg").read(tmp_path)
    assert (found.prompt, found.tags["id"]) == ("A kettle.", "7")


def test_quotation_marks_belong_to_parti_prompts():
    assert items("parti")[0].prompt == '"N O" painted on a wall'


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_named_with_the_way_to_get_it(name, tmp_path):
    with pytest.raises(DataError, match=f"danqing evaluate fetch {name}"):
        benchmark(name).read(tmp_path)


@pytest.mark.parametrize(
    ("name", "file", "content"),
    [
        ("geneval", "evaluation_metadata.jsonl", '{"tag": "counting"}'),
        ("geneval", "evaluation_metadata.jsonl", '{"tag": "x", "include": [], "prompt": "y"}'),
        ("dpg", "dpg_bench.csv", "item_id,text\n1,a"),
        (
            "longtext",
            "text_prompts.jsonl",
            '{"prompt": "x", "text": ["..."], "category": "a", "length": "b"}',
        ),
        ("corebench", "R-LR.json", "[]"),
        ("parti", "PartiPrompts.tsv", "Prompt\tCategory\tChallenge\tNote\na\tPlanets\tBasic\t\n"),
        ("compbench", "numeracy_val.txt", "a flock of starlings"),
        ("compbench", "spatial_val.txt", "a key and a drum"),
    ],
)
def test_another_form_is_refused(name, file, content, tmp_path):
    shutil.copytree(FIXTURES / name, tmp_path / name)
    (tmp_path / name / file).write_text(content)
    with pytest.raises(DataError, match=r"expected .*found"):
        benchmark(name).read(tmp_path / name)


def test_an_unknown_name_finds_the_nearest():
    with pytest.raises(RequestError, match="did you mean geneval"):
        benchmark("genevel")


def test_geneval_has_the_classes_of_coco():
    assert len(set(CLASSES)) == 80


@pytest.mark.skipif(not REAL.is_dir(), reason="the files of the benchmarks are not beside the checkout")
class TestRealFiles:
    PLACES = (
        ("compbench", "t2i_compbench", 2400),
        ("geneval", "geneval", 553),
        ("geneval-long", "geneval_long", 553),
        ("dsg", "dsg1k", 1060),
        ("longtext", "longtext_bench", 320),
        ("corebench", "t2i_corebench", 1080),
        ("parti", "partiprompts", 1632),
    )

    @pytest.mark.parametrize(("name", "folder", "count"), PLACES)
    def test_counts_are_as_published(self, name, folder, count):
        found = benchmark(name).read(REAL / folder)
        assert len({item.id for item in found}) == len(found) == count

    @pytest.mark.parametrize(("name", "folder", "count"), PLACES)
    def test_files_are_those_the_readers_were_written_for(self, name, folder, count):
        for file in benchmark(name).files:
            assert hashlib.sha256((REAL / folder / file.name).read_bytes()).hexdigest() == file.sha256

    def test_parts_are_as_published(self):
        rows = Counter(item.row for item in benchmark("compbench").read(REAL / "t2i_compbench"))
        assert set(rows.values()) == {300}
        assert len(rows) == 8
        languages = Counter(item.language for item in benchmark("longtext").read(REAL / "longtext_bench"))
        assert languages == {"en": 160, "zh": 160}
        tags = Counter(item.tags["tag"] for item in GENEVAL_LONG.read(REAL / "geneval_long"))
        assert sorted(tags.values()) == [80, 80, 94, 99, 100, 100]

    def test_questions_are_as_published(self):
        dsg = benchmark("dsg").read(REAL / "dsg1k")
        assert sum(len(item.details["questions"]) for item in dsg) == 8182
        core = benchmark("corebench").read(REAL / "t2i_corebench")
        assert sum(len(item.details["checklist"]) for item in core) == 13536

    def test_dpg_has_its_prompts(self, tmp_path):
        (tmp_path / "prompts").mkdir()
        with (REAL / "dpg_bench/prompts.jsonl").open(encoding="utf-8") as file:
            for line in file:
                record = json.loads(line)
                (tmp_path / "prompts" / f"{record['id']}.txt").write_text(record["prompt"], encoding="utf-8")
        assert len({item.id for item in benchmark("dpg").read(tmp_path)}) == 1065
