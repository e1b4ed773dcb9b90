"""Scenes as the denoiser trains on them: latents and text features, made once and used a few times.

Encoding a picture costs about a third of a training step on it, so scenes are encoded in shards that are kept
in a folder while they are in use. A shard depends on its number alone: it can be deleted and made again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from danqing.conditioning.images import to_pixels
from danqing.conditioning.text import encode_prompts
from danqing.conditioning.tokenizer import Tokenizer
from danqing.data.atlas import Atlas
from danqing.data.language import caption
from danqing.data.language.captions import Length
from danqing.data.language.corpus import draw_language
from danqing.data.language.seen import style_of
from danqing.data.world import KIND_SHARES, Scene, SceneKind, render, sample_scene
from danqing.models.vae import VAE
from danqing.models.vlm import VLM
from danqing.weights.store import write_safetensors

_ENCODED_TOGETHER = 32  # pictures


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Encoded scenes."""

    latents: Tensor
    """(count, z, lat_h, lat_w), normalised, fp16."""
    txt: Tensor
    """(all tokens, dim) text features of all captions, one after another, fp16."""
    offsets: Tensor
    """(count + 1,) where each caption's features start in `txt`."""

    def text(self, index: int) -> Tensor:
        """Return the text features of one example, (tokens, dim)."""
        return self.txt[self.offsets[index] : self.offsets[index + 1]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneEncoder:
    """The frozen parts that turn scenes into examples."""

    atlas: Atlas
    vae: VAE
    vlm: VLM
    tokenizer: Tokenizer
    size: int = 128

    def encode(self, scenes: list[Scene], captions: list[str]) -> Examples:
        """Render and encode scenes with their captions."""
        device = next(self.vae.parameters()).device
        latents = []
        with torch.no_grad():
            for start in range(0, len(scenes), _ENCODED_TOGETHER):
                part = scenes[start : start + _ENCODED_TOGETHER]
                pictures = np.stack([render(scene, self.atlas, self.size) for scene in part])
                with torch.autocast(device.type, dtype=torch.bfloat16):
                    encoded = self.vae.encode(to_pixels(pictures).to(device))
                latents.append(encoded.half().cpu())
            features = [
                encode_prompts(self.vlm, self.tokenizer, [text]).txt[0].half().cpu() for text in captions
            ]
        offsets = torch.tensor([0] + [len(row) for row in features]).cumsum(0)
        return Examples(latents=torch.cat(latents).contiguous(), txt=torch.cat(features), offsets=offsets)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """Which scenes come, how often, and in which languages they are told."""

    languages: Mapping[str, float]
    shares: Mapping[SceneKind, float] = field(default_factory=lambda: KIND_SHARES)
    codes: Sequence[str] | None = None
    """Concepts; None for all of the atlas and all plain shapes."""
    styles: Mapping[str, float] | None = None
    """The first style goes without saying, the others are always said; None for all alike, seldom said."""

    def draw(self, rng: np.random.Generator, atlas: Atlas) -> tuple[Scene, str]:
        """Draw a scene and its caption."""
        scene = sample_scene(rng, atlas, shares=self.shares, codes=self.codes, styles=self.styles)
        usual = None if self.styles is None else next(iter(self.styles))
        length: Length | None = None if usual is None or style_of(scene) in (usual, None) else "styled"
        return scene, caption(scene, draw_language(rng, self.languages), rng, atlas, length=length)


class ExampleCache:
    """A moving window of shards; every example is used about `reuse` times before it leaves."""

    def __init__(
        self,
        encoder: SceneEncoder,
        folder: Path,
        *,
        seed: int,
        mixture: Mixture,
        shard_size: int = 1024,
        window: int = 12,
        reuse: int = 4,
    ) -> None:
        self.encoder, self.folder, self.seed, self.mixture = encoder, folder, seed, mixture
        self.shard_size, self.window, self.reuse = shard_size, window, reuse
        self._loaded: dict[int, Examples] = {}
        self._first = 0  # number of the window's oldest shard
        folder.mkdir(parents=True, exist_ok=True)

    def draw(self, rng: np.random.Generator, items_before: int, count: int) -> tuple[Tensor, list[Tensor]]:
        """Return latents and text features of `count` random examples, `items_before` draws into the run.

        After every `reuse` draws an example, one more shard joins the window and, once it is full, the
        oldest leaves.
        """
        newest = items_before // (self.shard_size * self.reuse)
        oldest = max(0, newest - self.window + 1)
        self._retire(oldest)
        latents, texts = [], []
        for shard, index in zip(
            rng.integers(oldest, newest + 1, count), rng.integers(0, self.shard_size, count), strict=True
        ):
            examples = self.shard(int(shard))
            latents.append(examples.latents[index])
            texts.append(examples.text(int(index)))
        return torch.stack(latents).float(), [text.float() for text in texts]

    def shard(self, number: int) -> Examples:
        """Return a shard, from memory, from the folder or made now."""
        if number not in self._loaded:
            path = self._path(number)
            if not path.exists():
                self._make(number)
            self._loaded[number] = Examples(**load_file(path))
        return self._loaded[number]

    def _make(self, number: int) -> None:
        rng = np.random.default_rng([self.seed, number])
        drawn = [self.mixture.draw(rng, self.encoder.atlas) for _ in range(self.shard_size)]
        examples = self.encoder.encode([scene for scene, _ in drawn], [said for _, said in drawn])
        tensors = {"latents": examples.latents, "txt": examples.txt, "offsets": examples.offsets}
        write_safetensors(self._path(number), tensors, {})

    def _path(self, number: int) -> Path:
        return self.folder / f"shard-{number:06d}.safetensors"

    def _retire(self, first: int) -> None:
        for number in range(self._first, first):  # also what an earlier process left in the folder
            self._loaded.pop(number, None)
            self._path(number).unlink(missing_ok=True)
        self._first = first
