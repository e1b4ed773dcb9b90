"""The formulas of T2I-CompBench over what is seen: places, depths, numbers, phrases, and all in one.

Huang et al., arXiv 2307.06350, and T2I-CompBench++, as the project's own code computes them; where that
differs from what is meant, `variant` says which of the two.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from danqing.evaluation.benchmarks.benchmark import Variant
from danqing.scoring.looking import Box, Detection

FRAME: Final = (479, 480)
"""Shorter side of the frame that the reference's detector sees, and its longer side at most."""
NEAR: Final = 150
"""Pixels of that frame within which two things are next to each other."""
OVERLAP: Final = 0.1
"""Intersection over union from which a place says less."""
DEPTH_OVERLAP: Final = 0.5
"""Intersection over union from which one thing can hide another."""
SAME: Final = 0.9
"""Overlap from which two boxes of a class are one thing."""
PHRASES: Final = 8
"""Noun phrases of a prompt that are asked about; two in the code of 2023."""
PEOPLE: Final = ("girl", "boy", "man", "woman")
_ALIASES: Final[Mapping[str, str]] = {"ship": "boat", "goldfish": "fish", "painting": "picture"}


def class_name(thing: str, *, counted: bool = False) -> str:
    """Return what the detector is asked for; where things are counted, three more names are replaced."""
    if thing in PEOPLE:
        return "person"
    return _ALIASES.get(thing, thing) if counted else thing


def frame_pixel(size: tuple[int, int]) -> float:
    """Return how many pixels of a picture, of a width and a height, one of the reference's frame is."""
    return max(min(size) / FRAME[0], max(size) / FRAME[1])


def overlap(box: Box, other: Box) -> float:
    """Return the intersection over union of two boxes; 0 where both are empty."""
    across = max(0.0, min(box[2], other[2]) - max(box[0], other[0]))
    down = max(0.0, min(box[3], other[3]) - max(box[1], other[1]))
    union = _area(box) + _area(other) - across * down
    return across * down / union if union else 0.0


def place_score(
    relation: str, box: Box, other: Box, *, pixel: float = 1.0, variant: Variant = "fixed"
) -> float:
    """Return from 0 to 1 whether a box stands in a relation to another.

    To the left and so on: the centres are further apart on this axis than on the other, in the right order,
    and overlap lowers the score. Next to: within 150 pixels on either axis, and further away less. "On top
    of", without article, is no relation of the reference and gives 0. `pixel` is that of the frame, in the
    unit of the boxes.
    """
    x, y = ((other[at] + other[at + 2] - box[at] - box[at + 2]) / 2 for at in (0, 1))
    if relation in ("next to", "on side of", "near"):
        near = NEAR * pixel
        return 1.0 if min(abs(x), abs(y)) < near else near / max(abs(x), abs(y))
    if relation == "on top of" and variant == "fixed":
        relation = "on the top of"
    ahead = {
        "on the left of": (x, y),
        "on the right of": (-x, y),
        "on the top of": (y, x),
        "on the bottom of": (-y, x),
    }
    along, aside = ahead.get(relation, (0.0, 0.0))
    if along <= abs(aside):
        return 0.0
    shared = overlap(box, other)
    return 1.0 if shared < OVERLAP else OVERLAP / shared


def depth_score(
    relation: str, box: Box, other: Box, depth: np.ndarray, *, variant: Variant = "fixed"
) -> float:
    """Return from 0 to 1 whether a box is in front of another, or behind or hidden by it.

    The mean depth of the nearer one is larger, and the boxes overlap by half; less overlap scores less. The
    reference takes the columns of a box for rows and its rows for columns. `depth` is (height, width); boxes
    are in its pixels.
    """
    difference = _mean_depth(depth, box, variant) - _mean_depth(depth, other, variant)
    wanted = difference if relation == "in front of" else -difference
    shared = overlap(box, other)
    if not wanted > 0:  # nor for a box outside the picture, whose mean is no number
        return 0.0
    if shared == DEPTH_OVERLAP and variant == "official":
        return 0.0
    return min(1.0, shared / DEPTH_OVERLAP)


def find_two(
    seen: Sequence[Detection], first: str, second: str, *, variant: Variant = "fixed"
) -> tuple[Detection | None, Detection | None]:
    """Return the most certain detection of each of two things; in the reference the same one for one name."""
    ones = [one for one in seen if one.label == first]
    if first == second and variant == "fixed":
        return (*ones, None, None)[:2]  # type: ignore[return-value]
    others = [one for one in seen if one.label == second]
    return (ones[0] if ones else None), (others[0] if others else None)


def find_two_in_depth(
    seen: Sequence[Detection], first: str, second: str
) -> tuple[Detection | None, Detection | None]:
    """Return the detections that the reference compares by depth: of each the last until both were seen.

    Names match inside longer ones. When one thing alone is there, its most certain detection.
    """
    found: list[Detection | None] = [None, None]
    both = all(any(name in one.label for one in seen) for name in (first, second))
    for one in seen:
        for at, name in enumerate((first, second)):
            if name in one.label and (both or found[at] is None):
                found[at] = one
        if None not in found:
            break
    return found[0], found[1]


def pair_score(scores: Sequence[float], place: float, *, floor: bool) -> float:
    """Return a quarter of each detector score and half of the place; with `floor`, less than half is none."""
    value = 0.25 * sum(scores) + 0.5 * place
    return 0.0 if floor and value < 0.5 else value


def one_each(seen: Sequence[Detection], *, pixel: float = 1.0) -> list[Detection]:
    """Return the detections without those that lie over an earlier, more certain one of their class."""
    kept: list[Detection] = []
    for one in seen:
        if not any(one.label == other.label and _is_same(one.box, other.box, pixel) for other in kept):
            kept.append(one)
    return kept


def count_of(labels: Sequence[str], thing: str) -> int:
    """Return how many things bear a name, or, where none does, a longer one that contains it."""
    return labels.count(thing) or sum(thing in one for one in labels)


def phrase_score(answers: Sequence[float], *, phrases: int = PHRASES) -> float:
    """Return the product of how sure a model is of each of the first phrases; 1 without one."""
    return math.prod(answers[:phrases])


def three_in_one(kind: str, phrases: float, place: float, text: float) -> float:
    """Return the mean of the scores that a complex prompt is about: "spatial", "action", or both."""
    parts = {"spatial": (phrases, place), "action": (phrases, text)}.get(kind, (phrases, place, text))
    return sum(parts) / len(parts)


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _mean_depth(depth: np.ndarray, box: Box, variant: Variant) -> float:
    left, top, right, bottom = (max(0, int(side)) for side in box)
    part = depth[left:right, top:bottom] if variant == "official" else depth[top:bottom, left:right]
    return float(part.mean()) if part.size else math.nan


def _is_same(box: Box, other: Box, pixel: float) -> bool:
    """Tell whether boxes cover each other; their last pixels are counted in, as in the reference."""
    across = max(0.0, min(box[2], other[2]) - max(box[0], other[0]) + pixel)
    down = max(0.0, min(box[3], other[3]) - max(box[1], other[1]) + pixel)
    areas = [(one[2] - one[0] + pixel) * (one[3] - one[1] + pixel) for one in (box, other)]
    shared = across * down
    return shared / (sum(areas) - shared) > SAME or any(shared / area > SAME for area in areas)
