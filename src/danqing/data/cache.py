"""Tasks as the denoiser trains on them: latents and text features, made once and used a few times.

Encoding a picture costs about a third of a training step on it, so scenes are encoded in shards that are kept
in a folder while they are in use. A shard depends on its number alone: it can be deleted and made again.
"""

import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from danqing.conditioning.images import to_pixels
from danqing.conditioning.pictures import PictureLimits, seen_pixels
from danqing.conditioning.templates import EDIT_PLUS, GENERATE
from danqing.conditioning.text import encode_batch
from danqing.conditioning.tokenizer import Tokenizer
from danqing.data.atlas import Atlas
from danqing.data.language import caption
from danqing.data.language.captions import Length
from danqing.data.language.corpus import draw_language
from danqing.data.language.instructions import edit_instruction
from danqing.data.language.seen import style_of
from danqing.data.world import KIND_SHARES, Scene, SceneKind, Split, render, sample_scene
from danqing.models.vae import VAE
from danqing.models.vlm import VLM
from danqing.weights.store import write_safetensors

UNTOLD: Final = " "
"""What stands where a prompt is left out."""
_TOGETHER: Final = 64  # pictures or prompts that are encoded in one go


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A scene and the words that ask for it."""

    scene: Scene
    prompt: str
    source: Scene | None = None
    """Of an edit, what it starts from."""


class Example(NamedTuple):
    """One encoded task, fp32."""

    latents: Tensor
    """(z, lat_h, lat_w), normalised."""
    txt: Tensor
    """(tokens, dim) what the denoiser reads."""
    reference: Tensor | None
    """(z, lat_h, lat_w) of the picture that is edited."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Encoded tasks, fp16."""

    latents: Tensor
    """(count, z, lat_h, lat_w)."""
    txt: Tensor
    """(all tokens, dim) text features, one task after another."""
    offsets: Tensor
    """(count + 1,) where the features of each task start in `txt`."""
    references: Tensor
    """(edits, z, lat_h, lat_w)."""
    reference_of: Tensor
    """(count,) which of the references a task edits; -1 where it draws from nothing."""

    def __getitem__(self, index: int) -> Example:
        """Return one task."""
        start, end = self.offsets[index : index + 2]
        of = int(self.reference_of[index])
        return Example(
            latents=self.latents[index].float(),
            txt=self.txt[start:end].float(),
            reference=None if of < 0 else self.references[of].float(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """Which scenes come, how often, and in which languages they are told."""

    languages: Mapping[str, float]
    shares: Mapping[SceneKind, float] = field(default_factory=lambda: dict(KIND_SHARES))
    codes: Sequence[str] | None = None
    """Concepts; None for all of the atlas and all plain shapes."""
    styles: Mapping[str, float] | None = None
    """The first style goes without saying, the others are always said; None for all alike, seldom said."""
    edits: float = 0.0
    """Share of the tasks that edit a picture."""
    untold: float = 0.1
    """Share of the edits whose instruction is left out, for guidance; the picture is still seen."""

    def scene(self, rng: np.random.Generator, atlas: Atlas, split: Split = "train") -> Scene:
        """Draw a scene."""
        return sample_scene(rng, atlas, split, shares=self.shares, codes=self.codes, styles=self.styles)

    def draw(self, rng: np.random.Generator, atlas: Atlas) -> Task:
        """Draw a scene and its caption, or an edit and its instruction."""
        scene = self.scene(rng, atlas)
        language = draw_language(rng, self.languages)
        if self.edits and rng.random() < self.edits:
            said, edit = edit_instruction(scene, language, rng, atlas)
            told = rng.random() >= self.untold
            return Task(scene=edit.target, prompt=said if told else UNTOLD, source=edit.source)
        usual = None if self.styles is None else next(iter(self.styles))
        length: Length | None = None if usual is None or style_of(scene) in (usual, None) else "styled"
        return Task(scene=scene, prompt=caption(scene, language, rng, atlas, length=length))


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Tasks as pixels and words: all that needs no network."""

    prompts: list[str]
    pixels: np.ndarray
    """(count, size, size, 3) uint8."""
    sources: np.ndarray
    """(edits, size, size, 3) uint8, the pictures that are edited."""
    edits: np.ndarray
    """(count,) bool, which tasks they belong to."""


def prepare(tasks: Sequence[Task], atlas: Atlas, size: int) -> Prepared:
    """Render tasks at `size` pixels a side."""
    sources = [render(task.source, atlas, size) for task in tasks if task.source is not None]
    return Prepared(
        prompts=[task.prompt for task in tasks],
        pixels=np.stack([render(task.scene, atlas, size) for task in tasks]),
        sources=np.stack(sources) if sources else np.zeros((0, size, size, 3), np.uint8),
        edits=np.array([task.source is not None for task in tasks]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneEncoder:
    """The frozen parts that turn tasks into examples."""

    atlas: Atlas
    vae: VAE
    vlm: VLM
    tokenizer: Tokenizer
    size: int = 128
    vision_area: int = 168 * 168
    """Pixels of a picture as the conditioner sees it; edits need a conditioner with vision."""
    limits: PictureLimits | None = None

    def encode(self, tasks: Sequence[Task]) -> Examples:
        """Render and encode tasks."""
        return self.encode_prepared(prepare(tasks, self.atlas, self.size))

    @torch.no_grad()
    def encode_prepared(self, prepared: Prepared) -> Examples:
        """Encode what was rendered, many together: features differ from those of one prompt by rounding."""
        edits = torch.from_numpy(prepared.edits)
        reference_of = torch.where(edits, edits.cumsum(0) - 1, -1)
        features = self._features(prepared, reference_of)
        return Examples(
            latents=self._latents(prepared.pixels),
            txt=torch.cat(features),
            offsets=torch.tensor([0] + [len(row) for row in features]).cumsum(0),
            references=self._latents(prepared.sources),
            reference_of=reference_of,
        )

    def _latents(self, pictures: np.ndarray) -> Tensor:
        device = next(self.vae.parameters()).device
        side = self.size // self.vae.config.spatial_ratio
        latents = [torch.empty(0, self.vae.config.z_dim, side, side, dtype=torch.float16)]
        for start in range(0, len(pictures), _TOGETHER):
            with torch.autocast(device.type, dtype=torch.bfloat16):
                encoded = self.vae.encode(to_pixels(pictures[start : start + _TOGETHER]).to(device))
            latents.append(encoded.half().cpu())
        return torch.cat(latents).contiguous()

    def _features(self, prepared: Prepared, reference_of: Tensor) -> list[Tensor]:
        found: dict[int, Tensor] = {}
        lengths = np.array([len(prompt.encode()) for prompt in prepared.prompts])
        for template, chosen in ((GENERATE, ~prepared.edits), (EDIT_PLUS, prepared.edits)):
            places = np.flatnonzero(chosen)
            places = places[lengths[places].argsort(kind="stable")]  # rows of a batch are of a length
            for part in (places[start : start + _TOGETHER] for start in range(0, len(places), _TOGETHER)):
                prompts = [prepared.prompts[index] for index in part]
                seen = [self._seen(prepared.sources[reference_of[i]]) for i in part if prepared.edits[i]]
                encoded = encode_batch(self.vlm, self.tokenizer, prompts, seen, template=template)
                for index, row, length in zip(part.tolist(), encoded.txt, encoded.lengths, strict=True):
                    found[index] = row[:length].half().cpu()
        return [found[index] for index in range(len(found))]

    def _seen(self, source: np.ndarray) -> Tensor:
        return seen_pixels(Image.fromarray(source), self.vision_area, self.vlm.config.vision, self.limits)


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
        workers: int = 0,
        atlas: Path | None = None,
    ) -> None:
        """With `workers`, so many further processes draw and render shards ahead of their use.

        They read the atlas from the file `atlas`, by default the packaged one; it must be the encoder's.
        """
        self.encoder, self.folder, self.seed, self.mixture = encoder, folder, seed, mixture
        self.shard_size, self.window, self.reuse = shard_size, window, reuse
        self._loaded: dict[int, Examples] = {}
        self._first = 0  # number of the window's oldest shard
        self._workers, self._atlas, self._coming = workers, atlas, dict[int, Future[Prepared]]()
        context = multiprocessing.get_context("spawn")  # a fork would copy what CUDA holds
        self._pool = ProcessPoolExecutor(workers, mp_context=context) if workers else None
        folder.mkdir(parents=True, exist_ok=True)

    def draw(self, rng: np.random.Generator, items_before: int, count: int) -> list[Example]:
        """Return `count` random examples, `items_before` draws into the run.

        After every `reuse` draws an example, one more shard joins the window and, once it is full, the
        oldest leaves.
        """
        newest = items_before // (self.shard_size * self.reuse)
        oldest = max(0, newest - self.window + 1)
        self._retire(oldest)
        shards, places = rng.integers(oldest, newest + 1, count), rng.integers(0, self.shard_size, count)
        return [self.shard(int(shard))[int(at)] for shard, at in zip(shards, places, strict=True)]

    def shard(self, number: int) -> Examples:
        """Return a shard, from memory, from the folder or made now."""
        if number not in self._loaded:
            path = self._path(number)
            if not path.exists():
                self._make(number)
            self._loaded[number] = Examples(**load_file(path))
        return self._loaded[number]

    def _make(self, number: int) -> None:
        wanted = (self.seed, self.shard_size, self.mixture, self.encoder.size)
        if self._pool is None:
            prepared = _prepare(number, *wanted, self.encoder.atlas)
        else:
            for ahead in range(number, number + 2 * self._workers):
                if ahead not in self._coming:
                    self._coming[ahead] = self._pool.submit(_prepare, ahead, *wanted, self._atlas)
            prepared = self._coming.pop(number).result()
        examples = self.encoder.encode_prepared(prepared)
        tensors = {field.name: getattr(examples, field.name) for field in fields(examples)}
        write_safetensors(self._path(number), tensors, {})

    def _path(self, number: int) -> Path:
        return self.folder / f"shard-{number:06d}.safetensors"

    def _retire(self, first: int) -> None:
        for number in range(self._first, first):  # also what an earlier process left in the folder
            self._loaded.pop(number, None)
            self._path(number).unlink(missing_ok=True)
        self._first = first


def _prepare(
    number: int, seed: int, count: int, mixture: Mixture, size: int, atlas: Atlas | Path | None
) -> Prepared:
    """Draw and render the tasks of a shard; other processes are told where the atlas lies."""
    chosen = atlas if isinstance(atlas, Atlas) else _opened(atlas)
    rng = np.random.default_rng([seed, number])
    return prepare([mixture.draw(rng, chosen) for _ in range(count)], chosen, size)


@cache
def _opened(path: Path | None) -> Atlas:
    return Atlas.load(path)
