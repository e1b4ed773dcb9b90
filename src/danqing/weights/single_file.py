"""One part of a checkpoint out of files that other programs made: safetensors or GGUF, one tensor at a time.

Names become those of the released checkpoint, fp8 is multiplied by its scales, GGUF is unpacked; layers in
whole numbers stay three tensors, which `Quantised` makes one of. What would give wrong pictures in silence (a
missing scale, a format nobody here knows) is refused.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from io import FileIO
from pathlib import Path

import torch
from torch import Tensor

from danqing.errors import CheckpointError
from danqing.weights.file_names import SCALES, Part, Piece, is_extra, own_names, released
from danqing.weights.gguf_file import PLAIN, QUANTISED, gguf_shape, read_gguf, read_gguf_rows
from danqing.weights.headers import Header, read_header
from danqing.weights.scales import FP8, check_scales, scale_name
from danqing.weights.store import TensorInfo, fill, in_file_order, opened, read_rows, read_tensor


class PartFiles:
    """The tensors of one part by their released names; nothing is read before it is asked for."""

    def __init__(
        self,
        pieces: Mapping[str, tuple[Header, Piece]],
        dtype: torch.dtype,
        notes: Mapping[str, tuple[Header, bytes]] | None = None,
    ) -> None:
        self.pieces = dict(pieces)
        self.notes = dict(notes or {})
        self.dtype = dtype
        self.tensors = {
            name: TensorInfo(
                header.file,
                _shape(header, piece),
                _kind(header, piece),
                header.tensors[piece.sources[0]].start,
            )
            for name, (header, piece) in pieces.items()
        } | {name: TensorInfo(header.file, (len(note),), "U8") for name, (header, note) in self.notes.items()}

    @classmethod
    def open(cls, files: Sequence[Path], part: Part, *, dtype: torch.dtype = torch.float32) -> "PartFiles":
        """Read the headers of the files a part lies in; its tensors come as `dtype`.

        A conditioner in GGUF has its eyes in a file apart (`mmproj`). Raises CheckpointError for broken
        files, for scales that are missing or not finite and for formats that are not known.
        """
        pieces: dict[str, tuple[Header, Piece]] = {}
        notes: dict[str, tuple[Header, bytes]] = {}
        for file in files:
            header = read_header(file)
            names = own_names(header.tensors, part)
            kept = check_scales(header, names)
            found = released(names, part)
            used = {source for piece in found.values() for source in piece.sources}
            for own, stored in names.items():
                if stored not in used and not is_extra(own):
                    raise CheckpointError(
                        f"{file}: expected every tensor once and whole, found {stored} beside another "
                        "spelling of it or without its other parts"
                    )
            for name, piece in found.items():
                if name in pieces:
                    raise CheckpointError(f"{file}: expected every tensor once, found a second {name}")
                pieces[name] = (header, piece)
                layer, leaf = piece.sources[0].removesuffix(".weight"), name.removesuffix("weight")
                if layer in kept and leaf != name:
                    notes[f"{leaf}comfy_quant"] = (header, kept[layer])
                    pieces |= {f"{leaf}weight_scale": (header, one) for one in _scale(header, piece)}
        if not pieces:
            raise CheckpointError(
                f"{', '.join(map(str, files))}: expected tensors of a {part}, found none; "
                "`danqing info FILE` says what a file holds"
            )
        return cls(pieces, dtype, notes)

    @property
    def where(self) -> str:
        """The files, for errors."""
        return ", ".join(dict.fromkeys(str(info.file) for info in self.tensors.values()))

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """Yield the named tensors, one in memory at a time."""
        with ExitStack() as streams:
            files: dict[Path, FileIO] = {}
            for name in names:
                if name in self.notes:
                    yield name, torch.tensor(list(self.notes[name][1]), dtype=torch.uint8)
                    continue
                header, piece = self.pieces[name]
                yield name, self._one(header, self._stream(streams, files, header), piece)

    def read_into(self, targets: Mapping[str, Tensor]) -> None:
        """Fill tensors of the stored shapes: bytes go straight into those that are stored as they are."""
        with ExitStack() as streams:
            files: dict[Path, FileIO] = {}
            for name in in_file_order(self, targets):
                header, piece = self.pieces[name]
                stream, target = self._stream(streams, files, header), targets[name]
                if piece.how == "one" and header.format == "safetensors":
                    (source,) = piece.sources
                    entry = header.tensors[source]
                    plain = target.dtype == self.dtype and entry.dtype not in FP8
                    if plain or _is_kept(entry.dtype, source):
                        fill(stream, entry, target)
                        continue
                target.copy_(self._one(header, stream, piece))

    def read_rows(self, name: str, rows: Sequence[int]) -> Tensor:
        """Return some rows of a matrix, and read no others."""
        header, piece = self.pieces[name]
        (source,) = piece.sources
        with opened(header.file) as stream:
            if header.format == "gguf":
                return read_gguf_rows(header, stream, source, rows, self.dtype)
            table = read_rows(stream, header.tensors[source], rows)
            return self._scaled(header, stream, source, table, rows)

    def _stream(self, streams: ExitStack, files: dict[Path, FileIO], header: Header) -> FileIO:
        if header.file not in files:
            files[header.file] = streams.enter_context(opened(header.file))
        return files[header.file]

    def _one(self, header: Header, stream: FileIO, piece: Piece) -> Tensor:
        return _put_together([self._stored(header, stream, name) for name in piece.sources], piece)

    def _stored(self, header: Header, stream: FileIO, name: str) -> Tensor:
        if header.format == "gguf":
            return read_gguf(header, stream, name, self.dtype)
        return self._scaled(header, stream, name, read_tensor(stream, header.tensors[name]))

    def _scaled(
        self, header: Header, stream: FileIO, name: str, tensor: Tensor, rows: Sequence[int] | None = None
    ) -> Tensor:
        """Return a stored tensor, or some rows of one, times its scale in the type of this part.

        Whole numbers and their scales are returned as they are stored.
        """
        if _is_kept(header.tensors[name].dtype, name):
            return tensor
        scale = scale_name(header, name)
        if scale is None or header.tensors[name].dtype not in FP8:
            return tensor.to(self.dtype)
        factor = read_tensor(stream, header.tensors[scale]).float()
        if factor.numel() == 1:
            factor = factor.reshape(())
        else:
            factor = factor.reshape(-1, *[1] * (tensor.dim() - 1))
            factor = factor if rows is None else factor[list(rows)]
        return tensor.float().mul_(factor).to(self.dtype)


def _scale(header: Header, weight: Piece) -> list[Piece]:
    """Return the scale of a weight in whole numbers; none if there is none."""
    scale = scale_name(header, weight.sources[0])
    if scale is None:
        return []
    by_row = len(header.tensors[scale].shape) > 0 and header.tensors[scale].shape[0] > 1
    return [Piece((scale,), weight.how if by_row else "one")]


def _is_kept(kind: str, stored: str) -> bool:
    return kind in ("I8", "U8") or stored.endswith(SCALES)


def _put_together(tensors: Sequence[Tensor], piece: Piece) -> Tensor:
    if piece.how == "rows":
        return torch.cat(list(tensors))
    if piece.how == "taps":
        return torch.stack(list(tensors), dim=2)
    if piece.how == "one":
        return tensors[0]
    return tensors[0].chunk(2)[0 if piece.how == "first" else 1]


def _shape(header: Header, piece: Piece) -> tuple[int, ...]:
    shapes = [
        gguf_shape(header, one) if header.format == "gguf" else header.tensors[one].shape
        for one in piece.sources
    ]
    first = shapes[0]
    if piece.how == "one":
        return first
    if piece.how == "rows":
        if not first or any(not one or one[1:] != first[1:] for one in shapes):
            raise CheckpointError(f"{header.file}: expected {piece.sources} of one width, found {shapes}")
        return (sum(one[0] for one in shapes), *first[1:])
    if piece.how == "taps":
        if len(first) < 2 or any(one != first for one in shapes):
            raise CheckpointError(f"{header.file}: expected {piece.sources} of one shape, found {shapes}")
        return (*first[:2], len(shapes), *first[2:])
    if not first or first[0] % 2:
        raise CheckpointError(f"{header.file}: expected {piece.sources[0]} of two halves, found {first}")
    return (first[0] // 2, *first[1:])


def _kind(header: Header, piece: Piece) -> str:
    """Return the type that a tensor has once it is read; that of a packed one is its stored name."""
    stored = header.tensors[piece.sources[0]].dtype
    return "F32" if header.format == "gguf" and stored in QUANTISED | PLAIN.keys() else stored
