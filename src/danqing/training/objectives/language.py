"""Train the language tower: predict the next token, and say what a caption means.

A diffusion loss teaches words slowly, so the tower learns them first and alone: besides the language-model
loss, small heads read the scene's facts (concepts, numbers, colours, relation) off the last tokens of a
caption in any language, and those of the result off the last tokens of an edit. Those tokens are among the
features the denoiser sees. Where a text speaks of a picture, the facts of its scene stand in the picture's
place (see `seeing`), so that answers can be known. Heads and facts are thrown away afterwards.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from danqing.conditioning.templates import DESCRIBE, EDIT_PLUS, GENERATE, Template
from danqing.conditioning.text import widened_token_ids
from danqing.conditioning.tokenizer import Tokenizer
from danqing.data.atlas import Atlas
from danqing.data.colours import COLOURS
from danqing.data.concepts import LANGUAGES
from danqing.data.language import Labels, caption, facts, ordered
from danqing.data.language.corpus import READING, Text, TextMixture, draw_close_up, draw_name, draw_text
from danqing.data.language.nouns import nouns
from danqing.data.language.questions import question
from danqing.data.world import RELATIONS, Scene, sample_scene
from danqing.errors import DataError
from danqing.models.vlm import VLM
from danqing.training.objectives.seeing import GRID, SceneFacts, SceneTokens, read_pictures, scene_facts
from danqing.training.objectives.spelling import answer_ids
from danqing.training.optim import short_attention

_TEMPLATES: dict[str, Template] = {"generate": GENERATE, "edit": EDIT_PLUS, "describe": DESCRIBE}
_MAX_COUNT = 9
_WORTH_CUTTING = 16  # texts of a task that are padded in two parts
_CLOSE, _LINE = (1, 1), (1, 6)  # tokens of a close-up of a thing, and of words
_UNKNOWN = -100  # the target that cross-entropy leaves out


class Texts(NamedTuple):
    """Tokenised conversations of one task, padded on the right; all go on from the same prefix."""

    prefix: Tensor
    """(prefix,) tokens that every row begins with."""
    token_ids: Tensor
    """(rows, seq) what follows."""
    targets: Tensor
    """Next token at every position; -100 where nothing is to be learned."""
    ends: Tensor
    """Position of the last token of each row."""
    facts: dict[str, Tensor]
    """Class of each fact, one a row; -100 where the text has none."""
    pictures: SceneFacts | None
    """What the picture of each row shows; None for a task without pictures."""
    grid: tuple[int, int]
    """Rows and columns of their tokens."""
    noise: int
    """Seed of the noise on them."""
    asked: Tensor
    """Position from which on each row is an answer to be foretold; its end where it has none."""


class LanguageTrainee(nn.Module):
    """The language model with one linear reading head a fact, and a stand-in for eyes."""

    def __init__(self, vlm: VLM) -> None:
        super().__init__()
        self.vlm = vlm
        self.eyes = SceneTokens(vlm.config.dim)
        self.heads = nn.ModuleDict(
            {name: nn.Linear(vlm.config.dim, classes) for name, classes in fact_classes().items()}
        )


def fact_classes() -> dict[str, int]:
    """Return the facts read off a caption, and how many classes each has; the last class is "none"."""
    colours = len(COLOURS)
    return {
        "first": len(nouns()),
        "second": len(nouns()) + 1,
        "count": _MAX_COUNT + 1,
        "first_colour": colours + 1,
        "second_colour": colours + 1,
        "background": colours,
        "relation": len(RELATIONS) + 1,
    }


class Language:
    """Next-token loss on prompts and answers plus cross-entropy of the facts."""

    def __init__(
        self,
        atlas: Atlas,
        tokenizer: Tokenizer,
        *,
        batch_size: int,
        seed: int,
        curriculum: Mapping[int, TextMixture] | None = None,
        answers: float = 0.0,
        close_ups: int = 0,
    ) -> None:
        """Read texts in the mixtures of `curriculum`, each from its step on; by default in `READING`.

        `answers` weighs a loss of the answers alone, which are a twentieth of all tokens. Each batch also has
        so many `close_ups`: one token for one thing, and its name is asked or whether it is this or that; or
        a line of tokens for words to be read. They cost a third of other texts, and what is to be learned by
        heart, each name in each language, comes by more often.
        """
        self.atlas, self.tokenizer, self.batch_size, self.seed = atlas, tokenizer, batch_size, seed
        self.curriculum, self.answers = curriculum or {0: READING}, answers
        self.close_ups = close_ups

    def batch(self, step: int) -> list[Texts]:
        """Draw texts of all tasks and languages, those of a task together, and as many bare names.

        The longest quarter of a task stands apart, so that little is padded. Names cost a tenth of the texts
        and are seen more often than in all sentences, which is what the rarer languages need.
        """
        rng = np.random.default_rng([self.seed, step])
        mixture = self.curriculum[max(start for start in self.curriculum if start <= step)]
        texts = [draw_text(rng, self.atlas, mixture) for _ in range(self.batch_size)]
        parts = []
        for task in _TEMPLATES:
            some = sorted((text for text in texts if text.task == task), key=_length)
            cut = len(some) * 3 // 4 if len(some) >= _WORTH_CUTTING else len(some)
            parts += [
                self._collate(task, part, noise=int(rng.integers(2**62)))
                for part in (some[:cut], some[cut:])
                if part
            ]
        names = [draw_name(rng, self.atlas, mixture.codes) for _ in range(self.batch_size)]
        parts.append(self._collate("generate", names))
        if self.close_ups:
            near = [draw_close_up(rng, self.atlas, mixture) for _ in range(self.close_ups)]
            for written, grid in ((False, _CLOSE), (True, _LINE)):
                if some := [text for text in near if _shows_words(text) == written]:
                    parts.append(self._collate("describe", some, grid=grid, noise=int(rng.integers(2**62))))
        return parts

    def loss(self, model: nn.Module, batch: list[Texts]) -> tuple[Tensor, dict[str, float]]:
        """Return the sum of both losses."""
        assert isinstance(model, LanguageTrainee)
        device = next(model.parameters()).device
        features = [_features(model, texts, noisy=True) for texts in batch]
        learned = torch.cat([f[t.targets != _UNKNOWN] for f, t in zip(features, batch, strict=True)])
        targets = torch.cat([texts.targets[texts.targets != _UNKNOWN] for texts in batch]).to(device)
        errors = F.cross_entropy(model.vlm.logits(learned).float(), targets, reduction="none")
        next_token = errors.mean()
        last = torch.cat([_last(f, texts.ends) for f, texts in zip(features, batch, strict=True)])
        per_fact = []
        for name, head in model.heads.items():
            classes = torch.cat([texts.facts[name] for texts in batch]).to(device)
            if (classes != _UNKNOWN).any():  # a small batch may hold no caption
                per_fact.append(F.cross_entropy(head(last).float(), classes, ignore_index=_UNKNOWN))
        meaning = torch.stack(per_fact).sum() if per_fact else next_token.new_zeros(())
        said = errors[torch.cat([_is_answer(texts) for texts in batch]).to(device)]
        answers = said.mean() if len(said) else next_token.new_zeros(())
        total = next_token + meaning + self.answers * answers
        parts = {"next_token": next_token, "facts": meaning, "answers_error": answers}
        return total, {name: part.item() for name, part in parts.items()}

    def flops(self, model: nn.Module, batch: list[Texts]) -> float:
        """Return six operations a parameter and token, a shared prefix counted once."""
        assert isinstance(model, LanguageTrainee)
        tokens = sum(texts.prefix.numel() + texts.token_ids.numel() for texts in batch)
        return 6.0 * sum(p.numel() for p in model.vlm.parameters()) * tokens

    def evaluate(self, model: nn.Module, folder: Path, step: int) -> dict[str, float]:
        """Return the share of facts read right from captions of held-out scenes, by group of languages."""
        assert isinstance(model, LanguageTrainee)
        scores = {}
        for group in (
            ("en",),
            ("zh",),
            tuple(language for language in LANGUAGES if language not in ("en", "zh")),
        ):
            rng = np.random.default_rng(1)
            texts = []
            for index in range(128):
                scene = self._held_out(rng)
                words = caption(scene, group[index % len(group)], rng, self.atlas)
                texts.append(Text(task="generate", prompt=words, labels=ordered(facts(scene, self.atlas))))
            batch = self._collate("generate", texts)
            last = _last(_features(model, batch), batch.ends)
            label = group[0] if len(group) == 1 else "other"
            for name in ("first", "second", "count", "relation"):
                known = batch.facts[name] != _UNKNOWN  # words and faces hold no things
                right = model.heads[name](last).argmax(-1).cpu()[known] == batch.facts[name][known]
                scores[f"{label}_{name}"] = float(right.float().mean())
        return scores | {"answers": self._answered(model)}

    def _answered(self, model: LanguageTrainee) -> float:
        """Return the share of questions about held-out scenes whose whole answer is the likeliest one."""
        rng = np.random.default_rng(2)
        texts = []
        for index in range(128):
            scene = self._held_out(rng)
            asked, answer = question(scene, LANGUAGES[index % len(LANGUAGES)], rng, self.atlas)
            texts.append(Text(task="describe", prompt=asked, answer=answer, picture=scene))
        batch = self._collate("describe", texts)
        said = model.vlm.logits(_features(model, batch)).argmax(-1).cpu()
        right = 0
        for row, targets, first, end in zip(said, batch.targets, batch.asked, batch.ends, strict=True):
            right += int(torch.equal(row[first:end], targets[first:end]))
        return right / len(texts)

    def _held_out(self, rng: np.random.Generator) -> Scene:
        """Draw a scene of the concepts that are taught last."""
        return sample_scene(rng, self.atlas, "held_out", codes=self.curriculum[max(self.curriculum)].codes)

    def _collate(
        self, task: str, texts: list[Text], *, grid: tuple[int, int] = GRID, noise: int = 0
    ) -> Texts:
        template = _TEMPLATES[task]
        head = template.text[: template.text.index("{}")]
        prefix = self.tokenizer.encode(head)
        rows, targets, asked = [], [], []
        pad = self.tokenizer.image_pad
        for text in texts:
            widths = [] if text.picture is None else [grid[0] * grid[1]]
            whole = template.fill(text.prompt, num_pictures=len(widths))
            ids = widened_token_ids(self.tokenizer, whole, widths)
            if ids[: len(prefix)] != prefix:
                raise DataError(
                    f"expected {head!r} to be tokens of their own, found them joined to {text.prompt!r}"
                )
            asked.append(len(ids) - len(prefix) - 1)
            if text.picture is not None and text.answer:
                ids += answer_ids(self.tokenizer, text.answer, text.picture)
            ids = ids[len(prefix) :]
            rows.append(torch.tensor(ids))
            targets.append(
                torch.tensor([_UNKNOWN if token == pad else token for token in ids[1:]] + [_UNKNOWN])
            )
        scenes = [text.picture for text in texts if text.picture is not None]
        token_ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.tokenizer.pad)
        return Texts(
            prefix=torch.tensor(prefix),
            token_ids=token_ids,
            targets=nn.utils.rnn.pad_sequence(targets, batch_first=True, padding_value=_UNKNOWN),
            ends=torch.tensor([len(row) - 1 for row in rows]),
            facts=_fact_targets([text.labels for text in texts]),
            pictures=scene_facts(scenes, self.atlas, grid) if scenes else None,
            grid=grid,
            noise=noise,
            asked=torch.tensor(asked),
        )


def _shows_words(text: Text) -> bool:
    return text.picture is not None and text.picture.words is not None


def _features(model: LanguageTrainee, texts: Texts, *, noisy: bool = False) -> Tensor:
    device = model.vlm.model.embed_tokens.weight.device
    token_ids = texts.token_ids.to(device)
    with short_attention(device):
        prefix = model.vlm.prefix(texts.prefix.to(device))
        if texts.pictures is None:
            return model.vlm.features(token_ids, prefix=prefix)
        count, *parts = texts.pictures
        noise = torch.Generator().manual_seed(texts.noise) if noisy else None
        shown = model.eyes(SceneFacts(count, *(part.to(device) for part in parts)), noise)
        return read_pictures(model.vlm, token_ids, shown, grid=texts.grid, prefix=prefix)


def _is_answer(texts: Texts) -> Tensor:
    """Return, for every token to be foretold, whether it is one of an answer."""
    places = torch.arange(texts.targets.shape[1])
    return (places >= texts.asked[:, None])[texts.targets != _UNKNOWN]


def _length(text: Text) -> int:
    return len(text.prompt.encode()) + len(text.answer.encode())


def _last(features: Tensor, ends: Tensor) -> Tensor:
    return features[torch.arange(len(features)), ends]


def _fact_targets(labels: list[Labels | None]) -> dict[str, Tensor]:
    columns: dict[str, list[int]] = {name: [] for name in fact_classes()}
    for label in labels:
        values = dict.fromkeys(columns, _UNKNOWN) if label is None else _values(label)
        for name, value in values.items():
            columns[name].append(value)
    return {name: torch.tensor(values) for name, values in columns.items()}


def _values(label: Labels) -> dict[str, int]:
    two = len(label.concepts) > 1
    none = {name: classes - 1 for name, classes in fact_classes().items()}
    unknown = dict.fromkeys(none, _UNKNOWN)
    if label.background < 0:
        return unknown | {"first": label.concepts[0]}
    if not label.concepts:
        return unknown | {"background": label.background}

    def colour(index: int) -> int:
        return label.colours[index] if label.colours[index] >= 0 else none["first_colour"]

    return {
        "first": label.concepts[0],
        "second": label.concepts[1] if two else none["second"],
        "count": min(label.counts[0], _MAX_COUNT),
        "first_colour": colour(0),
        "second_colour": colour(1) if two else none["second_colour"],
        "background": label.background,
        "relation": label.relation if label.relation >= 0 else none["relation"],
    }
