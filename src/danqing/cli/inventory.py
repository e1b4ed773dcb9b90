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
_VISION, _HEAD = ("visual.", "model.visual."), ("lm_head.",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One component: what its files hold, and what of it drawing needs."""

    name: str
    parameters: int
    size: int
    """Bytes on disk, headers apart."""
    precisions: tuple[str, ...]
    drawing: int
    """Parameters loaded to draw, from text alone where the checkpoint can."""


def parts_of(folder: "Folder") -> list[Part]:
    """Return the components with weights; only the headers of their files are read."""
    return [_part(folder, name) for name in ("transformer", "vae", "text_encoder")]


def kept_of_a_reference(folder: "Folder") -> int | None:
    """Return how many numbers 2.1 keeps of a picture it looks at: keys and values of every block."""
    if not folder.is_21:
        return None
    from danqing.models.config import config_from_json
    from danqing.models.single_stream import SingleStreamConfig

    denoiser = config_from_json(SingleStreamConfig, folder.config("transformer"))
    tokens = folder.info().reference_area // folder.vae_config().spatial_ratio ** 2
    return 2 * denoiser.num_layers * denoiser.dim * tokens


def _part(folder: "Folder", name: str) -> Part:
    import torch

    from danqing.models.vae import fold
    from danqing.weights.store import Shards

    parameters = size = drawing = 0
    precisions: dict[str, int] = {}
    tasks = folder.info().tasks
    unused = (() if "generate" not in tasks else _VISION) + (() if "layers" in tasks else _HEAD)
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
        elif name != "text_encoder" or not key.startswith(unused):
            drawing += count
    most_first = sorted(precisions, key=lambda precision: -precisions[precision])
    return Part(name=name, parameters=parameters, size=size, precisions=tuple(most_first), drawing=drawing)


def shortened(count: int) -> str:
    """Return a large number for people."""
    for factor, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= factor:
            return f"{count / factor:.2f} {letter}"
    return str(count)


def megabytes(size: int) -> str:
    """Return a number of bytes for people."""
    return f"{size / 10**9:.2f} GB" if size >= 10**9 else f"{size / 10**6:.1f} MB"
