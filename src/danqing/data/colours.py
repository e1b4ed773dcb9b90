"""Eleven colour words: what they look like, how a picture is measured, how a sprite is dyed.

The words are the basic colour terms of Berlin and Kay (1969). A word is claimed only where a reader would
agree: hues between two words (teal, beige, amber) belong to none.
"""

from functools import lru_cache
from typing import Final

import numpy as np
from PIL import Image, ImageChops

COLOURS: Final = (
    "red",
    "orange",
    "yellow",
    "green",
    "blue",
    "purple",
    "pink",
    "brown",
    "white",
    "gray",
    "black",
)
"""The colour words of captions, in the order in which classes are numbered."""

DYES: Final = COLOURS[:7]
"""Colours a sprite can be dyed with: those that are a hue."""

# word: (hue, saturation, value), each a (low, high) range; hue in degrees, the others in 0..1
_PAINT: Final = {
    "red": ((-6, 6), (0.75, 0.95), (0.72, 0.95)),
    "orange": ((24, 33), (0.8, 1.0), (0.9, 1.0)),
    "yellow": ((48, 57), (0.65, 0.95), (0.92, 1.0)),
    "green": ((105, 150), (0.5, 0.85), (0.5, 0.8)),
    "blue": ((205, 228), (0.6, 0.9), (0.62, 0.95)),
    "purple": ((265, 285), (0.5, 0.8), (0.5, 0.8)),
    "pink": ((325, 346), (0.28, 0.5), (0.95, 1.0)),
    "brown": ((18, 30), (0.55, 0.7), (0.38, 0.52)),
    "white": ((0, 360), (0.0, 0.02), (0.96, 1.0)),
    "gray": ((0, 360), (0.0, 0.05), (0.48, 0.65)),
    "black": ((0, 360), (0.0, 0.1), (0.03, 0.12)),
}

# dye: (hue in degrees, smallest and largest median saturation, smallest and largest median value)
_DYE: Final = {
    "red": (0, 0.75, 0.95, 0.7, 0.92),
    "orange": (27, 0.8, 0.95, 0.9, 1.0),
    "yellow": (51, 0.7, 0.85, 0.95, 1.0),
    "green": (125, 0.5, 0.75, 0.5, 0.8),
    "blue": (217, 0.6, 0.85, 0.6, 0.92),
    "purple": (275, 0.5, 0.7, 0.5, 0.82),
    "pink": (336, 0.35, 0.5, 0.93, 1.0),
}
_CHROMATIC: Final = 45  # saturation (of 255) from which a pixel takes part in a dye
_SAME: Final = 25  # how far apart (of 255) two hues still count as one, 35 degrees


def paint(colour: str, rng: np.random.Generator) -> tuple[int, int, int]:
    """Draw an RGB shade (0..255) that anyone would call `colour`."""
    (h0, h1), (s0, s1), (v0, v1) = _PAINT[colour]
    at = rng.random(3)
    return hsv_to_rgb((h0 + at[0] * (h1 - h0)) % 360, s0 + at[1] * (s1 - s0), v0 + at[2] * (v1 - v0))


def paint_plain(colour: str) -> tuple[int, int, int]:
    """Return the RGB shade (0..255) in the middle of `colour`."""
    hue, saturation, value = (sum(band) / 2 for band in _PAINT[colour])
    return hsv_to_rgb(hue % 360, saturation, value)


def hsv_to_rgb(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    """Convert hue (degrees), saturation and value (0..1) to RGB (0..255)."""

    def channel(n: int) -> int:
        k = (n + hue / 60) % 6
        return round(255 * (value - value * saturation * max(0.0, min(k, 4 - k, 1.0))))

    return channel(5), channel(3), channel(1)


def name_pixels(rgb: np.ndarray) -> np.ndarray:
    """Classify pixels (..., 3) uint8 into indices of `COLOURS`; -1 where no word is honest."""
    hsv = np.asarray(Image.fromarray(np.ascontiguousarray(rgb)).convert("HSV"), np.float32)
    hue, sat, val = hsv[..., 0] * (360 / 255), hsv[..., 1] / 255, hsv[..., 2] / 255
    vivid = sat >= 0.15
    rules = {
        "black": val < 0.2,
        "white": (sat < 0.1) & (val > 0.88),
        "gray": (sat < 0.15) & (val <= 0.85),
        "red": vivid & ((hue < 12) | (hue >= 346)) & (sat > 0.55),
        "pink": vivid
        & (val > 0.75)
        & (((hue < 12) | (hue >= 335)) & (sat <= 0.58) | (hue >= 302) & (hue < 335)),
        "brown": vivid & (hue < 45) & (val < 0.62) & (sat > 0.25),
        "orange": vivid & (hue >= 16) & (hue < 35) & (val >= 0.75) & (sat > 0.6),
        "yellow": vivid & (hue >= 41) & (hue < 64) & (val >= 0.75) & (sat > 0.35),
        "green": vivid & (hue >= 70) & (hue < 160),
        "blue": vivid & (hue >= 190) & (hue < 242) & (sat > 0.25),
        "purple": vivid & (hue >= 258) & (hue < 298),
    }
    words = np.full(hue.shape, -1, np.int8)
    for word, where in rules.items():
        words[where & (words < 0)] = COLOURS.index(word)
    return words


def dominant_colour(rgba: np.ndarray, share: float = 0.6) -> str | None:
    """Name the colour of a sprite (height, width, 4) uint8 when it fills `share` of its area, else None."""
    words = name_pixels(rgba[..., :3])[rgba[..., 3] > 128]
    if not words.size:
        return None
    counts = np.bincount(words[words >= 0], minlength=len(COLOURS)) / words.size
    best = int(counts.argmax())
    return COLOURS[best] if counts[best] >= share else None


def dominant_hue(rgba: np.ndarray) -> float | None:
    """Return the hue (degrees) that fills more than half of a sprite (height, width, 4) uint8, else None.

    It is the circular mean of the hues within 35 degrees of the fullest part of the hue circle.
    """
    hsv = np.asarray(Image.fromarray(np.ascontiguousarray(rgba[..., :3])).convert("HSV"), np.float32)
    inside = rgba[..., 3] > 128
    hues = hsv[inside & (hsv[..., 1] >= _CHROMATIC) & (hsv[..., 2] > 50)][:, 0]
    counts = np.bincount(hues.astype(np.int64), minlength=255)[:255]
    around = sum(np.roll(counts, shift) for shift in range(-_SAME, _SAME + 1))
    peak = int(np.argmax(around))
    near = hues[np.abs((hues - peak + 127) % 255 - 127) <= _SAME]
    if near.size <= 0.5 * max(int(inside.sum()), 1):
        return None
    return float(np.degrees(np.angle(np.exp(1j * near * (2 * np.pi / 255)).sum())) % 360)


def dye(sprite: Image.Image, hue: float, colour: str) -> Image.Image:
    """Turn the part of an RGBA sprite that has its dominant `hue` (degrees) to `colour`.

    Shading stays, and so do whites, blacks and other hues (the leaf of an apple). Hues are rotated;
    saturation and value are moved by one gamma curve each, so that their medians fall into the colour's
    range. Works on the three bands with tables: about 1 ms at 128 pixels.
    """
    target, s0, s1, v0, v1 = _DYE[colour]
    alpha = sprite.getchannel("A")
    bands = sprite.convert("RGB").convert("HSV").split()
    mask = ImageChops.multiply(
        bands[1].point(_CHROMA_MASK), bands[0].point(_hue_mask(round(hue * 255 / 360)))
    )
    count = ImageChops.multiply(mask, alpha).point(_BINARY)
    shift = round((target - hue) * 255 / 360) % 255
    rotated = bands[0].point([(h + shift) % 255 for h in range(256)])
    saturation = bands[1].point(_gamma(_median(bands[1], count), round(255 * s0), round(255 * s1)))
    value = bands[2].point(_gamma(_median(bands[2], count), round(255 * v0), round(255 * v1)))
    dyed = Image.merge("HSV", (rotated, saturation, value)).convert("RGB")
    result = Image.composite(dyed, sprite.convert("RGB"), mask)
    result.putalpha(alpha)
    return result


@lru_cache(maxsize=255)
def _hue_mask(hue: int) -> list[int]:
    """Return a table over hues (of 255): full near `hue`, fading out beyond."""
    away = [abs((level - hue + 127) % 255 - 127) for level in range(256)]
    return [round(255 * min(max(1 - (distance - _SAME) / 10, 0), 1)) for distance in away]


_CHROMA_MASK: Final = [255 if s >= _CHROMATIC else round(255 * s / _CHROMATIC) for s in range(256)]
_BINARY: Final = [0] * 250 + [255] * 6


def _median(band: Image.Image, mask: Image.Image) -> int:
    histogram = np.cumsum(band.histogram(mask))
    return int(np.searchsorted(histogram, histogram[-1] / 2)) if histogram[-1] else 128


@lru_cache(maxsize=4096)
def _gamma(median: int, low: int, high: int) -> list[int]:
    goal = min(max(median, low), high)
    power = np.log(min(goal, 254) / 255) / np.log(min(max(median, 1), 254) / 255)
    power = min(max(power, 0.3), 2.2)  # beyond that, highlights and leaves turn to blots
    return [round(255 * (level / 255) ** power) for level in range(256)]
