"""Portraits: a friendly flat face with shoulders, drawn here from a few attributes that can all be seen."""

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import cache, lru_cache
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from danqing.data.colours import COLOURS, paint_plain
from danqing.data.world.scene import Portrait
from danqing.data.world.shapes import SIDE
from danqing.errors import DataError

SKINS: Final = ("light", "medium", "dark")
HAIR: Final = ("short", "long", "curly", "bald", "bun", "spiky")
GLASSES: Final = ("none", "round", "square", "sunglasses")
HATS: Final = ("none", "cap", "beanie", "top hat")
MOUTHS: Final = ("smiling", "sad", "surprised", "neutral")

_UNDER_HATS: Final = ("short", "long", "curly", "bald")  # hair that can be told below a hat
_NATURAL: Final = ("black", "brown", "yellow", "orange", "gray", "white")
_DYED: Final = ("blue", "pink", "green", "purple")
_DYED_SHARE: Final = 0.2
_HATLESS_SHARE, _UNGLASSED_SHARE, _BEARDED_SHARE = 0.5, 0.45, 0.3
_SMALLEST, _LARGEST = 0.8, 0.92

_SKIN_RGB: Final = {"light": (252, 216, 184), "medium": (217, 160, 112), "dark": (138, 86, 58)}
_INK: Final = (38, 32, 36)
_LIPS: Final = {"light": (158, 40, 52), "medium": (146, 34, 44), "dark": (238, 132, 130)}
_MOUTH: Final = (92, 16, 28)
_STUBBLE: Final = (62, 48, 42)  # the beard of a bald head
_FINE: Final = 4 * SIDE
_BRIM: Final = 0.36  # where a hat ends; hair above it is under the hat
_HEAD: Final = (0.26, 0.21, 0.74, 0.8)

Rgb = tuple[int, int, int]
Box = tuple[float, float, float, float]
"""Left, top, right and bottom in the unit square."""


def sample_portrait(rng: np.random.Generator, avoid: Collection[str] = ()) -> Portrait:
    """Draw a portrait that stands on the lower edge; neither shirt nor hat nor hair has a colour of `avoid`.

    A hat never has the colour of the hair. Raises DataError when `avoid` leaves no colour.
    """
    hat = "none" if rng.random() < _HATLESS_SHARE else _choose(rng, HATS[1:])
    hair = _choose(rng, HAIR if hat == "none" else _UNDER_HATS)
    skin = _choose(rng, SKINS)
    hair_colour = _hair_colour(rng, {*avoid, *(("brown",) if skin == "dark" else ())})
    hair_colour = "black" if hair == "bald" else hair_colour
    worn = _choose(rng, [word for word in COLOURS if word not in avoid and word != hair_colour])
    portrait = Portrait(
        skin=skin,
        hair=hair,
        hair_colour=hair_colour,
        glasses="none" if rng.random() < _UNGLASSED_SHARE else _choose(rng, GLASSES[1:]),
        hat=hat,
        hat_colour="black" if hat == "none" else worn,
        beard=bool(rng.random() < _BEARDED_SHARE),
        mouth=_choose(rng, MOUTHS),
        shirt=_choose(rng, [word for word in COLOURS if word not in avoid]),
        size=round(_SMALLEST + (_LARGEST - _SMALLEST) * float(rng.random()), 4),
        x=0.5,
        y=0.5,
    )
    width, height = (portrait.size * side for side in portrait_extent(portrait))
    x = width / 2 + (1 - width) * (0.25 + 0.5 * float(rng.random()))
    return replace(portrait, x=round(x, 4), y=round(1 - height / 2, 4))


def portrait_colours(portrait: Portrait) -> frozenset[str]:
    """Return the colour words that a portrait shows, in which it would vanish into a background."""
    words = {portrait.shirt}
    if portrait.hair != "bald":
        words.add(portrait.hair_colour)
    if portrait.hat != "none":
        words.add(portrait.hat_colour)
    return frozenset(words | ({"brown"} if portrait.skin == "dark" else set()))


def portrait_tile(portrait: Portrait) -> np.ndarray:
    """Return a portrait, (SIDE, SIDE, 4) uint8 RGBA; place and size do not matter. Do not write to it.

    The shoulders span the tile. Raises DataError for an attribute that is not among the words of this module.
    """
    return _drawn(_appearance(portrait))


def portrait_extent(portrait: Portrait) -> tuple[float, float]:
    """Return width and height of a portrait as fractions of its tile; the larger one is 1."""
    return _measured(portrait.hair, portrait.hat)


def _appearance(portrait: Portrait) -> Portrait:
    """Return a portrait without what cannot be seen of it, so that those that look alike are equal."""
    return replace(
        portrait,
        size=1.0,
        x=0.5,
        y=0.5,
        hair_colour="black" if portrait.hair == "bald" else portrait.hair_colour,
        hat_colour="black" if portrait.hat == "none" else portrait.hat_colour,
    )


@cache
def _measured(hair: str, hat: str) -> tuple[float, float]:
    """Measure any portrait with this hair and this hat: nothing else reaches the outline."""
    opaque = _drawn(replace(_MODEL, hair=hair, hat=hat))[..., 3] > 12
    return float(opaque.any(0).sum() / SIDE), float(opaque.any(1).sum() / SIDE)


_MODEL: Final = Portrait(
    skin="light",
    hair="bald",
    hair_colour="black",
    glasses="none",
    hat="none",
    hat_colour="black",
    beard=False,
    mouth="neutral",
    shirt="blue",
    size=1.0,
    x=0.5,
    y=0.5,
)


@lru_cache(maxsize=512)
def _drawn(portrait: Portrait) -> np.ndarray:
    _check(portrait)
    skin = _SKIN_RGB[portrait.skin]
    pen = _Pen(Image.new("RGBA", (_FINE, _FINE)))
    hair = _Pen(Image.new("RGBA", (_FINE, _FINE)))
    if portrait.hair != "bald":
        _back_hair(pen, portrait, _hair_rgb(portrait))
        _front_hair(hair, portrait, _hair_rgb(portrait))
    _shoulders(pen, skin, paint_plain(portrait.shirt))
    _face(pen, skin)
    if portrait.beard:
        _beard(pen, portrait, skin)
    pen.paste(hair, _BRIM if portrait.hat != "none" else 0.0)
    _mood(pen, portrait.mouth, skin, _LIPS[portrait.skin])
    _glasses(pen, portrait.glasses)
    _hat(pen, portrait.hat, paint_plain(portrait.hat_colour))
    return _centred(pen.picture)


def _check(portrait: Portrait) -> None:
    words = {"skin": SKINS, "hair": HAIR, "glasses": GLASSES, "hat": HATS, "mouth": MOUTHS}
    words |= {"hair_colour": COLOURS, "hat_colour": COLOURS, "shirt": COLOURS}
    for name, allowed in words.items():
        if (found := getattr(portrait, name)) not in allowed:
            raise DataError(f"expected {name} of {list(allowed)}, found {found!r}")


def _centred(picture: Image.Image) -> np.ndarray:
    """Move the content up to the middle of the tile; its width fills it already."""
    _, top, _, bottom = picture.getchannel("A").getbbox() or (0, 0, _FINE, _FINE)
    moved = Image.new("RGBA", picture.size)
    moved.paste(picture, (0, (_FINE - top - bottom) // 2))
    # premultiplied, so that edges do not darken
    small = moved.convert("RGBa").resize((SIDE, SIDE), Image.Resampling.BOX).convert("RGBA")
    pixels = np.array(small)
    pixels.setflags(write=False)
    return pixels


def _choose(rng: np.random.Generator, choices: Sequence[str]) -> str:
    if not choices:
        raise DataError("expected a colour that may be worn, found none; avoid fewer colours")
    return choices[int(rng.integers(len(choices)))]


def _hair_colour(rng: np.random.Generator, avoid: Collection[str]) -> str:
    first, second = (_DYED, _NATURAL) if rng.random() < _DYED_SHARE else (_NATURAL, _DYED)
    left = [word for word in first if word not in avoid] or [word for word in second if word not in avoid]
    return _choose(rng, left)


class _Pen:
    """Draws in the unit square."""

    def __init__(self, picture: Image.Image) -> None:
        self.picture = picture
        self._draw = ImageDraw.Draw(picture)

    def oval(self, box: Box, fill: Rgb | None, line: Rgb | None = None, width: float = 0.0) -> None:
        """Draw an ellipse inside a box."""
        self._draw.ellipse(_fine(box), fill, line, round(width * _FINE))

    def block(self, box: Box, fill: Rgb | None, round_by: float = 0.0, line: Rgb | None = None) -> None:
        """Draw a rectangle, its corners round; a line is as thick as the frames of glasses."""
        thick = round(_FRAME * _FINE) if line else 0
        self._draw.rounded_rectangle(_fine(box), round_by * _FINE, fill, line, thick)

    def polygon(self, points: Sequence[tuple[float, float]], fill: Rgb) -> None:
        """Fill a polygon."""
        self._draw.polygon([(x * (_FINE - 1), y * (_FINE - 1)) for x, y in points], fill)

    def slice(self, box: Box, start: float, end: float, fill: Rgb) -> None:
        """Fill a part of an ellipse cut off by a straight line, between angles in degrees, clockwise."""
        self._draw.chord(_fine(box), start, end, fill)

    def stroke(self, points: Sequence[tuple[float, float]], fill: Rgb, width: float) -> None:
        """Draw a line with round ends."""
        fine = [(x * (_FINE - 1), y * (_FINE - 1)) for x, y in points]
        self._draw.line(fine, fill, round(width * _FINE), "curve")
        for x, y in (points[0], points[-1]):
            self.oval((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill)

    def paste(self, other: "_Pen", top: float) -> None:
        """Lay another drawing over this one, what lies below `top` of it."""
        rows = (0, round(top * _FINE), _FINE, _FINE)
        part = other.picture.crop(rows)
        self.picture.paste(part, rows[:2], part)


_FRAME: Final = 0.022


def _fine(box: Box) -> tuple[float, ...]:
    return tuple(edge * (_FINE - 1) for edge in box)


def _shade(rgb: Rgb, factor: float) -> Rgb:
    """Darken a colour by a factor below 1; lighten it towards white by what is above 1."""
    if factor > 1:
        red, green, blue = (round(c + (255 - c) * (factor - 1)) for c in rgb)
    else:
        red, green, blue = (round(c * factor) for c in rgb)
    return red, green, blue


def _relief(rgb: Rgb, strength: float) -> Rgb:
    """Return a tone that shows on a colour: darker, or lighter where it is dark."""
    return _shade(rgb, 1 + strength) if sum(rgb) < 3 * 60 else _shade(rgb, 1 - strength)


def _hair_rgb(portrait: Portrait) -> Rgb:
    return paint_plain(portrait.hair_colour)


def _arc(box: Box, start: float, end: float, steps: int = 24) -> list[tuple[float, float]]:
    """Return points on an ellipse between angles in degrees, clockwise from the right."""
    left, top, right, bottom = box
    angles = [math.radians(start + (end - start) * step / steps) for step in range(steps + 1)]
    return [
        (
            (left + right) / 2 + (right - left) / 2 * math.cos(a),
            (top + bottom) / 2 + (bottom - top) / 2 * math.sin(a),
        )
        for a in angles
    ]


def _shoulders(pen: _Pen, skin: Rgb, shirt: Rgb) -> None:
    pen.block((0.0, 0.82, 1.0, 1.4), shirt, 0.17)
    pen.block((0.4, 0.7, 0.6, 0.86), _shade(skin, 0.84))
    pen.oval((0.385, 0.79, 0.615, 0.92), _relief(shirt, 0.28))
    pen.oval((0.4, 0.77, 0.6, 0.895), _shade(skin, 0.84))
    for x in (0.17, 0.83):
        pen.stroke([(x, 0.93), (x, 1.02)], _relief(shirt, 0.28), 0.014)


def _face(pen: _Pen, skin: Rgb) -> None:
    for left, right in ((0.21, 0.31), (0.69, 0.79)):
        pen.oval((left, 0.46, right, 0.6), _shade(skin, 0.9))
    pen.oval(_HEAD, skin)
    pen.stroke(_arc((0.47, 0.53, 0.53, 0.6), 20, 160), _shade(skin, 0.72), 0.016)


def _back_hair(pen: _Pen, portrait: Portrait, rgb: Rgb) -> None:
    """Draw what of the hair lies behind the head."""
    if portrait.hair == "long":
        pen.block((0.17, 0.15, 0.83, 0.93), _shade(rgb, 0.86), 0.28)
        pen.block((0.17, 0.5, 0.83, 0.95), _shade(rgb, 0.86), 0.06)
    if portrait.hair == "curly":
        for step in range(13):
            turn = math.radians(150 + 240 * step / 12)
            x, y = 0.5 + 0.29 * math.cos(turn), 0.44 + 0.28 * math.sin(turn)
            if portrait.hat == "none" or y > _BRIM:
                pen.oval((x - 0.1, y - 0.1, x + 0.1, y + 0.1), _shade(rgb, 0.86))
    if portrait.hair == "bun" and portrait.hat == "none":
        pen.oval((0.36, 0.0, 0.64, 0.25), rgb)
        pen.stroke(_arc((0.39, 0.03, 0.61, 0.25), 200, 320), _relief(rgb, 0.25), 0.014)


def _front_hair(pen: _Pen, portrait: Portrait, rgb: Rgb) -> None:
    """Draw what of the hair frames the face."""
    cap = (0.235, 0.15, 0.765, 0.78)
    if portrait.hair in ("short", "spiky"):
        pen.polygon([*_arc(cap, 175, 365), (0.72, 0.42), (0.64, 0.35), (0.36, 0.35), (0.28, 0.42)], rgb)
    if portrait.hair == "short":
        for side, cheek in ((0.215, 0.3), (0.785, 0.7)):
            pen.polygon(
                [(side, 0.36), (cheek, 0.36), (cheek, 0.47), (0.4 * side + 0.6 * cheek, 0.54), (side, 0.5)],
                rgb,
            )
        pen.polygon([(0.33, 0.34), (0.68, 0.34), (0.62, 0.4), (0.45, 0.37)], rgb)
        pen.stroke([(0.41, 0.2), (0.38, 0.31)], _relief(rgb, 0.25), 0.014)
    if portrait.hair == "spiky":
        for step in range(7):
            turn = math.radians(188 + 164 * step / 6)
            across = turn + math.pi / 2
            root = (0.5 + 0.225 * math.cos(turn), 0.42 + 0.2 * math.sin(turn))
            tip = (0.5 + 0.36 * math.cos(turn), 0.42 + 0.4 * math.sin(turn))
            feet = [
                (root[0] + s * 0.085 * math.cos(across), root[1] + s * 0.085 * math.sin(across))
                for s in (1, -1)
            ]
            pen.polygon([*feet, tip], rgb)
    if portrait.hair in ("long", "bun"):
        pen.polygon(
            [*_arc(cap, 180, 360), (0.715, 0.5), (0.66, 0.36), (0.5, 0.27), (0.34, 0.36), (0.285, 0.5)], rgb
        )
        pen.stroke([(0.5, 0.18), (0.5, 0.265)], _relief(rgb, 0.25), 0.014)
    if portrait.hair == "long":
        for left, right in ((0.17, 0.285), (0.715, 0.83)):
            pen.block((left, 0.4, right, 0.95), rgb, 0.05)
    if portrait.hair == "curly":
        for step in range(7):
            turn = math.radians(185 + 170 * step / 6)
            x, y = 0.5 + 0.21 * math.cos(turn), 0.4 + 0.17 * math.sin(turn)
            pen.oval((x - 0.085, y - 0.085, x + 0.085, y + 0.085), rgb)
            pen.stroke(
                _arc((x - 0.045, y - 0.045, x + 0.045, y + 0.045), 180, 340), _relief(rgb, 0.22), 0.012
            )


def _beard(pen: _Pen, portrait: Portrait, skin: Rgb) -> None:
    rgb = _STUBBLE if portrait.hair == "bald" else _hair_rgb(portrait)
    jaw = _arc((0.25, 0.2, 0.75, 0.86), 5, 175)
    pen.polygon([*jaw, (0.3, 0.58), (0.36, 0.63), (0.5, 0.61), (0.64, 0.63), (0.7, 0.58)], rgb)
    pen.oval((0.385, 0.635, 0.615, 0.77), skin)


def _mood(pen: _Pen, mouth: str, skin: Rgb, lips: Rgb) -> None:
    """Draw eyes, brows and mouth."""
    brow, lift = _shade(skin, 0.42), 0.035 if mouth == "surprised" else 0.0
    tilt = {"sad": 0.03, "smiling": -0.005}.get(mouth, 0.0)
    for x, way in ((0.395, -1), (0.605, 1)):
        pen.oval((x - 0.032, 0.47, x + 0.032, 0.545), (255, 255, 255))
        pen.oval((x - 0.023, 0.482, x + 0.023, 0.538), _INK)
        inner, outer = (x - way * 0.05, 0.432 - lift - tilt), (x + way * 0.05, 0.436 - lift + tilt)
        pen.stroke([inner, (x, 0.42 - lift), outer], brow, 0.018)
    if mouth == "smiling":
        pen.slice((0.4, 0.6, 0.6, 0.76), 0, 180, lips)
        pen.slice((0.412, 0.615, 0.588, 0.745), 0, 180, _MOUTH)
        pen.slice((0.418, 0.63, 0.582, 0.718), 5, 175, (255, 255, 255))
    elif mouth == "sad":
        pen.stroke(_arc((0.42, 0.685, 0.58, 0.79), 200, 340), lips, 0.024)
    elif mouth == "surprised":
        pen.oval((0.445, 0.645, 0.555, 0.765), lips)
        pen.oval((0.465, 0.668, 0.535, 0.748), _MOUTH)
    else:
        pen.stroke([(0.425, 0.7), (0.575, 0.7)], lips, 0.022)


def _glasses(pen: _Pen, glasses: str) -> None:
    if glasses == "none":
        return
    for x in (0.39, 0.61):
        box = (x - 0.088, 0.425, x + 0.088, 0.6)
        if glasses == "round":
            pen.oval(box, None, _INK, _FRAME)
        elif glasses == "square":
            pen.block((x - 0.09, 0.445, x + 0.09, 0.58), None, 0.012, _INK)
        else:
            pen.block((x - 0.095, 0.44, x + 0.095, 0.58), _INK, 0.05)
            pen.stroke([(x - 0.05, 0.52), (x - 0.015, 0.47)], (132, 136, 148), 0.016)
    height = 0.47 if glasses == "sunglasses" else 0.5
    pen.stroke([(0.48, height), (0.52, height)], _INK, _FRAME)
    for ear, hinge in ((0.255, 0.305), (0.745, 0.695)):
        pen.stroke([(ear, height + 0.005), (hinge, height)], _INK, _FRAME)


def _hat(pen: _Pen, hat: str, rgb: Rgb) -> None:
    dark = _relief(rgb, 0.3)
    if hat == "cap":
        pen.slice((0.22, 0.1, 0.78, 0.64), 180, 360, rgb)
        pen.oval((0.47, 0.085, 0.53, 0.125), dark)
        pen.stroke(_arc((0.38, 0.11, 0.62, 0.6), 200, 340), dark, 0.012)
        pen.slice((0.3, 0.29, 0.96, 0.47), 180, 360, rgb)
        pen.block((0.22, 0.355, 0.96, 0.395), dark, 0.02)
    elif hat == "beanie":
        pen.oval((0.42, 0.0, 0.58, 0.15), dark)
        pen.slice((0.225, 0.08, 0.775, 0.6), 180, 360, rgb)
        pen.block((0.205, 0.29, 0.795, 0.395), rgb, 0.045, dark)
        for step in range(1, 8):
            x = 0.205 + 0.59 * step / 8
            pen.stroke([(x, 0.315), (x, 0.37)], dark, 0.012)
    elif hat == "top hat":
        pen.block((0.285, 0.0, 0.715, 0.38), rgb, 0.025)
        pen.block((0.285, 0.25, 0.715, 0.32), dark)
        pen.block((0.16, 0.32, 0.84, 0.385), rgb, 0.03)
        pen.stroke([(0.19, 0.383), (0.81, 0.383)], dark, 0.01)
