"""Edits as changes of the state: a scene before, a scene after, and what was done.

Nothing is drawn here and no words are chosen: `instructions` words an edit, `render` draws both of its
scenes.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

from danqing.data.atlas import Atlas
from danqing.data.colours import COLOURS
from danqing.data.world import (
    OPPOSITE,
    RELATIONS,
    Scene,
    Thing,
    contains_held_out,
    draw_background,
    place_things,
)

EditKind = Literal[
    "add", "more", "remove", "fewer", "replace", "recolour", "background", "style", "count", "move"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """One change of a scene."""

    kind: EditKind
    source: Scene
    target: Scene
    subject: int
    """Which thing of the source it is about; 0 where it is about all or none."""


def sample_edit(scene: Scene, rng: np.random.Generator, atlas: Atlas) -> Edit:
    """Draw an edit that the scene allows; its target holds nothing held out unless the source does.

    Kinds: add (to a lone thing), more and fewer (of the same), remove (from a pair), replace, recolour,
    background, style, count, move (in a pair). Places are kept where the change allows it: remove, fewer,
    replace, recolour, background and style move nothing else.
    """
    while True:
        kind = _KINDS[scene.kind][int(rng.integers(len(_KINDS[scene.kind])))]
        subject = int(rng.integers(2)) if kind in ("remove", "replace", "recolour") and scene.relation else 0
        target = _CHANGES[kind](rng, scene, atlas, subject)
        if target is not None and (contains_held_out(scene) or not contains_held_out(target)):
            return Edit(kind=kind, source=scene, target=target, subject=subject)


def _add(rng: np.random.Generator, scene: Scene, atlas: Atlas, _: int) -> Scene | None:
    new = _new_thing(rng, scene.things[0], scene, atlas)
    ground = scene.background.kind == "ground"
    relation = RELATIONS[rng.integers(2 if ground else 4)]
    if new is None or new.concept == scene.things[0].concept:
        return None
    things = place_things(rng, atlas, (new, scene.things[0]), "pair", relation, ground)
    return Scene(things, scene.background, "pair", relation)


def _remove(_: np.random.Generator, scene: Scene, __: Atlas, subject: int) -> Scene:
    return Scene((scene.things[1 - subject],), scene.background, "single", None)


def _fewer(_: np.random.Generator, scene: Scene, __: Atlas, ___: int) -> Scene:
    things = scene.things[:-1]
    return replace(scene, things=things, kind="count" if len(things) > 1 else "single")


def _more(rng: np.random.Generator, scene: Scene, atlas: Atlas, _: int) -> Scene | None:
    return _with_count(rng, scene, atlas, len(scene.things) + 1)


def _count(rng: np.random.Generator, scene: Scene, atlas: Atlas, _: int) -> Scene | None:
    return _with_count(rng, scene, atlas, int(rng.integers(2, 4)))


def _with_count(rng: np.random.Generator, scene: Scene, atlas: Atlas, count: int) -> Scene | None:
    if count > 3 or count == len(scene.things):
        return None
    things = (scene.things[0],) * count
    ground = scene.background.kind == "ground"
    return Scene(place_things(rng, atlas, things, "count", None, ground), scene.background, "count", None)


def _replace(rng: np.random.Generator, scene: Scene, atlas: Atlas, subject: int) -> Scene | None:
    new = _new_thing(rng, scene.things[subject], scene, atlas)
    if new is None or new.concept in {thing.concept for thing in scene.things}:
        return None
    if scene.kind != "pair":
        return _swapped(
            scene, tuple(replace(thing, concept=new.concept, colour=None) for thing in scene.things), atlas
        )
    things = list(scene.things)
    things[subject] = new
    return _swapped(scene, tuple(things), atlas)


def _recolour(rng: np.random.Generator, scene: Scene, atlas: Atlas, subject: int) -> Scene | None:
    thing = scene.things[subject]
    taken = (thing.colour, scene.background.colour)
    dyes = [dye for dye in atlas.facts(thing.concept, thing.style).dyes if dye not in taken]
    if not dyes:
        return None
    colour = dyes[int(rng.integers(len(dyes)))]
    changed = (replace(t, colour=colour) if t.concept == thing.concept else t for t in scene.things)
    return replace(scene, things=tuple(changed))


def _background(rng: np.random.Generator, scene: Scene, atlas: Atlas, _: int) -> Scene | None:
    taken = {scene.background.colour, *(_visible(thing, atlas) for thing in scene.things)}
    colours = [colour for colour in COLOURS if colour not in taken]
    background = draw_background(rng, colours[int(rng.integers(len(colours)))], scene.background.kind)
    return replace(scene, background=replace(background, horizon=scene.background.horizon))


def _style(rng: np.random.Generator, scene: Scene, atlas: Atlas, _: int) -> Scene | None:
    styles = [style for style in atlas.styles if style != scene.things[0].style]
    if not styles:
        return None
    style = styles[int(rng.integers(len(styles)))]
    if any(t.colour is not None and t.colour not in atlas.facts(t.concept, style).dyes for t in scene.things):
        return None
    return _swapped(scene, tuple(replace(thing, style=style) for thing in scene.things), atlas)


def _move(rng: np.random.Generator, scene: Scene, atlas: Atlas, _: int) -> Scene | None:
    assert scene.relation is not None
    relation = OPPOSITE[scene.relation]
    things = place_things(rng, atlas, scene.things, "pair", relation, scene.background.kind == "ground")
    return replace(scene, things=things, relation=relation)


def _new_thing(rng: np.random.Generator, old: Thing, scene: Scene, atlas: Atlas) -> Thing | None:
    new = replace(old, concept=atlas.codes[rng.integers(len(atlas.codes))], colour=None)
    return None if _visible(new, atlas) == scene.background.colour else new


def _swapped(scene: Scene, things: tuple[Thing, ...], atlas: Atlas) -> Scene | None:
    """Put things in the places of the scene's own; on a ground they keep their feet where the old ones
    stood."""
    if any(_visible(thing, atlas) == scene.background.colour for thing in things):
        return None
    if scene.background.kind == "ground":
        things = tuple(_stand(old, new, atlas) for old, new in zip(scene.things, things, strict=True))
    return replace(scene, things=things)


def _stand(old: Thing, new: Thing, atlas: Atlas) -> Thing:
    height = new.size * atlas.extent(new.concept, new.style)[1]
    feet = old.y + old.size * atlas.extent(old.concept, old.style)[1] / 2
    return replace(new, y=round(max(feet, height + 0.02) - height / 2, 4))


def _visible(thing: Thing, atlas: Atlas) -> str | None:
    return thing.colour or atlas.facts(thing.concept, thing.style).colour


_KINDS: Final[dict[str, tuple[EditKind, ...]]] = {
    "single": ("add", "add", "more", "replace", "recolour", "background", "style", "count"),
    "count": ("more", "fewer", "replace", "recolour", "background", "style", "count"),
    "pair": ("remove", "remove", "replace", "recolour", "background", "style", "move"),
}
_CHANGES: Final[dict[str, Callable[[np.random.Generator, Scene, Atlas, int], Scene | None]]] = {
    "add": _add,
    "more": _more,
    "remove": _remove,
    "fewer": _fewer,
    "replace": _replace,
    "recolour": _recolour,
    "background": _background,
    "style": _style,
    "count": _count,
    "move": _move,
}
