"""What can be seen in a scene beyond doubt, and therefore said: colours, sizes, places, the style."""

from collections.abc import Mapping
from typing import Final, Literal

import numpy as np

from danqing.data.atlas import Atlas
from danqing.data.language.nouns import nouns
from danqing.data.world.scene import OPPOSITE, SHAPE, Scene, Thing

Size = Literal["small", "large"]

SMALL: Final = 0.4
LARGE: Final = 0.78
"""A lone thing below SMALL of the picture may be called small, from LARGE on large; between them neither."""
CONTRAST: Final = 1.6
"""From this ratio on, one of two things is small and the other one large."""

_INVERSE: Final[Mapping[str, str]] = {
    **{str(one): str(other) for one, other in OPPOSITE.items()},
    "front": "behind",
    "inside": "outside",
}
_NATURAL_SHARE: Final = 0.3
_SIZE_SHARE: Final = 0.6
_EDGES: Final = (0.4, 0.6)  # where the left third ends and the right one begins


def seen_colour(thing: Thing, atlas: Atlas | None) -> str | None:
    """Return the colour a thing has beyond doubt: its dye, or its natural one when the atlas knows it."""
    if thing.colour is not None or atlas is None or thing.style == SHAPE:
        return thing.colour
    colour = atlas.facts(thing.concept, thing.style).colour
    named = colour is not None and colour in nouns()[thing.concept].english
    return None if named else colour  # never "an orange orange"


def said_colour(rng: np.random.Generator, thing: Thing, atlas: Atlas | None) -> str | None:
    """Return the colour to say: a dye always, a natural colour now and then."""
    if thing.colour is not None or atlas is None:
        return thing.colour
    return seen_colour(thing, atlas) if rng.random() < _NATURAL_SHARE else None


def sizes(scene: Scene) -> tuple[Size | None, ...]:
    """Return the size of each thing where it is plain: of a lone thing, or of two that differ much."""
    if scene.kind == "single":
        size = scene.things[0].size
        return ("small" if size < SMALL else "large" if size >= LARGE else None,)
    if scene.relation is not None and len(scene.things) == 2:
        first, second = (thing.size for thing in scene.things)
        if max(first, second) >= CONTRAST * min(first, second):
            return ("small", "large") if first < second else ("large", "small")
    return (None,) * len(scene.things)


def said_size(rng: np.random.Generator, scene: Scene, index: int) -> Size | None:
    """Return the size of a thing, where it is plain, more often than not."""
    size = sizes(scene)[index]
    return size if size is not None and rng.random() < _SIZE_SHARE else None


def style_of(scene: Scene) -> str | None:
    """Return the style the things are drawn in; None for plain shapes, words and faces."""
    return next((thing.style for thing in scene.things if thing.style != SHAPE), None)


def place_of(thing: Thing) -> str:
    """Return in which ninth of the picture a thing is: "above left", "below", or "" in the middle."""
    low, high = _EDGES
    down = "above" if thing.y < low else "below" if thing.y > high else ""
    across = "left" if thing.x < low else "right" if thing.x > high else ""
    return f"{down} {across}".strip()


def ends(scene: Scene) -> tuple[str, str]:
    """Return the fields of the left or upper one of two things, and of the other; W stands for words."""
    if scene.words is not None:
        return ("A", "W") if scene.things[0].y < scene.words.y else ("W", "A")
    return ("B", "A") if scene.relation in ("right", "below") else ("A", "B")


def pair_patterns(scene: Scene) -> str:
    """Return the name of the patterns for a relation of two things."""
    kinds = {"left": "beside", "right": "beside", "above": "stacked", "below": "stacked"}
    return "pair." + kinds.get(str(scene.relation), str(scene.relation))


def inverse(relation: str) -> str:
    """Return the relation read the other way round: what is in front of a thing has that thing behind it."""
    return _INVERSE[relation]
