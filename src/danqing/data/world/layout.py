"""Where things go: apart unless they are to overlap, inside the picture, on the ground if there is one."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from danqing.data.atlas import Atlas
from danqing.data.world.scene import Item, Relation, Thing
from danqing.data.world.tiles import extent

Spot = tuple[float, float, float]
"""x, y and the longest side an item may have there."""

MARGIN = 0.02
_ROWS = {1: (1,), 2: (2,), 3: (3,), 4: (2, 2), 5: (3, 2), 6: (3, 3), 7: (3, 2, 2), 8: (3, 3, 2), 9: (3, 3, 3)}
_SMALL_SHARE = 0.1  # of lone things
_TRIES = 24
_CONTRAST_SHARE = 0.2  # of pairs have a plainly small and a plainly large thing


def place_single(rng: np.random.Generator, thing: Thing, atlas: Atlas, ground: bool) -> Thing:
    """Place a lone thing near the middle, now and then plainly small."""
    small, at = rng.random(2)
    size = 0.28 + 0.1 * at if small < _SMALL_SHARE else 0.55 + 0.3 * at
    return _settle(rng, [thing], [(0.5, 0.5, size)], atlas, ground, 0.05)[0]


def place_many(
    rng: np.random.Generator, things: Sequence[Thing], atlas: Atlas, ground: bool
) -> tuple[Thing, ...]:
    """Place up to nine things in the cells of a loose grid, in reading order; on the ground in one row."""
    count = len(things)
    rows = (count,) if ground else _ROWS[count]
    if not ground and count == 3 and rng.random() < 0.5:
        rows = (1, 2)
    across = max(len(rows), *rows)
    fill = (0.74 + 0.14 * rng.random()) / across
    spots = [
        ((column + 0.5) / row if row == across else 0.5 + (column - (row - 1) / 2) / across, y, fill)
        for row, y in zip(rows, _centres(len(rows), across), strict=True)
        for column in range(row)
    ]
    return _settle(rng, things, spots, atlas, ground, 0.12 * (1 / across - fill) + 0.01)


def place_related(
    rng: np.random.Generator, things: Sequence[Thing], relation: Relation, atlas: Atlas, ground: bool
) -> tuple[Thing, ...]:
    """Place two or three things so that the first is `relation` of the others."""
    at, wide = rng.random(), 0.39 + 0.07 * rng.random()
    near, far = 0.265, 0.735
    if relation == "inside":
        spots = [(0.5, 0.5, 0.34 + 0.08 * at), (0.5, 0.5, 0.8 + 0.12 * at)]
        return _settle(rng, things, spots, atlas, False, 0.0)
    if relation == "front":
        way = -1 if rng.random() < 0.5 else 1
        back = 0.58 + 0.08 * at
        spots = [(0.5 + way * 0.17, 0.66, 0.36 + 0.06 * at), (0.5 - way * 0.08, 0.45, back)]
        return _settle(rng, things, spots, atlas, False, 0.02)
    if relation == "between":
        side = 0.25 + 0.05 * at
        outer = [(0.175, 0.5, side), (0.825, 0.5, side)]
        if not ground and rng.random() < 0.3:
            outer = [(y, x, s) for x, y, s in outer]
        if rng.random() < 0.5:
            outer.reverse()
        return _settle(rng, things, [(0.5, 0.5, side), *outer], atlas, ground, 0.03)
    first, second = {
        "left": ((near, 0.5), (far, 0.5)),
        "right": ((far, 0.5), (near, 0.5)),
        "above": ((0.5, near), (0.5, far)),
        "below": ((0.5, far), (0.5, near)),
    }[relation]
    sizes = [wide * (0.92 + 0.08 * rng.random()) for _ in range(2)]
    if rng.random() < _CONTRAST_SHARE:
        sizes[int(rng.integers(2))] = 0.2 + 0.05 * at
    spots = [(*spot, size) for spot, size in zip((first, second), sizes, strict=True)]
    return _settle(rng, things, spots, atlas, ground, 0.03)


def place_beside(
    rng: np.random.Generator, taken: Sequence[Thing], new: Thing, relation: Relation, atlas: Atlas
) -> Thing | None:
    """Place a new thing `relation` of the things that are there, which stay; None where no room is left."""
    boxes = [_box(thing, atlas) for thing in taken]
    left, top = min(b[0] for b in boxes), min(b[1] for b in boxes)
    right, bottom = max(b[2] for b in boxes), max(b[3] for b in boxes)
    room = {"left": left, "right": 1 - right, "above": top, "below": 1 - bottom}[relation] - 2 * MARGIN
    width, height = extent(new, atlas)
    size = min(room / (width if relation in ("left", "right") else height), 0.42) * (
        0.85 + 0.1 * rng.random()
    )
    if size < 0.18:
        return None
    x, y = (left + right) / 2, (top + bottom) / 2
    if relation in ("left", "right"):
        x = left - MARGIN - size * width / 2 if relation == "left" else right + MARGIN + size * width / 2
        y = bottom - size * height / 2
    else:
        y = top - MARGIN - size * height / 2 if relation == "above" else bottom + MARGIN + size * height / 2
    return _inside(replace(new, size=round(size, 4), x=x, y=y), atlas)


def place_free(
    rng: np.random.Generator, taken: Sequence[Thing], new: Thing, atlas: Atlas, ground: bool
) -> Thing | None:
    """Place a new thing anywhere clear of the things that are there; None where no room was found."""
    for x, y in rng.random((_TRIES, 2)):
        placed = _inside(replace(new, x=x, y=new.y if ground else y), atlas)
        if not any(overlap(placed, thing, atlas) for thing in taken):
            return placed
    return None


def stand_in(old: Thing, new: Thing, atlas: Atlas, ground: bool) -> Thing:
    """Return `new` in the place of `old`; on a ground its feet stand where those of the old one stood."""
    if not ground:
        return _inside(new, atlas)
    feet = old.y + old.size * extent(old, atlas)[1] / 2
    height = new.size * extent(new, atlas)[1]
    return replace(new, y=round(max(feet, height + MARGIN) - height / 2, 4))


def overlap(one: Item, other: Item, atlas: Atlas) -> bool:
    """Tell whether the boxes of two items overlap, or all but touch."""
    a, b = _box(one, atlas), _box(other, atlas)
    across, down = max(a[0], b[0]) - min(a[2], b[2]), max(a[1], b[1]) - min(a[3], b[3])
    return max(across, down) < MARGIN


def _centres(rows: int, across: int) -> list[float]:
    gap = 1 / across if rows == across else 0.5 if rows == 2 and across <= 3 else 1 / rows
    return [0.5 + (row - (rows - 1) / 2) * min(gap, 1 / rows) for row in range(rows)]


def _settle(
    rng: np.random.Generator,
    things: Sequence[Thing],
    spots: Sequence[Spot],
    atlas: Atlas,
    ground: bool,
    jitter: float,
) -> tuple[Thing, ...]:
    baseline = 0.78 + 0.06 * rng.random()
    placed = []
    for thing, (x, y, size) in zip(things, spots, strict=True):
        dx, dy = jitter * (2 * rng.random(2) - 1) / 2
        moved = replace(thing, size=round(size, 4), x=x + dx, y=y + dy)
        if ground:
            height = size * extent(thing, atlas)[1]
            moved = replace(moved, y=max(baseline, height + 0.05) - height / 2)
        placed.append(_inside(moved, atlas))
    return tuple(placed)


def _inside(thing: Thing, atlas: Atlas) -> Thing:
    width, height = (thing.size * side for side in extent(thing, atlas))
    x = min(max(thing.x, width / 2 + MARGIN), 1 - MARGIN - width / 2)
    y = min(max(thing.y, height / 2 + MARGIN), 1 - MARGIN - height / 2)
    return replace(thing, x=round(float(x), 4), y=round(float(y), 4))


def _box(thing: Item, atlas: Atlas) -> tuple[float, float, float, float]:
    width, height = (thing.size * side / 2 for side in extent(thing, atlas))
    return thing.x - width, thing.y - height, thing.x + width, thing.y + height
