"""What is converted: where the tensors of its parts are, and what no tensor says about them."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from danqing.errors import CheckpointError, RequestError
from danqing.models import vae as vae1
from danqing.models import vae21
from danqing.models.vae21 import VAE21Config
from danqing.weights.file_names import Part, own_names
from danqing.weights.headers import Header, read_header
from danqing.weights.layouts import Folder
from danqing.weights.packing import kept_kind
from danqing.weights.parts import GivenParts
from danqing.weights.quantise import Quantised, stored_layers
from danqing.weights.releases import (
    LICENCES,
    PIPELINES,
    ZERO_COND_RELEASE,
    Found,
    identify,
    zero_cond_of,
)
from danqing.weights.single_file import PartFiles
from danqing.weights.store import Shards

PARTS: tuple[Part, ...] = ("transformer", "vae", "text_encoder")
_STALE = re.compile(r"format|_quantization_metadata|config|danqing\..*|modelspec\.(?:title|license|hash.*)")
_EDIT_PLUS = "QwenImageEditPlusPipeline"


class Source(Protocol):
    """Tensors by name, read one by one."""

    @property
    def tensors(self) -> Mapping[str, Any]:
        """What each is, from headers alone; with `file`, `shape` and `dtype`."""

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """Yield the named tensors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartSource:
    """The tensors of a part by released name, plain whatever is stored."""

    source: Source
    kinds: Mapping[str, str]
    """What each is written as where it keeps its precision: F32, BF16 or F16."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Sizes, in the order in which the tensors lie on disk."""
        infos = self.source.tensors
        names = sorted(infos, key=lambda name: (str(infos[name].file), infos[name].start))
        return {name: tuple(infos[name].shape) for name in names if name in self.kinds}


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A checkpoint that is converted: a folder, some of its parts perhaps in files, or a single file."""

    name: str
    """What it is called in the metadata of what comes out: no path."""
    folder: Folder | None
    """Where configs, tokenizer and what no file holds come from."""
    files: Mapping[Part, tuple[Path, ...]] = field(default_factory=dict)
    """Parts that lie in single files."""
    release: str | None = None
    """Where it is certain."""
    zero_cond: bool | None = None
    """Whether its denoiser modulates references as noise-free; None where nothing says so."""
    licence: str | None = None
    carried: Mapping[str, str] = field(default_factory=dict)
    """What the metadata of the file said besides."""

    @property
    def parts(self) -> tuple[Part, ...]:
        """Parts that can be read."""
        return PARTS if self.folder is not None else tuple(self.files)

    def called(self, release: str) -> "Origin":
        """Return the same under the release it is said to be of; raises where it cannot be that one."""
        family = str(self.folder.index.get("_class_name")) if self.folder is not None else None
        switched = self.zero_cond is not None and self.zero_cond != (release == ZERO_COND_RELEASE)
        if family is not None and (PIPELINES[release] != family or (family == _EDIT_PLUS and switched)):
            raise RequestError(f"release: expected one of a {family} like {self.name}, found {release}")
        return replace(self, release=release)

    def part(self, part: Part) -> PartSource:
        """Open a part; reads headers. Raises CheckpointError where it is missing or broken."""
        if part not in self.parts:
            raise RequestError(
                f"{self.name}: expected a {part}, found only {', '.join(self.parts)}; "
                "name a folder that has one with --like"
            )
        if self.folder is None:
            return plain_source(PartFiles.open(self.files[part], part))
        place = self.folder.given.source(part, self.folder.path / part, torch.float32)
        found = plain_source(Shards.open(place) if isinstance(place, Path) else place)
        if part == "vae" and not any(_is_released_gain(*one) for one in found.shapes.items()):
            return _unfolded(self.folder, found)
        return found


def folder_origin(folder: Folder) -> Origin:
    """Return a checkpoint folder as what is converted; its `given` files take the place of parts."""
    config = folder.config("transformer") | folder.given.switches(str(folder.index.get("_class_name")))
    zero = None if folder.is_21 else bool(config.get("zero_cond_t", False))
    release = folder.given.release or _release_of(folder, zero=bool(zero))
    return Origin(
        name=_places(folder.path)[-1],
        folder=folder,
        release=release,
        zero_cond=zero,
        licence=folder.info().licence,
    )


def file_origin(file: Path, *, like: Folder | None, release: str | None) -> Origin:
    """Return a single file as what is converted; what it does not hold comes from the folder `like`.

    Raises CheckpointError for files that hold no part of a checkpoint, and for a denoiser of another release
    than the folder's.
    """
    header = read_header(file)
    found = identify(header)
    held = _held(header, found)
    if "transformer" not in held:
        check_belongs(file, found, release)
    if like is not None:
        given = GivenParts(
            transformer=file if "transformer" in held else None,
            vae=file if "vae" in held else None,
            text_encoder=(file,) if "text_encoder" in held else (),
            release=release if "transformer" in held else None,
        )
        inside = folder_origin(Folder(like.path, given))
        return Origin(
            name=file.name,
            folder=inside.folder,
            release=inside.release,
            zero_cond=inside.zero_cond,
            licence=inside.licence,
            carried=_carried(header),
        )
    check_belongs(file, found, release)
    known = release or found.release
    switched = "transformer" in held and (known is None or PIPELINES[known] != "QwenImage21Pipeline")
    return Origin(
        name=file.name,
        folder=None,
        files=dict.fromkeys(held, (file,)),
        release=known,
        zero_cond=zero_cond_of(header, known) if switched else None,
        licence=LICENCES.get(known) if known else _said_licence(header, found),
        carried=_carried(header),
    )


def check_belongs(file: Path, found: Found, release: str | None) -> None:
    """Raise CheckpointError where a file is not of the release it is said to be of."""
    if release is not None and release not in found.releases:
        others = " or ".join(found.releases) or "none that is known"
        raise CheckpointError(f"{file}: expected {release}, found tensors of {others}")


def plain_source(source: Source) -> PartSource:
    """Return a source whose tensors are plain, with the kinds they keep."""
    packed = stored_layers(source)  # type: ignore[arg-type]
    kinds: dict[str, str] = {}
    plain: Source = Quantised(source, {}, packed) if packed else source  # type: ignore[arg-type]
    for name, info in plain.tensors.items():
        stored = info.dtype
        if isinstance(source, PartFiles) and name in source.pieces:
            header, piece = source.pieces[name]
            stored = header.tensors[piece.sources[0]].dtype
        if name.removesuffix(".weight") in packed:
            stored = "packed"
        elif not stored.startswith(("F", "BF", "Q", "IQ", "TQ", "MX", "NV")):
            raise CheckpointError(f"{info.file}: {name}: expected floating-point weights, found {stored}")
        kinds[name] = kept_kind(stored)
    return PartSource(source=plain, kinds=kinds)


def _release_of(folder: Folder, *, zero: bool) -> str | None:
    """Return the release that a folder is of; None for one of ours, and where two fit."""
    if (folder.path / "danqing.json").is_file():
        return None
    family = str(folder.index.get("_class_name"))
    fits = [name for name, pipeline in PIPELINES.items() if pipeline == family]
    if family == _EDIT_PLUS:
        fits = [name for name in fits if (name == ZERO_COND_RELEASE) == zero]
    if folder.is_21:
        turbo = bool(folder.index.get("sample_sigmas"))
        fits = [name for name in fits if name.endswith("Turbo") == turbo]
    if len(fits) > 1:  # the same tensors, used in the same way: only the folder's name can tell
        places = _places(folder.path)
        fits = [name for name in fits if name in places]
    return fits[0] if len(fits) == 1 else None


def _places(path: Path) -> list[str]:
    """Return the names of the folders down to a folder; in the cache of a hub, down to the model."""
    whole = path.resolve()
    parts = whole.parts[:-2] if whole.parent.name == "snapshots" else whole.parts
    return [re.sub(r"^models--.+--", "", part) for part in parts]


def _held(header: Header, found: Found) -> tuple[Part, ...]:
    if found.kind == "checkpoint":
        names = header.tensors
        return tuple(part for part in PARTS if 0 < len(own_names(names, part)) < len(names))
    for part in PARTS:
        if found.kind == part:
            return (part,)
    what = found.kind.replace("_", " ")
    raise CheckpointError(
        f"{header.file}: expected a denoiser, an autoencoder, a conditioner or an adapter, "
        f"found {what}{f': {found.about}' if found.about else ''}"
    )


def _said_licence(header: Header, found: Found) -> str | None:
    licences = {LICENCES[one] for one in found.releases}
    said = next((header.metadata.get(key) for key in ("modelspec.license", "general.license")), None)
    return str(said) if isinstance(said, str) else licences.pop() if len(licences) == 1 else None


def _carried(header: Header) -> dict[str, str]:
    """Return the metadata of a safetensors file that holds for its conversion too."""
    if header.format != "safetensors":
        return {}
    return {key: str(value) for key, value in header.metadata.items() if not _STALE.fullmatch(key)}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Memory:
    """Tensors that are in memory."""

    held: Mapping[str, Tensor]

    @property
    def tensors(self) -> dict[str, "_Info"]:
        return {
            name: _Info(shape=tuple(tensor.shape), start=place)
            for place, (name, tensor) in enumerate(self.held.items())
        }

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        return ((name, self.held[name]) for name in names)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Info:
    shape: tuple[int, ...]
    start: int
    file: str = ""
    dtype: str = "F32"


def _is_released_gain(name: str, shape: tuple[int, ...]) -> bool:
    """Tell whether a gain of an autoencoder has its time axis, which those for a picture alone lack."""
    return name.endswith(".gamma") and len(shape) == 4


def _unfolded(folder: Folder, found: PartSource) -> PartSource:
    """Return an autoencoder of ours, which has the kernels a picture needs, in the released layout.

    Only checkpoints of ours are folded, and small; so it is held in memory.
    """
    config = folder.vae_config()
    state = dict(found.source.read(found.shapes))
    whole = vae21.unfold(config, state) if isinstance(config, VAE21Config) else vae1.unfold(config, state)
    kind = next(iter(found.kinds.values()))
    kinds = {name: found.kinds.get(name, kind) for name in whole}
    return PartSource(source=_Memory(held=whole), kinds=kinds)
