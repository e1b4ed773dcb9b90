"""A module whose weights are in memory as a plan says: all, or some, or none between its uses.

Weights come and go in units: the blocks of a module's main lists; in 1.x the layers that make the modulation
table, which no block runs; layers that some tasks never use; and the rest. A unit that does not stay is read
from disk before its forward runs, into one of two buffers, while the unit before it computes. Results are
those of a module that stays, bit for bit.

At most in memory in a stage: the rest, what stays, and two buffers of the largest unit that does not.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from danqing.device import Upload, give_back_memory
from danqing.errors import RequestError, ResourceError
from danqing.models.mmdit import MMDiT
from danqing.models.qwen3_vl import Qwen3VL
from danqing.models.single_stream import SingleStream
from danqing.models.vlm import VLM
from danqing.weights.build import Adapt, empty
from danqing.weights.plan import Placement
from danqing.weights.store import DirectSource, Source, in_file_order

M = TypeVar("M", bound=nn.Module)
_ALIGNED = 64  # bytes: where torch puts tensors of their own
_BUFFERS = 2


class Parts(NamedTuple):
    """Names of the submodules whose weights come and go on their own; all others are the rest."""

    blocks: tuple[tuple[str, ...], ...] = ()
    """Lists, each of which runs from front to end; blocks of the first list stay before those of the next."""
    modulation: tuple[str, ...] = ()
    """Layers that make the modulation table."""
    late: tuple[str, ...] = ()
    """What is read when it is first used, and then is in memory until the stage ends."""
    table: str | None = None
    """An embedding of which only the rows asked for are read, unless the whole module stays."""


def parts_of(module: nn.Module) -> Parts:
    """Return what of a module comes and goes on its own; of an autoencoder nothing."""
    if isinstance(module, MMDiT):
        blocks = _entries(module, "transformer_blocks")
        return Parts(
            (blocks,), tuple(f"{block}.{kind}.1" for kind in ("img_mod", "txt_mod") for block in blocks)
        )
    if isinstance(module, SingleStream):
        return Parts((_entries(module, "transformer_blocks"),))
    if not isinstance(module, VLM | Qwen3VL):
        return Parts()
    language, eyes = (
        ("model", "visual") if isinstance(module, VLM) else ("model.language_model", "model.visual")
    )
    known = {name for name, _ in module.named_modules()}
    mergers = (f"{eyes}.merger", *_entries(module, f"{eyes}.deepstack_merger_list"))
    return Parts(
        blocks=(_entries(module, f"{language}.layers"), _entries(module, f"{eyes}.blocks")),
        late=tuple(name for name in (*mergers, "lm_head") if name in known),
        table=None if module.has_head and module.config.tie_embeddings else f"{language}.embed_tokens",
    )


def staying(parts: Parts, count: int | None) -> frozenset[str]:
    """Return the blocks that stay where `count` do: spread over their list, so that reading never rests."""
    chosen: set[str] = set()
    for blocks in parts.blocks:
        here = len(blocks) if count is None else min(count, len(blocks))
        chosen |= {
            block
            for place, block in enumerate(blocks)
            if (place + 1) * here // len(blocks) > place * here // len(blocks)
        }
        count = None if count is None else count - here
    return frozenset(chosen)


def resident(
    make: Callable[[], M],
    source: Path | Source,
    placement: Placement,
    *,
    device: torch.device | Callable[[str], torch.device],
    dtype: torch.dtype,
    modulation_kept: bool = True,
    adapt: Adapt | None = None,
    unused: tuple[str, ...] = (),
    finish: Callable[[nn.Module], object] | None = None,
) -> tuple[M, "Residency"]:
    """Return the module of `make` and what keeps its weights as `placement` says, but for its format.

    Arguments and errors are those of `build`. `modulation_kept` alone speaks for the layers of the modulation
    table. `finish` is called each time the rest has been read.
    """
    module, tensors = empty(make, source, dtype=dtype, adapt=adapt, unused=unused)
    place = device if callable(device) else lambda _: device
    how = _How(placement=placement, modulation_kept=modulation_kept, adapt=adapt, finish=finish)
    return module, Residency(module, tensors, place, how)


@dataclass(frozen=True, slots=True, kw_only=True)
class _How:
    placement: Placement
    modulation_kept: bool
    adapt: Adapt | None
    finish: Callable[[nn.Module], object] | None


class Residency:
    """The weights of one module; made by `resident`.

    A module that does not stay runs inside a `stage`. Streamed blocks run without gradients only, and in one
    thread at a time. What is attached to a module later (adapters) is not touched and stays.
    """

    def __init__(
        self, module: nn.Module, source: Source, place: Callable[[str], torch.device], how: _How
    ) -> None:
        self.placement = how.placement
        self._module, self._source, self._how = module, source, how
        self.device_of = place
        """Where the parameter of a name is, or would be."""
        self._users = 0
        self._slots: dict[torch.device, list[_Slot]] = {}
        self._last: _Unit | None = None
        self._pending: _Pending | None = None
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="weights")
        whole = how.placement.kept and how.placement.blocks is None
        parts = parts_of(module)
        if parts.table is not None and not whole and isinstance(source, DirectSource):
            name = f"{parts.table}.weight"
            dtype = module.get_parameter(name).dtype
            module.set_submodule(parts.table, StoredTable(source, name, place(name), dtype))
        self._rest, self._units = _units(module, parts, place, how)
        self._following = _rings(parts, self._units)
        for name, unit in self._units.items():
            module.get_submodule(name).register_forward_pre_hook(
                lambda layer, args, unit=unit: self._before(unit, (*args, *layer.parameters()))
            )
        for unit in (self._rest, *self._units.values()):
            if unit.permanent:
                self._load(unit)

    @property
    def whole(self) -> bool:
        """Whether all weights are in memory at all times."""
        return all(unit.permanent for unit in (self._rest, *self._units.values()))

    @property
    def streamed(self) -> tuple[str, ...]:
        """Names of the submodules whose weights are read each time they run."""
        return tuple(name for name, unit in self._units.items() if not unit.stays)

    @contextmanager
    def stage(self) -> Iterator[None]:
        """Have the weights in memory, as far as the plan lets them be, until the last stage around it ends.

        Where the module stays, nothing is read, and nothing is dropped but the buffers of what does not.
        """
        with self.hold():
            if not self._rest.filled:
                self._load(self._rest)
            yield

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep what the stages inside read until the end, so that the next one finds it; read nothing now."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._drop()

    def _drop(self) -> None:
        """Forget all that does not stay beyond its stage."""
        if self._pending is not None:  # it may still be writing
            wait([self._pending.future])
        dropped = [unit for unit in (self._rest, *self._units.values()) if unit.filled and not unit.permanent]
        for unit in dropped:
            unit.clear()
        self._last = self._pending = None
        if dropped or self._slots:
            self._slots.clear()
            give_back_memory()

    def _load(self, unit: "_Unit") -> None:
        unit.put(self._read(unit, None))
        if unit is self._rest and self._how.finish is not None:
            self._how.finish(self._module)

    def _before(self, unit: "_Unit", used: Sequence[object] = ()) -> None:
        """Have a unit in memory, and the next one on its way: runs before the unit's forward."""
        if not self.placement.kept and not self._users:
            raise ResourceError("expected weights in memory, found them dropped; run the module in its stage")
        if not unit.stays and torch.is_grad_enabled() and any(getattr(x, "requires_grad", 0) for x in used):
            raise ResourceError("expected no gradients through streamed weights, found some; load them all")
        if not unit.filled:
            self._settle()
        if not unit.filled:
            slot = None if unit.stays else self._slot(unit, set())
            unit.put(self._read(unit, slot))
        if self._last is not None and self._last is not unit:
            self._following[self._last] = unit  # the order in which units run is learned
        self._last = unit
        self._prefetch(unit)

    def _settle(self) -> None:
        """Take what the reading thread brings, waiting for it; its errors are raised here."""
        pending, self._pending = self._pending, None
        if pending is not None:
            if pending.slot is not None:
                pending.slot.unit = None
            pending.unit.put(pending.future.result())
            if pending.slot is not None:
                pending.slot.unit = pending.unit

    def _prefetch(self, current: "_Unit") -> None:
        """Have the next unit that is not in memory read, if that takes the place of none that is sooner."""
        if self._pending is not None:
            if not self._pending.future.done():
                return
            self._settle()
        sooner = {current}
        following = self._following.get(current)
        while following is not None and following not in sooner:
            if not following.filled:
                slot = None if following.stays else self._slot(following, sooner)
                if following.stays or slot is not None:
                    future = self._reader.submit(self._read, following, slot)
                    self._pending = _Pending(following, slot, future)
                return
            sooner.add(following)
            following = self._following.get(following)

    def _slot(self, unit: "_Unit", sooner: set["_Unit"]) -> "_Slot | None":
        """Return a buffer for a unit, emptied of one that is not needed sooner."""
        slots = self._slots.setdefault(unit.device, [])
        if len(slots) < _BUFFERS:
            slots.append(_Slot(unit.device, max(one.size for one in self._units.values() if not one.stays)))
        slot = next((one for one in reversed(slots) if one.unit is None or one.unit not in sooner), None)
        if slot is not None:
            slot.free()
            slot.unit = unit
        return slot

    def _read(self, unit: "_Unit", slot: "_Slot | None") -> list[Tensor]:
        """Return the tensors of a unit, in a buffer or in memory of their own; any thread may."""
        flat = None if slot is None else slot.host
        host = unit.tensors_in(flat) if flat is not None else unit.new_tensors()
        self._fill({place.name: tensor for place, tensor in zip(unit.places, host, strict=True)})
        if slot is not None and slot.upload is not None and slot.buffer is not None:
            slot.upload.send(slot.buffer[: unit.size])
            return unit.tensors_in(slot.buffer)
        return [tensor.to(place.device) for place, tensor in zip(unit.places, host, strict=True)]

    def _fill(self, targets: Mapping[str, Tensor]) -> None:
        adapt = self._how.adapt
        if adapt is None and isinstance(self._source, DirectSource):
            self._source.read_into(targets)
            return
        for name, stored in self._source.read(in_file_order(self._source, targets)):
            value = stored if adapt is None else adapt(name, stored)
            assert value is not None  # `empty` has checked that the name is wanted
            targets[name].copy_(value)
            del stored, value


class StoredTable(nn.Module):
    """An embedding table that stays on disk: each time, the rows asked for are read."""

    def __init__(self, source: DirectSource, name: str, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self._source, self._name, self._device, self._dtype = source, name, device, dtype
        self._count = source.tensors[name].shape[0]

    def forward(self, token_ids: Tensor) -> Tensor:
        """Return the row of each token."""
        wanted, places = token_ids.cpu().unique(return_inverse=True)
        if len(wanted) and not 0 <= int(wanted[0]) <= int(wanted[-1]) < self._count:
            raise RequestError(f"expected tokens from 0 to {self._count - 1}, found {int(wanted[-1])}")
        rows = self._source.read_rows(self._name, wanted.tolist()).to(self._device, self._dtype)
        return F.embedding(places.to(self._device), rows)


class _Place(NamedTuple):
    """Where a tensor goes: an entry of the dictionary in which its layer, adapted or not, looks for it."""

    name: str
    owner: dict[str, Any]
    leaf: str
    absent: Tensor
    """What is there while the tensor is not in memory; on meta."""
    device: torch.device


class _Unit:
    """Weights that are read together, because they are used together."""

    def __init__(self, places: Sequence[_Place], *, stays: bool, permanent: bool) -> None:
        self.places = tuple(places)
        self.stays = stays
        """It has memory of its own, not a buffer's."""
        self.permanent = permanent
        """It is in memory also between stages."""
        self.device = places[0].device if places else torch.device("cpu")
        self.filled = False
        self.offsets = [0]
        for place in self.places:
            size = prod(place.absent.shape) * place.absent.dtype.itemsize
            self.offsets.append(-(-(self.offsets[-1] + size) // _ALIGNED) * _ALIGNED)
        self.size = self.offsets[-1]

    def new_tensors(self) -> list[Tensor]:
        """Return room for the tensors in host memory."""
        return [torch.empty(place.absent.shape, dtype=place.absent.dtype) for place in self.places]

    def tensors_in(self, flat: Tensor) -> list[Tensor]:
        """Return the tensors as views of a buffer of bytes."""
        views = []
        for start, place in zip(self.offsets, self.places, strict=False):
            end = start + prod(place.absent.shape) * place.absent.dtype.itemsize
            views.append(flat[start:end].view(place.absent.dtype).view(place.absent.shape))
        return views

    def put(self, tensors: Sequence[Tensor]) -> None:
        """Give the tensors to their layers."""
        for place, tensor in zip(self.places, tensors, strict=True):
            is_parameter = isinstance(place.absent, nn.Parameter)
            place.owner[place.leaf] = nn.Parameter(tensor, requires_grad=False) if is_parameter else tensor
        self.filled = True

    def clear(self) -> None:
        """Take the tensors from their layers."""
        for place in self.places:
            place.owner[place.leaf] = place.absent
        self.filled = False


class _Slot:
    """A buffer for one unit at a time; on a device without one, each unit brings its memory."""

    def __init__(self, device: torch.device, size: int) -> None:
        self.unit: _Unit | None = None
        self.upload = Upload(device, size) if device.type == "cuda" else None
        flat = device.type in ("cpu", "cuda")
        self.buffer = torch.empty(size, dtype=torch.uint8, device=device) if flat else None
        self.host = self.buffer if self.upload is None else self.upload.staging

    def free(self) -> None:
        """Take the buffer from its unit."""
        if self.unit is not None and self.unit.filled:
            self.unit.clear()
        self.unit = None
        if self.upload is not None:
            self.upload.free_when_done()


class _Pending(NamedTuple):
    unit: _Unit
    slot: _Slot | None
    future: "Future[list[Tensor]]"


def _entries(module: nn.Module, name: str) -> tuple[str, ...]:
    """Return the names of a list's entries; none where there is no such list."""
    found = dict(module.named_modules()).get(name)
    return tuple(f"{name}.{index}" for index in range(len(found))) if isinstance(found, nn.ModuleList) else ()


def _units(
    module: nn.Module, parts: Parts, place: Callable[[str], torch.device], how: _How
) -> tuple[_Unit, dict[str, _Unit]]:
    """Return the rest, and the other units by the names of their submodules."""
    names = (*parts.modulation, *(block for blocks in parts.blocks for block in blocks), *parts.late)
    places: dict[str, list[_Place]] = {name: [] for name in names}
    rest: list[_Place] = []
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        path, _, leaf = name.rpartition(".")
        layer = module.get_submodule(path)
        owner: dict[str, Any] = layer._parameters if leaf in layer._parameters else layer._buffers
        while path and path not in places:
            path = path.rpartition(".")[0]
        places.get(path, rest).append(_Place(name, owner, leaf, tensor, place(name)))
    kept, stay = how.placement.kept, {*staying(parts, how.placement.blocks), *parts.late}
    units = {}
    for name in names:
        in_table = name in parts.modulation
        stays = how.modulation_kept if in_table else name in stay
        units[name] = _Unit(places[name], stays=stays, permanent=stays and (in_table or kept))
    return _Unit(rest, stays=True, permanent=kept), units


def _rings(parts: Parts, units: Mapping[str, _Unit]) -> dict[_Unit, _Unit]:
    """Return what runs after each unit, as far as that is known before it has run."""
    following = {}
    for blocks in parts.blocks:
        for block, after in zip(blocks, (*blocks[1:], *blocks[:1]), strict=True):
            following[units[block]] = units[after]
    first = parts.blocks[0][:1] if parts.blocks else ()
    for layer, after in zip(parts.modulation, (*parts.modulation[1:], *first), strict=False):
        following[units[layer]] = units[after]
    return following
