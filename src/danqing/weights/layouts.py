"""The released folder layout: `model_index.json` and one folder a component, read and written.

A checkpoint also says how it wants to be used: sizes, steps, guidance, limits. Ours carry that as
`danqing.json` (other libraries skip it); a released folder has the values of its model card, listed here.
"""

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from danqing.errors import CheckpointError, ConfigError
from danqing.models.config import config_from_json, config_to_json
from danqing.models.mmdit import MMDiT, MMDiTConfig, is_modulation
from danqing.models.vae import VAE, VAEConfig, fold, unfold
from danqing.models.vlm import VLM, VLMConfig
from danqing.sampling.schedule import ScheduleConfig
from danqing.weights.build import build
from danqing.weights.store import Shards, read_json, write_json, write_shards

COMPONENTS = {
    "transformer": ("diffusers", "QwenImageTransformer2DModel"),
    "vae": ("diffusers", "AutoencoderKLQwenImage"),
    "text_encoder": ("transformers", "Qwen2_5_VLForConditionalGeneration"),
    "tokenizer": ("transformers", "Qwen2Tokenizer"),
    "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler"),
}
# Keys of released configs that say nothing about the network.
_STRAY = frozenset({"pooled_projection_dim", "is_residual"})
# Flags of the reference's scheduler that no release sets; ignoring one would give other pictures.
_OTHER_GRIDS = (
    "invert_sigmas",
    "stochastic_sampling",
    "use_beta_sigmas",
    "use_exponential_sigmas",
    "use_karras_sigmas",
)
_SCHEDULER_KEYS = {field.name for field in dataclasses.fields(ScheduleConfig)}


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointInfo:
    """How a checkpoint wants to be used."""

    name: str
    licence: str
    tasks: tuple[str, ...] = ("generate",)
    languages: tuple[str, ...] = ("en", "zh")
    size: tuple[int, int] = (1328, 1328)
    """Width and height drawn when none is asked for, in pixels."""
    min_side: int = 256
    max_side: int = 3072
    multiple: int = 16
    steps: int = 50
    guidance: float = 4.0
    negative_prompt: str = " "
    max_length: int = 512
    """Prompt tokens the denoiser sees; longer prompts lose their end."""
    edit_template: str = "edit_plus"
    """Text around an instruction: edit (one picture) or edit_plus (numbered pictures)."""
    max_references: int = 10
    """Pictures an instruction may speak of."""
    reference_area: int = 1024 * 1024
    """Pixels of a reference as the autoencoder sees it, and of what is drawn when no size is asked for."""
    vision_area: int = 384 * 384
    """Pixels of a reference as the conditioner sees it."""
    about: str = ""


QWEN_IMAGE = CheckpointInfo(name="Qwen-Image", licence="Apache-2.0")
QWEN_IMAGE_EDIT = dataclasses.replace(
    QWEN_IMAGE,
    name="Qwen-Image-Edit",
    tasks=("edit",),
    size=(1024, 1024),
    edit_template="edit",
    max_references=1,
    vision_area=1024 * 1024,
)
QWEN_IMAGE_EDIT_PLUS = dataclasses.replace(
    QWEN_IMAGE, name="Qwen-Image-Edit-2511", tasks=("edit",), size=(1024, 1024), steps=40
)
QWEN_IMAGE_LAYERED = dataclasses.replace(
    QWEN_IMAGE,
    name="Qwen-Image-Layered",
    tasks=("layers",),
    size=(640, 640),
    min_side=128,
    reference_area=640 * 640,
)
RELEASES = {
    "QwenImagePipeline": QWEN_IMAGE,
    "QwenImageEditPipeline": QWEN_IMAGE_EDIT,
    "QwenImageEditPlusPipeline": QWEN_IMAGE_EDIT_PLUS,
    "QwenImageLayeredPipeline": QWEN_IMAGE_LAYERED,
}
"""How the released checkpoints of each pipeline want to be used."""


class Folder:
    """A checkpoint folder in the released layout."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not (path / "model_index.json").is_file():
            raise CheckpointError(f"{path}: expected a checkpoint folder with model_index.json, found none")
        self.index = read_json(path / "model_index.json")

    def config(self, component: str) -> dict[str, Any]:
        """Return the component's config as JSON."""
        name = "scheduler_config.json" if component == "scheduler" else "config.json"
        return read_json(self.path / component / name)

    def info(self) -> CheckpointInfo:
        """Return how this checkpoint wants to be used."""
        own = self.path / "danqing.json"
        if own.is_file():
            return config_from_json(CheckpointInfo, read_json(own))
        family = str(self.index.get("_class_name"))
        if family not in RELEASES:
            raise CheckpointError(
                f"{self.path}: expected a QwenImagePipeline checkpoint, found {family}; known: "
                + ", ".join(RELEASES)
            )
        return dataclasses.replace(RELEASES[family], name=self.path.name)

    def schedule(self) -> ScheduleConfig:
        """Return the noise schedule."""
        found = self.config("scheduler")
        for flag in _OTHER_GRIDS:
            if found.get(flag):
                raise ConfigError(f"{self.path}: scheduler: expected {flag} false, found {found[flag]!r}")
        values = {key: value for key, value in found.items() if key in _SCHEDULER_KEYS}
        return config_from_json(ScheduleConfig, values)

    def transformer(
        self, device: torch.device, dtype: torch.dtype, *, modulation: torch.device | None = None
    ) -> MMDiT:
        """Build the denoiser, its modulation layers on a device of their own if one is given."""
        config = config_from_json(MMDiTConfig, self.config("transformer"), ignored=_STRAY)

        def place(name: str) -> torch.device:
            return modulation if modulation is not None and is_modulation(name) else device

        return build(lambda: MMDiT(config), self.path / "transformer", device=place, dtype=dtype)

    def vae(self, device: torch.device, dtype: torch.dtype) -> VAE:
        """Build the autoencoder; 5-D kernels are folded to the 2-D ones a picture needs."""
        config = config_from_json(VAEConfig, self.config("vae"), ignored=_STRAY)
        vae = build(lambda: VAE(config), self.path / "vae", device=device, dtype=dtype, adapt=fold)
        nn.utils.convert_conv2d_weight_memory_format(vae, torch.channels_last)
        return vae

    def vlm(
        self, device: torch.device, dtype: torch.dtype, *, vision: bool = False, head: bool = False
    ) -> VLM:
        """Build the conditioner; drawing from text needs neither its vision tower nor its head."""
        config = VLMConfig.from_dict(self.config("text_encoder"))
        unused = (() if vision else ("visual.",)) + (() if head else ("lm_head.",))
        return build(
            lambda: VLM(config, vision=vision, head=head),
            self.path / "text_encoder",
            device=device,
            dtype=dtype,
            unused=unused,
        )


def write_folder(
    path: Path,
    *,
    transformer: tuple[MMDiTConfig, Mapping[str, Tensor]],
    vae: tuple[VAEConfig, Mapping[str, Tensor]],
    text_encoder: tuple[VLMConfig, Mapping[str, Tensor]],
    schedule: ScheduleConfig,
    info: CheckpointInfo | None = None,
    folded_vae: bool = False,
    dtype: torch.dtype | None = None,
) -> None:
    """Write configs and weights of a checkpoint; the tokenizer's owner saves it into `path / "tokenizer"`.

    With `folded_vae` the VAE keeps the 2-D kernels, a third of the size, which danqing alone reads; otherwise
    it has the released 5-D layout.
    """
    vae_config, vae_state = vae
    parts = {
        "transformer": (
            config_to_json(transformer[0], class_name=COMPONENTS["transformer"][1]),
            transformer[1],
        ),
        "vae": (
            config_to_json(vae_config, class_name=COMPONENTS["vae"][1]),
            vae_state if folded_vae else unfold(vae_config, dict(vae_state)),
        ),
        "text_encoder": (text_encoder[0].to_dict(), text_encoder[1]),
    }
    for component, (config, state) in parts.items():
        stem = "model" if component == "text_encoder" else "diffusion_pytorch_model"
        cast = {name: tensor if dtype is None else tensor.to(dtype) for name, tensor in state.items()}
        write_shards(path / component, stem, cast)
        write_json(path / component / "config.json", config)
    write_json(
        path / "scheduler" / "scheduler_config.json",
        config_to_json(schedule, class_name=COMPONENTS["scheduler"][1]),
    )
    if info is not None:
        write_json(path / "danqing.json", dataclasses.asdict(info))
    write_json(
        path / "model_index.json",
        {"_class_name": "QwenImagePipeline", "_diffusers_version": "0.42.1"}
        | {name: list(owner) for name, owner in COMPONENTS.items()},
    )


def write_released_copy(source: Folder, path: Path) -> None:
    """Copy a checkpoint into `path` with its VAE in the released 5-D layout, which other libraries read."""
    shutil.copytree(
        source.path, path, ignore=shutil.ignore_patterns("__pycache__", "*.py"), dirs_exist_ok=True
    )
    config = config_from_json(VAEConfig, source.config("vae"), ignored=_STRAY)
    shards = Shards.open(source.path / "vae")
    state = {name: fold(name, tensor) for name, tensor in shards.read(shards.tensors)}
    folded = {name: tensor for name, tensor in state.items() if tensor is not None}
    write_shards(path / "vae", "diffusion_pytorch_model", unfold(config, folded))
