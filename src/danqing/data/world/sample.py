"""Drawing scenes by chance, with nothing held out among them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, TypeVar

import numpy as np

from danqing.data.atlas import Atlas
from danqing.data.colours import COLOURS, hsv_to_rgb, paint
from danqing.data.world.layout import place_many, place_related, place_single
from danqing.data.world.portraits import portrait_colours, sample_portrait
from danqing.data.world.scene import (
    SHAPE,
    TEXTURES,
    Background,
    BackgroundKind,
    Relation,
    Scene,
    SceneKind,
    Thing,
    Words,
    second_tone,
)
from danqing.data.world.shapes import CONTAINERS, shapes
from danqing.data.world.split import Split, contains_held_out
from danqing.data.world.tiles import extent
from danqing.data.world.words import readable_on, sample_words, sizes
from danqing.errors import DataError

T = TypeVar("T")

KIND_SHARES: Final[Mapping[SceneKind, float]] = MappingProxyType(
    {
        "single": 0.374,
        "count": 0.166,
        "pair": 0.166,
        "group": 0.083,
        "between": 0.041,
        "words": 0.12,
        "portrait": 0.05,
    }
)
"""How often a drawn scene shows one thing, several of a kind, two in a relation, several kinds, three in a
row, something written, a face."""

_BACKGROUNDS: Final[Mapping[BackgroundKind, float]] = MappingProxyType(
    {"solid": 0.32, "gradient": 0.17, "radial": 0.17, "ground": 0.22, **dict.fromkeys(TEXTURES, 0.04)}
)
_EVEN: Final[Mapping[BackgroundKind, float]] = MappingProxyType(
    {"solid": 0.5, "gradient": 0.25, "radial": 0.25}
)
"""Backgrounds of portraits."""
_RELATIONS: Final[Mapping[Relation, float]] = MappingProxyType(
    {"left": 0.2, "right": 0.2, "above": 0.18, "below": 0.18, "front": 0.12, "inside": 0.12}
)
_FLAT: Final[tuple[Relation, ...]] = ("above", "below", "inside", "front")
"""Relations that cannot be shown by things that stand on a ground."""
_DYED_SHARE: Final = 0.35  # of the things that can be dyed
_SHAPE_SHARE: Final = 0.06  # of all things
_THING_SHARE: Final = 0.25  # of written words have a thing above or below them
_GAP: Final = 0.04  # between words and such a thing, and to the edge
_TRIES: Final = 20
_DRAWS: Final = 10_000  # after which what is asked for does not exist
_GROUP_SIZES: Final = ((1, 1), (1, 1, 1), (2, 1), (1, 2), (2, 2), (3, 1), (2, 3), (1, 1, 2), (3, 3))


def sample_scene(
    rng: np.random.Generator,
    atlas: Atlas,
    split: Split = "train",
    *,
    shares: Mapping[SceneKind, float] = KIND_SHARES,
    codes: Sequence[str] | None = None,
    styles: Mapping[str, float] | None = None,
) -> Scene:
    """Draw a scene; kinds come as often as `shares` say, concepts from `codes`, styles as `styles` say.

    By default those are all of the atlas and all plain shapes; without shapes among the codes none is drawn,
    and nothing stands inside another. All styles come equally often. With split "train" nothing held out
    occurs; with "held_out" at least one held-out combination or word does. The same generator state and atlas
    give the same scene.

    Raises DataError for an unknown split, for fewer concepts than a kind of scene holds, for concepts and
    styles of which no such scene exists, and for "held_out" where only portraits are asked for, of which
    nothing is held out.
    """
    if split not in ("train", "held_out"):
        raise DataError(f"expected split 'train' or 'held_out', found {split!r}")
    if split == "held_out" and all(kind == "portrait" for kind, share in shares.items() if share > 0):
        raise DataError(
            "expected a kind besides 'portrait' for split 'held_out', found none; ask for 'train'"
        )
    stock = _Stock.of(atlas, codes, styles, split == "held_out")
    for _ in range(_DRAWS):
        scene = _KINDS[weighted(rng, shares)](rng, atlas, stock)
        if scene is not None and contains_held_out(scene) == stock.held_out:
            return scene
    raise DataError(
        f"expected concepts and styles that meet in split {split!r}, found no such scene in {_DRAWS:,} "
        "draws; allow more concepts, styles or kinds of scenes"
    )


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


def merge(first: Thing, second: Thing, atlas: Atlas) -> bool:
    """Tell whether one thing vanishes before the other: one is a shape, and both have the same colour."""
    return SHAPE in (first.style, second.style) and (
        visible_colour(first, atlas) == visible_colour(second, atlas)
    )


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
    return tuple(shares)[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stock:
    """What scenes are drawn from."""

    codes: Sequence[str]
    """Concepts of the atlas."""
    shapes: tuple[str, ...]
    containers: tuple[str, ...]
    styles: Mapping[str, float] | None
    """How often each style comes; None for all alike."""
    held_out: bool
    """Whether held-out words are to be written."""

    @classmethod
    def of(
        cls, atlas: Atlas, codes: Sequence[str] | None, styles: Mapping[str, float] | None, held_out: bool
    ) -> "_Stock":
        if unknown := set(styles or ()) - set(atlas.styles):
            raise DataError(
                f"expected styles of this atlas ({', '.join(atlas.styles)}), found {sorted(unknown)[0]!r}"
            )
        plain = tuple(shapes()) if codes is None else tuple(code for code in codes if code in shapes())
        if codes is None:
            codes = atlas.codes
        return cls(
            codes=[code for code in codes if code not in shapes()] if plain else codes,
            shapes=plain,
            containers=tuple(code for code in CONTAINERS if code in plain),
            styles=styles,
            held_out=held_out,
        )


def _single(rng: np.random.Generator, atlas: Atlas, stock: _Stock) -> Scene | None:
    thing = _draw_things(rng, atlas, stock, 1)[0]
    background = _behind(rng, [thing], atlas)
    return Scene((place_single(rng, thing, atlas, background.kind == "ground"),), background)


def _count(rng: np.random.Generator, atlas: Atlas, stock: _Stock) -> Scene | None:
    thing, count = _draw_things(rng, atlas, stock, 1)[0], int(rng.integers(2, 10))
    background = _behind(rng, [thing], atlas, on_ground=count <= 3)
    return Scene(place_many(rng, [thing] * count, atlas, background.kind == "ground"), background)


def _group(rng: np.random.Generator, atlas: Atlas, stock: _Stock) -> Scene | None:
    counts = choose(rng, _GROUP_SIZES)
    kinds = _draw_things(rng, atlas, stock, len(counts))
    things = [thing for thing, count in zip(kinds, counts, strict=True) for _ in range(count)]
    background = _behind(rng, kinds, atlas, on_ground=len(things) <= 3)
    return Scene(place_many(rng, things, atlas, background.kind == "ground"), background)


def _pair(rng: np.random.Generator, atlas: Atlas, stock: _Stock) -> Scene | None:
    relation = weighted(rng, _RELATIONS)
    first, second = _draw_things(rng, atlas, stock, 2)
    if relation == "inside":
        if not stock.containers:
            return None
        second = _shape(rng, choose(rng, stock.containers))
    if first.concept == second.concept or (relation in ("inside", "front") and merge(first, second, atlas)):
        return None
    background = _behind(rng, [first, second], atlas, on_ground=relation not in _FLAT)
    ground = background.kind == "ground"
    return Scene(place_related(rng, (first, second), relation, atlas, ground), background, relation)


def _between(rng: np.random.Generator, atlas: Atlas, stock: _Stock) -> Scene | None:
    things = _draw_things(rng, atlas, stock, 3)
    background = _behind(rng, things, atlas, on_ground=True)
    ground = background.kind == "ground"
    return Scene(place_related(rng, things, "between", atlas, ground), background, "between")


def _words(rng: np.random.Generator, atlas: Atlas, stock: _Stock) -> Scene | None:
    words = sample_words(rng, held_out=stock.held_out)
    things: tuple[Thing, ...] = ()
    if rng.random() < _THING_SHARE:
        placed = _with_thing(rng, words, _draw_things(rng, atlas, stock, 1)[0], atlas)
        if placed is None:
            return None
        words, things = placed[0], (placed[1],)
    else:
        words = _shifted(rng, words, atlas)
    for _ in range(_TRIES):
        background = _behind(rng, things, atlas, on_ground=False)
        if readable_on(words, background):
            return Scene(things, background, words=words)
    return None


def _with_thing(
    rng: np.random.Generator, words: Words, thing: Thing, atlas: Atlas
) -> tuple[Words, Thing] | None:
    """Put a thing above or below words, both in the middle; None where the words would become too small."""
    above, at, aside = rng.random(3)
    size = 0.3 + 0.12 * at
    width, height = (size * side for side in extent(thing, atlas))
    down = extent(words, atlas)[1]
    largest = (1 - 3 * _GAP - height) / down
    if largest < sizes(words)[0]:
        return None
    lettered = replace(words, size=round(min(words.size, largest), 4))
    high = lettered.size * down
    top = (1 - high - _GAP - height) / 2
    first, second = (height, high) if above < 0.5 else (high, height)
    upper, lower = top + first / 2, top + first + _GAP + second / 2
    y, text_y = (upper, lower) if above < 0.5 else (lower, upper)
    x = 0.5 + (aside - 0.5) * min(0.3, 1 - width - 2 * _GAP)
    return (
        replace(lettered, y=round(float(text_y), 4)),
        replace(thing, size=round(float(size), 4), x=round(float(x), 4), y=round(float(y), 4)),
    )


def _shifted(rng: np.random.Generator, words: Words, atlas: Atlas) -> Words:
    """Move words a little, as far as there is room."""
    x, y = (
        0.5 + 0.5 * (2 * at - 1) * max(0.0, min(0.3, 1 - words.size * side - 0.04))
        for at, side in zip(rng.random(2), extent(words, atlas), strict=True)
    )
    return replace(words, x=round(float(x), 4), y=round(float(y), 4))


def _portrait(rng: np.random.Generator, _: Atlas, __: _Stock) -> Scene | None:
    portrait = sample_portrait(rng)
    colour = choose(rng, [word for word in COLOURS if word not in portrait_colours(portrait)])
    return Scene((), draw_background(rng, colour, weighted(rng, _EVEN)), portrait=portrait)


def _draw_things(rng: np.random.Generator, atlas: Atlas, stock: _Stock, count: int) -> tuple[Thing, ...]:
    """Draw things of different concepts that exist in one style, some of them dyed, some plain shapes."""
    if len(stock.codes) + len(stock.shapes) < count:
        raise DataError(
            f"expected at least {count} concepts to draw from, found {[*stock.codes, *stock.shapes]}"
        )
    for _ in range(_DRAWS):
        style = choose(rng, atlas.styles) if stock.styles is None else weighted(rng, stock.styles)
        things = [_draw_thing(rng, stock, style) for _ in range(count)]
        if len({thing.concept for thing in things}) == count and all(
            thing.style == SHAPE or atlas.has(thing.concept, style) for thing in things
        ):
            return tuple(thing if thing.style == SHAPE else _dyed(rng, atlas, thing) for thing in things)
    raise DataError(
        f"expected concepts that the atlas has in the styles asked for, found no {count} of them together in "
        f"{_DRAWS:,} draws; allow more concepts or styles"
    )


def _draw_thing(rng: np.random.Generator, stock: _Stock, style: str) -> Thing:
    if stock.shapes and (not stock.codes or rng.random() < _SHAPE_SHARE):
        return _shape(rng, choose(rng, stock.shapes))
    return Thing(choose(rng, stock.codes), style, None, 0.5, 0.5, 0.5)


def _shape(rng: np.random.Generator, code: str) -> Thing:
    return Thing(code, SHAPE, choose(rng, COLOURS), 0.5, 0.5, 0.5)


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


_Draw = Callable[[np.random.Generator, Atlas, _Stock], Scene | None]
_KINDS: Final[Mapping[SceneKind, _Draw]] = MappingProxyType(
    {
        "single": _single,
        "count": _count,
        "group": _group,
        "pair": _pair,
        "between": _between,
        "words": _words,
        "portrait": _portrait,
    }
)
