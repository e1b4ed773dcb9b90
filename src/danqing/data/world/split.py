"""What is held out: combinations and words that training never sees, chosen by a hash."""

import hashlib
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from typing import Final, Literal

from danqing.data.world.scene import SHAPE, Scene
from danqing.data.world.vocabulary import vocabulary

Split = Literal["train", "held_out"]

HELD_OUT_SHARE: Final = 0.05
HELD_OUT_WORDS: Final = 200


@lru_cache(maxsize=1 << 18)
def is_held_out(axis: str, *parts: str) -> bool:
    """Tell whether a combination is held out: the first 64 bits of its sha256 fall into the lowest 5 %."""
    return rank(axis, *parts) < HELD_OUT_SHARE * 2**64


def rank(*parts: str) -> int:
    """Return the first 64 bits of the sha256 of the parts: an order that nobody chose."""
    return int.from_bytes(hashlib.sha256("|".join(parts).encode()).digest()[:8], "big")


@cache
def held_out_words(words: tuple[str, ...]) -> frozenset[str]:
    """Return the 200 words that come first by their hash; they are written in no training picture or text."""
    return frozenset(sorted(words, key=lambda word: rank("word", word))[:HELD_OUT_WORDS])


def combinations(scene: Scene) -> Iterator[tuple[str, ...]]:
    """Yield the combinations of a scene that may be held out, each as (axis, parts...)."""
    for thing in dict.fromkeys((t.concept, t.style, t.colour) for t in scene.things):
        concept, style, colour = thing
        yield "background", concept, scene.background.colour
        if style != SHAPE:
            yield "style", concept, style
        if colour is not None:
            yield "colour", concept, colour
    if scene.relation is not None:
        yield from _relations(scene.relation, [thing.concept for thing in scene.things])


def contains_held_out(scene: Scene) -> bool:
    """Tell whether any combination of a scene is held out, or any of its words."""
    return any(is_held_out(*combination) for combination in combinations(scene)) or (
        scene.words is not None and any_held_out(scene.words.lines)
    )


def any_held_out(lines: Sequence[str]) -> bool:
    """Tell whether any written line is a held-out word."""
    return any(line.upper() in held_out_words(vocabulary()) for line in lines)


def _relations(relation: str, codes: list[str]) -> Iterator[tuple[str, ...]]:
    """Name a relation one way: "a right of b" is "b left of a"."""
    first, second = codes[:2]
    if relation == "between":
        yield "relation", first, "between", second
        yield "relation", first, "between", codes[2]
    elif relation in ("inside", "front"):
        yield "relation", first, relation, second
    else:
        if relation in ("right", "below"):
            first, second = second, first
        yield "relation", first, "left" if relation in ("left", "right") else "above", second
