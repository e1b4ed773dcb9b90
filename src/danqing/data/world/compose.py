"""The compositor: many scenes at once, in torch, on any device.

`render` says what a scene looks like; this draws the same pictures within 2 of 255. All that is pasted are
square tiles with premultiplied alpha, resampled as Pillow does it: an antialiased cubic filter (linear for
shadows), first along the rows, then along the columns, rounded to bytes after each. Here each of the two is
a matrix product. (The byte kernel of `torch.nn.functional.interpolate` takes half the time, but its 16-bit
weights now and then leave a byte two steps away, and a paste adds to that.)

There are two orders of work, and either draws every scene on every device. On a CPU scenes are painted one
after another, each paste on its own box. An accelerator has no time for small pieces: there all scenes get
their first paste together, then their second, and so on, and the products also put a tile in its place.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
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
    shadow_box,
    shadow_mask,
    tones,
)
from danqing.data.world.scene import Background, BackgroundKind, Item, Scene, Thing
from danqing.data.world.tiles import tile
from danqing.errors import DataError

_CPU_SCENES: Final = 8  # painted together: their canvas stays in the cache of a core
_DEVICE_PIXELS: Final = 2**22  # painted together elsewhere: 256 scenes of 128 pixels
_PARTS: Final = 4  # of an axis that is scaled on a CPU, each from the pixels near it
_STEPS: Final = 2.0**10  # of the coarse part of a weight, and squared, of the fine part
_Scaling = Callable[[torch.Tensor], torch.Tensor]
"""Scales the middle axis: (batch, side, lines) to (batch, size, lines), fp32."""


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

    A scene gives the same bytes alone or in a batch. Tiles stay in `bank`, by default one for each atlas and
    device of the process, which is not for several threads at once. `by_rank` chooses the order of work: true
    draws all scenes paste by paste, false scene by scene, which is the default on a CPU. Raises DataError for
    a bank of another atlas or device.
    """
    device = torch.device(device)
    bank = bank if bank is not None else _shared_bank(atlas, device)
    if bank.atlas is not atlas or bank.device != device:
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
            _paste_by_rank(canvas, pastes, bank)
        else:
            _paste_one_by_one(canvas, pastes, bank)
        whole = canvas.add_(0.5).to(torch.uint8)  # the cast cuts off
        pictures.index_copy_(0, _upload(np.array(chosen), device), whole)
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
        self._sides: dict[object, int] = {}

    def find(self, items: Sequence[Item | None]) -> list[tuple[int, int]]:
        """Return side and place of the tile of each item, uploading those that are missing; None is a shadow.

        Places hold until the next call. Raises DataError when a shelf cannot hold all of them at once.
        """
        keys = [None if item is None else _appearance(item) for item in items]
        wanted: dict[int, set[object]] = {}
        missing: dict[int, dict[object, np.ndarray]] = {}
        for key, item in zip(keys, items, strict=True):
            side = self._sides.get(key)
            if side is None:
                pixels = _shadow_tile() if item is None else tile(item, self.atlas)
                side = len(pixels)
                missing.setdefault(side, {})[key] = pixels
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
        self.places: OrderedDict[object, int] = OrderedDict()
        self.capacity = capacity

    def put(self, tiles: Mapping[object, np.ndarray]) -> list[object]:
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
        new = _upload(np.stack([_premultiplied(tile) for tile in tiles.values()]), device)
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


def _paste_one_by_one(canvas: torch.Tensor, pastes: Sequence[Sequence[_Paste]], bank: TileBank) -> None:
    size = canvas.shape[-1]
    places = iter(bank.find([paste.item for some in pastes for paste in some]))
    for picture, some in zip(canvas, pastes, strict=True):
        layers: dict[tuple[int, ...], tuple[torch.Tensor, torch.Tensor]] = {}
        for (item, (left, top, right, bottom)), (side, place) in zip(some, places, strict=False):
            key = (side, place, right - left, bottom - top)  # several of a kind are scaled once
            if key not in layers:
                across = _scaling(side, right - left, linear=item is None)
                down = _scaling(side, bottom - top, linear=item is None)
                scaled = _resample(bank.pixels(side)[place : place + 1], across, down)
                layers[key] = _layer(scaled[0], shadow=item is None)
            colour, keep = layers[key]
            x, y = max(left, 0), max(top, 0)
            here = picture[:, y : min(bottom, size), x : min(right, size)]
            if here.shape[1:] != keep.shape[1:]:
                part = (
                    ...,
                    slice(y - top, y - top + here.shape[1]),
                    slice(x - left, x - left + here.shape[2]),
                )
                colour, keep = colour[part], keep[part]
            torch.addcmul(colour, here, keep, out=here)


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
            across, down = map(_exactly, _weights(table[2:4], table[4:6], side, size, linear=linear))
            tiles = bank.pixels(side).index_select(0, which)
            colour, keep = _layer(_resample(tiles, across, down), shadow=linear)
            below = canvas.index_select(0, where)
            canvas.index_copy_(0, where, torch.addcmul(colour, below, keep))


def _resample(tiles: torch.Tensor, across: _Scaling, down: _Scaling) -> torch.Tensor:
    """Scale tiles (batch, side, 4, side) to whole numbers in 0..255, (batch, 4, height, width) fp32."""
    columns = _to_bytes(across(tiles.flatten(2).float()))
    batch, width, _ = columns.shape
    rows = columns.view(batch, 4 * width, -1).transpose(1, 2)
    return _to_bytes(down(rows)).view(batch, -1, width, 4).permute(0, 3, 1, 2).contiguous()


@lru_cache(maxsize=1024)
def _scaling(side: int, length: int, *, linear: bool) -> _Scaling:
    """Return what scales an axis on a CPU: a product for each part of it, with what that part needs."""
    weights = _weights(torch.tensor(0), torch.tensor(length), side, length, linear=linear)
    parts = []
    for some in torch.arange(length).tensor_split(min(_PARTS, -(-length // 8))):
        touched = weights[some].any(0).nonzero()
        first, last = int(touched[0]), int(touched[-1]) + 1
        parts.append((first, last, weights[some, first:last].contiguous()))

    def scale(axis: torch.Tensor) -> torch.Tensor:
        (lines,) = axis
        return torch.cat([part @ lines[first:last] for first, last, part in parts])[None]

    return scale


def _exactly(weights: torch.Tensor) -> _Scaling:
    """Return what scales an axis by weights (batch, size, side), to the same bits in any batch.

    Weights are split into two parts of ten bits each. Sums of byte x part are exact in fp32, so they do not
    depend on their order, which the device may change with the size of a batch.
    """
    coarse = weights.mul(_STEPS).round_().div_(_STEPS)
    fine = weights.sub(coarse).mul_(_STEPS**2).round_().div_(_STEPS**2)
    return lambda axis: torch.bmm(coarse, axis).add_(torch.bmm(fine, axis))


def _weights(start: torch.Tensor, end: torch.Tensor, side: int, size: int, *, linear: bool) -> torch.Tensor:
    """Return how much each of `side` tile pixels gives to each of `size` pixels of an axis of the picture.

    (..., size, side) fp32 for tiles that lie from `start` to `end` (...); pixels outside get nothing. A
    filter is stretched over the tile pixels that become one pixel, as Pillow does it.
    """
    start, end = start[..., None], end[..., None]
    pixel = torch.arange(size, device=start.device) - start
    inside = (pixel >= 0) & (pixel < end - start)
    # pixel centres times twice both lengths are whole numbers: differences are exact
    target, length = (2 * pixel + 1)[..., None] * side, (end - start)[..., None]
    source = (2 * torch.arange(side, device=start.device) + 1) * length
    distance = (source - target).abs_() / (2 * length.clamp(min=side))
    weight = (1 - distance).clamp_(min=0) if linear else _cubic(distance)
    return weight * (inside / weight.sum(-1).clamp_(min=0.1))[..., None]


def _cubic(distance: torch.Tensor) -> torch.Tensor:
    """Return the cubic convolution kernel with a = -1/2 (Keys 1981, equation 4 with its optimal a)."""
    near = (1.5 * distance - 2.5) * distance.square() + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, far) * (distance < 2)


def _layer(scaled: torch.Tensor, *, shadow: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn premultiplied bytes (..., 4, height, width) into the colour a paste adds and the share it keeps.

    Pillow divides by alpha, cuts off and multiplies again when it pastes; so does this.
    """
    alpha = scaled[..., 3:, :, :]
    opacity = alpha * (1 / 255)
    if shadow:
        return _shadow_colour(scaled.device) * opacity, 1 - opacity
    straight = (scaled[..., :3, :, :] * 255).div_(alpha.clamp(min=1)).floor_().clamp_(max=255)
    return straight.mul_(opacity), 1 - opacity


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


def _appearance(item: Item) -> object:
    """Return what tells the tile of an item from others: everything but its size and place."""
    if isinstance(item, Thing):
        return item.concept, item.style, item.colour
    return replace(item, size=1.0, x=0.5, y=0.5)


def _shadow_tile() -> np.ndarray:
    return np.dstack([shadow_mask()] * 4)


@lru_cache(maxsize=8)
def _shadow_colour(device: torch.device) -> torch.Tensor:
    return torch.tensor(SHADOW, dtype=torch.float32, device=device)[:, None, None]


@lru_cache(maxsize=4)
def _shared_bank(atlas: Atlas, device: torch.device) -> TileBank:
    return TileBank(atlas, device)


def _premultiplied(pixels: np.ndarray) -> np.ndarray:
    """Return RGBA (side, side, 4) as columns, bands, rows, premultiplied as Pillow does before it scales."""
    return np.asarray(Image.fromarray(pixels).convert("RGBa")).transpose(1, 2, 0)


def _to_bytes(levels: torch.Tensor) -> torch.Tensor:
    """Round to whole numbers in 0..255, halves up; in place."""
    return levels.add_(0.5).floor_().clamp_(0, 255)


def _reaches_in(box: Box, size: int) -> bool:
    return box[0] < size and box[1] < size and box[2] > 0 and box[3] > 0


def _upload(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """Copy to a device without waiting for what it is doing."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
