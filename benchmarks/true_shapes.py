"""Checkpoints of true shape without their weights: sparse files, whose headers are all that plans read."""

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from danqing.models.mmdit import MMDiT, MMDiTConfig
from danqing.models.qwen3_vl import Qwen3VL
from danqing.models.qwen3_vl_config import Qwen3VLConfig
from danqing.models.single_stream import SingleStream, SingleStreamConfig
from danqing.models.vae import VAE, VAEConfig
from danqing.models.vae21 import VAE21, VAE21Config
from danqing.models.vlm import VLM
from danqing.models.vlm_config import VLMConfig
from danqing.sampling.schedule import ScheduleConfig
from danqing.weights.layouts import write_folder
from danqing.weights.store import read_json, write_json

RELEASES = {
    "Qwen-Image": "QwenImagePipeline",
    "Qwen-Image-Edit-2511": "QwenImageEditPlusPipeline",
    "Qwen-Image-2.1": "QwenImage21Pipeline",
}
_TYPES = {"BF16": 2, "F32": 4, "I8": 1, "U8": 1, "F16": 2}


def write_sparse(
    folder: Path,
    release: str,
    *,
    kind: str = "BF16",
    blocks: int | None = None,
    layers: int | None = None,
) -> Path:
    """Write a released folder whose files have headers and no data: every number is zero.

    `blocks` of the denoiser and `layers` of the conditioner make it shallower.
    """
    transformer: MMDiTConfig | SingleStreamConfig
    vae: VAEConfig | VAE21Config
    encoder: VLMConfig | Qwen3VLConfig
    with torch.device("meta"):
        if release == "Qwen-Image-2.1":
            transformer = SingleStreamConfig(num_layers=blocks or 32)
            vae, encoder = VAE21Config(), Qwen3VLConfig(num_layers=layers or 36)
            modules = {
                "transformer": SingleStream(transformer),
                "vae": VAE21(vae),
                "text_encoder": Qwen3VL(encoder),
            }
        else:
            transformer = MMDiTConfig(num_layers=blocks or 60, zero_cond_t=release.endswith("2511"))
            vae, encoder = VAEConfig(), VLMConfig(num_layers=layers or 28)
            modules = {"transformer": MMDiT(transformer), "vae": VAE(vae), "text_encoder": VLM(encoder)}
    write_folder(
        folder,
        transformer=(transformer, {}),
        vae=(vae, {}),
        text_encoder=(encoder, {}),
        schedule=ScheduleConfig(),
        folded_vae=True,
    )
    write_json(
        folder / "model_index.json",
        read_json(folder / "model_index.json") | {"_class_name": RELEASES[release]},
    )
    for part, module in modules.items():
        (file,) = (folder / part).glob("*.safetensors")
        shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
        write_header(file, {name: (kind, shape) for name, shape in shapes.items()})
    return folder


def write_header(file: Path, tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """Write a safetensors file of tensors (type, shape) that is as long as it says and holds nothing."""
    entries: dict[str, Any] = {}
    end = 0
    for name, (kind, shape) in tensors.items():
        start, end = end, end + math.prod(shape) * _TYPES[kind]
        entries[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [start, end]}
    raw = json.dumps(entries).encode()
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(raw)) + raw)
        stream.truncate(8 + len(raw) + end)
