"""A pipeline of diffusers as a rival: a folder in the released layout, or an id of its hub.

The library is an extra and is asked as its own users ask: one picture a call, a CPU generator with the seed
of the picture, sizes and steps as given or the pipeline's own. Weights are safetensors; no code is fetched.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from PIL import Image

from danqing.device import resolve_device, resolve_precision
from danqing.errors import CheckpointError, ConfigError, RequestError
from danqing.evaluation.digests import vae_digest
from danqing.evaluation.items import Ability, Item, Made, content_key
from danqing.evaluation.remote.asking import picture_of, request_of
from danqing.evaluation.systems import SourceOf

_STARTING: Final = ("Img2Img", "Inpaint")
"""In the names of pipelines that start from the picture instead of seeing it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffusersOptions:
    """What is asked of a pipeline besides prompt and seed; None leaves it to the pipeline."""

    size: tuple[int, int] | None = None
    """Width and height of pictures drawn from a prompt."""
    steps: int | None = None
    guidance: float | None = None
    """True guidance where the pipeline has it (`true_cfg_scale`), else `guidance_scale`."""
    negative: str | None = None
    """Negative prompt; true guidance works with one only, so a blank is sent where none is given."""
    device: str = "auto"
    precision: str = "auto"


class DiffusersSystem:
    """A loaded pipeline of diffusers that draws, or edits where it takes a picture."""

    def __init__(
        self,
        folder: str | Path,
        options: DiffusersOptions | None = None,
        *,
        name: str | None = None,
        source_of: SourceOf | None = None,
    ) -> None:
        """Load the pipeline.

        Raises ConfigError without the library or for options that the pipeline does not know,
        CheckpointError when it cannot be loaded.
        """
        self._options, self._source_of = options or DiffusersOptions(), source_of
        where = resolve_device(self._options.device)
        dtype = resolve_precision(self._options.precision, where)
        self._pipeline = _loaded(folder, dtype).to(where)
        self._pipeline.set_progress_bar_config(disable=True)
        kind = type(self._pipeline).__name__
        known = set(inspect.signature(self._pipeline.__call__).parameters)
        self._asked = _asked(self._options, known, kind)
        self.abilities = _abilities(kind, known)
        self._starts = any(word in kind for word in _STARTING)
        self.name = name or Path(folder).name
        self.settings: Mapping[str, Any] = {
            "kind": "live",
            "vendor": "diffusers",
            "model": Path(folder).name if Path(folder).is_dir() else str(folder),
            "pipeline": kind,
            "weights": _digest(self._pipeline),
            "precision": str(dtype).removeprefix("torch."),
            **self._asked,
        }
        self.version = content_key(self.settings)[:12]

    def request(self, item: Item, seed: int) -> Mapping[str, Any]:
        """Return what decides the answer."""
        return request_of(item, seed)

    def answer(self, items: Sequence[Item], seed: int) -> list[Made]:
        """Draw or edit one by one, each with a generator of its own."""
        return [self._one(item, seed) for item in items]

    def _one(self, item: Item, seed: int) -> Image.Image:
        if item.ability not in self.abilities:
            able = ", ".join(sorted(self.abilities))
            raise RequestError(f"{self.name}: expected an item to {able}, found one to {item.ability}")
        asked = dict(self._asked)
        if item.ability == "edit":
            source = picture_of(item, self._source_of)
            asked = {key: value for key, value in asked.items() if key not in ("width", "height")}
            # pipelines that start from a picture draw at a size of their own unless they are told
            sized = {"width": source.width, "height": source.height} if self._starts else {}
            asked |= {"image": source, **sized}
        generator = torch.Generator("cpu").manual_seed(seed)
        with torch.inference_mode():
            made = self._pipeline(prompt=item.prompt, generator=generator, **asked)
        picture = made.images[0]
        if not isinstance(picture, Image.Image):
            raise RequestError(f"{self.name}: expected a picture, found {type(picture).__name__}")
        return picture


def _loaded(folder: str | Path, dtype: torch.dtype) -> Any:
    try:
        from diffusers import DiffusionPipeline
    except ImportError:
        raise ConfigError("expected diffusers, found none; pip install diffusers transformers") from None
    try:
        return DiffusionPipeline.from_pretrained(str(folder), dtype=dtype, use_safetensors=True)
    except (OSError, ValueError) as error:
        said = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{folder}: expected a pipeline of diffusers, found: {said}") from None


def _asked(options: DiffusersOptions, known: set[str], kind: str) -> dict[str, Any]:
    """Return the options under the names that the pipeline gives them."""
    true = "true_cfg_scale" in known
    width, height = options.size or (None, None)
    wanted = {
        "width": width,
        "height": height,
        "num_inference_steps": options.steps,
        "true_cfg_scale" if true else "guidance_scale": options.guidance,
        "negative_prompt": " " if true and options.negative is None else options.negative,
    }
    given = {key: value for key, value in wanted.items() if value is not None}
    if unknown := sorted(set(given) - known):
        raise ConfigError(f"expected options that {kind} knows, found {unknown[0]}; leave it out")
    return given


def _abilities(kind: str, known: set[str]) -> frozenset[Ability]:
    only_edits = any(word in kind for word in ("Edit", *_STARTING))
    able: set[Ability] = set() if only_edits else {"draw"}
    if only_edits or "image" in known:
        able.add("edit")
    return frozenset(able)


def _digest(pipeline: Any) -> str:
    parts = {key: part for key, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
    return content_key({key: vae_digest(part) for key, part in parts.items()})[:12]
