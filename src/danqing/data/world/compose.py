"""The compositor: many scenes at once, in torch, on any device.

`render` says what a scene looks like; this draws the same pictures within 2 of 255, nearly all
bytes alike. There are two orders of work, and either draws every scene on every device.

On a CPU scenes are painted one after another. Several of a kind are scaled once, and by Pillow: nothing in
torch is both exact and faster. (The byte kernel of `torch.nn.functional.interpolate` takes a quarter of the
time, but its weights have 16 bits where Pillow's have 22; now and then a byte is 3 away.)

An accelerator has no time for small pieces: there all scenes get their first paste together, then their
second, and so on. Tiles with premultiplied alpha lie on the device, and two matrix products scale one and put
it in its place: along the rows, then along the columns, rounded to bytes after each, as Pillow does it.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
import torch
from PIL import Image

from danqing.data.atlas import Atlas
from danqing.data.world.render import (
    ROWS,
    SHADOW,
    Box,
    blend,
    item_box,
    paint_rows,
    scaled,
    scaled_shadow,
    shadow_box,
    shadow_mask,
    tones,
)
from danqing.data.world.scene import Background, BackgroundKind, Item, Scene, Thing
from danqing.data.world.tiles import tile
from danqing.errors import DataError

_CPU_SCENES: Final = 8  # painted together: their canvas stays in the cache of a core
_DEVICE_PIXELS: Final = 2**22  # painted together elsewhere: 256 scenes of 128 pixels
_STEPS: Final = (
    2**11
)  # to one in the coarse part of a weight; squared, in the fine part and in Pillow's weights


def compose(
    scenes: Sequence[Scene],
    atlas: Atlas,
    size: int = 128,
    *,
    device: torch.device | str = "cpu",
    bank: "TileBank | None" = None,
    by_rank: bool | None = None,
) -> torch.Tensor:
    """Draw scenes as (batch, 3, size, size) uint8 RGB on `device`, equal to `render` within 2 of 255.

    A scene gives the same bytes alone or in a batch. `by_rank` chooses the order of work: true draws all
    scenes paste by paste with tiles from `bank`, false scene by scene, which is the default on a CPU. By
    default a process has one bank for each atlas and device, which is not for several threads at once. Raises
    DataError for a bank of another atlas or device.
    """
    device = torch.device(device)
    if bank is not None and (bank.atlas is not atlas or bank.device != device):
        raise DataError(f"expected a bank of this atlas on {device}, found another one on {bank.device}")
    by_rank = device.type != "cpu" if by_rank is None else by_rank
    together = max(1, _DEVICE_PIXELS // size**2) if by_rank else _CPU_SCENES
    pictures = torch.empty(len(scenes), 3, size, size, dtype=torch.uint8, device=device)
    # rows of one colour first, so that backgrounds are painted by slices
    order = [
        index
        for start in range(0, len(scenes), together)
        for index in sorted(
            range(start, min(start + together, len(scenes))),
            key=lambda index: scenes[index].background.kind not in ROWS,
        )
    ]
    for start in range(0, len(scenes), together):
        chosen = order[start : start + together]
        canvas = _paint_backgrounds([scenes[index].background for index in chosen], size, device)
        pastes = [_pastes(scenes[index], atlas, size) for index in chosen]
        if by_rank:
            _paste_by_rank(canvas, pastes, bank if bank is not None else _shared_bank(atlas, device))
        else:
            for picture, some in zip(canvas, pastes, strict=True):
                _paste_one_by_one(picture, some, atlas)
        pictures.index_copy_(0, _upload(np.array(chosen), device), canvas.to(torch.uint8))
    return pictures


class TileBank:
    """Tiles of an atlas on a device, premultiplied: each is uploaded once and stays while there is room.

    Tiles of one side share a shelf, which grows up to `capacity` tiles (64 KiB each at 128 pixels); then a
    new tile takes the place of the one unused for longest.
    """

    def __init__(self, atlas: Atlas, device: torch.device | str = "cpu", *, capacity: int = 4096):
        self.atlas = atlas
        self.device = torch.device(device)
        self.capacity = capacity
        self._shelves: dict[int, _Shelf] = {}
        self._sides: dict[Item | None, int] = {}

    def find(self, items: Sequence[Item | None]) -> list[tuple[int, int]]:
        """Return side and place of the tile of each item, uploading those that are missing; None is a shadow.

        Places hold until the next call. Raises DataError when a shelf cannot hold all of them at once.
        """
        keys = [None if item is None else _appearance(item) for item in items]
        wanted: dict[int, set[Item | None]] = {}
        missing: dict[int, dict[Item | None, np.ndarray]] = {}
        for key, item in zip(keys, items, strict=True):
            side = self._sides.get(key)
            if side is None:
                pixels = _shadow_tile() if item is None else np.asarray(_premultiply(item, self.atlas))
                side = len(pixels)
                missing.setdefault(side, {})[key] = pixels.transpose(1, 2, 0)
            else:
                self._shelves[side].places.move_to_end(key)
            wanted.setdefault(side, set()).add(key)
        most = max(map(len, wanted.values()), default=0)
        if most > self.capacity:
            raise DataError(f"expected {self.capacity} tiles at once, found {most}; raise the capacity")
        for side, tiles in missing.items():
            if side not in self._shelves:
                self._shelves[side] = _Shelf(side, self.device, self.capacity)
            for gone in self._shelves[side].put(tiles):
                del self._sides[gone]
            self._sides |= dict.fromkeys(tiles, side)
        return [(self._sides[key], self._shelves[self._sides[key]].places[key]) for key in keys]

    def pixels(self, side: int) -> torch.Tensor:
        """Return a shelf, (places, side, 4, side) uint8: columns, bands, rows; until the next `find`."""
        return self._shelves[side].pixels

    def __len__(self) -> int:
        return len(self._sides)


class _Shelf:
    """Tiles of one side, least recently used first."""

    def __init__(self, side: int, device: torch.device, capacity: int):
        self.pixels = torch.empty(0, side, 4, side, dtype=torch.uint8, device=device)
        self.places: OrderedDict[Item | None, int] = OrderedDict()
        self.capacity = capacity

    def put(self, tiles: Mapping[Item | None, np.ndarray]) -> list[Item | None]:
        """Add tiles and return the keys that had to go."""
        gone, places = [], []
        for key in tiles:
            if len(self.places) < self.capacity:
                place = len(self.places)
            else:
                old, place = self.places.popitem(last=False)
                gone.append(old)
            self.places[key] = place
            places.append(place)
        self._grow(len(self.places))
        device = self.pixels.device
        new = _upload(np.stack(list(tiles.values())), device)
        self.pixels.index_copy_(0, _upload(np.array(places), device), new)
        return gone

    def _grow(self, count: int) -> None:
        if count > len(self.pixels):
            room = min(self.capacity, max(64, 2 * count))
            grown = self.pixels.new_empty(room, *self.pixels.shape[1:])
            grown[: len(self.pixels)] = self.pixels
            self.pixels = grown


class _Paste(NamedTuple):
    item: Item | None
    """None is a shadow."""
    box: Box


def _pastes(scene: Scene, atlas: Atlas, size: int) -> list[_Paste]:
    """List what is pasted on the background, in order."""
    pastes = [_Paste(item, item_box(item, size)) for item in scene.items]
    if scene.background.kind == "ground":
        pastes[:0] = [_Paste(None, shadow_box(item, atlas, size)) for item in scene.items]
    return [paste for paste in pastes if _reaches_in(paste.box, size)]


def _paste_one_by_one(picture: torch.Tensor, pastes: Sequence[_Paste], atlas: Atlas) -> None:
    size = picture.shape[-1]
    layers: dict[object, tuple[torch.Tensor, torch.Tensor]] = {}
    for item, box in pastes:
        left, top, right, bottom = box
        key = (None if item is None else _appearance(item), right - left, bottom - top)
        if key not in layers:
            pixels = np.asarray(scaled_shadow(box) if item is None else _scaled(item, atlas, box))
            bands = torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1).copy())
            layers[key] = _layer(None if item is None else bands[:3].float(), bands[-1:].float())
        colour, keep = layers[key]
        x, y = max(left, 0), max(top, 0)
        here = picture[:, y : min(bottom, size), x : min(right, size)]
        if here.shape[1:] != keep.shape[1:]:
            part = (..., slice(y - top, y - top + here.shape[1]), slice(x - left, x - left + here.shape[2]))
            colour, keep = colour[part], keep[part]
        torch.addcmul(colour, here, keep, out=here).round_()


def _paste_by_rank(canvas: torch.Tensor, pastes: Sequence[Sequence[_Paste]], bank: TileBank) -> None:
    """Give every scene its first paste, then its second, and so on: a few kernels for each rank and side."""
    size = canvas.shape[-1]
    for rank in range(max(map(len, pastes))):
        turn = [(index, some[rank]) for index, some in enumerate(pastes) if rank < len(some)]
        groups: dict[tuple[int, bool], list[tuple[int, ...]]] = {}
        for (index, paste), (side, place) in zip(turn, bank.find([p.item for _, p in turn]), strict=True):
            groups.setdefault((side, paste.item is None), []).append((index, place, *paste.box))
        for (side, linear), rows in groups.items():
            table = _upload(np.ascontiguousarray(np.array(rows).T), canvas.device)
            where, which = table[0], table[1]
            weights = _weights(table[2:4], table[4:6], side, size, linear=linear)
            tiles = bank.pixels(side).index_select(0, which)
            bands = _resample(tiles, weights)
            alpha = bands[:, 3:]
            # Pillow divides by alpha and cuts off what is behind the point
            straight = (bands[:, :3] * 255).div_(alpha.clamp(min=1)).floor_().clamp_(max=255)
            colour, keep = _layer(None if linear else straight, alpha)
            below = canvas.index_select(0, where)
            canvas.index_copy_(0, where, torch.addcmul(colour, below, keep).round_())


def _resample(tiles: torch.Tensor, weights: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Scale and place tiles (batch, side, 4, side) of bytes: whole numbers (batch, 4, size, size) fp32."""
    coarse, fine = weights
    columns = _product(coarse[0], fine[0], tiles.flatten(2).float())
    batch, size, _ = columns.shape
    lines = columns.view(batch, 4 * size, -1).transpose(1, 2)
    rows = _product(coarse[1], fine[1], lines)
    return rows.view(batch, size, size, 4).permute(0, 3, 1, 2).contiguous()


def _product(coarse: torch.Tensor, fine: torch.Tensor, lines: torch.Tensor) -> torch.Tensor:
    """Return (coarse + fine) @ lines, rounded to 0..255, halves up, without any other rounding.

    Sums of bytes with either part of a weight fit into the 24 bits of fp32. So they are the same in whatever
    order a device adds, which may change with the size of a batch, and the same as Pillow's whole numbers.
    """
    high = torch.bmm(coarse, lines).add_(0.5)
    whole = high.floor()
    rest = high.sub_(whole).add_(torch.bmm(fine, lines)).floor_()
    return whole.add_(rest).clamp_(0, 255)


def _weights(
    start: torch.Tensor, end: torch.Tensor, side: int, size: int, *, linear: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return how much each of `side` tile pixels gives to each of `size` pixels of an axis of the picture.

    Two parts (..., size, side) fp32 of a sum, for tiles that lie from `start` to `end` (...); pixels outside
    get nothing. A filter is stretched over the tile pixels that become one pixel, and weights are rounded to
    22 bits, as Pillow does it.
    """
    start, end = start[..., None], end[..., None]
    pixel = torch.arange(size, device=start.device) - start
    inside = (pixel >= 0) & (pixel < end - start)
    # pixel centres times twice both lengths are whole numbers: differences are exact
    target, length = (2 * pixel + 1)[..., None] * side, (end - start)[..., None]
    source = (2 * torch.arange(side, device=start.device) + 1) * length
    precision = torch.float32 if start.device.type == "mps" else torch.float64  # mps has no more
    distance = (source - target).abs_().to(precision) / (2 * length.clamp(min=side))
    weight = (1 - distance).clamp_(min=0) if linear else _cubic(distance)
    scale = _STEPS**2 * inside / weight.sum(-1).clamp_(min=0.1)
    whole = weight.mul_(scale[..., None]).round_()
    coarse = (whole / _STEPS).round_()
    return coarse.float() / _STEPS, (whole - coarse * _STEPS).float() / _STEPS**2


def _cubic(distance: torch.Tensor) -> torch.Tensor:
    """Return the cubic convolution kernel with a = -1/2 (Keys 1981, equation 4 with its optimal a)."""
    near = (1.5 * distance - 2.5) * distance.square() + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, far) * (distance < 2)


def _layer(straight: torch.Tensor | None, alpha: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the colour that a paste adds and the share that it keeps; without colours it is a shadow.

    Takes bytes, (..., 3, height, width) and (..., 1, height, width) fp32.
    """
    opacity = alpha * (1 / 255)
    return opacity * (_shadow_colour(alpha.device) if straight is None else straight), 1 - opacity


def _paint_backgrounds(backgrounds: Sequence[Background], size: int, device: torch.device) -> torch.Tensor:
    """Return (batch, 3, size, size) fp32, whole numbers in 0..255; kinds in `ROWS` come first."""
    canvas = torch.empty(len(backgrounds), 3, size, size, device=device)
    plain = [background for background in backgrounds if background.kind in ROWS]
    mixed = backgrounds[len(plain) :]
    if plain:
        rows = np.stack([paint_rows(background, size) for background in plain])
        canvas[: len(plain)] = _upload(rows, device).transpose(1, 2)[..., None]
    if mixed:
        colours = np.array([tones(background) for background in mixed])
        first, second = _upload(colours, device)[..., None, None].unbind(1)
        shares = torch.stack([_plane(b.kind, b.period, size, device) for b in mixed])[:, None]
        torch.addcmul(first, shares, second - first, out=canvas[len(plain) :]).floor_()
    return canvas


@lru_cache(maxsize=128)
def _plane(kind: BackgroundKind, period: float, size: int, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(blend(kind, period, size)).to(device)


def _scaled(item: Item, atlas: Atlas, box: Box) -> Image.Image:
    """Return what `scaled` does, whose first step is remembered here."""
    source, shape = _premultiplied(_appearance(item), atlas), (box[2] - box[0], box[3] - box[1])
    if source.size == shape:
        return scaled(item, atlas, box)
    return source.resize(shape, Image.Resampling.BICUBIC).convert("RGBA")


@lru_cache(maxsize=2048)  # 64 KiB each at 128 pixels
def _premultiplied(appearance: Item, atlas: Atlas) -> Image.Image:
    return _premultiply(appearance, atlas)


def _premultiply(item: Item, atlas: Atlas) -> Image.Image:
    return Image.fromarray(tile(item, atlas)).convert("RGBa")


def _appearance(item: Item) -> Item:
    """Return the item at one size and place for all: tiles differ where this differs."""
    if isinstance(item, Thing):  # nearly all items, and this takes a fifth of the time
        return Thing(item.concept, item.style, item.colour, 1.0, 0.5, 0.5)
    return replace(item, size=1.0, x=0.5, y=0.5)


def _shadow_tile() -> np.ndarray:
    """Return a tile of which only the opacity matters."""
    return np.dstack([shadow_mask()] * 4)


@lru_cache(maxsize=8)
def _shadow_colour(device: torch.device) -> torch.Tensor:
    return torch.tensor(SHADOW, dtype=torch.float32, device=device)[:, None, None]


@lru_cache(maxsize=4)
def _shared_bank(atlas: Atlas, device: torch.device) -> TileBank:
    return TileBank(atlas, device)


def _reaches_in(box: Box, size: int) -> bool:
    return box[0] < size and box[1] < size and box[2] > 0 and box[3] > 0


def _upload(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """Copy to a device without waiting for what it is doing."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
