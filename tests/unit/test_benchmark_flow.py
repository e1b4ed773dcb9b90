"""From the files of a benchmark to the numbers of its rows, on pictures whose scores can be worked out."""

import shutil

import pytest

from danqing.evaluation.benchmarks import benchmark
from danqing.evaluation.results import Entrant, read_results
from danqing.evaluation.run import plan, run, score
from danqing.evaluation.statistics import cluster_interval, mean_over_rows
from danqing.evaluation.store import Store
from danqing.scoring.looking import Looks
from tests.benchmark_world import Painter, Sight, Thing
from tests.unit.test_benchmark_readers import FIXTURES

LEFT, RIGHT, MIDDLE = (0, 40, 40, 80), (120, 40, 160, 80), (60, 0, 100, 40)
DRUM, LAMP, LIGHT = Thing("drum", LEFT, "purple"), Thing("lamp", RIGHT), Thing("traffic light", RIGHT)
OWL, WOMAN = Thing("owl", LEFT, "brown"), Thing("person", LEFT)


def measured(tmp_path, name, table, seeds, sight, variant="official", folder=None):
    """Return the mean of each row, and the mean over the rows that count."""
    chosen = benchmark(name)
    items = [item for item in chosen.read(folder or FIXTURES / name) if item.prompt in table]
    looks = Looks(
        blip_vqa=sight, detector=sight, depth=sight, clip=sight, vqa=sight, words=sight, sure=(0.3, 0.9)
    )
    judge, painter, rows = chosen.judge(looks, variant), Painter(table), chosen.rows(variant)
    with Store.open(tmp_path / f"{name}-{variant}.sqlite") as store:
        run(plan(items, painter, seeds, store), store)
        score(items, painter, seeds, judge, store)
        entrant = Entrant.of(painter, "model")
        results = read_results(
            store, rows=rows, entrants=[entrant], judges=[(judge.name, judge.version)], items=items
        )
        found = {row.name: results.observations(entrant, row) for row in rows}
    means = {name: cluster_interval(some).mean for name, some in found.items() if some}
    counted = [found[row.name] for row in rows if row.counts and found[row.name]]
    return means, mean_over_rows(counted).mean


def test_geneval_is_the_mean_of_the_means_of_its_tags(tmp_path):
    cup, zebra = Thing("cup", RIGHT), Thing("zebra", LEFT, "blue")
    table = {
        "a picture of a zebra": [[zebra], [cup]],
        "a picture of a zebra and a cup": [[zebra, cup]],
        "a picture of three cups": [[cup, Thing("cup", LEFT), Thing("cup", MIDDLE)], [cup]],
        "a picture of a red cup": [[cup]],
        "a picture of a zebra left of a cup": [[cup, zebra], [Thing("cup", LEFT), Thing("zebra", RIGHT)]],
        "a picture of a red cup and a blue zebra": [[cup, zebra], [cup, Thing("zebra", LEFT, "black")]],
    }
    means, overall = measured(tmp_path, "geneval", table, [0, 1], Sight())
    assert means["geneval-colors"] == means["geneval-two_object"] == 1
    halves = ("single_object", "counting", "position", "color_attr")
    assert [means[f"geneval-{tag}"] for tag in halves] == [0.5] * 4
    assert overall == pytest.approx((2 + 4 * 0.5) / 6)


def test_counting_wants_surer_detections(tmp_path):
    cups = [Thing("cup", LEFT), Thing("cup", RIGHT), Thing("cup", MIDDLE)]
    table = {"a picture of three cups": [cups], "a picture of a red cup": [cups]}
    means, _ = measured(tmp_path, "geneval", table, [0], Sight(sure={"cup": 0.6}))
    assert means == {"geneval-counting": 0, "geneval-colors": 1}


def test_compbench_by_its_formulas(tmp_path):
    table = {
        "a violet drum and a white door": [[LAMP]],  # neither phrase holds: 0.2 twice
        "a brown owl and a red cart": [[OWL]],  # the first does
        "a tall lamp and a short stool": [[LAMP]],
        "a fluffy scarf and a glass jug": [[LAMP]],
        "a drum on the left of a lamp": [[DRUM, LAMP], [DRUM]],
        "a woman next to a traffic light": [[WOMAN, LIGHT]],
        "an owl in front of a door": [[OWL]],
        "a cat hidden by a cat": [[]],
        "three owls and one traffic light": [[OWL, LIGHT]],
        "A child is feeding an owl.": [[OWL]],
        "The grey owl watched the small mouse.": [[OWL]],
        "The round drum stood near the tall lamp.": [[DRUM, LAMP]],
    }
    means, _ = measured(tmp_path, "compbench", table, [42, 43], Sight())
    assert means["compbench-color"] == pytest.approx((0.2 * 0.2 + 0.9 * 0.2) / 2)
    assert means["compbench-color-seen"] == pytest.approx(0.04)
    assert means["compbench-color-2023"] == means["compbench-color"]  # two phrases a prompt
    pair = 0.25 * (0.95 + 0.95) + 0.5
    assert means["compbench-spatial"] == pytest.approx((pair + 0 + pair + pair) / 4)
    assert means["compbench-3d_spatial"] == pytest.approx((0.25 * 0.95 + 0) / 2)
    assert means["compbench-numeracy"] == pytest.approx((0.5 + 0 + 0.5 + 0.5) / 2)
    assert means["compbench-non_spatial"] == pytest.approx(0.1)
    action = (0.9 * 0.2 + 0.1) / 2  # the owl, no mouse; CLIP sees the owl
    both = (0.9 * 0.9 + pair + 0.2) / 3
    assert means["compbench-complex"] == pytest.approx((action + both) / 2)


def test_official_and_fixed_compbench_part_where_the_code_errs(tmp_path):
    shutil.copytree(FIXTURES / "compbench", tmp_path / "files")
    (tmp_path / "files/complex_val.txt").write_text("The purple drum lay on top of the red lamp.")
    (tmp_path / "files/complex_val_spatial.txt").write_text("The purple drum lay on top of the red lamp.")
    (tmp_path / "files/3d_spatial_val.txt").write_text("an owl in front of a lamp")
    lamp, owl = Thing("lamp", (90, 20, 150, 110)), Thing("owl", (100, 30, 150, 110))
    table = {
        "The purple drum lay on top of the red lamp.": [
            [Thing("drum", (60, 0, 80, 20), "purple"), Thing("lamp", (60, 60, 80, 80))]
        ],
        "an owl in front of a lamp": [[lamp, owl]],
    }
    folder = tmp_path / "files"
    official, _ = measured(tmp_path, "compbench", table, [42], Sight(), "official", folder)
    fixed, _ = measured(tmp_path, "compbench", table, [42], Sight(), "fixed", folder)
    # "on top of" is no relation of the reference, and without a place two sure things are below one half
    assert official["compbench-complex"] == pytest.approx((0.81 + 0) / 2)
    assert fixed["compbench-complex"] == pytest.approx((0.81 + 0.975) / 2)
    # the reference reads depth with rows and columns exchanged
    assert official["compbench-3d_spatial"] == pytest.approx(0.475)
    assert fixed["compbench-3d_spatial"] == pytest.approx(0.975)


def test_longtext_is_pooled_over_words(tmp_path):
    table = {item.prompt: [[]] for item in benchmark("longtext").read(FIXTURES / "longtext")}
    means, _ = measured(tmp_path, "longtext", table, [0, 1], Sight(lines=("fresh figs", "café 业")))
    assert means["longtext-en"] == pytest.approx(3 / 8)  # not the mean of 3/5 and 0/3
    assert means["longtext-zh"] == pytest.approx(1 / 4)


def test_dpg_means_are_of_questions_that_hold(tmp_path):
    table = {item.prompt: [[]] for item in benchmark("dpg").read(FIXTURES / "dpg")}
    yes = Sight()
    yes.answer_probability = lambda picture, question, answers=("yes", "no"): (
        0.2 if "rug?" in question else 0.9
    )
    official, _ = measured(tmp_path, "dpg", table, [0, 1, 2, 3], yes)
    fixed, _ = measured(tmp_path, "dpg", table, [0, 1, 2, 3], yes, "fixed")
    assert official["dpg"] == pytest.approx(3 / 5)  # no rug, so no dog on it; the first prompt drops out
    assert fixed["dpg"] == pytest.approx((1 + 3 / 5) / 2)
    assert official["dpg-entity"] == pytest.approx(1 / 2)
    assert fixed["dpg-entity"] == pytest.approx(2 / 3)  # pooled over three questions of two prompts


def test_corebench_is_the_mean_over_dimensions(tmp_path):
    table = {item.prompt: [[]] for item in benchmark("corebench").read(FIXTURES / "corebench")}
    judge = Sight()
    judge.answer_probability = lambda picture, question, answers=("yes", "no"): (
        0.9 if "two cups?" in question or "R-LR" in question else 0.1
    )
    means, overall = measured(tmp_path, "corebench", table, [0], judge)
    assert means["corebench-c-mi"] == pytest.approx(1 / 3)
    assert means["corebench-r-lr"] == 1
    assert overall == pytest.approx((11 / 3 + 1) / 12)
