"""Checkpoints turned into other files: a file as ComfyUI has it, a folder as released, GGUF.

First a plan says every file, tensor and byte, from headers alone, and refuses what the target cannot say.
Then it is carried out one tensor at a time; what is written has its name only once it is whole.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from danqing.errors import RequestError, ResourceError
from danqing.files import write_json
from danqing.weights.convert_source import Origin, PartSource
from danqing.weights.file_names import ZERO_COND, Cut, Part, Spelling, stored
from danqing.weights.packing import Item, Precision, check_precision, marker, safetensors_items, wanted
from danqing.weights.releases import OWN_RELEASE
from danqing.weights.streaming import (
    Readable,
    Report,
    Value,
    gguf_size,
    safetensors_size,
    write_gguf_items,
    write_safetensors_items,
)

_PREFIXES: dict[Part, str] = {"transformer": "model.diffusion_model.", "vae": "vae."}
_SPARE = 2**20  # bytes of configs and directories


@dataclass(frozen=True, slots=True, kw_only=True)
class NewFile:
    """A file of tensors that is to be written."""

    path: Path
    items: tuple[Item, ...]
    source: Readable
    metadata: Mapping[str, Value]
    arch: str | None = None
    """The architecture that a GGUF file names; None for safetensors."""

    @property
    def size(self) -> int:
        """Bytes; exact."""
        if self.arch is not None:
            return gguf_size(self.arch, self.items, self.metadata)
        return safetensors_size(self.items, self._texts)

    @property
    def tensors(self) -> int:
        """Tensors of the file."""
        return sum(len(item.slots) for item in self.items)

    @property
    def kinds(self) -> dict[str, int]:
        """Number formats and how many tensors have them, the one of most bytes first."""
        counts, sizes = dict[str, int](), dict[str, int]()
        for slot in (slot for item in self.items for slot in item.slots):
            counts[slot.kind] = counts.get(slot.kind, 0) + 1
            sizes[slot.kind] = sizes.get(slot.kind, 0) + slot.size
        return {kind: counts[kind] for kind in sorted(counts, key=lambda kind: -sizes[kind])}

    def write(self, path: Path, report: Report) -> None:
        """Write it to `path`."""
        if self.arch is not None:
            write_gguf_items(path, self.arch, self.items, self.source, self.metadata, report)
        else:
            write_safetensors_items(path, self.items, self.source, self._texts, report)

    @property
    def _texts(self) -> dict[str, str]:
        return {key: str(value) for key, value in self.metadata.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that a conversion writes."""

    target: Path
    files: tuple[NewFile, ...]
    """With paths inside the target where that is a folder, else paths of their own."""
    is_folder: bool = False
    texts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """JSON files by their path in the folder."""
    copies: Mapping[str, Path] = field(default_factory=dict)
    """Files that are copied, by their path in the folder."""
    notes: tuple[str, ...] = ()
    """What a user should know."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files) + sum(
            file.stat().st_size for file in self.copies.values()
        )

    def check(self, *, overwrite: bool) -> None:
        """Raise RequestError for files in the way, ResourceError where the disk is too full."""
        places = [self.target] if self.is_folder else [file.path for file in self.files]
        for place in places:
            if place.is_dir() != self.is_folder and place.exists():
                kind = "a folder" if self.is_folder else "a file"
                raise RequestError(f"{place}: expected {kind} or nothing there, found another thing")
            if place.exists() and not overwrite:
                raise RequestError(
                    f"{place}: expected nothing there, found one; add --overwrite to replace it"
                )
            if self.is_folder and any(place.resolve() in file.resolve().parents for file in self._read()):
                raise RequestError(
                    f"{place}: expected another folder than the one that is read, found the same"
                )
        free, needed = shutil.disk_usage(_existing(self.target)).free, self.size + _SPARE
        if free < needed:
            raise ResourceError(
                f"{self.target}: expected {needed / 1e6:,.0f} MB of free disk, found {free / 1e6:,.0f} MB"
            )

    def _read(self) -> Iterator[Path]:
        """Yield the files that are read."""
        yield from self.copies.values()
        for file in self.files:
            if isinstance(file.source, Parts):
                yield from file.source.files()


def carry_out(plan: Plan, *, overwrite: bool = False, report: Report = lambda name, size: None) -> None:
    """Write what a plan says; `report` hears of every tensor.

    Raises as `Plan.check`, and CheckpointError for weights that turn out broken; then nothing is left behind.
    """
    plan.check(overwrite=overwrite)
    if not plan.is_folder:
        for file in plan.files:
            file.path.parent.mkdir(parents=True, exist_ok=True)
            file.write(file.path, report)
        return
    plan.target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f".{plan.target.name}.", dir=plan.target.parent, ignore_cleanup_errors=True
    ) as scratch:
        new = Path(scratch) / "new"
        new.mkdir()
        for name, copied in plan.copies.items():
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(copied, new / name)
        for name, values in plan.texts.items():
            write_json(new / name, values)
        for file in plan.files:
            (new / file.path).parent.mkdir(parents=True, exist_ok=True)
            file.write(new / file.path, report)
        if plan.target.exists():
            os.replace(plan.target, Path(scratch) / "old")
        os.replace(new, plan.target)


def plan_file(
    origin: Origin,
    target: Path,
    *,
    parts: Sequence[Part] | None = None,
    precision: Precision = "keep",
    prefix: bool = False,
) -> Plan:
    """Plan a safetensors file as ComfyUI loads it: one part, or several behind their prefixes.

    By default the denoiser, or what a single file holds. `prefix` puts `model.diffusion_model.` before the
    names of a denoiser that is alone.
    """
    check_precision("file", precision)
    chosen = tuple(parts or (("transformer",) if origin.folder is not None else origin.parts))
    opened = {part: origin.part(part) for part in chosen}
    encoder = (
        "qwen3vl_8b" if any("q_norm" in name for name in _kinds(opened, "text_encoder")) else "qwen25_7b"
    )
    several = len(chosen) > 1
    prefixes = _PREFIXES | {"text_encoder": f"text_encoders.{encoder}.transformer."}
    items: list[Item] = []
    for part, found in opened.items():
        before = prefixes[part] if several or (prefix and part == "transformer") else ""
        if part == "vae" and precision not in ("keep", "fp32", "bf16", "fp16") and not several:
            raise RequestError(
                f"precision: expected fp32, bf16 or fp16 for an autoencoder, found {precision}"
            )
        if part == "transformer" and origin.zero_cond:
            items.append(marker(before + ZERO_COND))
        chosen_precision = "keep" if part == "vae" and precision in ("fp8", "int8", "int4") else precision
        items += safetensors_items(part_tensors(part, found, "comfyui"), chosen_precision, prefix=before)
    file = NewFile(
        path=target, items=tuple(items), source=Parts(opened), metadata=file_metadata(origin, precision)
    )
    return Plan(target=target, files=(file,), notes=release_notes(origin) if "transformer" in chosen else ())


def part_tensors(part: Part, found: PartSource, spelling: Spelling) -> dict[str, Any]:
    """Return what a file stores of a part, by stored name; sources are named `part:name`, see `Parts`."""
    shapes, kinds = found.shapes, found.kinds
    place = {name: number for number, name in enumerate(shapes)}
    cuts = stored(shapes, part, spelling)
    late = sorted(cuts, key=lambda name: max(place[one] for one in cuts[name].sources))
    tensors = wanted({name: cuts[name] for name in late}, shapes, kinds)
    return {
        name: one._replace(cut=Cut(tuple(f"{part}:{source}" for source in one.cut.sources), *one.cut[1:]))
        for name, one in tensors.items()
    }


class Parts:
    """The tensors of several parts, named `part:name`."""

    def __init__(self, opened: Mapping[Part, PartSource]) -> None:
        self._opened = dict(opened)

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """Yield the named tensors, one part after another."""
        chosen: dict[str, list[str]] = {}
        for name in names:
            part, _, own = name.partition(":")
            chosen.setdefault(part, []).append(own)
        for part, own_names in chosen.items():
            for name, tensor in self._opened[part].source.read(own_names):  # type: ignore[index]
                yield f"{part}:{name}", tensor

    def files(self) -> set[Path]:
        """Return the files that hold them."""
        infos = [info for found in self._opened.values() for info in found.source.tensors.values()]
        return {Path(info.file) for info in infos if info.file}


def file_metadata(origin: Origin, precision: str) -> dict[str, str]:
    """Return what a safetensors file says about itself, the switches that no tensor shows among it."""
    said = {"format": "pt", **origin.carried, "danqing.source": origin.name, "danqing.precision": precision}
    title = origin.release or (origin.folder.info().name if origin.folder is not None else None)
    if title is not None:
        said["modelspec.title"] = title
    if origin.release is not None:
        said[OWN_RELEASE] = origin.release
    if origin.licence is not None:
        said["modelspec.license"] = origin.licence
    if origin.folder is not None:
        config = origin.folder.config("transformer")
        if origin.zero_cond is not None:
            config["zero_cond_t"] = origin.zero_cond
        said["config"] = json.dumps({"transformer": config})
    elif origin.zero_cond is not None:
        said["config"] = json.dumps({"transformer": {"zero_cond_t": origin.zero_cond}})
    return said


def release_notes(origin: Origin) -> tuple[str, ...]:
    """Return what to say where nothing tells the release of a denoiser."""
    if origin.folder is not None or origin.release is not None or origin.zero_cond is not None:
        return ()
    return ("nothing says which release this is, so the new file does not either; say it with --release",)


def _kinds(opened: Mapping[Part, PartSource], part: Part) -> Mapping[str, str]:
    return opened[part].kinds if part in opened else {}


def _existing(path: Path) -> Path:
    """Return the nearest folder that exists above a path."""
    return next(parent for parent in path.absolute().parents if parent.exists())
