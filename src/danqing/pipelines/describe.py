"""Pictures and a question to a text: the conditioner of a checkpoint answers by itself."""

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch

from danqing.conditioning.given import GivenPicture
from danqing.conditioning.pictures import PictureLimits, picture_pixels
from danqing.conditioning.questions import describe_question
from danqing.conditioning.templates import DESCRIBE, DESCRIBE_21
from danqing.conditioning.text import Conditioner, picture_patches, picture_token_ids
from danqing.conditioning.tokenizer import Tokenizer
from danqing.errors import RequestError
from danqing.models.qwen3_vl import Qwen3VL
from danqing.pipelines.components import Components, load_conditioner, load_limits
from danqing.pipelines.request import MAX_PROMPT_CHARACTERS, check_given, check_task
from danqing.rng import check_seed, fresh_seed
from danqing.weights.layouts import CheckpointInfo, Folder
from danqing.weights.plan import MemoryPlan
from danqing.weights.residency import Residency

MAX_TOKENS = 32768
_STOPS = ("<|im_end|>", "<|endoftext|>")
_BROKEN = "\ufffd"  # what the bytes of half a character decode to


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribeRequest:
    """What a user asks for, from the CLI, the server or Python."""

    pictures: tuple[GivenPicture, ...]
    """One or more, all of them before the question."""
    ask: str | None = None
    """A question; by default the pictures are to be described."""
    language: str | None = None
    """Language of the description, one of the twelve; a question of one's own is answered in its own."""
    max_tokens: int = 256
    """Where a long answer is cut."""
    temperature: float = 0.0
    """Zero takes the likeliest word every time; more draws among the likely ones."""
    seed: int | None = None
    """Of what is drawn with a temperature. None draws a fresh one."""

    def __post_init__(self) -> None:
        if not isinstance(self.pictures, tuple) or not self.pictures:
            raise RequestError("pictures: expected one or more pictures to describe, found none")
        for picture in self.pictures:
            check_given("pictures", picture)
        if self.ask is not None:
            _check_question(self.ask, self.language)
        describe_question(self.language or "en")  # refuses an unknown language
        if type(self.max_tokens) is not int or not 1 <= self.max_tokens <= MAX_TOKENS:
            raise RequestError(f"max_tokens: expected 1 to {MAX_TOKENS}, found {self.max_tokens!r}")
        if isinstance(self.temperature, bool) or not isinstance(self.temperature, int | float):
            raise RequestError(f"temperature: expected a number, found {self.temperature!r}")
        if not 0 <= self.temperature <= 10:
            raise RequestError(f"temperature: expected 0 (off) to 10, found {self.temperature}")
        if self.seed is not None:
            check_seed(self.seed)

    @property
    def question(self) -> str:
        """What the conditioner is asked."""
        return describe_question(self.language or "en") if self.ask is None else self.ask

    def resolved(self) -> "DescribeRequest":
        """Return the request with a seed, where one is needed."""
        if self.seed is not None or self.temperature == 0:
            return self
        return replace(self, seed=fresh_seed())


@dataclass(frozen=True, slots=True, kw_only=True)
class Describer:
    """The parts of a checkpoint that see pictures and speak."""

    info: CheckpointInfo
    vlm: Conditioner
    tokenizer: Tokenizer
    picture_limits: PictureLimits
    residency: Residency | None = None
    """What keeps the weights; None where they are in memory at all times."""


def load_describer(
    folder: Folder, *, device: torch.device, dtype: torch.dtype, plan: MemoryPlan | None = None
) -> Describer:
    """Load the conditioner of a checkpoint with its eyes and its tongue, and nothing that draws."""
    info = folder.info()
    check_task(info, "describe")
    vlm, residency = load_conditioner(folder, device, dtype, plan, vision=True, head=True)
    return Describer(
        info=info,
        vlm=vlm,
        tokenizer=Tokenizer.load(folder.tokenizer),
        picture_limits=load_limits(folder),
        residency=residency,
    )


def describer_of(components: Components) -> Describer:
    """Return the parts of a loaded checkpoint that describe; raises RequestError where it cannot."""
    check_task(components.info, "describe")
    return Describer(
        info=components.info,
        vlm=components.vlm,
        tokenizer=components.tokenizer,
        picture_limits=components.picture_limits,
        residency=components.residencies.get("text_encoder"),
    )


def describe(describer: Describer, request: DescribeRequest) -> Iterator[str]:
    """Yield the answer piece by piece; the pieces joined are the whole.

    Pictures are seen as the reference processor prepares them, and without a temperature the answer is the
    reference's, token by token. With one, the same seed gives the same answer.
    """
    request = request.resolved()
    vlm, tokenizer = describer.vlm, describer.tokenizer
    pixels = [
        picture_pixels(picture.image, vlm.config.vision, describer.picture_limits)
        for picture in request.pictures
    ]
    patches, grid_thw = picture_patches(vlm, pixels)
    template = DESCRIBE_21 if isinstance(vlm, Qwen3VL) else DESCRIBE
    text = template.fill(request.question, num_pictures=len(pixels))
    token_ids = picture_token_ids(vlm, tokenizer, text, grid_thw)
    if len(token_ids) + request.max_tokens > vlm.config.max_positions:
        raise RequestError(
            f"pictures: {describer.info.name} reads up to {vlm.config.max_positions} tokens, found "
            f"{len(token_ids)} and {request.max_tokens} to answer; give fewer or smaller pictures"
        )
    generator = None if request.seed is None else torch.Generator().manual_seed(request.seed)
    with nullcontext() if describer.residency is None else describer.residency.stage():
        answer = vlm.generate(
            token_ids,
            max_new_tokens=request.max_tokens,
            stop=[tokenizer.token_id(name) for name in _STOPS],
            temperature=request.temperature,
            generator=generator,
            patches=patches.to(vlm.device),
            grid_thw=grid_thw,
        )
        yield from spoken(tokenizer, answer)


def spoken(tokenizer: Tokenizer, token_ids: Iterable[int]) -> Iterator[str]:
    """Yield the text of tokens as it grows; a character that takes several comes when it is whole."""
    read: list[int] = []
    said = ""
    for token in token_ids:
        read.append(token)
        text = tokenizer.decode(read)
        if not text.endswith(_BROKEN) and text != said:
            yield text[len(said) :]
            said = text
    rest = tokenizer.decode(read)[len(said) :]
    if rest:
        yield rest


def _check_question(ask: object, language: str | None) -> None:
    if not isinstance(ask, str) or not ask.strip():
        raise RequestError('ask: expected a question, found none; try "how many apples are there?"')
    if len(ask) > MAX_PROMPT_CHARACTERS:
        raise RequestError(f"ask: expected at most {MAX_PROMPT_CHARACTERS} characters, found {len(ask)}")
    if language is not None:
        raise RequestError(
            "expected either a question or a language, found both; ask in the language of the answer"
        )
