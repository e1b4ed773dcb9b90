"""The released folder layout: `model_index.json` and one folder a component, read and written.

A checkpoint also says how it wants to be used: sizes, steps, guidance, limits. Ours carry that as
`danqing.json` (other libraries skip it); a released folder has the values of its model card, listed here.
"""

import dataclasses
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from danqing.errors import CheckpointError, ConfigError
from danqing.files import read_json, write_json
from danqing.models import mmdit, single_stream, vae21
from danqing.models import vae as vae1
from danqing.models.config import config_from_json, config_to_json
from danqing.models.mmdit import MMDiT, MMDiTConfig
from danqing.models.qwen3_vl import Qwen3VL, Qwen3VLConfig
from danqing.models.single_stream import SingleStream, SingleStreamConfig
from danqing.models.vae import VAE, VAEConfig, fold
from danqing.models.vae21 import VAE21, VAE21Config
from danqing.models.vlm import VLM, VLMConfig
from danqing.sampling.schedule import ScheduleConfig
from danqing.weights.build import Adapt, build
from danqing.weights.file_names import Part
from danqing.weights.hub_cache import repository_of
from danqing.weights.parts import GivenParts
from danqing.weights.plan import Format, Placement
from danqing.weights.quantise import Quantised, chosen_layers, stored_layers, with_quantised
from danqing.weights.residency import Residency, resident
from danqing.weights.store import Shards, Source, write_shards

M = TypeVar("M", bound=nn.Module)

COMPONENTS = {
    "transformer": ("diffusers", "QwenImageTransformer2DModel"),
    "vae": ("diffusers", "AutoencoderKLQwenImage"),
    "text_encoder": ("transformers", "Qwen2_5_VLForConditionalGeneration"),
    "tokenizer": ("transformers", "Qwen2Tokenizer"),
    "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler"),
}
"""Folders of 1.x checkpoints and the classes that the reference opens them with."""
COMPONENTS_21 = {
    "transformer": ("diffusers", "QwenImage21Transformer2DModel"),
    "vae": ("diffusers", "AutoencoderKLQwenImage21"),
    "text_encoder": ("transformers", "Qwen3VLForConditionalGeneration"),
    "processor": ("transformers", "Qwen3VLProcessor"),
    "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler"),
}
"""The same of 2.1, whose tokenizer lies in the processor's folder."""
_CLASS_21 = "QwenImage21Pipeline"
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
    commercial: bool = True
    """Whether the licence lets pictures be made for money."""
    tasks: tuple[str, ...] = ("generate",)
    """Of generate, edit, layers, describe, enhance."""
    languages: tuple[str, ...] = ("en", "zh")
    size: tuple[int, int] = (1328, 1328)
    """Width and height drawn when none is asked for, in pixels."""
    sizes: tuple[tuple[int, int], ...] = ()
    """Further sizes that the checkpoint draws best."""
    min_side: int = 256
    max_side: int = 3072
    multiple: int = 16
    steps: int = 50
    fixed_steps: bool = False
    """The schedule has these steps and no others."""
    guidance: float = 4.0
    rescale: bool = True
    """Guided velocities keep the length of the conditional ones."""
    negative_prompt: str = " "
    max_length: int = 1024
    """Prompt tokens the denoiser sees; longer prompts lose their end, those of 2.1 are refused."""
    edit_template: str = "edit_plus"
    """Text around an instruction in 1.x: edit (one picture) or edit_plus (numbered pictures)."""
    max_references: int = 10
    """Pictures an instruction may speak of."""
    reference_area: int = 1024 * 1024
    """Pixels of a reference as the autoencoder sees it, and of what is drawn when no size is asked for."""
    vision_area: int = 384 * 384
    """Pixels of a reference as the conditioner of 1.x sees it; that of 2.1 sees what the autoencoder sees."""
    transparency: bool = False
    """Whether pictures have an alpha channel, given ones and drawn ones."""
    about: str = ""

    @property
    def notice(self) -> str | None:
        """What to say before the first picture; None where the licence lets pictures be used for anything."""
        if self.commercial:
            return None
        return f"{self.name} comes under the {self.licence}: no commercial use"


QWEN_IMAGE = CheckpointInfo(
    name="Qwen-Image",
    licence="Apache-2.0",
    tasks=("generate", "describe", "enhance"),
    sizes=((1664, 928), (928, 1664), (1472, 1104), (1104, 1472), (1584, 1056), (1056, 1584)),
)
QWEN_IMAGE_EDIT = dataclasses.replace(
    QWEN_IMAGE,
    name="Qwen-Image-Edit",
    tasks=("edit", "describe", "enhance"),
    size=(1024, 1024),
    sizes=(),
    edit_template="edit",
    max_references=1,
    vision_area=1024 * 1024,
)
QWEN_IMAGE_EDIT_PLUS = dataclasses.replace(
    QWEN_IMAGE_EDIT,
    name="Qwen-Image-Edit-2511",
    steps=40,
    edit_template="edit_plus",
    max_references=10,
    vision_area=384 * 384,
)
QWEN_IMAGE_LAYERED = dataclasses.replace(
    QWEN_IMAGE,
    name="Qwen-Image-Layered",
    tasks=("layers", "describe"),
    size=(640, 640),
    sizes=(),
    min_side=128,
    reference_area=640 * 640,
    transparency=True,
)
QWEN_IMAGE_21 = CheckpointInfo(
    name="Qwen-Image-2.1",
    licence="Qwen Research License",
    commercial=False,
    tasks=("generate", "edit", "describe", "enhance"),
    size=(2048, 2048),
    sizes=((2400, 1792), (1792, 2400), (2528, 1696), (1696, 2528), (2752, 1536), (1536, 2752)),
    multiple=32,
    steps=40,
    guidance=1.0,
    rescale=False,
    max_length=8192,
    vision_area=1024 * 1024,
    transparency=True,
)
RELEASES = {
    "QwenImagePipeline": QWEN_IMAGE,
    "QwenImageEditPipeline": QWEN_IMAGE_EDIT,
    "QwenImageEditPlusPipeline": QWEN_IMAGE_EDIT_PLUS,
    "QwenImageLayeredPipeline": QWEN_IMAGE_LAYERED,
    _CLASS_21: QWEN_IMAGE_21,
}
"""How the released checkpoints of each pipeline want to be used."""


class Folder:
    """A checkpoint folder in the released layout, some of its parts perhaps in files of their own."""

    def __init__(self, path: Path, given: GivenParts | None = None) -> None:
        self.path = path
        self.given = given or GivenParts()
        if not (path / "model_index.json").is_file():
            raise CheckpointError(f"{path}: expected a checkpoint folder with model_index.json, found none")
        self.index = read_json(path / "model_index.json")

    @property
    def is_21(self) -> bool:
        """Whether the parts are those of 2.1."""
        return self.index.get("_class_name") == _CLASS_21

    @property
    def tokenizer(self) -> Path:
        """Where the tokenizer's files lie."""
        return self.path / ("processor" if self.is_21 else "tokenizer")

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
        name = (repository_of(self.path) or self.path.name).rpartition("/")[2]
        info = dataclasses.replace(RELEASES[family], name=name)
        levels = self.index.get("sample_sigmas")
        return dataclasses.replace(info, steps=len(levels), fixed_steps=True) if levels else info

    def schedule(self) -> ScheduleConfig:
        """Return the noise schedule."""
        found = self.config("scheduler")
        for flag in _OTHER_GRIDS:
            if found.get(flag):
                raise ConfigError(f"{self.path}: scheduler: expected {flag} false, found {found[flag]!r}")
        values = {key: value for key, value in found.items() if key in _SCHEDULER_KEYS}
        if self.index.get("sample_sigmas"):
            values["sample_sigmas"] = self.index["sample_sigmas"]
        return config_from_json(ScheduleConfig, values)

    def transformer(
        self, device: torch.device, dtype: torch.dtype, *, modulation: torch.device | None = None
    ) -> MMDiT | SingleStream:
        """Build the denoiser, its modulation layers on a device of their own if one is given."""
        return self._build("transformer", self._new_transformer(), self._places(device, modulation), dtype)

    def placed_transformer(
        self,
        placement: Placement,
        device: torch.device,
        dtype: torch.dtype,
        *,
        modulation: torch.device | None = None,
        modulation_kept: bool = True,
    ) -> tuple[MMDiT | SingleStream, Residency]:
        """Return the denoiser and what keeps its weights as `placement` says, see `resident`."""
        make, source = self._quantised("transformer", self._new_transformer(), dtype, placement.format)
        return resident(
            make,
            source,
            placement,
            device=self._places(device, modulation),
            dtype=dtype,
            modulation_kept=modulation_kept,
        )

    def new_transformer(self) -> MMDiT | SingleStream:
        """Return a denoiser of the checkpoint's sizes; on the meta device it needs no memory."""
        return self._new_transformer()()

    def _new_transformer(self) -> Callable[[], MMDiT | SingleStream]:
        config = self.transformer_config()
        return lambda: MMDiT(config) if isinstance(config, MMDiTConfig) else SingleStream(config)

    def transformer_config(self) -> MMDiTConfig | SingleStreamConfig:
        """Return the sizes of the denoiser, with the switches of its release."""
        config = self.config("transformer") | self.given.switches(str(self.index.get("_class_name")))
        if self.is_21:
            return config_from_json(SingleStreamConfig, config)
        return config_from_json(MMDiTConfig, config, ignored=_STRAY)

    def vae(self, device: torch.device, dtype: torch.dtype) -> VAE | VAE21:
        """Build the autoencoder; 5-D kernels are folded to the 2-D ones a picture needs."""
        vae = self._build("vae", self._new_vae(), lambda _: device, dtype, adapt=fold)
        _channels_last(vae)
        return vae

    def placed_vae(
        self, placement: Placement, device: torch.device, dtype: torch.dtype
    ) -> tuple[VAE | VAE21, Residency]:
        """Return the autoencoder and what keeps its weights as `placement` says."""
        make, source = self._new_vae(), self.given.source("vae", self.path / "vae", dtype)
        return resident(
            make, source, placement, device=device, dtype=dtype, adapt=fold, finish=_channels_last
        )

    def _new_vae(self) -> Callable[[], VAE | VAE21]:
        config = self.vae_config()
        return lambda: VAE(config) if isinstance(config, VAEConfig) else VAE21(config)

    def vae_config(self) -> VAEConfig | VAE21Config:
        """Return the sizes of the autoencoder."""
        config = self.config("vae")
        if self.is_21:
            return config_from_json(VAE21Config, config)
        return config_from_json(VAEConfig, config, ignored=_STRAY)

    def vlm(
        self, device: torch.device, dtype: torch.dtype, *, vision: bool = False, head: bool = False
    ) -> VLM | Qwen3VL:
        """Build the conditioner; drawing from text needs neither its vision tower nor its head."""
        make, unused = self._new_vlm(vision=vision, head=head)
        return self._build("text_encoder", make, lambda _: device, dtype, unused=unused)

    def placed_vlm(
        self,
        placement: Placement,
        device: torch.device,
        dtype: torch.dtype,
        *,
        vision: bool = False,
        head: bool = False,
    ) -> tuple[VLM | Qwen3VL, Residency]:
        """Return the conditioner and what keeps its weights as `placement` says."""
        made, unused = self._new_vlm(vision=vision, head=head)
        make, source = self._quantised("text_encoder", made, dtype, placement.format)
        return resident(make, source, placement, device=device, dtype=dtype, unused=unused)

    def _new_vlm(self, *, vision: bool, head: bool) -> tuple[Callable[[], VLM | Qwen3VL], tuple[str, ...]]:
        """Return what makes the conditioner, and how names of stored tensors start that it does not use."""
        config = self.config("text_encoder")
        eyes = "model.visual." if self.is_21 else "visual."
        unused = (() if vision else (eyes,)) + (() if head else ("lm_head.",))
        if self.is_21:
            new = Qwen3VLConfig.from_dict(config)
            return lambda: Qwen3VL(new, vision=vision, head=head), unused
        old = VLMConfig.from_dict(config)
        return lambda: VLM(old, vision=vision, head=head), unused

    def _places(self, device: torch.device, modulation: torch.device | None) -> Callable[[str], torch.device]:
        is_modulation = single_stream.is_modulation if self.is_21 else mmdit.is_modulation

        def place(name: str) -> torch.device:
            return modulation if modulation is not None and is_modulation(name) else device

        return place

    def _build(
        self,
        part: Part,
        make: Callable[[], M],
        place: Callable[[str], torch.device],
        dtype: torch.dtype,
        *,
        adapt: Adapt | None = None,
        unused: tuple[str, ...] = (),
    ) -> M:
        make, source = self._quantised(part, make, dtype, "plain")
        return build(make, source, device=place, dtype=dtype, adapt=adapt, unused=unused)

    def _quantised(
        self, part: Part, make: Callable[[], M], dtype: torch.dtype, format: Format
    ) -> tuple[Callable[[], M], Source]:
        """Return what makes a part, and its source; large layers in `format`, or as they are if smaller."""
        given = self.given.source(part, self.path / part, dtype)
        source = Shards.open(given) if isinstance(given, Path) else given
        layers = chosen_layers(source, format)
        if not layers and not stored_layers(source):
            return make, source
        return lambda: with_quantised(make(), layers), Quantised(source, layers)


def write_folder(
    path: Path,
    *,
    transformer: tuple[MMDiTConfig | SingleStreamConfig, Mapping[str, Tensor]],
    vae: tuple[VAEConfig | VAE21Config, Mapping[str, Tensor]],
    text_encoder: tuple[VLMConfig | Qwen3VLConfig, Mapping[str, Tensor]],
    schedule: ScheduleConfig,
    info: CheckpointInfo | None = None,
    folded_vae: bool = False,
    dtype: torch.dtype | None = None,
) -> None:
    """Write configs and weights of a checkpoint; the tokenizer's owner saves it where `Folder.tokenizer` is.

    With `folded_vae` the VAE keeps the 2-D kernels, a third of the size, which danqing alone reads; otherwise
    it has the released layout, 5-D in 1.x.
    """
    is_21 = isinstance(transformer[0], SingleStreamConfig)
    components = COMPONENTS_21 if is_21 else COMPONENTS
    parts = {
        "transformer": (
            config_to_json(transformer[0], class_name=components["transformer"][1]),
            transformer[1],
        ),
        "vae": (
            config_to_json(vae[0], class_name=components["vae"][1]),
            vae[1] if folded_vae else _released(*vae),
        ),
        "text_encoder": (text_encoder[0].to_dict(), text_encoder[1]),
    }
    for component, (config, state) in parts.items():
        stem = "model" if component == "text_encoder" else "diffusion_pytorch_model"
        cast = {name: tensor if dtype is None else tensor.to(dtype) for name, tensor in state.items()}
        write_shards(path / component, stem, cast)
        write_json(path / component / "config.json", config)
    scheduler = config_to_json(schedule, class_name=components["scheduler"][1])
    levels = scheduler.pop("sample_sigmas")  # which the releases keep in the index
    write_json(path / "scheduler" / "scheduler_config.json", scheduler)
    if info is not None:
        write_json(path / "danqing.json", dataclasses.asdict(info))
    family = {"_class_name": _CLASS_21 if is_21 else "QwenImagePipeline", "_diffusers_version": "0.42.1"}
    if is_21 or levels is not None:
        family["sample_sigmas"] = levels
    write_json(path / "model_index.json", family | {name: list(owner) for name, owner in components.items()})


def write_released_copy(source: Folder, path: Path) -> None:
    """Copy a checkpoint into `path` with its VAE in the released layout, which other libraries read."""
    shutil.copytree(
        source.path, path, ignore=shutil.ignore_patterns("__pycache__", "*.py"), dirs_exist_ok=True
    )
    shards = Shards.open(source.path / "vae")
    state = {name: fold(name, tensor) for name, tensor in shards.read(shards.tensors)}
    folded = {name: tensor for name, tensor in state.items() if tensor is not None}
    write_shards(path / "vae", "diffusion_pytorch_model", _released(source.vae_config(), folded))


def _channels_last(vae: nn.Module) -> None:
    nn.utils.convert_conv2d_weight_memory_format(vae, torch.channels_last)


def _released(config: VAEConfig | VAE21Config, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the released layout of a folded autoencoder."""
    if isinstance(config, VAE21Config):
        return vae21.unfold(config, dict(state))
    return vae1.unfold(config, dict(state))
