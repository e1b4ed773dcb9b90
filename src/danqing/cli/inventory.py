"""What a checkpoint folder holds, from configs and file headers alone."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from danqing.errors import CheckpointError

if TYPE_CHECKING:
    from danqing.weights.layouts import Folder

NAMES = {
    "F64": "fp64",
    "F32": "fp32",
    "F16": "fp16",
    "BF16": "bf16",
    "F8_E4M3": "fp8",
    "F8_E5M2": "fp8",
    "I8": "int8",
}
_WIDTHS = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2}  # bytes; all others have 1
_NOT_FOR_DRAWING = ("visual.", "lm_head.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One component: what its files hold, and what of it drawing from text needs."""

    name: str
    parameters: int
    size: int
    """Bytes on disk, headers apart."""
    precisions: tuple[str, ...]
    drawing: int
    """Parameters loaded to draw from text."""


def parts_of(folder: "Folder") -> list[Part]:
    """Return the components with weights; only the headers of their files are read."""
    return [_part(folder, name) for name in ("transformer", "vae", "text_encoder")]


def _part(folder: "Folder", name: str) -> Part:
    import torch

    from danqing.models.vae import fold
    from danqing.weights.store import Shards

    parameters = size = drawing = 0
    precisions: dict[str, int] = {}
    shards = Shards.open(folder.path / name)
    if not shards.tensors:
        raise CheckpointError(f"{folder.path / name}: expected tensors, found none")
    for key, info in shards.tensors.items():
        count = math.prod(info.shape)
        parameters += count
        size += count * _WIDTHS.get(info.dtype, 1)
        precision = NAMES.get(info.dtype, info.dtype.lower())
        precisions[precision] = precisions.get(precision, 0) + count
        if name == "vae":
            folded = fold(key, torch.empty(info.shape, device="meta"))
            drawing += 0 if folded is None else folded.numel()
        elif name != "text_encoder" or not key.startswith(_NOT_FOR_DRAWING):
            drawing += count
    most_first = sorted(precisions, key=lambda precision: -precisions[precision])
    return Part(name=name, parameters=parameters, size=size, precisions=tuple(most_first), drawing=drawing)
