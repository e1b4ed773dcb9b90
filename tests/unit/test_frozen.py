"""Folders of pictures as systems: the layouts of benchmarks, read and written."""

import json
from dataclasses import replace

import pytest
from PIL import Image

from danqing.errors import DataError
from danqing.evaluation.frozen import MISSING, FrozenSystem, export
from danqing.evaluation.frozen_layouts import layout_named, plain_prompt
from danqing.evaluation.items import Item
from danqing.evaluation.results import Entrant, Row, read_results
from danqing.evaluation.run import plan, run
from danqing.evaluation.store import Store
from tests.evaluation_fakes import FakePainter, colour_items

BEAR = Item(row="shape", prompt="A round bear and/or a square box.")
CAT = Item(row="shape", prompt="a cat")


def save(path, colour, size=(16, 12)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, lossless=True)


def colour_of(picture):
    return picture.getpixel((picture.width // 2, picture.height // 2))


def test_geneval_keeps_prompts_beside_numbered_samples(tmp_path):
    place = tmp_path / "00007"
    save(place / "samples" / "0000.png", (255, 0, 0))
    save(place / "samples" / "0002.png", (0, 0, 255))
    save(place / "grid.png", (0, 0, 0))
    (place / "metadata.jsonl").write_text(json.dumps({"tag": "single_object", "prompt": CAT.prompt}) + "\r\n")
    system = FrozenSystem(tmp_path, "geneval")
    assert [system.has(CAT, seed) for seed in range(4)] == [True, False, True, False]
    assert colour_of(system.answer([CAT], 2)[0]) == (0, 0, 255)


def test_compbench_keeps_prompts_in_names_and_numbers_all_pictures_through(tmp_path):
    for number, colour in ((20, "red"), (21, "lime"), (7, "blue")):
        prompt = BEAR.prompt.replace("/", " ") if number >= 20 else CAT.prompt
        save(tmp_path / "samples" / f"{prompt}_{number:06d}.png", colour)
    system = FrozenSystem(tmp_path, "compbench")
    assert [colour_of(system.answer([BEAR], seed)[0]) for seed in (42, 43)] == [(255, 0, 0), (0, 255, 0)]
    assert system.has(CAT, 42)
    assert not system.has(CAT, 43)
    assert FrozenSystem(tmp_path, "compbench", first_seed=0).has(CAT, 0)


def test_oneig_keeps_several_pictures_in_a_file_and_black_ones_are_missing(tmp_path):
    sheet = Image.new("RGB", (32, 24))
    for cell, colour in ((0, "red"), (1, "lime"), (3, "blue")):
        sheet.paste(Image.new("RGB", (16, 12), colour), (cell % 2 * 16, cell // 2 * 12))
    (tmp_path / "human" / "a-model").mkdir(parents=True)
    sheet.save(tmp_path / "human" / "a-model" / "003.webp", lossless=True)
    (tmp_path / "OneIG-Bench.csv").write_text('category,id,prompt_en\nPortrait,003,"a cat"\n')
    system = FrozenSystem(tmp_path, "oneig", name="a-model")
    assert [system.has(CAT, seed) for seed in range(5)] == [True, True, False, True, False]
    made = system.answer([CAT], 3)[0]
    assert (made.size, colour_of(made)) == ((16, 12), (0, 0, 255))
    with pytest.raises(DataError, match=f"^{MISSING}"):
        system.answer([CAT], 2)


def test_tiif_counts_prompts_of_a_type_in_two_wordings(tmp_path):
    rows = [
        {"type": "shape", "short_description": "a dog", "long_description": "a very good dog"},
        {"type": "shape", "short_description": CAT.prompt, "long_description": BEAR.prompt},
    ]
    prompts = tmp_path / "prompts"
    prompts.mkdir()
    (prompts / "shape_prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    save(tmp_path / "out" / "shape" / "a-model" / "short_description" / "1.png", "red")
    save(tmp_path / "out" / "shape" / "a-model" / "long_description" / "1.png", "blue")
    system = FrozenSystem(tmp_path / "out", "tiif", prompts=prompts)
    assert colour_of(system.answer([CAT], 0)[0]) == (255, 0, 0)
    assert colour_of(system.answer([BEAR], 0)[0]) == (0, 0, 255)
    save(tmp_path / "out" / "shape" / "other" / "short_description" / "1.png", "lime")
    with pytest.raises(DataError, match="a-model, other"):
        FrozenSystem(tmp_path / "out", "tiif", prompts=prompts)
    assert FrozenSystem(tmp_path / "out", "tiif", prompts=prompts, model="other").has(CAT, 0)


@pytest.fixture
def results(tmp_path):
    """Four pages with two seeds, one of them refused."""
    items = [replace(item, row="page") for item in colour_items(4)]
    items[2] = replace(items[2], tags={"refuse": "yes"})
    painter = FakePainter()
    with Store.open(tmp_path / "store.sqlite") as store:
        run(plan(items, painter, [0, 1], store), store)
        yield read_results(
            store, rows=[Row(name="page")], entrants=[Entrant.of(painter, "model")], judges=[], items=items
        )


@pytest.mark.parametrize("layout", ["manifest", "geneval", "compbench", "oneig", "tiif"])
def test_what_is_exported_comes_back_pixel_by_pixel(results, tmp_path, layout):
    folder = tmp_path / "exported"
    answers = [one for some in results.answers.values() for one in some]
    there = [one for one in answers if one.there and (layout != "tiif" or one.seed == 0)]
    assert export(results, folder, layout) == len(there)
    system = FrozenSystem(folder, layout, name="fake painter", first_seed=0)
    assert len(there) < len(answers)
    for one in answers:
        assert system.has(one.item, one.seed) == (one in there)
    for one in there:
        assert system.answer([one.item], one.seed)[0].tobytes() == one.image.tobytes()
    assert not list(folder.rglob("*.part"))


def test_a_changed_picture_is_another_answer_and_a_new_one_leaves_the_others(tmp_path):
    file = tmp_path / "00000" / "samples" / "0000.png"
    save(file, "red")
    (tmp_path / "00000" / "metadata.jsonl").write_text(json.dumps({"prompt": CAT.prompt}))
    before = FrozenSystem(tmp_path, "geneval")
    asked = before.request(CAT, 0)
    save(file.with_name("0001.png"), "blue")
    more = FrozenSystem(tmp_path, "geneval")
    assert (more.version, more.request(CAT, 0)) == (before.version, asked)
    save(file, "lime")
    assert FrozenSystem(tmp_path, "geneval").request(CAT, 0) != asked


def test_folders_of_another_layout_are_refused_in_one_line(tmp_path):
    with pytest.raises(DataError, match="found none"):
        FrozenSystem(tmp_path / "nowhere")
    for layout in ("manifest", "geneval", "compbench", "oneig", "tiif"):
        with pytest.raises(DataError, match=r"layout|prompts"):
            FrozenSystem(tmp_path, layout)
    (tmp_path / "manifest.jsonl").write_text('{"prompt": "a cat", "seed": 0, "file": "../secret.png"}\n')
    with pytest.raises(DataError, match="inside the folder"):
        FrozenSystem(tmp_path)
    with pytest.raises(DataError, match="geneval"):
        layout_named("gen-eval")


def test_prompts_match_as_files_and_tables_change_them():
    assert plain_prompt("A  round bear and/or\r\n a box. ") == plain_prompt("a round bear and or a box")
    assert plain_prompt("一只猫") != plain_prompt("一只狗")
