"""GenEval: clauses against what a detector sees, worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from danqing.evaluation.benchmarks.geneval import GREY, clause_atoms, colour, keep, relative_position
from danqing.scoring.looking import Detection, Looks
from tests.benchmark_world import Sight, Thing, draw


def seen(label, box=(0.0, 0.0, 10.0, 10.0), score=0.9):
    return Detection(label=label, score=score, box=box)


def right(record, found, colours=None):
    """Tell whether a picture is right; `colours` are those of the things, one after another."""
    names = iter(colours or [])
    atoms = clause_atoms(record, keep(found, 0.3), lambda one, name: next(names))
    return all(atom.value for atom in atoms)


ON_ANY_MACHINE = settings(max_examples=60, deadline=None)
CUP, ZEBRA = {"class": "cup", "count": 1}, {"class": "zebra", "count": 1}


def test_one_object_must_be_there_and_sure_enough():
    record = {"include": [CUP]}
    assert right(record, [seen("cup")])
    assert not right(record, [seen("cup", score=0.3)])
    assert not right(record, [seen("zebra")])


def test_more_than_asked_is_right_unless_it_is_excluded():
    two = {"include": [{"class": "cup", "count": 2}]}
    assert right(two, [seen("cup")] * 3)
    exactly = {**two, "exclude": [{"class": "cup", "count": 3}]}
    assert right(exactly, [seen("cup")] * 2)
    assert not right(exactly, [seen("cup")] * 3)


def test_the_colour_is_that_of_the_most_certain_objects():
    record = {"include": [{**CUP, "color": "red"}]}
    assert right(record, [seen("cup", score=0.4), seen("cup")], ["red", "blue"])
    assert not right(record, [seen("cup")], ["blue"])


def test_every_object_must_stand_right_to_every_other():
    record = {"include": [CUP, {**ZEBRA, "position": ["left of", 0]}]}
    cup, left, beyond = seen("cup", (50, 0, 60, 10)), (0, 0, 10, 10), (80, 0, 90, 10)
    assert right(record, [cup, seen("zebra", left)])
    assert not right(record, [cup, seen("zebra", beyond)])
    several = {"include": [CUP, {"class": "zebra", "count": 2, "position": ["left of", 0]}]}
    assert not right(several, [cup, seen("zebra", left), seen("zebra", beyond)])


def test_nothing_stands_left_of_what_is_not_there():
    record = {"include": [{**CUP, "color": "red"}, {**ZEBRA, "position": ["left of", 0]}]}
    found = [seen("cup", (50, 0, 60, 10)), seen("zebra")]
    atoms = clause_atoms(record, keep(found, 0.3), lambda one, name: "blue")
    assert [(atom.name, atom.value) for atom in atoms][-1] == ("position", 0.0)
    assert atoms[-1].seen == "no target"


def test_sixteen_of_a_class_are_looked_at():
    found = [seen("cup", score=0.5 + index / 100) for index in range(20)]
    kept = keep(found, 0.3)["cup"]
    assert len(kept) == 16
    assert kept[0].score == pytest.approx(0.69)


@pytest.mark.parametrize(
    ("box", "relations"),
    [
        ((0, 50, 10, 60), {"left of"}),
        ((90, 50, 100, 60), {"right of"}),
        ((50, 0, 60, 10), {"above"}),
        ((50, 90, 60, 100), {"below"}),
        ((0, 0, 10, 10), {"left of", "above"}),
        ((51, 51, 61, 61), set()),
        ((0, 30, 10, 40), {"left of"}),  # 50 aside, 20 up: up is less than half the way
    ],
)
def test_places_as_seen_from_the_middle(box, relations):
    assert relative_position(box, (50, 50, 60, 60)) == relations


SIDES = st.floats(0, 100, allow_nan=False, width=32)
BOXES = st.tuples(SIDES, SIDES, SIDES, SIDES).map(lambda b: (b[0], b[1], b[0] + b[2] + 1, b[1] + b[3] + 1))


@ON_ANY_MACHINE
@given(BOXES, BOXES)
def test_places_by_another_way(box, other):
    centres = [np.array([(b[0] + b[2]) / 2, (b[1] + b[3]) / 2]) for b in (box, other)]
    sizes = [np.array([b[2] - b[0], b[3] - b[1]]) for b in (box, other)]
    offset = centres[0] - centres[1]
    room = 0.1 * (sizes[0] + sizes[1])
    shortened = np.where(np.abs(offset) > room, offset - np.sign(offset) * room, 0.0)
    expected = set()
    if np.abs(shortened).max() >= 1e-3:
        across, down = shortened / np.linalg.norm(offset)
        if min(abs(abs(across) - 0.5), abs(abs(down) - 0.5)) < 1e-9:
            return  # on the border rounding decides
        expected |= {"left of"} if across < -0.5 else {"right of"} if across > 0.5 else set()
        expected |= {"above"} if down < -0.5 else {"below"} if down > 0.5 else set()
    assert relative_position(box, other) == expected


@ON_ANY_MACHINE
@given(BOXES, BOXES)
def test_places_are_mirrored_from_the_other_side(box, other):
    mirror = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    assert {mirror[one] for one in relative_position(box, other)} == relative_position(other, box)


def test_colour_is_classified_on_the_object_alone():
    pictures: list[Image.Image] = []

    class Noting(Sight):
        def class_similarity(self, picture, wordings):
            pictures.append(picture)
            return super().class_similarity(picture, wordings)

    sight = Noting()
    picture = draw([Thing("lamp", (0, 0, 160, 120), "white"), Thing("cup", (40, 40, 80, 80), "purple")])
    mask = np.zeros((120, 160), bool)
    mask[50:70, 50:70] = True
    thing = Detection(label="cup", score=0.9, box=(39.6, 39.6, 80.4, 80.4), mask=mask)
    assert colour(picture, thing, "cup", Looks(clip=sight)) == "purple"
    assert pictures[0].size == (40, 40)
    assert pictures[0].getpixel((2, 2)) == Image.new("RGB", (1, 1), GREY).getpixel((0, 0))
    plain = Detection(label="cup", score=0.9, box=(40.0, 40.0, 80.0, 80.0))
    assert colour(picture, plain, "cup", Looks(clip=sight)) == "purple"
    assert pictures[1].getpixel((2, 2))[0] == pictures[1].getpixel((20, 20))[0]


def test_distance_is_that_of_the_centres_before_they_are_shortened():
    """The share is of the whole offset, so two far boxes of great size can have no relation."""
    box, other = (0.0, 0.0, 300.0, 10.0), (100.0, 0.0, 400.0, 10.0)  # 100 apart, 60 taken off
    assert math.isclose((100 - 60) / 100, 0.4)
    assert relative_position(box, other) == set()
