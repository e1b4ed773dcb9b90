"""Train the judge: find and name what scenes show, also where they are blurred, noisy or decoded by a VAE."""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import Tensor, nn

from danqing.conditioning.images import to_pixels
from danqing.data.atlas import Atlas
from danqing.data.colours import COLOURS
from danqing.data.world import Scene, Split, Thing, Words, render, sample_scene
from danqing.data.world.sample import KIND_SHARES, visible_colour
from danqing.data.world.tiles import extent
from danqing.scoring.detector import (
    BACKGROUNDS,
    CELLS,
    CHANNELS,
    LARGE,
    NO_COLOUR,
    SIDE,
    Detector,
    Findings,
    cut,
)

_ALIKE: Final = 3  # crops of the same thing in one scene; nine equal ones teach no more
_IGNORED: Final = -100
_CORE_SHARE: Final = 0.8  # of scenes draw from the core alone
_FLOPS: Final = {"find": 6 * 29e6, "name": 6 * 21e6}  # three forwards of a picture, of a crop

Part = Literal["find", "name"]

Restored = Callable[[int], tuple[Scene, np.ndarray]]
"""The scene of a number, and its picture after an autoencoder."""


class Target(NamedTuple):
    """One item of a scene as the detector should see it."""

    box: tuple[float, float, float, float]
    """Centre x, y, width and height, as fractions of the picture."""
    channel: int
    concept: int
    colour: int


class Labelled(NamedTuple):
    """A batch of pictures with what they show."""

    pixels: Tensor
    """(batch, 3, side, side) in [-1, 1]."""
    heat: Tensor
    """(batch, channels, cells, cells) in 0..1, 1 at centres."""
    boxes: Tensor
    """(items, 4) as in `Target`."""
    sources: Tensor
    """(items,) the picture each item is in."""
    channels: Tensor
    concepts: Tensor
    """(items,) class; -100 for boards and faces."""
    colours: Tensor
    crops: Tensor
    """Indices of the items to name, and `crop_boxes` where to look at them: not quite where they are."""
    crop_boxes: Tensor
    background: Tensor
    kind: Tensor


class Detection:
    """Teach one part of the detector.

    "find" learns by a focal loss on centres, L1 on boxes and cross-entropy on the background, "name" by
    cross-entropies on concept and colour.
    """

    def __init__(
        self,
        atlas: Atlas,
        concepts: Sequence[str],
        core: Sequence[str],
        *,
        part: Part,
        batch_size: int,
        seed: int,
        restored: Restored,
        restored_count: int,
    ) -> None:
        self.part: Part = part
        self.atlas, self.batch_size, self.seed = atlas, batch_size, seed
        self.index = {code: at for at, code in enumerate(concepts)}
        self.core = tuple(code for code in core if code in set(atlas.codes))
        self.restored, self.restored_count = restored, restored_count

    def batch(self, step: int) -> Labelled:
        """Draw scenes, a third of them from an autoencoder, and spoil most of them a little."""
        rng = np.random.default_rng([self.seed, step])
        scenes, pictures = [], []
        for _ in range(self.batch_size):
            if rng.random() < 0.35:
                scene, picture = self.restored(int(rng.integers(self.restored_count)))
            else:
                scene = self.scene(rng)
                picture = render(scene, self.atlas, SIDE)
            scenes.append(scene)
            pictures.append(spoil(rng, picture))
        return self.label(scenes, pictures, rng)

    def scene(self, rng: np.random.Generator) -> Scene:
        """Draw one scene, held-out combinations included: a judge must know them all."""
        codes = self.core if rng.random() < _CORE_SHARE else None
        split: Split = "held_out" if rng.random() < 0.2 else "train"
        return sample_scene(rng, self.atlas, split, shares=KIND_SHARES, codes=codes)

    def label(
        self, scenes: Sequence[Scene], pictures: Sequence[np.ndarray], rng: np.random.Generator
    ) -> Labelled:
        """Return a batch with the targets of its scenes."""
        items = [(at, target) for at, scene in enumerate(scenes) for target in self.targets(scene)]
        boxes = np.array([target.box for _, target in items], np.float32).reshape(-1, 4)
        crops = _chosen(rng, items)
        return Labelled(
            pixels=to_pixels(np.stack(pictures)),
            heat=torch.from_numpy(_heat(len(scenes), items)),
            boxes=torch.from_numpy(boxes),
            sources=torch.tensor([at for at, _ in items], dtype=torch.long),
            channels=torch.tensor([target.channel for _, target in items], dtype=torch.long),
            concepts=torch.tensor([target.concept for _, target in items], dtype=torch.long),
            colours=torch.tensor([target.colour for _, target in items], dtype=torch.long),
            crops=torch.tensor(crops, dtype=torch.long),
            crop_boxes=torch.from_numpy(_shaken(rng, boxes[crops])),
            background=torch.tensor([COLOURS.index(scene.background.colour) for scene in scenes]),
            kind=torch.tensor([BACKGROUNDS.index(scene.background.kind) for scene in scenes]),
        )

    def targets(self, scene: Scene) -> list[Target]:
        """Return what the detector should see in a scene."""
        found = []
        for item in scene.items:
            width, height = (item.size * side for side in extent(item, self.atlas))
            box = (item.x, item.y, width, height)
            if isinstance(item, Thing):
                word = visible_colour(item, self.atlas)
                colour = NO_COLOUR if word is None else COLOURS.index(word)
                channel = CHANNELS.index("large" if max(width, height) >= LARGE else "small")
                found.append(Target(box, channel, self.index[item.concept], colour))
            else:
                channel = CHANNELS.index("board" if isinstance(item, Words) else "face")
                found.append(Target(box, channel, _IGNORED, _IGNORED))
        return found

    def loss(self, model: nn.Module, batch: Labelled) -> tuple[Tensor, dict[str, float]]:
        """Return the weighted sum of the losses of the part."""
        assert isinstance(model, Detector)
        device = next(model.parameters()).device
        batch = Labelled(*(part.to(device) for part in batch))
        if self.part == "find":
            parts = finder_losses(
                model.finder(batch.pixels.contiguous(memory_format=torch.channels_last)), batch
            )
            return _sum(parts), {name: part.item() for name, part in parts.items()}
        seen = cut(batch.pixels, batch.crop_boxes, batch.sources[batch.crops])
        names = model.namer(seen.contiguous(memory_format=torch.channels_last))
        wanted = batch.concepts[batch.crops]
        parts = {
            "concept": F.cross_entropy(names.concept.float(), wanted, label_smoothing=0.05),
            "colour": 0.5 * F.cross_entropy(names.colour.float(), batch.colours[batch.crops]),
        }
        numbers = {name: part.item() for name, part in parts.items()}
        right = names.concept.argmax(1) == wanted
        return _sum(parts), {**numbers, "named": right.float().mean().item()}

    def flops(self, model: nn.Module, batch: Labelled) -> float:
        """Return three times the forward's multiply-adds: 29 M a picture, 21 M a crop."""
        return _FLOPS[self.part] * len(batch.pixels if self.part == "find" else batch.crops)

    def evaluate(self, model: nn.Module, folder: Path, step: int) -> dict[str, float]:
        """Return losses and the share of things named right in fresh scenes, clean and restored."""
        rng = np.random.default_rng(10**6)
        clean = [self.scene(rng) for _ in range(96)]
        restored = [self.restored(self.restored_count + at) for at in range(96)]
        batches = {
            "clean": self.label(clean, [render(scene, self.atlas, SIDE) for scene in clean], rng),
            "restored": self.label(
                [scene for scene, _ in restored], [picture for _, picture in restored], rng
            ),
        }
        result: dict[str, float] = {}
        for name, batch in batches.items():
            loss, numbers = self.loss(model, batch)
            result |= {f"{name}_loss": loss.item(), **{f"{name}_{key}": n for key, n in numbers.items()}}
        return result


def _sum(parts: Mapping[str, Tensor]) -> Tensor:
    return torch.stack(list(parts.values())).sum()


def finder_losses(found: Findings, batch: Labelled) -> dict[str, Tensor]:
    """Return the losses of the finder."""
    boxes, sources, channels = batch.boxes, batch.sources, batch.channels
    cells = (boxes[:, :2] * CELLS).long().clamp(0, CELLS - 1)
    said = found.boxes[sources, channels, :, cells[:, 1], cells[:, 0]].float()
    wanted = torch.cat([boxes[:, :2] * CELLS - cells, boxes[:, 2:].log()], 1)
    return {
        "heat": _focal(found.heat.float(), batch.heat),
        "box": (said - wanted).abs().mean(),
        "background": 0.5 * F.cross_entropy(found.background.float(), batch.background),
        "kind": 0.25 * F.cross_entropy(found.kind.float(), batch.kind),
    }


def _focal(logits: Tensor, heat: Tensor) -> Tensor:
    """Return the penalty-reduced focal loss of Law and Deng (arXiv 1808.01244), a centre."""
    at = heat == 1
    share = logits.sigmoid()
    near = -(1 - share[at]).square() * F.logsigmoid(logits[at])
    far = -share.square() * (1 - heat).pow(4) * F.logsigmoid(-logits)
    return (near.sum() + far[~at].sum()) / at.sum().clamp_min(1)


def _heat(pictures: int, items: Sequence[tuple[int, Target]]) -> np.ndarray:
    """Return bumps around the centres, as wide as a sixth of the box; 1 at the cell of a centre."""
    heat = np.zeros((pictures, len(CHANNELS), CELLS, CELLS), np.float32)
    axis = np.arange(CELLS)
    for at, target in items:
        x, y = (min(int(place * CELLS), CELLS - 1) for place in target.box[:2])
        width, height = (max(side * CELLS / 6, 0.5) for side in target.box[2:])
        bump = np.exp(-((axis[None] - x) ** 2) / (2 * width**2) - (axis[:, None] - y) ** 2 / (2 * height**2))
        np.maximum(heat[at, target.channel], bump, out=heat[at, target.channel])
    return heat


def _chosen(rng: np.random.Generator, items: Sequence[tuple[int, Target]]) -> list[int]:
    """Return the indices of things to name, at most a few that are alike in each picture."""
    seen: dict[tuple[int, int, int], int] = {}
    chosen = []
    for index in rng.permutation(len(items)):
        at, target = items[index]
        key = (at, target.concept, target.colour)
        if target.concept != _IGNORED and seen.setdefault(key, 0) < _ALIKE:
            seen[key] += 1
            chosen.append(int(index))
    return chosen


def _shaken(rng: np.random.Generator, boxes: np.ndarray) -> np.ndarray:
    """Return boxes moved by up to 6 % of their side and scaled by up to 12 %."""
    longest = boxes[:, 2:].max(1, keepdims=True)
    moved = boxes[:, :2] + longest * rng.uniform(-0.06, 0.06, (len(boxes), 2))
    scaled = boxes[:, 2:] * np.exp(rng.uniform(-0.12, 0.12, (len(boxes), 2)))
    return np.concatenate([moved, scaled], 1).astype(np.float32)


def spoil(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """Return a picture (height, width, 3) uint8 blurred, noisy or compressed by chance; a third stay as they
    are."""
    kind = rng.random()
    if kind < 0.33:
        return picture
    if kind < 0.6:
        blurred = Image.fromarray(picture).filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.3))))
        return np.array(blurred)
    if kind < 0.8:
        noise = rng.normal(0, rng.uniform(2, 14), picture.shape)
        return np.clip(picture + noise, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=int(rng.integers(35, 95)))
    return np.array(Image.open(buffer))
