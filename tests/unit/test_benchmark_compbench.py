"""T2I-CompBench: its formulas against cases worked out by hand and against another way to compute them."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danqing.errors import ResourceError
from danqing.evaluation.benchmarks import benchmark
from danqing.evaluation.benchmarks.compbench_scores import (
    class_name,
    count_of,
    depth_score,
    find_two,
    find_two_in_depth,
    frame_pixel,
    one_each,
    overlap,
    pair_score,
    phrase_score,
    place_score,
    three_in_one,
)
from danqing.evaluation.benchmarks.compbench_words import (
    RuleParser,
    Word,
    nouns_around,
    phrases_around,
    quantities,
    spacy_parser,
    things,
    without_adjectives,
)
from danqing.scoring.looking import Detection, Looks
from tests.benchmark_world import Sight, Thing, draw

ON_ANY_MACHINE = settings(max_examples=60, deadline=None)
SIDES = st.integers(0, 60)


@st.composite
def _box(draw):
    left, top = draw(SIDES), draw(SIDES)
    return (float(left), float(top), float(left + draw(SIDES) + 1), float(top + draw(SIDES) + 1))


def seen(label, box=(0.0, 0.0, 10.0, 10.0), score=0.9):
    return Detection(label=label, score=score, box=box)


def pixels(box):
    left, top, right, bottom = map(int, box)
    return set(itertools.product(range(left, right), range(top, bottom)))


@ON_ANY_MACHINE
@given(_box(), _box())
def test_overlap_counts_pixels(box, other):
    one, two = pixels(box), pixels(other)
    assert overlap(box, other) == pytest.approx(len(one & two) / len(one | two))


@ON_ANY_MACHINE
@given(_box(), _box(), st.sampled_from([0, 1, 2, 3]))
def test_a_quarter_turn_turns_the_relation(box, other, turns):
    names = ["on the left of", "on the top of", "on the right of", "on the bottom of"]

    def turned(one):
        for _ in range(turns):
            one = (-one[3], one[0], -one[1], one[2])  # clockwise: left goes to the top
        return one

    there = place_score("on the left of", box, other)
    assert place_score(names[turns], turned(box), turned(other)) == pytest.approx(there)


@ON_ANY_MACHINE
@given(_box(), _box())
def test_one_side_at_most_is_right_and_mirrors_agree(box, other):
    names = ("on the left of", "on the right of", "on the top of", "on the bottom of")
    values = [place_score(name, box, other) for name in names]
    assert sum(value > 0 for value in values) <= 1
    assert values[0] == place_score("on the right of", other, box)


@pytest.mark.parametrize(
    ("relation", "box", "other", "value"),
    [
        ("on the left of", (0, 0, 10, 10), (20, 0, 30, 10), 1.0),
        ("on the left of", (20, 0, 30, 10), (0, 0, 10, 10), 0.0),
        ("on the left of", (0, 0, 10, 10), (10, 10, 20, 20), 0.0),  # as far down as aside
        ("on the left of", (0, 0, 10, 10), (5, 0, 15, 10), 0.1 / (50 / 150)),
        ("on the bottom of", (0, 50, 10, 60), (0, 0, 10, 10), 1.0),
        ("next to", (0, 0, 10, 10), (0, 400, 10, 410), 1.0),  # near on one axis is enough
        ("next to", (0, 0, 10, 10), (200, 300, 210, 310), 0.5),
    ],
)
def test_places_by_hand(relation, box, other, value):
    assert place_score(relation, box, other) == pytest.approx(value)


def test_next_to_is_measured_in_the_frame_of_the_reference():
    assert frame_pixel((958, 958)) == 2.0
    assert frame_pixel((960, 480)) == 2.0  # here the longer side decides
    box, other = (0, 0, 10, 10), (400, 600, 410, 610)
    assert place_score("near", box, other, pixel=2.0) == pytest.approx(0.5)


def test_on_top_of_scores_nothing_in_the_reference():
    box, other = (0, 0, 10, 10), (0, 20, 10, 30)
    assert place_score("on top of", box, other, variant="official") == 0
    assert place_score("on top of", box, other, variant="fixed") == 1


def test_depth_is_read_where_the_box_is_and_officially_with_axes_exchanged():
    depth = np.zeros((100, 100), np.float32)
    depth[10:20, 60:80] = 5  # rows 10 to 20, columns 60 to 80
    near, far = (60.0, 10.0, 80.0, 20.0), (60.0, 10.0, 80.0, 22.0)
    assert depth_score("in front of", near, far, depth) == 1
    assert depth_score("behind", far, near, depth) == 1
    assert depth_score("hidden", near, far, depth) == 0
    assert depth_score("in front of", near, far, depth, variant="official") == 0
    assert depth_score("in front of", near, far, depth.T, variant="official") == 1


def test_depth_needs_overlap():
    depth = np.tile(np.arange(100, dtype=np.float32), (100, 1))  # nearer to the right
    assert depth_score("in front of", (50, 0, 60, 10), (0, 0, 10, 10), depth) == 0
    quarter = depth_score("in front of", (6, 0, 16, 10), (0, 0, 10, 10), depth)
    assert quarter == pytest.approx((40 / 160) / 0.5)


def test_officially_a_box_beyond_the_transposed_picture_scores_nothing():
    depth = np.ones((20, 100), np.float32)
    box, other = (60.0, 0.0, 90.0, 20.0), (62.0, 0.0, 90.0, 20.0)
    assert depth_score("in front of", box, other, depth, variant="official") == 0


def test_two_of_one_name_are_two_and_officially_one():
    cats = [seen("cat"), seen("cat", (20.0, 0.0, 30.0, 10.0), 0.8)]
    assert find_two(cats, "cat", "cat") == (cats[0], cats[1])
    assert find_two(cats, "cat", "cat", variant="official") == (cats[0], cats[0])
    assert find_two(cats[:1], "cat", "cat") == (cats[0], None)


def test_officially_depth_is_compared_of_the_last_detection_until_both_are_seen():
    found = [seen("cat", score=0.9), seen("cat", score=0.8), seen("dog", score=0.7), seen("cat", score=0.6)]
    assert find_two_in_depth(found, "cat", "dog") == (found[1], found[2])
    assert find_two_in_depth(found, "cat", "cow") == (found[0], None)
    assert find_two_in_depth([seen("table lamp")], "lamp", "cow")[0] is not None


@pytest.mark.parametrize(
    ("scores", "place", "flat", "floored"),
    [((0.8, 0.6), 1.0, 0.85, 0.85), ((0.8, 0.6), 0.2, 0.45, 0.0), ((0.8, 0.0), 0.0, 0.2, 0.0)],
)
def test_scores_below_one_half_are_none_for_places_alone(scores, place, flat, floored):
    assert pair_score(scores, place, floor=False) == pytest.approx(flat)
    assert pair_score(scores, place, floor=True) == pytest.approx(floored)


def test_boxes_that_cover_each_other_count_once():
    found = [
        seen("cat", (0, 0, 100, 100)),
        seen("cat", (1, 1, 99, 99)),  # inside the first
        seen("dog", (0, 0, 100, 100)),
        seen("cat", (50, 0, 150, 100)),
    ]
    assert [one.label for one in one_each(found)] == ["cat", "dog", "cat"]
    assert count_of(["cat", "wild cat"], "cat") == 1
    assert count_of(["wild cat", "tame cat"], "cat") == 2


def test_names_for_the_detector():
    assert [class_name(one) for one in ("girl", "ship")] == ["person", "ship"]
    assert class_name("ship", counted=True) == "boat"


def test_products_and_means():
    assert phrase_score([0.5, 0.5, 0.1]) == pytest.approx(0.025)
    assert phrase_score([0.5, 0.5, 0.1], phrases=2) == 0.25
    assert phrase_score([]) == 1
    assert three_in_one("spatial", 0.4, 0.8, 0.0) == pytest.approx(0.6)
    assert three_in_one("action", 0.4, 0.0, 0.2) == pytest.approx(0.3)
    assert three_in_one("spatialaction", 0.4, 0.8, 0.3) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("prompt", "phrases"),
    [
        ("a violet drum and a white door", ["a violet drum", "a white door"]),
        ("a red rose and a white carnation.", ["a red rose", "a white carnation"]),
        ("rubber gloves and fluffy clouds", ["rubber gloves", "fluffy clouds"]),
        ("A black and white owl sits in a tree", ["A black and white owl", "a tree"]),
        ("The metal pot and wooden spoon stir the soup", ["The metal pot", "wooden spoon", "the soup"]),
        (
            "The soft, polished stone lay beside the tall oak tree",
            ["The soft, polished stone", "the tall oak tree"],
        ),
        ("a cubic box and a cylindrical can of paint", ["a cubic box", "a cylindrical can", "paint"]),
        ("It is on top of the drum", ["top", "the drum"]),
    ],
)
def test_noun_phrases(prompt, phrases):
    assert RuleParser().noun_phrases(prompt) == phrases


@ON_ANY_MACHINE
@given(st.text(max_size=60))
def test_any_text_has_phrases_of_its_own_words(text):
    for phrase in RuleParser().noun_phrases(text):
        assert phrase in text


def test_things_in_a_relation():
    assert things("a drum on the left of a traffic light") == ("drum", "traffic light")
    assert things("a cat hidden by an owl.") == ("cat", "owl")
    assert things("a cat and an owl") is None


def test_things_of_a_complex_prompt_are_heads_and_officially_the_nearest_nouns():
    prompt = "The red hat lay on top of the brown coat rack."
    assert phrases_around(prompt, RuleParser()) == ("hat", "coat rack")
    assert nouns_around(RuleParser().words(prompt)) == ("hat", "coat")
    assert phrases_around("The red hat lay there.", RuleParser()) is None
    assert nouns_around(RuleParser().words("The red hat lay there.")) is None


def test_officially_a_proper_noun_behind_the_cue_is_the_last_of_its_row():
    words = [Word("boat", "NOUN"), Word("near", "ADP"), Word("the", "DET"), Word("Tower", "PROPN")]
    words += [Word("Bridge", "PROPN"), Word(".", "PUNCT")]
    assert nouns_around(words) == ("boat", "Bridge")


def test_text_without_adjectives():
    assert without_adjectives(RuleParser().words("The soft, grey owl sat on a branch.")) == (
        "The , owl sat on a branch ."
    )


def test_numbers_of_things():
    singulars, plurals = {"owl": "owl", "sheep": "sheep"}, {"owls": "owl", "sheep": "sheep"}
    assert quantities("three owls, one owl and two sheep in a field", singulars, plurals) == [
        ("owl", 3),
        ("owl", 1),
        ("sheep", 2),
    ]


def test_without_spacy_there_is_no_parser_of_the_reference():
    assert spacy_parser("a_model_that_nobody_has") is None


def test_the_rules_that_parse_are_part_of_the_judges_version():
    sight = Sight()
    looks = Looks(blip_vqa=sight, detector=sight, depth=sight, clip=sight)
    official = benchmark("compbench").judge(looks, "official")
    fixed = benchmark("compbench").judge(looks, "fixed")
    assert official.version != fixed.version
    assert official.name == "T2I-CompBench, official"


def test_a_missing_model_is_missed_where_it_is_needed(tmp_path):
    (tmp_path / "color_val.txt").write_text("a red cup and a blue lamp")
    (tmp_path / "non_spatial_val.txt").write_text("A zebra drinks.")
    colour, other = benchmark("compbench").read(tmp_path)
    judge = benchmark("compbench").judge(Looks(blip_vqa=Sight()), "official")
    picture = draw([Thing("cup", (0, 0, 20, 20), "red")])
    assert [atom.value for atom in judge.judge(picture, colour)] == [0.9, 0.2]
    with pytest.raises(ResourceError, match="'clip'"):
        judge.judge(picture, other)


@ON_ANY_MACHINE
@given(_box(), _box())
def test_depth_of_two_flat_boxes_depends_on_which_is_nearer(box, other):
    depth = np.zeros((130, 130), np.float32)
    for number, one in enumerate((other, box), 1):
        depth[int(one[1]) : int(one[3]), int(one[0]) : int(one[2])] = number
    nearer = depth_score("in front of", box, other, depth)
    shared = overlap(box, other)
    mean = np.mean([depth[y, x] for x, y in pixels(other)])
    assert nearer == pytest.approx(min(1.0, 2 * shared) if mean < 2 else 0.0)
