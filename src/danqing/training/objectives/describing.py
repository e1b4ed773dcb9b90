"""Train the vision tower and its merger into a language tower that is frozen.

The language tower has learned to read `SceneTokens`; here pixels are turned into such tokens. Three losses
point the same way: be the tokens that the scene would have been; let linear heads, thrown away afterwards,
read what stands in each square; and let the language tower give the right answers to questions and the
description in twelve languages. The first two say for every square what is wrong with it, which the third
could say for whole pictures only.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from einops import repeat
from torch import Tensor, nn

from danqing.conditioning.images import sheet
from danqing.conditioning.pictures import PictureLimits
from danqing.conditioning.questions import describe_question
from danqing.conditioning.templates import DESCRIBE
from danqing.conditioning.text import widened_token_ids
from danqing.conditioning.tokenizer import Tokenizer
from danqing.data.atlas import Atlas
from danqing.data.concepts import LANGUAGES
from danqing.data.language import question
from danqing.data.language.descriptions import description
from danqing.data.world import Scene, sample_scene
from danqing.data.world.compose import compose
from danqing.models.vision import PIXEL_MEAN, PIXEL_STD, VisionConfig
from danqing.models.vlm import VLM
from danqing.training.objectives.seeing import (
    GRID,
    SceneFacts,
    SceneTokens,
    families,
    letter_rows,
    num_slots,
    read_pictures,
    scene_facts,
)
from danqing.training.objectives.spelling import answer_ids
from danqing.training.optim import short_attention

_SIZES: Final = (96, 128, 128, 160)
"""Sides in pixels that scenes are drawn with, a quarter of a batch each, before the model's own size."""
_LETTER_DIM: Final = 48
_READ_WEIGHT: Final = 0.2  # of some 18 losses, so that together they weigh little more than the other two
_EVALUATED: Final = 96  # scenes; eight a language
_SHOWN: Final = 12
_UNKNOWN: Final = -100  # the target that cross-entropy leaves out


PICTURE_LIMITS: Final = PictureLimits(min_pixels=28_000, max_pixels=28_500)
"""So many pixels bring every square picture to the 168 x 168 that make `GRID`, whatever rounding does."""


class Pictures(NamedTuple):
    """A batch of pictures, what is in them, and what is said about some of them."""

    patches: Tensor
    """(pictures * patches, patch_dim)."""
    facts: SceneFacts
    prefix: Tensor
    """(prefix,) tokens that every row begins with."""
    token_ids: Tensor
    """(rows, seq) what follows: a picture, a question and its answer; padded on the right."""
    targets: Tensor
    """Next token at the places of an answer; -100 elsewhere."""
    asked: Tensor
    """(rows,) picture that a row is about."""


class SeeingTrainee(nn.Module):
    """A vision-language model of which only the eyes learn, and the heads that help them."""

    def __init__(self, vlm: VLM, tokens: SceneTokens) -> None:
        super().__init__()
        dim = vlm.config.dim
        self.vlm = vlm.requires_grad_(False)
        self.vlm.visual.requires_grad_(True)
        self.tokens = tokens.requires_grad_(False)
        self.heads = nn.ModuleDict(
            {name: nn.Linear(dim, len(rows)) for name, rows in families().items() if name != "centre"}
        )
        self.centre = nn.Linear(dim, 1)
        self.letters = nn.Linear(dim, num_slots() * _LETTER_DIM)
        self.letter = nn.Linear(_LETTER_DIM, len(letter_rows()))


class Seeing:
    """Scene tokens from pixels: their distance, what heads read off them, and what is answered from them.

    From step `asked_from` on, `asked` pictures of a batch are described and asked about; before, there is
    nothing yet that a language tower could read.
    """

    def __init__(
        self,
        atlas: Atlas,
        tokenizer: Tokenizer,
        vision: VisionConfig,
        *,
        batch_size: int,
        seed: int,
        asked: int = 8,
        asked_from: int = 0,
        codes: Sequence[str] | None = None,
    ) -> None:
        """Show scenes of the concepts in `codes`, by default of all in the atlas and all plain shapes."""
        self.atlas, self.tokenizer, self.vision = atlas, tokenizer, vision
        self.batch_size, self.seed = batch_size, seed
        self.asked, self.asked_from, self.codes = asked, asked_from, codes
        head = DESCRIBE.text[: DESCRIBE.text.index("{}")]
        self._prefix = torch.tensor(tokenizer.encode(head))

    def batch(self, step: int) -> Pictures:
        """Draw scenes, their pictures, and a description and a question for some."""
        rng = np.random.default_rng([self.seed, step])
        scenes = [sample_scene(rng, self.atlas, codes=self.codes) for _ in range(self.batch_size)]
        said: list[tuple[int, str, str]] = []
        for index in range(min(self.asked, self.batch_size) if step >= self.asked_from else 0):
            said += [(index, *one) for one in self._said(rng, scenes[index])]
        return self._collate(scenes, said, _jittered(rng, self._drawn(scenes)))

    def loss(self, model: nn.Module, batch: Pictures) -> tuple[Tensor, dict[str, float]]:
        """Return the sum of the three losses."""
        assert isinstance(model, SeeingTrainee)
        seen = self._seen(model.vlm, batch.patches)
        facts = SceneFacts(batch.facts.scenes, *(part.to(seen.device) for part in batch.facts[1:]))
        wanted = model.tokens(facts)
        scale = wanted.float().square().mean()
        apart = (seen.float() - wanted.float()).square().mean() / scale
        read = _READ_WEIGHT * self._read(model, seen.flatten(0, 1), facts)
        answered = self._answered(model.vlm, batch, seen) if len(batch.asked) else apart.new_zeros(())
        parts = {"apart": apart.item(), "read": read.item(), "answered": answered.item()}
        return apart + read + answered, parts

    def flops(self, model: nn.Module, batch: Pictures) -> float:
        """Return six operations a trained parameter and patch, and four a frozen one and token."""
        assert isinstance(model, SeeingTrainee)
        eyes = sum(p.numel() for p in model.vlm.visual.blocks.parameters())
        merger = sum(p.numel() for p in model.vlm.visual.merger.parameters())
        tower = sum(p.numel() for p in model.vlm.model.parameters())
        patches = len(batch.patches)
        seen = 6.0 * (eyes * patches + merger * patches / self.vision.merge_size**2)
        return seen + 4.0 * tower * batch.token_ids.numel()

    def evaluate(self, model: nn.Module, folder: Path, step: int) -> dict[str, float]:
        """Return the shares of held-out scenes' squares, descriptions and answers that are right.

        An answer is right when every token of it is the likeliest one after those before: just then greedy
        decoding says it. Writes some of the pictures with what is said about them.
        """
        assert isinstance(model, SeeingTrainee)
        rng = np.random.default_rng(1)
        scenes = [sample_scene(rng, self.atlas, "held_out", codes=self.codes) for _ in range(_EVALUATED)]
        said = []
        for index, scene in enumerate(scenes):
            said += [(index, *one) for one in self._said(rng, scene, LANGUAGES[index % len(LANGUAGES)])]
        pictures = self._drawn(scenes)
        batch = self._collate(scenes, said, pictures)
        seen = self._seen(model.vlm, batch.patches)
        concepts, here = _family(batch.facts, "concept")
        squares = F.rms_norm(seen.flatten(0, 1), seen.shape[-1:])
        found = model.heads["concept"](squares[here.to(seen.device)]).argmax(-1).cpu()
        likeliest = model.vlm.logits(self._features(model.vlm, batch, seen)).argmax(-1).cpu()
        right = whole_answers(likeliest, batch.targets)
        self._show(folder / f"seen_{step:06d}", pictures, said, likeliest, batch.targets)
        return {
            "squares": float((found == concepts).float().mean()),
            "descriptions": float(right[0::2].float().mean()),
            "answers": float(right[1::2].float().mean()),
        }

    def _said(
        self, rng: np.random.Generator, scene: Scene, language: str | None = None
    ) -> list[tuple[str, str]]:
        """Return the description of a scene and a question about it, each with its answer."""
        first, second = (language or LANGUAGES[int(rng.integers(len(LANGUAGES)))] for _ in range(2))
        described = (describe_question(first), description(scene, first, self.atlas))
        return [described, question(scene, second, rng, self.atlas)]

    def _drawn(self, scenes: Sequence[Scene]) -> Tensor:
        """Draw scenes at several sizes and bring them to the model's own: (scenes, 3, side, side) uint8."""
        parts = []
        side = GRID[0] * self.vision.patch_size * self.vision.merge_size
        for at, size in enumerate(_SIZES):
            some = scenes[at * len(scenes) // len(_SIZES) : (at + 1) * len(scenes) // len(_SIZES)]
            if some:
                drawn = compose(some, self.atlas, size)
                parts.append(F.interpolate(drawn, (side, side), mode="bicubic", antialias=True))
        return torch.cat(parts)

    def _collate(
        self, scenes: Sequence[Scene], said: Sequence[tuple[int, str, str]], pictures: Tensor
    ) -> Pictures:
        rows, targets = [], []
        for index, asked, answer in said:
            whole = DESCRIBE.fill(asked, num_pictures=1)
            before = widened_token_ids(self.tokenizer, whole, [GRID[0] * GRID[1]])[len(self._prefix) :]
            after = answer_ids(self.tokenizer, answer, scenes[index])
            rows.append(torch.tensor(before + after[:-1]))
            targets.append(torch.tensor([_UNKNOWN] * (len(before) - 1) + after))
        pad = nn.utils.rnn.pad_sequence
        return Pictures(
            patches=_patches(pictures, self.vision),
            facts=scene_facts(scenes, self.atlas),
            prefix=self._prefix,
            token_ids=pad(rows, batch_first=True, padding_value=self.tokenizer.pad) if rows else _NO_ROWS,
            targets=pad(targets, batch_first=True, padding_value=_UNKNOWN) if rows else _NO_ROWS,
            asked=torch.tensor([index for index, *_ in said], dtype=torch.long),
        )

    def _show(
        self,
        path: Path,
        pictures: Tensor,
        said: Sequence[tuple[int, str, str]],
        likeliest: Tensor,
        targets: Tensor,
    ) -> None:
        """Write a sheet of the first pictures, and for each what was asked, what is true, what comes out.

        What comes out is the likeliest token after each true one, so one mistake does not lead to another.
        """
        sheet(pictures[:_SHOWN] / 127.5 - 1, columns=_SHOWN // 2).save(path.with_suffix(".png"))
        lines = []
        for (index, asked, answer), best, wanted in zip(said, likeliest, targets, strict=True):
            if index < _SHOWN:
                spoken = self.tokenizer.decode(best[wanted != _UNKNOWN].tolist())
                lines += [f"{index + 1}. {asked}", f"   {answer}", f"   {' '.join(spoken.split())}"]
        path.with_suffix(".txt").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def _seen(self, vlm: VLM, patches: Tensor) -> Tensor:
        """Return the tokens of all pictures; as frames of one film they are one attention call a layer."""
        device = vlm.visual.patch_embed.proj.weight.device
        sides = [count * self.vision.merge_size for count in GRID]
        frames = len(patches) // (sides[0] * sides[1])
        with short_attention(device):
            seen: Tensor = vlm.visual(patches.to(device), [(frames, *sides)])
        return seen.unflatten(0, (frames, -1))

    def _read(self, model: SeeingTrainee, squares: Tensor, facts: SceneFacts) -> Tensor:
        """Return the cross-entropy of what heads read off the squares, summed over what there is to read.

        They read the direction alone; how long a token is belongs to the first loss.
        """
        squares = F.rms_norm(squares, squares.shape[-1:])
        losses = []
        for name, head in model.heads.items():
            classes, here = _family(facts, name)
            if len(here):
                losses.append(F.cross_entropy(head(squares[here]).float(), classes))
        centre = torch.zeros(len(squares), device=squares.device)
        centre[facts.squares[facts.classes == families()["centre"][0]]] = 1.0
        losses.append(F.binary_cross_entropy_with_logits(model.centre(squares)[:, 0].float(), centre))
        if len(facts.letters):
            parts = model.letters(squares[facts.lettered]).unflatten(-1, (num_slots(), _LETTER_DIM))
            logits = model.letter(parts[torch.arange(len(parts), device=parts.device), facts.slots])
            losses.append(F.cross_entropy(logits.float(), facts.letters - letter_rows()[0]))
        return torch.stack(losses).sum()

    def _answered(self, vlm: VLM, batch: Pictures, seen: Tensor) -> Tensor:
        features = self._features(vlm, batch, seen)
        learned = batch.targets.to(features.device) != _UNKNOWN
        logits = vlm.logits(features[learned])
        return F.cross_entropy(logits.float(), batch.targets.to(features.device)[learned])

    def _features(self, vlm: VLM, batch: Pictures, seen: Tensor) -> Tensor:
        with short_attention(seen.device):
            prefix = vlm.prefix(batch.prefix.to(seen.device))
            token_ids = batch.token_ids.to(seen.device)
            return read_pictures(vlm, token_ids, seen[batch.asked.to(seen.device)], prefix=prefix)


_NO_ROWS: Final = torch.zeros(0, 0, dtype=torch.long)


def whole_answers(likeliest: Tensor, targets: Tensor) -> Tensor:
    """Tell for each row whether all its targets are the likeliest tokens; places without one do not count."""
    return ((likeliest == targets) | (targets == _UNKNOWN)).all(1)


def _family(facts: SceneFacts, name: str) -> tuple[Tensor, Tensor]:
    """Return the class of one family in each square that has one, and those squares."""
    rows = families()[name]
    here = (facts.classes >= rows.start) & (facts.classes < rows.stop)
    return facts.classes[here] - rows.start, facts.squares[here]


def _jittered(rng: np.random.Generator, pictures: Tensor) -> Tensor:
    """Return bytes with a little noise in half of the pictures, as compression and a decoder leave it."""
    strength = torch.from_numpy(np.maximum(0, rng.uniform(-6, 6, len(pictures))).astype(np.float32))
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    noise = torch.randn(pictures.shape, generator=generator) * strength[:, None, None, None]
    return (pictures + noise).round_().clamp_(0, 255).to(torch.uint8)


def _patches(pictures: Tensor, config: VisionConfig) -> Tensor:
    """Cut (pictures, 3, height, width) bytes into patches, as `patchify` cuts one picture."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD))
    return repeat(
        (pictures / 255 - mean) / std,
        "b c (h mh p1) (w mw p2) -> (b h w mh mw) (c t p1 p2)",
        t=config.temporal_patch_size,
        mh=config.merge_size,
        mw=config.merge_size,
        p1=config.patch_size,
        p2=config.patch_size,
    )
