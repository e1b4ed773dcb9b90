"""BLIP VQA (Li et al. 2022): how likely "yes" is the first word of the answer to a question on a picture.

The picture is encoded once for several questions. Each question is asked alone, so a score does not depend
on its neighbours.
"""

from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
from PIL import Image
from torch import Tensor

from danqing.errors import CheckpointError
from danqing.scoring.pretrained import LastPicture, Source, open_model, open_pictures, open_tokenizer

_LONGEST: Final = 35  # tokens of a question, as in the original code
_BEAMS: Final = 3
_ANSWER: Final = 10  # tokens of an answer, likewise


@dataclass(frozen=True, slots=True, kw_only=True)
class BlipOptions:
    """Where codes around the same weights differ."""

    side: int | None = None
    """Pixels of the square that is seen; None for the checkpoint's own. Positions are resampled to it."""
    encoder_token: bool = True
    """Begin questions with [ENC], as BLIP was trained; transformers leaves [CLS] there."""
    digits: int | None = None
    """Digits after the point that a probability is rounded to."""


COMPBENCH: Final = BlipOptions(side=480, digits=4)
"""As T2I-CompBench asks (Huang et al. 2023): 480 px, four digits kept."""


class BlipVQA:
    """Answers questions about pictures with BLIP."""

    def __init__(self, source: Source, options: BlipOptions | None = None) -> None:
        self._options = options or BlipOptions()
        self._loaded = open_model(source, "BlipForQuestionAnswering", ("blip",))
        self._pictures = open_pictures(source)
        self._tokenizer = open_tokenizer(source)
        config = self._loaded.model.config
        self._begin = config.text_config.bos_token_id  # [DEC]; [ENC] follows it, as the last token
        if self._begin is None or self._begin + 1 >= config.text_config.vocab_size:
            raise CheckpointError(
                f"{source.place}: expected a vocabulary with [DEC] and [ENC], found {self._begin} of "
                f"{config.text_config.vocab_size} tokens"
            )
        self.name = self._loaded.name
        told = ", ".join(f"{name}={value}" for name, value in asdict(self._options).items())
        self.version = f"{self._loaded.version} {told} 1"
        self._last = LastPicture()

    @torch.inference_mode()
    def answer_probability(
        self, picture: Image.Image, question: str, answers: tuple[str, str] = ("yes", "no")
    ) -> float:
        """Return P(first) / (P(first) + P(second)) of the first token of the answer."""
        states, mask = self._read(picture, question)
        decoded = self._loaded.model.text_decoder(
            input_ids=torch.tensor([[self._begin]], device=self._loaded.device),
            encoder_hidden_states=states,
            encoder_attention_mask=mask,
        )
        logits = decoded.logits[0, 0].float()
        first, second = logits.softmax(-1)[[self._first_token(answer) for answer in answers]].tolist()
        value = first / (first + second)
        return value if self._options.digits is None else round(value, self._options.digits)

    @torch.inference_mode()
    def ask(self, picture: Image.Image, question: str) -> str:
        """Return the answer in a word or a few, found with three beams as in the original code."""
        states, mask = self._read(picture, question)
        config = self._loaded.model.config.text_config
        tokens = self._loaded.model.text_decoder.generate(
            input_ids=torch.tensor([[self._begin]], device=self._loaded.device),
            encoder_hidden_states=states,
            encoder_attention_mask=mask,
            num_beams=_BEAMS,
            do_sample=False,
            max_length=_ANSWER,
            min_length=1,
            eos_token_id=config.sep_token_id,
            pad_token_id=config.pad_token_id,
        )
        said: str = self._tokenizer.decode(tokens[0], skip_special_tokens=True)
        return said.strip()

    def _read(self, picture: Image.Image, question: str) -> tuple[Tensor, Tensor]:
        """Return the states of the question in sight of the picture, and their mask."""
        seen: Tensor = self._last.get(picture, self._seen)
        text = self._tokenizer(question, truncation=True, max_length=_LONGEST, return_tensors="pt")
        token_ids = text.input_ids.to(self._loaded.device)
        if self._options.encoder_token:
            token_ids[:, 0] = self._begin + 1
        mask = text.attention_mask.to(self._loaded.device)
        states: Tensor = self._loaded.model.text_encoder(
            input_ids=token_ids,
            attention_mask=mask,
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:-1], dtype=torch.long, device=seen.device),
        ).last_hidden_state
        return states, mask

    def _seen(self, picture: Image.Image) -> Tensor:
        side, own = self._options.side, self._loaded.model.config.vision_config.image_size
        size: dict[str, Any] = {} if side is None else {"size": {"height": side, "width": side}}
        inputs = self._pictures(images=picture.convert("RGB"), return_tensors="pt", **size)
        pixels = self._loaded.held({"pixel_values": inputs["pixel_values"]})["pixel_values"]
        resampled = tuple(pixels.shape[-2:]) != (own, own)
        found: Tensor = self._loaded.model.vision_model(
            pixel_values=pixels, interpolate_pos_encoding=resampled
        ).last_hidden_state
        return found

    def _first_token(self, answer: str) -> int:
        token_ids: list[int] = self._tokenizer(answer, add_special_tokens=False).input_ids
        return token_ids[0]
