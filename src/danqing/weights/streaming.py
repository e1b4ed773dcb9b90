"""Files of tensors written one tensor at a time, under a temporary name until they are whole.

Neither format needs more than the names, types and shapes before the first byte of data, so a file of any
size takes the memory of its largest tensor.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from danqing.errors import CheckpointError, ResourceError
from danqing.files import whole
from danqing.weights.headers import SAFETENSORS_BITS
from danqing.weights.packing import Item, Slot, import_gguf

Report = Callable[[str, int], None]
"""Called with the name of what was written and its bytes."""
Value = str | int | float | bool | tuple[int, ...]
"""What the metadata of a GGUF file holds."""
_ALIGNMENT = 8  # bytes, of the first tensor
_GGUF_ALIGNMENT = 32  # bytes, of every tensor


class Readable(Protocol):
    """Tensors that can be read one by one."""

    def read(self, names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        """Yield the named tensors in some order."""


def safetensors_size(items: Sequence[Item], metadata: Mapping[str, str]) -> int:
    """Return the bytes a safetensors file will have."""
    header, _, total = _layout(items, metadata)
    return len(header) + total


def write_safetensors_items(
    file: Path, items: Sequence[Item], source: Readable, metadata: Mapping[str, str], report: Report
) -> None:
    """Write a safetensors file; raise ResourceError where the disk fails."""
    header, offsets, total = _layout(items, metadata)
    with _written(file) as temporary, temporary.open("wb") as stream:
        stream.write(header)
        stream.truncate(len(header) + total)
        for slot, values in made(items, source):
            raw = _bytes(values)
            _check_size(file, slot, raw.nbytes)
            stream.seek(len(header) + offsets[slot.name])
            stream.write(raw.data)
            report(slot.name, slot.size)


def write_gguf_items(
    file: Path,
    arch: str,
    items: Sequence[Item],
    source: Readable,
    metadata: Mapping[str, Value],
    report: Report,
) -> None:
    """Write a GGUF file with the writer of the `gguf` library; errors as above."""
    gguf: Any = import_gguf()
    writer = gguf.GGUFWriter(None, arch)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for key, value in metadata.items():
        _add(writer, key, value)
    for item in items:
        for slot in item.slots:
            kind = gguf.GGMLQuantizationType[slot.kind]
            writer.add_tensor_info(slot.name, slot.shape, np.dtype(np.float32), slot.size, raw_dtype=kind)
    with _written(file) as temporary, closing(writer):
        writer.write_header_to_file(temporary)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for slot, values in made(items, source):
            raw = _bytes(values)
            _check_size(file, slot, raw.nbytes)
            writer.write_tensor_data(raw)
            report(slot.name, slot.size)


def gguf_size(arch: str, items: Sequence[Item], metadata: Mapping[str, Value]) -> int:
    """Return the bytes a GGUF file will have: names and numbers, then the tensors, each padded."""
    header = 24 + _said("general.architecture", arch) + _said("general.quantization_version", 0)
    header += sum(_said(key, value) for key, value in metadata.items() if value != "")
    slots = [slot for item in items for slot in item.slots]
    header += sum(24 + len(slot.name.encode()) + 8 * len(slot.shape) for slot in slots)
    return _padded(header) + sum(_padded(slot.size) for slot in slots)


def _said(key: str, value: Value) -> int:
    if isinstance(value, str):
        size = 8 + len(value.encode())
    elif isinstance(value, tuple):
        size = 12 + 4 * len(value)
    else:
        size = 1 if isinstance(value, bool) else 4
    return 12 + len(key.encode()) + size


def _padded(size: int) -> int:
    return -(-size // _GGUF_ALIGNMENT) * _GGUF_ALIGNMENT


def made(items: Sequence[Item], source: Readable) -> Iterator[tuple[Slot, Tensor | np.ndarray]]:
    """Yield what the items make, in their order, reading each source tensor once and as late as possible."""
    needed = Counter(name for item in items for name in item.sources)
    reading, held = source.read(list(needed)), dict[str, Tensor]()
    for item in items:
        while missing := [name for name in item.sources if name not in held]:
            name, tensor = next(reading, (None, None))
            if name is None or tensor is None:
                raise CheckpointError(f"expected to read {missing[0]}, found the tensors at an end")
            held[name] = tensor
        yield from zip(item.slots, item.make([held[name] for name in item.sources]), strict=True)
        for name in item.sources:
            needed[name] -= 1
            if not needed[name]:
                del held[name]


def _layout(items: Sequence[Item], metadata: Mapping[str, str]) -> tuple[bytes, dict[str, int], int]:
    """Return the header, where each tensor starts behind it, and the bytes of all.

    Wider types come first, as the library has it, so that each tensor is aligned.
    """
    slots = [slot for item in items for slot in item.slots]
    slots.sort(key=lambda slot: -SAFETENSORS_BITS[slot.kind])
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offsets, end = dict[str, int](), 0
    for slot in slots:
        offsets[slot.name] = end
        place = [end, end + slot.size]
        entries[slot.name] = {"dtype": slot.kind, "shape": list(slot.shape), "data_offsets": place}
        end += slot.size
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text, offsets, end


def _bytes(values: Tensor | np.ndarray) -> np.ndarray:
    if isinstance(values, np.ndarray):
        return values
    flat = values.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy() if flat.numel() else np.empty(0, np.uint8)


def _check_size(file: Path, slot: Slot, size: int) -> None:
    if size != slot.size:
        raise CheckpointError(f"{file}: {slot.name}: expected {slot.size} bytes, found {size}")


def _add(writer: Any, key: str, value: Value) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, tuple):
        writer.add_array(key, value)
    else:
        writer.add_string(key, value)


@contextmanager
def _written(file: Path) -> Iterator[Path]:
    """Do as `whole`, and name the file when it cannot be written."""
    try:
        with whole(file) as temporary:
            yield temporary
    except OSError as error:
        raise ResourceError(f"{file}: expected to write it, found: {error.strerror or error}") from None
