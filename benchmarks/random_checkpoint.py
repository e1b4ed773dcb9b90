"""Random checkpoints at true shape, written as a stream: never more than a piece of one tensor in memory."""

import json
import math
import shutil
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

if TYPE_CHECKING:
    from torch import nn

SPARE = 2 * 10**9
"""Bytes of the disk that stay free."""
_PIECE = 2**20  # numbers that are drawn at a time: what the allocator keeps and a cache holds
_TYPES = {"F32": 4, "BF16": 2, "I8": 1, "U8": 1}
_LIFT = 1.5275  # root mean square of numbers spread evenly over [1, 2)
_FLAT = 73.6  # the same of whole numbers from -127 to 127


@dataclass(frozen=True, slots=True, kw_only=True)
class Random:
    """A tensor to be drawn: numbers around `mean`, `spread` away from it by their root mean square."""

    shape: tuple[int, ...]
    kind: str = "BF16"
    """F32, BF16, I8, whose numbers fill their range and leave the spread to a tensor of scales, or U8."""
    mean: float = 0.0
    spread: float = 1.0
    content: bytes = b""
    """Of U8, which is not random."""

    @property
    def bytes(self) -> int:
        """Bytes in a file."""
        return math.prod(self.shape) * _TYPES[self.kind]

    def pieces(self, seed: Sequence[int]) -> Iterator[np.ndarray]:
        """Yield the tensor's bytes piece by piece; equal seeds give equal bytes."""
        rng = np.random.Generator(np.random.SFC64(np.random.SeedSequence(seed)))
        if self.kind == "U8":
            yield np.frombuffer(self.content, np.uint8)
            return
        left = math.prod(self.shape)
        while left:
            count = min(left, _PIECE)
            yield self._drawn(rng, count)
            left -= count

    def _drawn(self, rng: np.random.Generator, count: int) -> np.ndarray:
        if self.kind == "I8":
            whole = _raw(rng, count).view(np.int8)[:count]
            return np.maximum(whole, -127, out=whole)
        if self.kind == "BF16" and self.mean == 0:
            # A random sign and mantissa under one exponent: as fast as the generator.
            exponent = 127 + round(math.log2(self.spread / _LIFT))
            bits = _raw(rng, 2 * count).view(np.uint16)[:count]
            bits &= 0x807F
            bits |= exponent << 7
            return bits
        values = rng.standard_normal(count, dtype=np.float32) * self.spread + self.mean
        if self.kind == "F32":
            return values.astype(np.float32)
        return ((values.astype(np.float32).view(np.uint32) + 0x8000) >> 16).astype(np.uint16)


def plain(module: "nn.Module") -> dict[str, Random]:
    """Return bf16 tensors for a module on the meta device that keep its activations of order one."""
    return {name: like(name, tuple(tensor.shape)) for name, tensor in module.state_dict().items()}


def like(name: str, shape: tuple[int, ...]) -> Random:
    """Return a bf16 tensor for the parameter of this name: matrices keep lengths, gains are about one."""
    if sum(side > 1 for side in shape) > 1:
        return Random(shape=shape, spread=1 / math.sqrt(math.prod(shape[1:])))
    gain = name.endswith((".weight", ".gamma")) and not name.endswith("text_norm.weight")
    return Random(shape=shape, mean=1.0 if gain else 0.0, spread=0.05)


def quantised(tensors: Mapping[str, Random], chosen: Iterable[str]) -> dict[str, Random]:
    """Return the tensors with the weights of chosen layers in int8, laid out as danqing has them."""
    from danqing.models.quantised import rotation_block
    from danqing.weights.quantise import NOTE, Kept, describe

    found = dict(tensors)
    for layer in chosen:
        rows, inner = tensors[f"{layer}.weight"].shape
        found[f"{layer}.weight"] = Random(shape=(rows, inner), kind="I8")
        scale = 1 / (_FLAT * math.sqrt(inner))
        found[f"{layer}.weight_scale"] = Random(shape=(rows, 1), kind="F32", mean=scale, spread=0.05 * scale)
        note = describe(Kept("int8", rotation_block(inner)), inner).encode()
        found[f"{layer}.{NOTE}"] = Random(shape=(len(note),), kind="U8", content=note)
    return found


def total_bytes(parts: Iterable[Mapping[str, Random]]) -> int:
    """Return the bytes of all tensors."""
    return sum(tensor.bytes for part in parts for tensor in part.values())


def check_space(folder: Path, needed: int) -> None:
    """Stop where a disk has no room for `needed` bytes and some to spare."""
    free = shutil.disk_usage(folder).free
    if free < needed + SPARE:
        raise SystemExit(
            f"{folder}: expected {(needed + SPARE) / 1e9:.1f} GB of free disk, found {free / 1e9:.1f} GB; "
            "choose another disk with --folder"
        )


def write_random(
    folder: Path, stem: str, tensors: Mapping[str, Random], *, seed: int, max_shard_bytes: int = 5 * 10**9
) -> None:
    """Write tensors as one safetensors file, or as shards with an index, in the layout of the releases."""
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[dict[str, Random]] = [{}]
    for name, tensor in tensors.items():
        if shards[-1] and total_bytes([shards[-1]]) + tensor.bytes > max_shard_bytes:
            shards.append({})
        shards[-1][name] = tensor
    if len(shards) == 1:
        _write_file(folder / f"{stem}.safetensors", shards[0], seed)
        return
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_file(folder / file, shard, seed)
        places |= dict.fromkeys(shard, file)
    index = {"metadata": {"total_size": total_bytes([tensors])}, "weight_map": places}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def _write_file(file: Path, tensors: Mapping[str, Random], seed: int) -> None:
    # Wide numbers first, as safetensors itself does, so that each tensor is aligned.
    order = sorted(tensors, key=lambda name: (-_TYPES[tensors[name].kind], name))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in order:
        start, end = end, end + tensors[name].bytes
        header[name] = {
            "dtype": tensors[name].kind,
            "shape": list(tensors[name].shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            _write_tensor(stream, tensors[name], [seed, zlib.crc32(name.encode())])


def _write_tensor(stream: BinaryIO, tensor: Random, seed: Sequence[int]) -> None:
    for piece in tensor.pieces(seed):
        stream.write(piece.data)


def _raw(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return at least `count` random bytes, in words of the generator."""
    words: np.ndarray = rng.bit_generator.random_raw(-(-count // 8))
    return words
