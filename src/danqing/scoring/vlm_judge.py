"""Any vision-language model of `transformers` as a judge: in words, or by how likely an answer is.

A question is one turn of the model's own conversation, the picture before the words. Answers are the
likeliest tokens, so the same picture and question give the same answer.
"""

from collections.abc import Mapping
from typing import Any, Final

import torch
from PIL import Image
from torch import Tensor

from danqing.errors import CheckpointError, DataError
from danqing.scoring.pretrained import Source, open_model, open_processor

_LONGEST: Final = 256  # tokens of an answer


class VlmJudge:
    """Asks a vision-language model."""

    def __init__(
        self,
        source: Source,
        *,
        longest: int = _LONGEST,
        ending: str = "",
        template: Mapping[str, Any] | None = None,
    ) -> None:
        """`ending` follows every question; `template` is for its chat template, as enable_thinking is.

        Raises CheckpointError for a model without a chat template.
        """
        self._loaded = open_model(source, "AutoModelForImageTextToText")
        self._processor = open_processor(source)
        if not getattr(self._processor, "chat_template", None):
            raise CheckpointError(f"{source.place}: expected a model with a chat template, found none")
        self._longest, self._ending, self._template = longest, ending, dict(template or {})
        pictures = type(self._processor.image_processor).__name__
        told = {"longest": longest, "ending": ending, "template": self._template, "pictures": pictures}
        self.name = self._loaded.name
        self.version = f"{self._loaded.version} {told} 1"

    @torch.inference_mode()
    def ask(self, picture: Image.Image, question: str) -> str:
        """Return the answer as the model writes it."""
        inputs = self._asked(picture, question)
        settings = self._loaded.model.generation_config
        tokens = self._loaded.model.generate(
            **inputs,
            max_new_tokens=self._longest,
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=_pad(settings.pad_token_id, settings.eos_token_id),
        )
        new = tokens[0, inputs["input_ids"].shape[1] :]
        said: str = self._processor.tokenizer.decode(new, skip_special_tokens=True)
        return said.strip()

    def answer_probability(
        self, picture: Image.Image, question: str, answers: tuple[str, str] = ("yes", "no")
    ) -> float:
        """Return P(first) / (P(first) + P(second)) of the first token of the answer.

        An answer counts in lower case and capitalised, with and without a space before it.
        """
        chances = self._next(picture, question).double().softmax(-1)
        groups = first_tokens(self._processor.tokenizer, answers)
        first, second = (float(chances[list(group)].sum()) for group in groups)
        return first / (first + second)

    def probability(self, picture: Image.Image, question: str, answer: str) -> float:
        """Return how likely the first token of `answer` is as the first of the model's answer."""
        token = self._processor.tokenizer(answer, add_special_tokens=False).input_ids[0]
        return float(self._next(picture, question).double().softmax(-1)[token])

    @torch.inference_mode()
    def _next(self, picture: Image.Image, question: str) -> Tensor:
        """Return the score of every token as the first of the answer."""
        inputs = self._asked(picture, question)
        scores: Tensor = self._loaded.model(**inputs, use_cache=False).logits[0, -1].float().cpu()
        return scores

    def _asked(self, picture: Image.Image, question: str) -> dict[str, Any]:
        said = f"{question}{self._ending}"
        content = [{"type": "image", "image": picture.convert("RGB")}, {"type": "text", "text": said}]
        inputs = self._processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            **self._template,
        )
        return self._loaded.held(inputs)


def first_tokens(tokenizer: Any, answers: tuple[str, str]) -> tuple[frozenset[int], frozenset[int]]:
    """Return the tokens with which each answer may begin: in lower case, capitalised, after a space.

    A token that both may begin with tells nothing and is left out. Raises DataError when no token is left.
    """
    first, second = (
        frozenset(
            _first_token(tokenizer, f"{space}{word}")
            for word in (answer.lower(), answer.capitalize())
            for space in ("", " ")
        )
        for answer in answers
    )
    if first <= second or second <= first:
        raise DataError(f"expected answers that begin with different tokens, found {' and '.join(answers)}")
    return first - second, second - first


def _first_token(tokenizer: Any, spelling: str) -> int:
    token_ids: list[int] = tokenizer(spelling, add_special_tokens=False).input_ids
    return token_ids[0]


def _pad(own: int | None, end: int | list[int] | None) -> int | None:
    return own if own is not None else end[0] if isinstance(end, list) else end
