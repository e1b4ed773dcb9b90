"""What the conditioner read of texts, kept for the next request with the same words and pictures."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from danqing.pipelines.components import Components
from danqing.weights.result_cache import ResultCache, result_key

LARGE = 10**8
"""Parameters of a conditioner from which on its features are kept on disk too."""
_KIND = "prompts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """One text as the denoiser reads it."""

    txt: Float[Tensor, "txt_seq dim"]
    before: tuple[int, ...]
    """Tokens before each reference of 2.1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptMemory:
    """Features of texts that were read in the same way."""

    cache: ResultCache | None
    """None where nothing is kept."""
    read_by: Mapping[str, Any]
    """All that they depend on beside the text."""
    device: torch.device
    on_disk: bool

    def recall(self, text: str) -> Features | None:
        """Return the features of a text that was read before, bit for bit those it would be read as."""
        if self.cache is None:
            return None
        key = self._key(text)
        found = self.cache.recall(_KIND, key)
        if found is None and self.on_disk and (loaded := self.cache.load(_KIND, key)) is not None:
            found = {"txt": loaded["txt"].to(self.device), "before": loaded["before"]}
            self.cache.remember(_KIND, key, found)
        return None if found is None else Features(txt=found["txt"], before=tuple(found["before"].tolist()))

    def remember(self, text: str, features: Features) -> None:
        """Keep the features of a text."""
        if self.cache is None:
            return
        key = self._key(text)
        tensors = {
            "txt": features.txt.clone(),  # not the whole batch that it is a part of
            "before": torch.tensor(features.before, dtype=torch.int64),
        }
        self.cache.remember(_KIND, key, tensors)
        if self.on_disk:
            self.cache.store(_KIND, key, tensors)

    def _key(self, text: str) -> str:
        return result_key(self.device, text=text, **self.read_by)


def memory_of(components: Components, way: Mapping[str, Any]) -> PromptMemory:
    """Return what the conditioner of a checkpoint remembers of texts that it reads in a `way`.

    It is empty where it is not known what the conditioner was made from.
    """
    vlm, identity = components.vlm, components.identities.get("text_encoder")
    weights = None if identity is None else identity.of(vlm)
    return PromptMemory(
        cache=None if weights is None else components.cache,
        read_by={**way, "weights": weights, "config": repr(vlm.config), "dtype": str(components.dtype)},
        device=components.device,
        on_disk=sum(one.numel() for one in vlm.parameters()) >= LARGE,
    )
