"""The judge of edits: was the change made, and did the rest stay as it was?"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
from PIL import Image

from danqing.conditioning.images import to_pictures, to_pixels
from danqing.data.atlas import Atlas
from danqing.data.world import Scene, render
from danqing.data.world.edits import Edit
from danqing.data.world.scene import Thing
from danqing.errors import DataError
from danqing.evaluation.digests import atlas_digest, vae_digest
from danqing.evaluation.items import Atom, Item, Made
from danqing.evaluation.world.edits import OUTSIDE
from danqing.evaluation.world.judge import SceneJudge
from danqing.evaluation.world.reconstruction import Autoencoder, restore
from danqing.evaluation.world.renders import SIDE
from danqing.scoring.reading import Found, Reading

WITHIN: Final = 3.0
"""dB by which the rest may be farther from the reconstruction than that is from the truth."""
_SPREAD: Final = 4  # pixels around a change that may change with it
_LEAST: Final = 0.02  # share of the picture that must be left to measure the rest
_BEST: Final = 60.0  # dB; nearer than that counts no more
_EXACT: Final = ("add", "more", "move")
"""Kinds whose true results the reader often misses: things at an edge, or beside a much larger one."""
_NEAR: Final = 0.3
"""Share of a change, in squared error, up to which a result counts as the true one. Through an autoencoder
0.1, shifted by two of 128 pixels 0.3, with another concept of the same colour 0.5 and more, undone 1."""
_UNDONE: Final = 0.6
"""Share of a change, in squared error, from which nothing was removed."""
_CHANGED: Final = 2  # levels of 255 from which a pixel counts as changed

EditOf = Callable[[Item], Edit]


class _Truth(NamedTuple):
    """True renders of both scenes, (side, side, 3) float32 in 0..255, and what the autoencoder keeps."""

    source: np.ndarray
    target: np.ndarray
    restored: np.ndarray
    """The source through the autoencoder."""
    kept: np.ndarray
    """(side, side) bool: where the edit changes nothing, nor near it."""


class EditJudge:
    """Reads edited pictures as `SceneJudge` reads others, and compares the rest with a reconstruction."""

    name = "world, edits"

    def __init__(self, scenes: SceneJudge, edit_of: EditOf, atlas: Atlas, vae: Autoencoder) -> None:
        """`edit_of` gives the true edit of an item, `vae` is the one of the model that is measured."""
        self._scenes, self._edit_of, self._atlas, self._vae = scenes, edit_of, atlas, vae
        self._version = f"{scenes.version}-1-{atlas_digest(atlas)[:4]}{vae_digest(vae)[:8]}"
        self._restored = lru_cache(maxsize=2048)(self._restore)  # 48 kB each; every system asks again

    @property
    def version(self) -> str:
        """Digest of the judge of scenes, of the sprites and of the autoencoder."""
        return self._version

    def judge(self, made: Made, item: Item) -> tuple[Atom, ...]:
        """Return one atom a changed fact, and one for the rest of the picture where there is any."""
        if isinstance(made, str):
            raise DataError(f"expected a picture for {item.row}, found a text")
        edit = self._edit_of(item)
        truth = self._truth(edit.source, edit.target)
        drawn = np.asarray(made.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float32)
        atoms = self._facts(made, drawn, item, edit, truth)
        if truth.kept.mean() >= _LEAST:
            atoms.append(_rest(drawn, truth))
        return tuple(atoms)

    def _facts(
        self, picture: Image.Image, drawn: np.ndarray, item: Item, edit: Edit, truth: _Truth
    ) -> list[Atom]:
        """Return what was changed: as it is read, or in one word where the result is the true one."""
        if edit.kind in _EXACT and _missing(drawn, truth) <= _NEAR:
            return [_atom("change", True, "as the true result")]
        reading = self._scenes.read(picture)
        atoms = list(self._scenes.facts(reading, picture, item))
        if edit.kind == "remove":  # what the reader misses may still be there
            atoms.append(_atom("change", _missing(drawn, truth) <= _UNDONE, "changed"))
        if edit.kind in ("move", "resize"):
            atoms.append(_changed_box(reading, edit))
        if edit.kind == "style":
            after, before = (
                np.square(drawn - one)[~truth.kept].mean() for one in (truth.target, truth.source)
            )
            atoms.append(_atom("style", bool(after < before), "changed"))  # more like the result than before
        return atoms

    def _truth(self, source: Scene, target: Scene) -> _Truth:
        before, after = (render(scene, self._atlas, SIDE) for scene in (source, target))
        differs = np.abs(before.astype(np.int16) - after).max(-1) >= _CHANGED
        return _Truth(
            source=before.astype(np.float32),
            target=after.astype(np.float32),
            restored=self._restored(source).astype(np.float32),
            kept=~_spread(differs),
        )

    def _restore(self, scene: Scene) -> np.ndarray:
        pixels = to_pixels(render(scene, self._atlas, SIDE)[None])
        return np.asarray(to_pictures(restore(self._vae, pixels))[0])


def _changed_box(reading: Reading, edit: Edit) -> Atom:
    """Say whether a thing is nearer to where, or to how large, it should be than to how it was."""
    old, new = edit.source.things[edit.subject], edit.target.things[edit.subject]
    things = reading.of(old.concept)
    name, far = ("place", _away) if edit.kind == "move" else ("size", _apart)
    right = any(far(found, new) < far(found, old) for found in things)
    return _atom(name, right, "changed")


def _atom(name: str, right: bool, wanted: str) -> Atom:
    return Atom(name=name, value=float(right), wanted=wanted, seen=wanted if right else "as before")


def _away(found: Found, thing: Thing) -> float:
    return math.hypot(found.box.x - thing.x, found.box.y - thing.y)


def _apart(found: Found, thing: Thing) -> float:
    return abs(math.log(max(found.box.width, found.box.height, 0.01) / thing.size))


def _missing(drawn: np.ndarray, truth: _Truth) -> float:
    """Return how far what changes is from the true result, as a share of how far the source is from it."""
    drawn_error, whole = (
        np.square(picture - truth.target)[~truth.kept].mean() for picture in (drawn, truth.source)
    )
    return float(drawn_error / max(whole, 1e-9))


def _rest(drawn: np.ndarray, truth: _Truth) -> Atom:
    best = psnr(truth.restored, truth.target, truth.kept)
    found = psnr(drawn, truth.restored, truth.kept) - best
    wanted = f"at least {best - WITHIN:.1f} dB"
    return Atom(
        name=OUTSIDE,
        value=float(found >= -WITHIN),
        wanted=wanted,
        seen=f"{best + found:.1f} dB",
        measure=found,
    )


def psnr(one: np.ndarray, other: np.ndarray, where: np.ndarray) -> float:
    """Return the PSNR in dB, at most 60, of pixels in 0..255 where `where` is true."""
    error = float(np.square(one - other)[where].mean())
    return min(_BEST, 10 * math.log10(255**2 / max(error, 1e-9)))


def _spread(where: np.ndarray) -> np.ndarray:
    """Return where a square around a pixel holds a true one."""
    padded = np.pad(where, _SPREAD)
    shifts = range(2 * _SPREAD + 1)
    rows = _any_of([padded[shift : shift + where.shape[0]] for shift in shifts])
    return _any_of([rows[:, shift : shift + where.shape[1]] for shift in shifts])


def _any_of(shifted: Sequence[np.ndarray]) -> np.ndarray:
    return np.logical_or.reduce(shifted)
