"""How many bytes the weights of each part take, in memory and on disk, from the headers of their files alone.

The units are those of `weights.residency`: blocks, the layers of the modulation table, what is read late, an
embedding table, and the rest.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path

import torch

from danqing.models.vae import fold
from danqing.weights.file_names import Part
from danqing.weights.layouts import Folder
from danqing.weights.plan import Format, Placement
from danqing.weights.quantise import Quantised, chosen_layers, stored_layers
from danqing.weights.residency import Parts, staying
from danqing.weights.store import DTYPES, DirectSource, Shards, Source, TensorInfo

PARTS: tuple[Part, ...] = ("transformer", "text_encoder", "vae")
_ALIGNED = 64
_BUFFERS = 2
_UNITS: Mapping[str, tuple[tuple[str, re.Pattern[str]], ...]] = {
    "transformer": (
        ("modulation", re.compile(r"transformer_blocks\.\d+\.(?:img|txt)_mod\.1\.")),
        ("first", re.compile(r"transformer_blocks\.\d+\.")),
    ),
    "text_encoder": (
        ("first", re.compile(r"model\.(?:language_model\.)?layers\.\d+\.")),
        ("second", re.compile(r"(?:model\.)?visual\.blocks\.\d+\.")),
        ("late", re.compile(r"(?:model\.)?visual\.(?:merger|deepstack_merger_list)\.|lm_head\.")),
        ("table", re.compile(r"model\.(?:language_model\.)?embed_tokens\.")),
    ),
    "vae": (),
}


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes in memory, and of the files they come from."""

    memory: int = 0
    disk: int = 0

    def __add__(self, other: "Size") -> "Size":
        return Size(self.memory + other.memory, self.disk + other.disk)


@dataclass(frozen=True, kw_only=True)
class PartSizes:
    """The units of one part."""

    blocks: Mapping[str, Size]
    """Those of the main lists, in the order in which they stay."""
    parts: Parts
    modulation: Mapping[str, Size]
    """Layers of the modulation table that come and go on their own."""
    late: Size
    table: Size
    """An embedding of which rows are read unless the whole part stays."""
    rest: Size
    cast: int
    """Bytes that are held beside a tensor while it is read and changed into the form it is kept in."""
    shapes: Mapping[str, tuple[int, ...]]
    """Of every tensor that is kept."""

    @cached_property
    def whole(self) -> Size:
        """All of it, the layers of the modulation table apart."""
        return total((self.rest, self.table, self.late, *self.blocks.values()))

    @cached_property
    def _by_count(self) -> Sequence[tuple[Size, Size, int]]:
        """What stays where so many blocks do, what does not, and the largest block of the latter."""
        found = []
        for count in range(len(self.blocks) + 1):
            chosen = staying(self.parts, count)
            away = [size for name, size in self.blocks.items() if name not in chosen]
            here = total(size for name, size in self.blocks.items() if name in chosen)
            found.append((here, total(away), max((size.memory for size in away), default=0)))
        return found

    @cached_property
    def quantised(self) -> Format:
        """The format that its large layers run in."""
        scales = [shape for name, shape in self.shapes.items() if name.endswith(".weight_scale")]
        if not scales:
            return "plain"
        return "int4" if any(shape[1] > 1 for shape in scales) else "int8"

    def staying(self, count: int | None) -> Size:
        """Return the blocks that stay where `count` do."""
        return self._by_count[len(self.blocks) if count is None else count][0]

    def streamed(self, placement: Placement) -> Size:
        """Return what is read again each time it runs, the layers of the modulation table apart."""
        return self._by_count[len(self.blocks) if placement.blocks is None else placement.blocks][1]

    def buffers(self, placement: Placement, *, modulation_kept: bool) -> int:
        """Return the memory through which all goes that does not stay."""
        block = self._by_count[len(self.blocks) if placement.blocks is None else placement.blocks][2]
        layer = 0 if modulation_kept else max((size.memory for size in self.modulation.values()), default=0)
        return _BUFFERS * max(block, layer)

    @cached_property
    def table_layers(self) -> Size:
        """All layers of the modulation table that come and go on their own."""
        return total(self.modulation.values())

    def always(self, placement: Placement, *, modulation_kept: bool) -> int:
        """Return what is in memory from loading on, whatever the stage."""
        kept = self.table_layers.memory if modulation_kept else 0
        if not placement.kept:
            return kept
        return kept + self._present(placement)

    def in_stage(self, placement: Placement, *, modulation_kept: bool) -> int:
        """Return what is in memory while the part is used."""
        kept = self.table_layers.memory if modulation_kept else 0
        buffers = self.buffers(placement, modulation_kept=modulation_kept)
        casting = self.cast if buffers else 0
        return kept + self._present(placement) + buffers + casting

    def read_again(self, placement: Placement) -> int:
        """Return the bytes that are read from disk for each stage of a part that was dropped."""
        if placement.kept:
            return 0
        return self.rest.disk + self.late.disk + self.staying(placement.blocks).disk

    def _present(self, placement: Placement) -> int:
        found = self.rest + self.late + self.staying(placement.blocks)
        table = self.table.memory if placement.kept and placement.blocks is None else 0
        return found.memory + table


def total(sizes: Iterable[Size]) -> Size:
    """Return the sum."""
    found = Size()
    for size in sizes:
        found = found + size
    return found


def part_sizes(
    folder: Folder,
    part: Part,
    dtype: torch.dtype,
    format: Format = "plain",
    *,
    vision: bool = True,
    head: bool = True,
) -> PartSizes:
    """Return the units of a part that is computed in `dtype`, its large layers in `format`.

    Of a conditioner `vision` and `head` say whether it sees and writes. Raises CheckpointError for broken
    headers.
    """
    given = folder.given.source(part, folder.path / part, dtype)
    raw: Source = Shards.open(given) if isinstance(given, Path) else given
    source = raw
    if part != "vae":
        layers = chosen_layers(raw, format)
        if layers or stored_layers(raw):
            source = Quantised(raw, layers)
    unused = _unused(folder, part, vision=vision, head=head)
    tensors = {name: info for name, info in source.tensors.items() if not name.startswith(unused)}
    shapes = {
        name: shape for name, info in tensors.items() if (shape := _kept_shape(part, name, info)) is not None
    }
    kinds = _UNITS[part][1:] if folder.is_21 and part == "transformer" else _UNITS[part]
    return _grouped(kinds, source, raw, shapes, dtype, tied=head and _tied(folder, part))


def _unused(folder: Folder, part: Part, *, vision: bool, head: bool) -> tuple[str, ...]:
    if part != "text_encoder":
        return ("\0",)
    eyes = "model.visual." if folder.is_21 else "visual."
    return (() if vision else (eyes,)) + (() if head else ("lm_head.",)) or ("\0",)


def _tied(folder: Folder, part: Part) -> bool:
    return part == "text_encoder" and bool(folder.config(part).get("tie_word_embeddings"))


def _kept_shape(part: Part, name: str, info: TensorInfo) -> tuple[int, ...] | None:
    if part != "vae":
        return info.shape
    folded = fold(name, torch.empty(info.shape, device="meta"))
    return None if folded is None else tuple(folded.shape)


def _grouped(
    kinds: tuple[tuple[str, re.Pattern[str]], ...],
    source: Source,
    raw: Source,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: torch.dtype,
    *,
    tied: bool,
) -> PartSizes:
    groups: dict[str, dict[str, Size]] = {kind: {} for kind in ("modulation", "first", "second", "late")}
    table = rest = Size()
    per_number = _disk_per_number(raw)
    largest = 0
    for name, shape in shapes.items():
        info, width = source.tensors[name], _width(name, source.tensors[name].dtype, dtype)
        bytes_kept = prod(shape) * width
        disk = _disk(raw, name, info, per_number)
        size = Size(-(-bytes_kept // _ALIGNED) * _ALIGNED, disk)
        if source is not raw or info.dtype not in DTYPES or DTYPES[info.dtype] != dtype:
            largest = max(largest, _held_while_read(raw, source, name, info, dtype))
        kind = next(((kind, found) for kind, rule in kinds if (found := rule.match(name))), None)
        if kind is None:
            rest = rest + size
        elif kind[0] == "table":
            # Rows are read from what can be read in place; a head that is the table needs all of it.
            if tied or not isinstance(source, DirectSource):
                rest = rest + size
            else:
                table = table + size
        else:
            unit = kind[1].group().rstrip(".")
            groups[kind[0]][unit] = groups[kind[0]].get(unit, Size()) + size
    lists = tuple(tuple(sorted(groups[kind], key=_number)) for kind in ("first", "second"))
    return PartSizes(
        blocks={name: size for kind in ("first", "second") for name, size in groups[kind].items()},
        parts=Parts(blocks=tuple(names for names in lists if names)),
        modulation=groups["modulation"],
        late=total(groups["late"].values()),
        table=table,
        rest=rest,
        cast=largest,
        shapes=dict(shapes),
    )


def _number(name: str) -> int:
    return int(name.rpartition(".")[2])


def _width(name: str, kind: str, dtype: torch.dtype) -> int:
    """Return the bytes of one number in memory: quantised ones and their scales stay as they are."""
    if kind in ("I8", "U8") or name.endswith(".weight_scale"):
        return DTYPES[kind].itemsize
    return dtype.itemsize


def _disk_per_number(raw: Source) -> float:
    """Return the bytes that a number of these files takes, the same for all of them."""
    files = {info.file for info in raw.tensors.values()}
    numbers = sum(prod(info.shape) for info in raw.tensors.values())
    return sum(file.stat().st_size for file in files) / max(numbers, 1)


def _disk(raw: Source, name: str, info: TensorInfo, per_number: float) -> int:
    stored = raw.tensors.get(name)
    if stored is None:  # a scale that is made when its weight is read
        return 0
    if isinstance(raw, Shards) and stored.dtype in DTYPES:
        return prod(stored.shape) * DTYPES[stored.dtype].itemsize
    return round(prod(info.shape) * per_number)


def _held_while_read(raw: Source, source: Source, name: str, info: TensorInfo, dtype: torch.dtype) -> int:
    """Return what reading holds beside the tensor's own place."""
    stored = raw.tensors.get(name)
    if stored is None:
        return 0
    numbers = prod(stored.shape)
    if source is not raw and stored.dtype not in ("I8", "U8"):
        kept = source.tensors[name]
        changed = kept.dtype in ("I8", "U8")
        # The plain weight and the whole numbers made of it; one that stays plain may be cast.
        held = numbers * DTYPES[stored.dtype].itemsize
        return held + prod(kept.shape) if changed else held * (DTYPES[stored.dtype] != dtype)
    if not isinstance(raw, Shards):
        return numbers * (4 + dtype.itemsize)  # unpacked in fp32, then cast
    if stored.dtype in ("I8", "U8"):
        return 0 if info.dtype == stored.dtype else numbers * 5
    return numbers * DTYPES[stored.dtype].itemsize
