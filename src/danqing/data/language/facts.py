"""Facts of a scene as class numbers, to teach a language tower by classification."""

from dataclasses import dataclass, replace
from functools import cache

from danqing.data.atlas import Atlas
from danqing.data.colours import COLOURS
from danqing.data.language.nouns import nouns
from danqing.data.language.seen import seen_colour
from danqing.data.world.scene import OPPOSITE, RELATIONS, Scene

_NAMED = 2  # concepts of a scene that are labelled


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """The state of a scene as class numbers."""

    concepts: tuple[int, ...]
    """The first two distinct concepts, as positions in `nouns()`; empty for words and faces."""
    counts: tuple[int, ...]
    """How many there are of each."""
    colours: tuple[int, ...]
    """Colour of each, as a position in `COLOURS`; -1 where no word is certain."""
    background: int
    """Position in `COLOURS`; -1 where nothing but the first concept is known."""
    relation: int
    """Position in `RELATIONS`, of the first concept to the second; -1 without one."""


def facts(scene: Scene, atlas: Atlas | None = None) -> Labels:
    """Return the labels of a scene; natural colours count only when an atlas is given."""
    named = list(dict.fromkeys(thing.concept for thing in scene.things))[:_NAMED]
    first = {thing.concept: thing for thing in reversed(scene.things)}
    seen = [seen_colour(first[code], atlas) for code in named]
    return Labels(
        concepts=tuple(concept_position(code) for code in named),
        counts=tuple(sum(thing.concept == code for thing in scene.things) for code in named),
        colours=tuple(-1 if colour is None else COLOURS.index(colour) for colour in seen),
        background=COLOURS.index(scene.background.colour),
        relation=-1 if scene.relation is None else RELATIONS.index(scene.relation),
    )


def ordered(labels: Labels) -> Labels:
    """Return labels with the left or upper thing first, so that both ways of saying a relation agree."""
    relation = None if labels.relation < 0 else RELATIONS[labels.relation]
    if relation not in ("right", "below"):
        return labels
    return replace(
        labels,
        concepts=labels.concepts[::-1],
        counts=labels.counts[::-1],
        colours=labels.colours[::-1],
        relation=RELATIONS.index(OPPOSITE[relation]),
    )


def concept_position(code: str) -> int:
    """Return the class number of a concept: its position in `nouns()`."""
    return _positions()[code]


@cache
def _positions() -> dict[str, int]:
    return {code: index for index, code in enumerate(nouns())}
