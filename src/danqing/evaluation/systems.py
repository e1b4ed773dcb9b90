"""What evaluation asks for pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from PIL import Image

from danqing.evaluation.gate import weights_digest
from danqing.evaluation.items import Item, content_key
from danqing.model import Model
from danqing.pipelines.generate import GenerateRequest, generate


class ModelSystem:
    """A loaded checkpoint that draws the prompt of each item, all with the same settings."""

    def __init__(
        self,
        model: Model,
        *,
        name: str | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        size: tuple[int, int] | None = None,
    ) -> None:
        self._model = model
        request = GenerateRequest(prompt="-", seed=0, steps=steps, guidance=guidance, size=size)
        self._request = request.resolved(model.info)
        self.name = name or model.info.name
        own = {key: value for key, value in asdict(self._request).items() if key not in ("prompt", "seed")}
        precision = str(model.components.dtype).removeprefix("torch.")
        self.settings: Mapping[str, Any] = {
            "model": model.info.name,
            "weights": weights_digest(model),
            "precision": precision,
            **own,
        }
        self.version = content_key(self.settings)[:12]

    def request(self, item: Item, seed: int) -> Mapping[str, Any]:
        """Return what decides the picture: the version holds the settings, so prompt and seed."""
        return {"prompt": item.prompt, "seed": seed}

    def draw(self, items: Sequence[Item], seed: int) -> list[Image.Image]:
        """Draw one picture for each item."""
        requests = [replace(self._request, prompt=item.prompt, seed=seed) for item in items]
        drawn = [one for step in generate(self._model.components, requests) for one in step.drawn]
        return [one.image for one in sorted(drawn, key=lambda one: one.index)]
