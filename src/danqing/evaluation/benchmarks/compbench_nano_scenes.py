"""What CompBench-nano asks for: prompts in the manner of T2I-CompBench over things of the drawn world.

Every prompt words a scene of which at least one combination never occurs in training, so each has a true
render, and none can be met by heart.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import product
from typing import Any, Final

import numpy as np

from danqing.data.atlas import Atlas, packaged_atlas
from danqing.data.colours import COLOURS
from danqing.data.concepts import concepts, core_codes, with_article
from danqing.data.language.english import joined, noun, several
from danqing.data.language.english import number as spelled
from danqing.data.world import Relation, Scene, Thing, draw_background, is_held_out
from danqing.data.world.layout import place_many, place_related, place_single
from danqing.data.world.sample import choose, dyes, visible_colour
from danqing.data.world.scene import SHAPE, BackgroundKind
from danqing.data.world.shapes import CONTAINERS, shapes
from danqing.data.world.split import combinations
from danqing.evaluation.benchmarks.compbench import Category
from danqing.evaluation.items import Item
from danqing.evaluation.world.asked import SEED, Asked

ITEMS: Final = 60
"""Prompts a category."""
PREFIX: Final = "compbench-nano"
SAID: Final[Mapping[Relation, tuple[str, str]]] = {
    "left": ("on the left of", "on the left of"),
    "right": ("on the right of", "on the right of"),
    "above": ("above", "on the top of"),
    "below": ("below", "on the bottom of"),
}
"""Relation -> how prompts word it, and what T2I-CompBench's formula calls it."""
_WORN: Final[Mapping[BackgroundKind, str]] = {"stripes": "striped", "dots": "dotted", "checks": "checkered"}
_COUNTS: Final = ((2,), (3,), (4,), (5,), (6,), (7,), (8,), (1, 2), (2, 1), (2, 3), (3, 2), (3, 4), (1, 2, 3))
_AVOIDED: Final = ("girl", "boy", "man", "woman", "ship", "goldfish", "painting")
"""Nouns that T2I-CompBench replaces by others before it looks for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ask:
    """A scene with its prompt and what the formulas want to know."""

    prompt: str
    scene: Scene
    details: Mapping[str, Any] = field(default_factory=dict)


@lru_cache(maxsize=2)
def asked(atlas: Atlas | None = None) -> tuple[Asked, ...]:
    """Return the prompts of all categories with their scenes, always the same ones."""
    stock = _Stock(atlas if atlas is not None else packaged_atlas())
    return tuple(one for category, draw in _DRAWN.items() for one in _category(category, draw, stock))


def held_out(scene: Scene) -> bool:
    """Tell whether a combination of a scene is held out that its prompt can tell: styles are never said."""
    return any(is_held_out(*one) for one in combinations(scene) if one[0] != "style")


class _Stock:
    """The nouns of the world that fit the formulas, and combinations that are held out."""

    def __init__(self, atlas: Atlas) -> None:
        self.atlas = atlas
        names = {code: concepts()[code].english for code in core_codes() if code in set(atlas.codes)}
        # a name inside another one would be counted for it
        self.codes = [
            code
            for code, name in names.items()
            if name not in _AVOIDED and sum(name in other for other in names.values()) == 1
        ]
        self.coloured = [
            (thing, colour)
            for code in self.codes
            for style in atlas.styles_of(code)
            if not is_held_out("style", code, style)
            for thing in [Thing(code, style, None, 0.5, 0.5, 0.5)]
            for colour in dyes(thing, atlas)
            if is_held_out("colour", code, colour)
        ]
        self.before = [pair for pair in product(self.codes, COLOURS) if is_held_out("background", *pair)]
        self.plain = [pair for pair in product(shapes(), COLOURS) if is_held_out("background", *pair)]

    def alike(self, rng: np.random.Generator, *codes: str) -> list[Thing] | None:
        """Return things in one style that all have and that none is held out in; None where there is none."""
        styles = [
            style
            for style in self.atlas.styles
            if all(self.atlas.has(code, style) and not is_held_out("style", code, style) for code in codes)
        ]
        if not styles or len(set(codes)) < len(codes):
            return None
        style = choose(rng, styles)
        return [Thing(code, style, None, 0.5, 0.5, 0.5) for code in codes]

    def behind(
        self, rng: np.random.Generator, things: Sequence[Thing], colour: str | None = None
    ) -> str | None:
        """Return a colour that none of the things has, or the one given; None where one of them has it."""
        taken = {visible_colour(thing, self.atlas) for thing in things}
        left = [word for word in COLOURS if word not in taken]
        return choose(rng, left) if colour is None else colour if colour in left else None


_Draw = Callable[[np.random.Generator, _Stock], _Ask | None]


def _category(category: Category, draw: _Draw, stock: _Stock) -> list[Asked]:
    rng = np.random.default_rng([SEED, *f"{PREFIX}-{category}".encode()])
    found: dict[str, Asked] = {}
    while len(found) < ITEMS:
        ask = draw(rng, stock)
        if ask is None or not held_out(ask.scene) or ask.prompt in found:
            continue
        details = {"category": category, **ask.details}
        item = Item(
            row=f"{PREFIX}-{category}", prompt=ask.prompt, details=details, tags={"category": category}
        )
        found[ask.prompt] = Asked(item=item, scene=ask.scene)
    return list(found.values())


def _colour(rng: np.random.Generator, stock: _Stock) -> _Ask | None:
    """Two things dyed in colours that they never had."""
    pair = _two_coloured(rng, stock)
    if pair is None:
        return None
    phrases = [with_article(noun(thing.concept, thing.colour)) for thing in pair]
    return _several(rng, stock, pair, " and ".join(phrases), {"phrases": phrases})


def _shape(rng: np.random.Generator, stock: _Stock) -> _Ask | None:
    """Two plain shapes, one of which never met the colour of the background."""
    first, behind = choose(rng, stock.plain)
    second = choose(rng, [code for code in shapes() if code != first])
    colours = rng.permutation([word for word in COLOURS if word != behind]).tolist()[:2]
    pair = [
        Thing(code, SHAPE, colour, 0.5, 0.5, 0.5)
        for code, colour in zip((first, second), colours, strict=True)
    ]
    phrases = [with_article(noun(thing.concept)) for thing in pair]
    ground = with_article(f"{behind} background")
    told = {"phrases": [*phrases, ground]}
    return _several(rng, stock, pair, f"{' and '.join(phrases)} on {ground}", told, behind)


def _texture(rng: np.random.Generator, stock: _Stock) -> _Ask | None:
    """A thing before a pattern in a colour that it never met."""
    code, colour = choose(rng, stock.before)
    things = stock.alike(rng, code)
    if things is None or stock.behind(rng, things, colour) is None:
        return None
    kind = choose(rng, list(_WORN))
    ground = with_article(f"{_WORN[kind]} {colour} background")
    placed = place_single(rng, things[0], stock.atlas, ground=False)
    scene = Scene((placed,), draw_background(rng, colour, kind))
    phrase = with_article(noun(code))
    return _Ask(prompt=f"{phrase} on {ground}", scene=scene, details={"phrases": [phrase, ground]})


def _spatial(rng: np.random.Generator, stock: _Stock) -> _Ask | None:
    relation = choose(rng, list(SAID))
    things = stock.alike(rng, choose(rng, stock.codes), choose(rng, stock.codes))
    return None if things is None else _related(rng, stock, things, relation, said=SAID[relation])


def _deep(rng: np.random.Generator, stock: _Stock) -> _Ask | None:
    things = stock.alike(rng, choose(rng, stock.codes), choose(rng, stock.codes))
    if things is None:
        return None
    ask = _related(rng, stock, things, "front", said=("in front of", "in front of"))
    if ask is None or rng.random() < 0.5:
        return ask
    near, far = ask.details["things"]
    turned = {"things": [far, near], "relation": "behind"}
    return replace(ask, prompt=f"{with_article(far)} behind {with_article(near)}", details=turned)


def _numbers(rng: np.random.Generator, stock: _Stock) -> _Ask | None:
    """One to three kinds of things with their numbers; the first never met the background."""
    counts = choose(rng, _COUNTS)
    code, colour = choose(rng, stock.before)
    kinds = stock.alike(rng, code, *(choose(rng, stock.codes) for _ in counts[1:]))
    if kinds is None:
        return None
    phrases = [several(spelled(count), thing, None) for thing, count in zip(kinds, counts, strict=True)]
    told = [[noun(thing.concept), count] for thing, count in zip(kinds, counts, strict=True)]
    things = [thing for thing, count in zip(kinds, counts, strict=True) for _ in range(count)]
    prompt = f"{joined(phrases)} on {with_article(f'{colour} background')}"
    return _several(rng, stock, things, prompt, {"quantities": told}, colour)


def _others(rng: np.random.Generator, stock: _Stock) -> _Ask | None:
    """A thing inside a shape, or between two others."""
    if rng.random() < 0.5:
        things = stock.alike(rng, choose(rng, stock.codes))
        if things is None:
            return None
        shape = Thing(choose(rng, CONTAINERS), SHAPE, choose(rng, COLOURS), 0.5, 0.5, 0.5)
        if visible_colour(things[0], stock.atlas) == shape.colour:
            return None
        return _related(rng, stock, [*things, shape], "inside", said=("inside", "inside"))
    things = stock.alike(rng, *(choose(rng, stock.codes) for _ in range(3)))
    return None if things is None else _related(rng, stock, things, "between", said=("between", "between"))


def _complex(rng: np.random.Generator, stock: _Stock) -> _Ask | None:
    """Two things in colours they never had, one beside, above or below the other."""
    relation = choose(rng, list(SAID))
    pair = _two_coloured(rng, stock)
    if pair is None:
        return None
    ask = _related(rng, stock, pair, relation, said=SAID[relation])
    if ask is None:
        return None
    phrases = [with_article(noun(thing.concept, thing.colour)) for thing in pair]
    said = f" {SAID[relation][0]} "
    told = {**ask.details, "phrases": phrases, "kind": "spatialaction", "text": ask.prompt}
    return replace(ask, prompt=said.join(phrases), details=told)


def _two_coloured(rng: np.random.Generator, stock: _Stock) -> list[Thing] | None:
    """Draw two things of one style in different colours, which they never had."""
    (first, one), (second, other) = choose(rng, stock.coloured), choose(rng, stock.coloured)
    if first.style != second.style or first.concept == second.concept or one == other:
        return None
    return [replace(first, colour=one), replace(second, colour=other)]


def _several(
    rng: np.random.Generator,
    stock: _Stock,
    things: Sequence[Thing],
    prompt: str,
    told: Mapping[str, Any],
    colour: str | None = None,
) -> _Ask | None:
    behind = stock.behind(rng, things, colour)
    if behind is None:
        return None
    placed = place_many(rng, things, stock.atlas, ground=False)
    return _Ask(prompt=prompt, scene=Scene(placed, draw_background(rng, behind, "solid")), details=told)


def _related(
    rng: np.random.Generator,
    stock: _Stock,
    things: Sequence[Thing],
    relation: Relation,
    *,
    said: tuple[str, str],
) -> _Ask | None:
    """Return things in a relation that the first never had to the others; None where it is not held out."""
    codes = [thing.concept for thing in things]
    colour = stock.behind(rng, things)
    assert colour is not None
    placed = place_related(rng, things, relation, stock.atlas, ground=False)
    scene = Scene(placed, draw_background(rng, colour, "solid"), relation)
    coloured = any(thing.colour is not None and thing.style != SHAPE for thing in things)
    if not coloured and not any(is_held_out(*one) for one in combinations(scene) if one[0] == "relation"):
        return None
    names = [with_article(noun(code)) for code in codes]
    told = {"things": [noun(code) for code in codes], "relation": said[1]}
    return _Ask(prompt=f"{names[0]} {said[0]} {joined(names[1:])}", scene=scene, details=told)


_DRAWN: Final[Mapping[Category, _Draw]] = {
    "color": _colour,
    "shape": _shape,
    "texture": _texture,
    "spatial": _spatial,
    "3d_spatial": _deep,
    "numeracy": _numbers,
    "non_spatial": _others,
    "complex": _complex,
}
