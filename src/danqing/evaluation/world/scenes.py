"""A scene for what a prompt asks: the true render of prompts that people wrote."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from danqing.data.atlas import Atlas
from danqing.data.colours import COLOURS
from danqing.data.world import Relation, Scene, Thing, draw_background
from danqing.data.world.layout import place_many, place_related, place_single
from danqing.data.world.sample import choose, dyes, visible_colour
from danqing.evaluation.items import Clause


def scene_from(clauses: Sequence[Clause], rng: np.random.Generator, atlas: Atlas) -> Scene | None:
    """Return a scene that meets clauses about things, relations and the background.

    Styles, sizes and all that is not asked for are drawn by chance. None when no style has all the things in
    their colours, or when a clause asks for words.
    """
    wanted = [clause for clause in clauses if clause.concept is not None]
    if not wanted or any(clause.text is not None for clause in clauses):
        return None
    things = _things(wanted, rng, atlas)
    if things is None:
        return None
    asked = next((clause.background for clause in clauses if clause.background is not None), None)
    taken = {visible_colour(thing, atlas) for thing in things}
    colour = asked or choose(rng, [word for word in COLOURS if word not in taken])
    background = draw_background(rng, colour, "solid")
    relation, order = _relation(wanted)
    if relation is not None:
        placed = place_related(rng, [things[at] for at in order], relation, atlas, ground=False)
        return Scene(placed, background, relation)
    many = [thing for thing, clause in zip(things, wanted, strict=True) for _ in range(clause.count or 1)]
    if len(many) == 1:
        return Scene((place_single(rng, many[0], atlas, ground=False),), background)
    return Scene(place_many(rng, many[:9], atlas, ground=False), background)


def _things(wanted: Sequence[Clause], rng: np.random.Generator, atlas: Atlas) -> list[Thing] | None:
    for style in rng.permutation(np.array(atlas.styles)).tolist():
        if all(clause.concept is not None and atlas.has(clause.concept, style) for clause in wanted):
            things = [_coloured(clause, style, atlas) for clause in wanted]
            if all(thing is not None for thing in things):
                return [thing for thing in things if thing is not None]
    return None


def _coloured(clause: Clause, style: str, atlas: Atlas) -> Thing | None:
    thing = Thing(str(clause.concept), style, None, 0.5, 0.5, 0.5)
    if clause.colour is None or visible_colour(thing, atlas) == clause.colour:
        return thing
    return replace(thing, colour=clause.colour) if clause.colour in dyes(thing, atlas) else None


def _relation(wanted: Sequence[Clause]) -> tuple[Relation | None, list[int]]:
    """Return the relation asked for, and the clauses it relates in its order."""
    for index, clause in enumerate(wanted):
        if clause.position is not None:
            relation: Relation = clause.position[0]  # type: ignore[assignment]
            return relation, [index, *clause.position[1:]]
    return None, []
