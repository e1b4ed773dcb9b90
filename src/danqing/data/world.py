"""The drawn world: a scene is a state first, then a picture.

A `Scene` says which things stand where, in which style and colour, on what background; `render` draws exactly
that and `captions` words exactly that, so pictures and texts cannot disagree. Positions and sizes are
fractions of the picture's side, x to the right, y down; a thing's place is the centre of its box.

Five in a hundred combinations are held out by a hash: they are never drawn for training and measure whether a
model composes what it has learnt apart.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import product
from typing import Final, Literal

import numpy as np
from PIL import Image

from danqing.data.atlas import Atlas, packaged_atlas
from danqing.data.colours import COLOURS, dye, hsv_to_rgb, paint, paint_plain
from danqing.data.concepts import concepts, with_article
from danqing.errors import DataError

Split = Literal["train", "held_out"]
BackgroundKind = Literal["solid", "gradient", "radial", "ground"]
SceneKind = Literal["single", "count", "pair"]
Relation = Literal["left", "right", "above", "below"]

RELATIONS: Final[tuple[Relation, ...]] = ("left", "right", "above", "below")
OPPOSITE: Final[dict[Relation, Relation]] = {
    "left": "right",
    "right": "left",
    "above": "below",
    "below": "above",
}
HELD_OUT_SHARE: Final = 0.05

_KINDS: Final[tuple[SceneKind, ...]] = ("single", "count", "pair")
KIND_SHARES: Final = (0.45, 0.20, 0.35)
"""How often a drawn scene shows one thing, several of a kind, two in a relation."""
_BACKGROUNDS: Final[tuple[BackgroundKind, ...]] = ("solid", "gradient", "radial", "ground")
_BACKGROUND_SHARES: Final = (0.35, 0.55, 0.75, 1.0)
_DYED_SHARE: Final = 0.35  # of the things that can be dyed; a quarter of all things
_SMALL_SHARE: Final = 0.1


@dataclass(frozen=True, slots=True)
class Thing:
    """One thing of a scene."""

    concept: str
    """Code of a concept, as in "1F34E"."""
    style: str
    """Style word of the atlas."""
    colour: str | None
    """The colour it was dyed with; None keeps its own colours."""
    size: float
    """Longest side of its content, as a fraction of the picture."""
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Background:
    """What things stand before, or on."""

    colour: str
    """Colour word of the background; of the plane when `kind` is "ground"."""
    kind: BackgroundKind
    rgb: tuple[int, int, int]
    """The shade drawn, a shade of `colour`."""
    pale: tuple[int, int, int]
    """The wall above a ground; unused otherwise."""
    horizon: float
    """Where the wall ends, as a fraction from the top; unused without ground."""

    @classmethod
    def plain(cls, colour: str, kind: BackgroundKind = "solid") -> "Background":
        """Return the background in the middle shade of a colour word."""
        return cls(
            colour, kind, paint_plain(colour), (214, 217, 222) if colour == "white" else (240, 238, 234), 0.6
        )


@dataclass(frozen=True, slots=True)
class Scene:
    """A whole picture as a state. In a pair, the first thing is `relation` of the second."""

    things: tuple[Thing, ...]
    background: Background
    kind: SceneKind
    relation: Relation | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One held-out evaluation item: the concept never met this background colour in training."""

    prompt: str
    concept: str
    background: str
    scene: Scene


@lru_cache(maxsize=1 << 18)
def is_held_out(axis: str, *parts: str) -> bool:
    """Tell whether a combination is held out: the first 64 bits of its sha256 fall into the lowest 5 %."""
    return _rank(axis, *parts) < HELD_OUT_SHARE * 2**64


def combinations(scene: Scene) -> Iterator[tuple[str, ...]]:
    """Yield the combinations of a scene that may be held out, each as (axis, parts...)."""
    for thing in dict.fromkeys(scene.things):
        yield "background", thing.concept, scene.background.colour
        yield "style", thing.concept, thing.style
        if thing.colour is not None:
            yield "colour", thing.concept, thing.colour
    if scene.relation is not None:
        first, second = (thing.concept for thing in scene.things)
        if scene.relation in ("right", "below"):  # "a right of b" is "b left of a"
            first, second = second, first
        yield "relation", first, "left" if scene.relation in ("left", "right") else "above", second


def contains_held_out(scene: Scene) -> bool:
    """Tell whether any combination of a scene is held out."""
    return any(is_held_out(*combination) for combination in combinations(scene))


def held_out_prompts(n: int, atlas: Atlas | None = None) -> list[Prompt]:
    """Return the first `n` held-out (concept, background colour) pairs by hash order, as prompts with their
    scene.

    Each prompt reads "a dog on a purple background"; style is not said, the scene shows one that is not held
    out. Pairs where a thing would vanish into its own colour are left out. The order does not depend on `n`,
    nor on which atlas is given (the packaged one by default). Raises DataError when there are fewer than `n`.
    """
    atlas = atlas if atlas is not None else packaged_atlas()
    ranked = sorted(
        (_rank("background", code, colour), code, colour)
        for code, colour in product(concepts(), COLOURS)
        if is_held_out("background", code, colour)
    )
    prompts: list[Prompt] = []
    for _, code, colour in ranked:
        if len(prompts) == n:
            return prompts
        style = next(
            (
                s
                for s in atlas.styles
                if not is_held_out("style", code, s) and atlas.facts(code, s).colour != colour
            ),
            None,
        )
        if style is not None:
            things = (Thing(code, style, None, 0.7, 0.5, 0.5),)
            scene = Scene(things, Background.plain(colour), "single", None)
            text = f"{concepts()[code].indefinite} on {with_article(colour)} background"
            prompts.append(Prompt(prompt=text, concept=code, background=colour, scene=scene))
    if len(prompts) < n:
        raise DataError(f"expected {n} held-out prompts, found {len(prompts)}; ask for fewer")
    return prompts


def _rank(*parts: str) -> int:
    return int.from_bytes(hashlib.sha256("|".join(parts).encode()).digest()[:8], "big")


def sample_scene(
    rng: np.random.Generator,
    atlas: Atlas,
    split: Split = "train",
    *,
    shares: tuple[float, float, float] = KIND_SHARES,
) -> Scene:
    """Draw a scene: one thing, two or three of the same, or two things in a relation, as often as `shares`.

    With split "train" no held-out combination occurs; with "held_out" at least one does. The same generator
    state and atlas give the same scene.
    """
    if split not in ("train", "held_out"):
        raise DataError(f"expected split 'train' or 'held_out', found {split!r}")
    while True:
        scene = _draw(rng, atlas, shares)
        if contains_held_out(scene) == (split == "held_out"):
            return scene


def draw_background(rng: np.random.Generator, colour: str, kind: BackgroundKind) -> Background:
    """Draw a background: a shade of the colour word and, for a ground, a pale wall that differs from it."""
    hue, saturation, value = rng.random(3)
    light = 0.8 + 0.06 * value if colour == "white" else 0.91 + 0.07 * value
    pale = hsv_to_rgb(360 * hue, 0.02 + 0.06 * saturation, light)
    return Background(colour, kind, paint(colour, rng), pale, round(0.52 + 0.12 * rng.random(), 4))


def _draw(rng: np.random.Generator, atlas: Atlas, shares: tuple[float, float, float]) -> Scene:
    kind = _KINDS[_pick(rng, (shares[0], shares[0] + shares[1], 1.0))]
    ground = _BACKGROUNDS[_pick(rng, _BACKGROUND_SHARES)]
    colour = COLOURS[rng.integers(len(COLOURS))]
    style = atlas.styles[rng.integers(len(atlas.styles))]
    count = {"single": 1, "count": int(rng.integers(2, 4)), "pair": 2}[kind]
    codes = _draw_codes(rng, atlas, kind, count)
    things = tuple(Thing(code, style, None, 0.5, 0.5, 0.5) for code in codes)
    dyes = {code: _draw_dye(rng, atlas, code, style, colour) for code in dict.fromkeys(codes)}
    # a thing in the colour of its background would vanish: move on to the next colour word
    while any((dyes[code] or atlas.facts(code, style).colour) == colour for code in codes):
        colour = COLOURS[(COLOURS.index(colour) + 1) % len(COLOURS)]
    things = tuple(replace(thing, colour=dyes[thing.concept]) for thing in things)
    relation = RELATIONS[rng.integers(4)] if kind == "pair" else None
    if ground == "ground" and relation in ("above", "below"):
        ground = "solid"
    background = draw_background(rng, colour, ground)
    return Scene(
        place_things(rng, atlas, things, kind, relation, ground == "ground"), background, kind, relation
    )


def _draw_codes(rng: np.random.Generator, atlas: Atlas, kind: SceneKind, count: int) -> list[str]:
    if kind == "pair":
        first, offset = rng.integers(len(atlas.codes)), rng.integers(1, len(atlas.codes))
        return [atlas.codes[first], atlas.codes[(first + offset) % len(atlas.codes)]]
    return [atlas.codes[rng.integers(len(atlas.codes))]] * count


def _draw_dye(rng: np.random.Generator, atlas: Atlas, code: str, style: str, background: str) -> str | None:
    dyes = [word for word in atlas.facts(code, style).dyes if word != background]
    wanted, at = rng.random(2)
    return dyes[int(at * len(dyes))] if dyes and wanted < _DYED_SHARE else None


def _pick(rng: np.random.Generator, cumulative: tuple[float, ...]) -> int:
    return int(np.searchsorted(cumulative, rng.random(), side="right"))


def place_things(
    rng: np.random.Generator,
    atlas: Atlas,
    things: tuple[Thing, ...],
    kind: SceneKind,
    relation: Relation | None,
    ground: bool,
) -> tuple[Thing, ...]:
    """Give things their sizes and places: apart, inside the picture, on the ground if there is one."""
    size, spots = _layout(rng, kind, relation, len(things), ground)
    baseline = 0.78 + 0.06 * rng.random()
    placed = []
    for thing, (x, y) in zip(things, spots, strict=True):
        scale = size * (0.92 + 0.08 * rng.random()) if kind == "pair" else size
        width, height = (scale * side for side in atlas.extent(thing.concept, thing.style))
        dx, dy = (0.03 if kind == "pair" else 0.05) * (rng.random(2) - 0.5)
        x = min(max(x + dx, width / 2 + 0.02), 0.98 - width / 2)
        y = (
            max(baseline, height + 0.05) - height / 2
            if ground
            else min(max(y + dy, height / 2 + 0.02), 0.98 - height / 2)
        )
        placed.append(replace(thing, size=round(scale, 4), x=round(float(x), 4), y=round(float(y), 4)))
    return tuple(placed)


def _layout(
    rng: np.random.Generator, kind: SceneKind, relation: Relation | None, count: int, ground: bool
) -> tuple[float, list[tuple[float, float]]]:
    small, at = rng.random(2)
    if kind == "single":
        return 0.28 + 0.1 * at if small < _SMALL_SHARE else 0.55 + 0.3 * at, [(0.5, 0.5)]
    if relation is not None:
        near, far = 0.265, 0.735
        first, second = {
            "left": ((near, 0.5), (far, 0.5)),
            "right": ((far, 0.5), (near, 0.5)),
            "above": ((0.5, near), (0.5, far)),
            "below": ((0.5, far), (0.5, near)),
        }[relation]
        return 0.39 + 0.07 * at, [first, second]
    if count == 2:
        return 0.38 + 0.06 * at, [(0.265, 0.5), (0.735, 0.5)]
    if ground or small < 0.5:
        return 0.26 + 0.04 * at, [(0.175, 0.5), (0.5, 0.5), (0.825, 0.5)]
    return 0.37 + 0.05 * at, [(0.5, 0.27), (0.265, 0.735), (0.735, 0.735)]


def render(scene: Scene, atlas: Atlas, size: int = 128) -> np.ndarray:
    """Draw a scene as (size, size, 3) uint8 RGB. The same scene and atlas give the same bytes."""
    canvas = Image.fromarray(_paint_background(scene.background, size))
    if scene.background.kind == "ground":
        for thing in scene.things:
            _cast_shadow(canvas, thing, atlas, size)
    for thing in scene.things:
        side = max(2, round(thing.size * size))
        sprite = Image.fromarray(atlas.sprite(thing.concept, thing.style))
        sprite = sprite.resize((side, side), Image.Resampling.BICUBIC)
        if thing.colour is not None:
            hue = atlas.facts(thing.concept, thing.style).hue
            if hue is None:
                raise DataError(
                    f"expected a thing with a dominant hue, found {thing.concept} in style {thing.style!r}"
                )
            sprite = dye(sprite, hue, thing.colour)
        canvas.paste(sprite, (round(thing.x * size - side / 2), round(thing.y * size - side / 2)), sprite)
    return np.array(canvas)


def _paint_background(background: Background, size: int) -> np.ndarray:
    rgb = np.array(background.rgb, np.float32)
    if background.kind == "solid":
        return np.broadcast_to(rgb.astype(np.uint8), (size, size, 3)).copy()
    light, dark = rgb + 0.16 * (255 - rgb), rgb * 0.9
    if background.kind == "ground":
        ramp = np.clip((np.arange(size, dtype=np.float32) / size - background.horizon) / 0.45, 0, 1)[:, None]
        rows = light + ramp * (rgb - light)
        rows[: round(background.horizon * size)] = background.pale
        return np.repeat(rows[:, None].astype(np.uint8), size, 1)
    return (light + _ramp(background.kind, size) * (dark - light)).astype(np.uint8)


@cache
def _ramp(kind: str, size: int) -> np.ndarray:
    """Return (size, size, 1) float32 from 0, light, to 1, dark."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    if kind == "gradient":
        return np.repeat(axis[:, None], size, 1)[..., None]
    distance = np.hypot(axis[:, None] - 0.5, axis[None] - 0.5)
    return np.clip(distance / 0.7, 0, 1)[..., None].astype(np.float32)


def _cast_shadow(canvas: Image.Image, thing: Thing, atlas: Atlas, size: int) -> None:
    width, height = (thing.size * side for side in atlas.extent(thing.concept, thing.style))
    box = (max(2, round(1.15 * width * size)), max(2, round(0.26 * width * size)))
    mask = _shadow().resize(box, Image.Resampling.BILINEAR)
    corner = (round(thing.x * size - box[0] / 2), round((thing.y + height / 2) * size - 0.62 * box[1]))
    canvas.paste((20, 20, 28), (*corner, corner[0] + box[0], corner[1] + box[1]), mask)


@cache
def _shadow() -> Image.Image:
    axis = np.linspace(-1, 1, 64)
    distance = np.hypot(axis[:, None], axis[None])
    return Image.fromarray((np.clip(1 - distance, 0, 1) ** 1.5 * 140).astype(np.uint8))
