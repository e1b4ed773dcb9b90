"""Drawing scenes by chance, with nothing held out among them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final, TypeVar

import numpy as np

from danqing.data.atlas import Atlas
from danqing.data.colours import COLOURS, hsv_to_rgb, paint
from danqing.data.world.layout import place_many, place_related, place_single
from danqing.data.world.scene import (
    SHAPE,
    TEXTURES,
    Background,
    BackgroundKind,
    Relation,
    Scene,
    SceneKind,
    Thing,
    second_tone,
)
from danqing.data.world.split import Split, contains_held_out
from danqing.errors import DataError

T = TypeVar("T")

KIND_SHARES: Final[Mapping[SceneKind, float]] = MappingProxyType(
    {"single": 0.45, "count": 0.2, "pair": 0.2, "group": 0.1, "between": 0.05}
)
"""How often a drawn scene shows one thing, several of a kind, two in a relation, several kinds, three in a row."""

_BACKGROUNDS: Final[Mapping[BackgroundKind, float]] = MappingProxyType(
    {"solid": 0.32, "gradient": 0.17, "radial": 0.17, "ground": 0.22, **dict.fromkeys(TEXTURES, 0.04)}
)
_RELATIONS: Final[Mapping[Relation, float]] = MappingProxyType(
    {"left": 0.2, "right": 0.2, "above": 0.18, "below": 0.18, "front": 0.12}
)
_FLAT: Final[tuple[Relation, ...]] = ("above", "below", "inside", "front")
"""Relations that cannot be shown by things that stand on a ground."""
_DYED_SHARE: Final = 0.35  # of the things that can be dyed
_GROUP_SIZES: Final = ((1, 1), (1, 1, 1), (2, 1), (1, 2), (2, 2), (3, 1), (2, 3), (1, 1, 2), (3, 3))


def sample_scene(
    rng: np.random.Generator,
    atlas: Atlas,
    split: Split = "train",
    *,
    shares: Mapping[SceneKind, float] = KIND_SHARES,
    codes: Sequence[str] | None = None,
) -> Scene:
    """Draw a scene; kinds come as often as `shares` say, concepts from `codes` (all of the atlas by default).

    With split "train" nothing held out occurs; with "held_out" at least one held-out combination does. The
    same generator state and atlas give the same scene. Raises DataError for an unknown split.
    """
    if split not in ("train", "held_out"):
        raise DataError(f"expected split 'train' or 'held_out', found {split!r}")
    chosen = tuple(codes) if codes is not None else atlas.codes
    while True:
        scene = _KINDS[weighted(rng, shares)](rng, atlas, chosen)
        if scene is not None and contains_held_out(scene) == (split == "held_out"):
            return scene


def draw_background(rng: np.random.Generator, colour: str, kind: BackgroundKind) -> Background:
    """Draw a background: a shade of the colour word and, for a ground, a pale wall that differs from it."""
    hue, saturation, value = rng.random(3)
    light = 0.8 + 0.06 * value if colour == "white" else 0.91 + 0.07 * value
    rgb = paint(colour, rng)
    pale = hsv_to_rgb(360 * hue, 0.02 + 0.06 * saturation, light)
    horizon, period = round(0.52 + 0.12 * rng.random(), 4), 1 / int(rng.integers(5, 11))
    return Background(colour, kind, rgb, second_tone(rgb) if kind in TEXTURES else pale, horizon, period)


def visible_colour(thing: Thing, atlas: Atlas) -> str | None:
    """Return the colour word that fills a thing: its dye, or the one it has by nature, if any does."""
    return thing.colour or atlas.facts(thing.concept, thing.style).colour


def dyes(thing: Thing, atlas: Atlas) -> tuple[str, ...]:
    """Return the colours a thing can be given."""
    return COLOURS if thing.style == SHAPE else atlas.facts(thing.concept, thing.style).dyes


def choose(rng: np.random.Generator, choices: Sequence[T]) -> T:
    """Draw one of `choices`."""
    return choices[int(rng.integers(len(choices)))]


def weighted(rng: np.random.Generator, shares: Mapping[T, float]) -> T:
    """Draw a key of `shares` as often as its share of their sum."""
    at = rng.random() * sum(shares.values())
    for choice, share in shares.items():
        at -= share
        if at < 0:
            return choice
    return next(reversed(shares))


def _single(rng: np.random.Generator, atlas: Atlas, codes: Sequence[str]) -> Scene | None:
    thing = _draw_things(rng, atlas, codes, 1)[0]
    background = _behind(rng, [thing], atlas)
    return Scene((place_single(rng, thing, atlas, background.kind == "ground"),), background)


def _count(rng: np.random.Generator, atlas: Atlas, codes: Sequence[str]) -> Scene | None:
    thing, count = _draw_things(rng, atlas, codes, 1)[0], int(rng.integers(2, 10))
    background = _behind(rng, [thing], atlas, on_ground=count <= 3)
    return Scene(place_many(rng, [thing] * count, atlas, background.kind == "ground"), background)


def _group(rng: np.random.Generator, atlas: Atlas, codes: Sequence[str]) -> Scene | None:
    counts = choose(rng, _GROUP_SIZES)
    kinds = _draw_things(rng, atlas, codes, len(counts))
    things = [thing for thing, count in zip(kinds, counts, strict=True) for _ in range(count)]
    background = _behind(rng, kinds, atlas, on_ground=len(things) <= 3)
    return Scene(place_many(rng, things, atlas, background.kind == "ground"), background)


def _pair(rng: np.random.Generator, atlas: Atlas, codes: Sequence[str]) -> Scene | None:
    relation = weighted(rng, _RELATIONS)
    first, second = _draw_things(rng, atlas, codes, 2)
    background = _behind(rng, [first, second], atlas, on_ground=relation not in _FLAT)
    ground = background.kind == "ground"
    return Scene(place_related(rng, (first, second), relation, atlas, ground), background, relation)


def _between(rng: np.random.Generator, atlas: Atlas, codes: Sequence[str]) -> Scene | None:
    things = _draw_things(rng, atlas, codes, 3)
    background = _behind(rng, things, atlas, on_ground=True)
    ground = background.kind == "ground"
    return Scene(place_related(rng, things, "between", atlas, ground), background, "between")


def _draw_things(
    rng: np.random.Generator, atlas: Atlas, codes: Sequence[str], count: int
) -> tuple[Thing, ...]:
    """Draw things of different concepts that exist in one style, some of them dyed."""
    while True:
        style = choose(rng, atlas.styles)
        drawn = [choose(rng, codes) for _ in range(count)]
        if len(set(drawn)) == count and all(atlas.has(code, style) for code in drawn):
            return tuple(_dyed(rng, atlas, Thing(code, style, None, 0.5, 0.5, 0.5)) for code in drawn)


def _dyed(rng: np.random.Generator, atlas: Atlas, thing: Thing) -> Thing:
    colours = dyes(thing, atlas)
    wanted, at = rng.random(2)
    return (
        replace(thing, colour=colours[int(at * len(colours))]) if colours and wanted < _DYED_SHARE else thing
    )


def _behind(
    rng: np.random.Generator, things: Sequence[Thing], atlas: Atlas, *, on_ground: bool = True
) -> Background:
    """Draw a background in a colour that none of the things has: a thing in that colour would vanish."""
    kind = weighted(rng, _BACKGROUNDS)
    taken = {visible_colour(thing, atlas) for thing in things}
    colour = choose(rng, [word for word in COLOURS if word not in taken])
    return draw_background(rng, colour, kind if on_ground or kind != "ground" else "solid")


_KINDS: Final[Mapping[SceneKind, Callable[[np.random.Generator, Atlas, Sequence[str]], Scene | None]]] = (
    MappingProxyType(
        {"single": _single, "count": _count, "group": _group, "pair": _pair, "between": _between}
    )
)
