"""A small detector of the drawn world: what a picture shows, how many, where, in which colour, on what.

Two networks, trained together on scenes of the world: the finder marks the boxes of things, boards and faces
on a coarse grid by their centres (Zhou et al., Objects as Points, arXiv 1904.07850) and reads the background;
the namer looks at each box at one scale and says which concept it is, and in which colour. Their blocks are
depthwise convolution, normalisation and a two-layer perceptron (Liu et al., arXiv 2201.03545).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from danqing.data.colours import COLOURS
from danqing.data.world import BackgroundKind
from danqing.errors import CheckpointError
from danqing.scoring.squares import squares
from danqing.weights.store import open_safetensors, write_safetensors

SIDE: Final = 128
"""Pixels a side of the pictures that the finder reads."""
CELLS: Final = 32
"""Cells a side of the grid of centres."""
CROP: Final = 48
"""Pixels a side at which the namer sees a box."""
ROOM: Final = 1.15
"""Side of the crop, as a multiple of the box's longer side."""
LARGE: Final = 0.5
"""Longest side, in pictures, from which a thing counts as large: one thing may lie inside another."""

Channel = Literal["small", "large", "board", "face"]
CHANNELS: Final[tuple[Channel, ...]] = ("small", "large", "board", "face")
BACKGROUNDS: Final[tuple[BackgroundKind, ...]] = (
    "solid",
    "gradient",
    "radial",
    "ground",
    "stripes",
    "dots",
    "checks",
)
NO_COLOUR: Final = len(COLOURS)
"""Class of a thing that no single colour word fills."""

_FORMAT: Final = "danqing-detector-1"
_SCALE: Final = ".scale"


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorConfig:
    """Sizes of the two networks."""

    concepts: tuple[str, ...]
    """Codes of the concepts that the namer tells apart, in the order of its classes."""
    finder_dim: int = 32
    namer_dim: int = 80
    embedding_dim: int = 96


class Findings(NamedTuple):
    """What the finder says of a batch."""

    heat: Tensor
    """(batch, channels, cells, cells) logits: is here the centre of one?"""
    boxes: Tensor
    """(batch, channels, 4, cells, cells): offset of the centre in cells (x, y), log of width and height."""
    background: Tensor
    """(batch, colours) logits."""
    kind: Tensor
    """(batch, background kinds) logits."""


class Names(NamedTuple):
    """What the namer says of crops."""

    concept: Tensor
    """(crops, concepts) logits."""
    colour: Tensor
    """(crops, colours + 1) logits; the last means that no word fills the thing."""


class Detector(nn.Module):
    """Finder and namer."""

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        self.finder = Finder(config.finder_dim)
        self.namer = Namer(config.namer_dim, config.embedding_dim, len(config.concepts))


class Finder(nn.Module):
    """Boxes and background of pictures (batch, 3, 128, 128) in [-1, 1]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, dim, 6, 4, 1), nn.BatchNorm2d(dim))
        self.fine = nn.Sequential(Block(dim), Block(dim))
        self.down = nn.Sequential(nn.Conv2d(dim, 2 * dim, 2, 2), nn.BatchNorm2d(2 * dim))
        self.coarse = nn.Sequential(Block(2 * dim), Block(2 * dim), Block(2 * dim))
        self.lower = nn.Sequential(nn.Conv2d(2 * dim, 4 * dim, 2, 2), nn.BatchNorm2d(4 * dim))
        self.coarsest = Block(4 * dim)
        self.raise_coarsest = nn.Conv2d(4 * dim, 2 * dim, 1)
        self.raise_coarse = nn.Conv2d(2 * dim, 2 * dim, 1)
        self.lateral = nn.Conv2d(dim, 2 * dim, 1)
        self.merge = Block(2 * dim)
        self.heat = nn.Conv2d(2 * dim, len(CHANNELS), 1)
        self.box = nn.Conv2d(2 * dim, 4 * len(CHANNELS), 1)
        self.background = nn.Linear(12 * dim, len(COLOURS))
        self.kind = nn.Linear(12 * dim, len(BACKGROUNDS))
        nn.init.constant_(self.heat.bias, -4.0)  # type: ignore[arg-type]  # centres are rare

    def forward(self, pixels: Tensor) -> Findings:
        """Return heat, boxes and background."""
        fine = self.fine(self.stem(pixels))
        coarse = self.coarse(self.down(fine))
        coarsest = self.coarsest(self.lower(coarse))
        up = coarse + F.interpolate(self.raise_coarsest(coarsest), scale_factor=2.0, mode="bilinear")
        up = self.lateral(fine) + F.interpolate(self.raise_coarse(up), scale_factor=2.0, mode="bilinear")
        merged = self.merge(up)
        boxes = self.box(merged).unflatten(1, (len(CHANNELS), 4))
        pooled = torch.cat([coarsest.mean((2, 3)), coarsest.amax((2, 3)), self._border(coarsest)], 1)
        return Findings(self.heat(merged), boxes, self.background(pooled), self.kind(pooled))

    @staticmethod
    def _border(features: Tensor) -> Tensor:
        """Return the mean over the border, where things seldom are."""
        edges = (features[..., 0, :], features[..., -1, :], features[..., :, 0], features[..., :, -1])
        return torch.cat(edges, -1).mean(-1)


class Namer(nn.Module):
    """Concept and colour of crops (crops, 3, 48, 48) in [-1, 1]."""

    def __init__(self, dim: int, embedding_dim: int, concepts: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, dim, 6, 4, 1), nn.BatchNorm2d(dim))
        self.fine = nn.Sequential(Block(dim), Block(dim), Block(dim))
        self.down = nn.Sequential(nn.Conv2d(dim, 2 * dim, 2, 2), nn.BatchNorm2d(2 * dim))
        self.coarse = nn.Sequential(Block(2 * dim), Block(2 * dim))
        self.embed = nn.Linear(4 * dim, embedding_dim)
        self.concept = nn.Linear(embedding_dim, concepts)
        self.colour = nn.Linear(4 * dim, len(COLOURS) + 1)

    def forward(self, crops: Tensor) -> Names:
        """Return logits of concepts and colours."""
        features = self.coarse(self.down(self.fine(self.stem(crops))))
        pooled = torch.cat([features.mean((2, 3)), features.amax((2, 3))], 1)
        return Names(self.concept(F.silu(self.embed(pooled))), self.colour(pooled))


class Block(nn.Module):
    """Depthwise 5 x 5 convolution, normalisation, perceptron of twice the width, added to its input."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(dim, dim, 5, padding=2, groups=dim, bias=False)
        self.norm = nn.BatchNorm2d(dim)
        self.widen = nn.Conv2d(dim, 2 * dim, 1)
        self.narrow = nn.Conv2d(2 * dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same shape."""
        return x + self.narrow(F.silu(self.widen(self.norm(self.depthwise(x)))))


def cut(pixels: Tensor, boxes: Tensor, sources: Sequence[int] | Tensor, side: int = CROP) -> Tensor:
    """Return square crops (boxes, 3, side, side) around boxes, smoothed where they are scaled down.

    Args:
        pixels: (batch, 3, height, width) pictures.
        boxes: (boxes, 4) centre x, y, width and height, as fractions of the picture.
        sources: which picture each box lies in.
        side: pixels a side of a crop.
    """
    chosen = pixels[torch.as_tensor(sources, device=pixels.device)]
    longer = boxes[:, 2:].amax(1) * ROOM
    return F.avg_pool2d(squares(chosen, boxes[:, 0], boxes[:, 1], longer, 2 * side), 2)


def write_detector(path: Path, config: DetectorConfig, weights: Mapping[str, Tensor]) -> None:
    """Write weights as safetensors: matrices and kernels in eight bits, one scale a row; the rest fp16."""
    stored: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if tensor.dim() < 2:
            stored[name] = tensor.to(torch.float16) if tensor.is_floating_point() else tensor
            continue
        rows = tensor.float().flatten(1)
        scale = (rows.abs().amax(1) / 127).clamp_min(1e-8)
        stored[name] = (rows / scale[:, None]).round().to(torch.int8).reshape(tensor.shape)
        stored[name + _SCALE] = scale.to(torch.float32)
    meta = {"format": _FORMAT, "config": json.dumps(asdict(config))}
    write_safetensors(path, stored, meta)


def load_detector(path: Path) -> Detector:
    """Read a detector that `write_detector` wrote; raises CheckpointError for another file."""
    with open_safetensors(path) as file:
        meta = file.metadata() or {}
        if meta.get("format") != _FORMAT:
            raise CheckpointError(f"{path}: expected format {_FORMAT!r}, found {meta.get('format')!r}")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    scales = {name: tensors.pop(name) for name in [n for n in tensors if n.endswith(_SCALE)]}
    for name, scale in scales.items():
        whole = name.removesuffix(_SCALE)
        tensors[whole] = tensors[whole].float() * scale.reshape(-1, *[1] * (tensors[whole].dim() - 1))
    config = json.loads(meta["config"])
    model = Detector(DetectorConfig(**{**config, "concepts": tuple(config["concepts"])}))
    plain = {n: t.float() if t.is_floating_point() else t for n, t in tensors.items()}
    model.load_state_dict(plain)
    return model.eval().requires_grad_(False)
