"""Edits as changes of the state: a scene before, a scene after, and what was done.

Nothing is drawn here and no words are chosen: `instructions` words an edit, `render` draws both of its
scenes. What an edit does not name stays exactly where it was.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, Literal

import numpy as np

from danqing.data.atlas import Atlas
from danqing.data.colours import COLOURS
from danqing.data.world.layout import overlap, place_beside, place_free, stand_in
from danqing.data.world.portraits import portrait_colours
from danqing.data.world.sample import choose, draw_background, dyes, merge, visible_colour
from danqing.data.world.scene import OPPOSITE, SHAPE, Relation, Scene, SceneKind, Thing
from danqing.data.world.split import contains_held_out
from danqing.data.world.words import another_text, readable_on

EditKind = Literal[
    "add",
    "remove",
    "more",
    "fewer",
    "replace",
    "recolour",
    "background",
    "style",
    "move",
    "resize",
    "swap",
    "text",
]
SIDES: Final[tuple[Relation, ...]] = ("left", "right", "above", "below")
SMALLER, LARGER = 0.55, 1.6
"""Factors of a resize."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """One change of a scene."""

    kind: EditKind
    source: Scene
    target: Scene
    subject: int
    """Which thing of the source it is about; of an addition, which thing of the target; 0 where it is about
    all or none."""
    direction: Relation | None = None
    """Where a thing was added, beside the first of the source, or whither it moved in the picture."""


Change = Callable[[np.random.Generator, Scene, Atlas, int], "tuple[Scene, Relation | None] | None"]


def sample_edit(scene: Scene, rng: np.random.Generator, atlas: Atlas) -> Edit:
    """Draw an edit that the scene allows; its target holds nothing held out unless the source does.

    Raises nothing: every kind of scene has an edit that always works (its background or its text).
    """
    while True:
        kind = choose(rng, _KINDS[scene.kind])
        subject = _subject(rng, scene, kind)
        changed = None if subject is None else _CHANGES[kind](rng, scene, atlas, subject)
        if changed is None or subject is None:
            continue
        target, direction = changed
        if contains_held_out(scene) or not contains_held_out(target):
            about = len(target.things) - 1 if kind == "add" else subject
            return Edit(kind=kind, source=scene, target=target, subject=about, direction=direction)


def _subject(rng: np.random.Generator, scene: Scene, kind: EditKind) -> int | None:
    """Draw what an edit is about; "the apple" must be the only apple, unless all of them change alike."""
    if scene.relation == "inside" and kind in ("replace", "resize"):
        return 0  # what it is inside of stays a shape, and large enough
    if kind in ("replace", "recolour"):
        return int(rng.integers(len(scene.things)))
    if kind not in ("remove", "move", "resize"):
        return 0
    codes = [thing.concept for thing in scene.things]
    alone = [index for index, code in enumerate(codes) if codes.count(code) == 1]
    return choose(rng, alone) if alone else None


def _add(
    rng: np.random.Generator, scene: Scene, atlas: Atlas, _: int
) -> tuple[Scene, Relation | None] | None:
    side = choose(rng, SIDES[:2] if scene.background.kind == "ground" else SIDES)
    new = _new_thing(rng, scene.things[0], scene, atlas)
    placed = None if new is None else place_beside(rng, scene.things, new, side, atlas)
    if placed is None:
        return None
    if scene.background.kind == "ground":
        placed = stand_in(scene.things[0], placed, atlas, ground=True)
    return replace(scene, things=(*scene.things, placed)), side


def _remove(_: np.random.Generator, scene: Scene, __: Atlas, subject: int) -> tuple[Scene, None]:
    things = tuple(thing for i, thing in enumerate(scene.things) if i != subject)
    return replace(scene, things=things, relation=None), None


def _fewer(_: np.random.Generator, scene: Scene, __: Atlas, ___: int) -> tuple[Scene, None]:
    return replace(scene, things=scene.things[:-1]), None


def _more(rng: np.random.Generator, scene: Scene, atlas: Atlas, _: int) -> tuple[Scene, None] | None:
    new = place_free(rng, scene.things, scene.things[0], atlas, scene.background.kind == "ground")
    if new is None or len(scene.things) >= 9:
        return None
    return replace(scene, things=(*scene.things, new)), None


def _replace(rng: np.random.Generator, scene: Scene, atlas: Atlas, subject: int) -> tuple[Scene, None] | None:
    new = _new_thing(rng, scene.things[subject], scene, atlas)
    return None if new is None else _changed(scene, subject, lambda t: _like(t, new), atlas)


def _recolour(
    rng: np.random.Generator, scene: Scene, atlas: Atlas, subject: int
) -> tuple[Scene, None] | None:
    thing = scene.things[subject]
    taken = (visible_colour(thing, atlas), scene.background.colour)
    colours = [colour for colour in dyes(thing, atlas) if colour not in taken]
    if not colours:
        return None
    colour = choose(rng, colours)
    return _changed(scene, subject, lambda t: replace(t, colour=colour), atlas)


def _background(rng: np.random.Generator, scene: Scene, atlas: Atlas, _: int) -> tuple[Scene, None] | None:
    old = scene.background
    taken = {old.colour, *(visible_colour(thing, atlas) for thing in scene.things)}
    if scene.portrait is not None:
        taken |= portrait_colours(scene.portrait)
    drawn = draw_background(rng, choose(rng, [word for word in COLOURS if word not in taken]), old.kind)
    new = replace(drawn, horizon=old.horizon, period=old.period)
    if scene.words is not None and not readable_on(scene.words, new):
        return None
    return replace(scene, background=new), None


def _style(rng: np.random.Generator, scene: Scene, atlas: Atlas, _: int) -> tuple[Scene, None] | None:
    drawn = [thing for thing in scene.things if thing.style != SHAPE]
    styles = [
        style
        for style in atlas.styles
        if all(style != thing.style and atlas.has(thing.concept, style) for thing in drawn)
    ]
    if not drawn or not styles:
        return None
    style = choose(rng, styles)
    if any(t.colour is not None and t.colour not in atlas.facts(t.concept, style).dyes for t in drawn):
        return None
    things = tuple(t if t.style == SHAPE else replace(t, style=style) for t in scene.things)
    return _swapped(scene, things, atlas)


def _move(
    rng: np.random.Generator, scene: Scene, atlas: Atlas, subject: int
) -> tuple[Scene, Relation | None] | None:
    side = choose(rng, SIDES[:2] if scene.background.kind == "ground" else SIDES)
    thing = scene.things[subject]
    goal = {"left": 0.0, "right": 1.0, "above": 0.0, "below": 1.0}[side]
    moved = replace(thing, x=goal) if side in ("left", "right") else replace(thing, y=goal)
    moved = stand_in(thing, moved, atlas, ground=False)
    if abs(moved.x - thing.x) + abs(moved.y - thing.y) < 0.15:
        return None
    return replace(scene, things=(moved,)), side


def _resize(rng: np.random.Generator, scene: Scene, atlas: Atlas, subject: int) -> tuple[Scene, None] | None:
    thing = scene.things[subject]
    factor = SMALLER if rng.random() < 0.5 else LARGER
    size = round(thing.size * factor, 4)
    if not 0.16 <= size <= 0.92:
        return None
    new = stand_in(thing, replace(thing, size=size), atlas, scene.background.kind == "ground")
    others = [other for i, other in enumerate(scene.things) if i != subject]
    if factor == LARGER and any(overlap(new, other, atlas) for other in others):
        return None
    things = tuple(new if i == subject else other for i, other in enumerate(scene.things))
    return replace(scene, things=things), None


def _swap(_: np.random.Generator, scene: Scene, atlas: Atlas, __: int) -> tuple[Scene, None] | None:
    if scene.relation not in OPPOSITE:
        return None
    first, second = scene.things
    ground = scene.background.kind == "ground"
    things = (
        stand_in(second, replace(first, x=second.x, y=second.y), atlas, ground),
        stand_in(first, replace(second, x=first.x, y=first.y), atlas, ground),
    )
    return replace(scene, things=things, relation=OPPOSITE[scene.relation]), None


def _text(rng: np.random.Generator, scene: Scene, atlas: Atlas, _: int) -> tuple[Scene, None] | None:
    assert scene.words is not None
    words = another_text(rng, scene.words)
    if any(overlap(words, thing, atlas) for thing in scene.things):
        return None
    return replace(scene, words=words), None


def _new_thing(rng: np.random.Generator, old: Thing, scene: Scene, atlas: Atlas) -> Thing | None:
    style = next((thing.style for thing in scene.things if thing.style != SHAPE), atlas.styles[0])
    code = choose(rng, atlas.codes)
    if not atlas.has(code, style) or code in {thing.concept for thing in scene.things}:
        return None
    new = replace(old, concept=code, style=style, colour=None)
    return None if visible_colour(new, atlas) == scene.background.colour else new


def _like(old: Thing, new: Thing) -> Thing:
    return replace(old, concept=new.concept, style=new.style, colour=new.colour)


def _changed(
    scene: Scene, subject: int, change: Callable[[Thing], Thing], atlas: Atlas
) -> tuple[Scene, None] | None:
    """Change a thing and all that are like it."""
    like = scene.things[subject].concept
    return _swapped(scene, tuple(change(t) if t.concept == like else t for t in scene.things), atlas)


def _swapped(scene: Scene, things: Sequence[Thing], atlas: Atlas) -> tuple[Scene, None] | None:
    """Put things in the places of the scene's own, unless one would vanish into what is behind it."""
    if any(visible_colour(thing, atlas) == scene.background.colour for thing in things):
        return None
    if scene.relation in ("inside", "front") and merge(things[0], things[1], atlas):
        return None
    ground = scene.background.kind == "ground"
    placed = tuple(stand_in(old, new, atlas, ground) for old, new in zip(scene.things, things, strict=True))
    return replace(scene, things=placed), None


_KINDS: Final[Mapping[SceneKind, tuple[EditKind, ...]]] = MappingProxyType(
    {
        "single": ("add", "add", "more", "replace", "recolour", "background", "style", "move", "resize"),
        "count": ("more", "fewer", "replace", "recolour", "background", "style"),
        "group": ("remove", "replace", "recolour", "background", "style", "resize"),
        "pair": ("remove", "remove", "replace", "recolour", "background", "style", "swap", "resize"),
        "between": ("remove", "replace", "recolour", "background", "style"),
        "words": ("text", "text", "background"),
        "portrait": ("background",),
    }
)
_CHANGES: Final[Mapping[EditKind, Change]] = MappingProxyType(
    {
        "add": _add,
        "remove": _remove,
        "more": _more,
        "fewer": _fewer,
        "replace": _replace,
        "recolour": _recolour,
        "background": _background,
        "style": _style,
        "move": _move,
        "resize": _resize,
        "swap": _swap,
        "text": _text,
    }
)
