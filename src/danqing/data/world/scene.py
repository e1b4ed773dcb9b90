"""What a scene is: things, words, a face, a background, and how they stand to each other.

A scene is a value. `render` draws exactly that and `caption` words exactly that, so pictures and texts
cannot disagree. Positions and sizes are fractions of the picture's side, x to the right, y down; the place of
an item is the centre of its box.
"""

from dataclasses import dataclass
from typing import Final, Literal

from danqing.data.colours import paint_plain

BackgroundKind = Literal["solid", "gradient", "radial", "ground", "stripes", "dots", "checks"]
SceneKind = Literal["single", "count", "group", "pair", "between", "words", "portrait"]
Relation = Literal["left", "right", "above", "below", "inside", "front", "between"]
Board = Literal["sign", "poster", "sticker", "none"]

RELATIONS: Final[tuple[Relation, ...]] = ("left", "right", "above", "below", "inside", "front", "between")
OPPOSITE: Final[dict[Relation, Relation]] = {
    "left": "right",
    "right": "left",
    "above": "below",
    "below": "above",
}
"""Relations that read the other way round with the things exchanged."""
TEXTURES: Final[tuple[BackgroundKind, ...]] = ("stripes", "dots", "checks")
SHAPE: Final = "shape"
"""The style of plain shapes, whose concepts are no emoji but "shape-circle" and so on."""


@dataclass(frozen=True, slots=True)
class Thing:
    """One thing of a scene."""

    concept: str
    """Code of a concept, as in "1F34E" or "shape-circle"."""
    style: str
    """Style word of the atlas, or `SHAPE`."""
    colour: str | None
    """The colour it was dyed with; None keeps its own colours. A shape always has one."""
    size: float
    """Longest side of its content, as a fraction of the picture."""
    x: float
    y: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """A written word or two lines of them, on a board or straight on the background."""

    lines: tuple[str, ...]
    """One line or two, as written."""
    font: str
    """Name of a font of the package."""
    ink: str
    """Colour word of the letters."""
    ink_rgb: tuple[int, int, int]
    board: Board
    board_colour: str | None
    """Colour word of the board; None without one."""
    board_rgb: tuple[int, int, int]
    """The shade drawn; unused without a board."""
    size: float
    """Longest side of board or letters, as a fraction of the picture."""
    x: float
    y: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Portrait:
    """A drawn head with shoulders; every attribute can be seen, so every one can be said."""

    skin: str
    hair: str
    hair_colour: str
    """Colour word; of the hair, whatever the hair style; unused when bald."""
    glasses: str
    hat: str
    hat_colour: str
    """Colour word; unused without a hat."""
    beard: bool
    mouth: str
    shirt: str
    """Colour word of the clothes."""
    size: float
    x: float
    y: float


Item = Thing | Words | Portrait


@dataclass(frozen=True, slots=True)
class Background:
    """What things stand before, or on."""

    colour: str
    """Colour word of the background; of the plane when `kind` is "ground"."""
    kind: BackgroundKind
    rgb: tuple[int, int, int]
    """The shade drawn, a shade of `colour`."""
    pale: tuple[int, int, int]
    """The wall above a ground; the second tone of a texture, a shade of `colour` too; unused otherwise."""
    horizon: float
    """Where the wall ends, as a fraction from the top; unused without ground."""
    period: float = 0.125
    """Width of one repeat of a texture, as a fraction of the picture; unused otherwise."""

    @classmethod
    def plain(cls, colour: str, kind: BackgroundKind = "solid") -> "Background":
        """Return the background in the middle shade of a colour word."""
        rgb = paint_plain(colour)
        if kind in TEXTURES:
            return cls(colour, kind, rgb, second_tone(rgb), 0.6)
        return cls(colour, kind, rgb, (214, 217, 222) if colour == "white" else (240, 238, 234), 0.6)


@dataclass(frozen=True, slots=True)
class Scene:
    """A whole picture as a state.

    With a relation, the first thing is `relation` of the second: "left" of it, "inside" it, in "front" of it,
    or "between" the second and the third.
    """

    things: tuple[Thing, ...]
    background: Background
    relation: Relation | None = None
    words: Words | None = None
    portrait: Portrait | None = None

    @property
    def kind(self) -> SceneKind:
        """Which pattern a caption follows."""
        if self.portrait is not None:
            return "portrait"
        if self.words is not None:
            return "words"
        if self.relation is not None:
            return "between" if self.relation == "between" else "pair"
        if len(self.things) == 1:
            return "single"
        return "count" if len(self.groups) == 1 else "group"

    @property
    def groups(self) -> tuple[tuple[Thing, int], ...]:
        """Things that differ in concept or colour, in order, each with how many there are of it."""
        first: dict[tuple[str, str | None], Thing] = {}
        counts: dict[tuple[str, str | None], int] = {}
        for thing in self.things:
            key = (thing.concept, thing.colour)
            first.setdefault(key, thing)
            counts[key] = counts.get(key, 0) + 1
        return tuple((first[key], count) for key, count in counts.items())

    @property
    def items(self) -> tuple[Item, ...]:
        """Everything to paint, from the back to the front: what is first in a relation lies on top."""
        extra = tuple(item for item in (self.words, self.portrait) if item is not None)
        return (*reversed(self.things), *extra)


def second_tone(rgb: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return a near tone of the same colour word, for textures: lighter when dark, darker when light."""
    dark = sum(rgb) < 3 * 110
    return tuple(round(c + (255 - c) * 0.1) if dark else round(c * 0.91) for c in rgb)  # type: ignore[return-value]
