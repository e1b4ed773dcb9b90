"""OpenAI's Images and Chat APIs, and endpoints that speak them, through the official `openai` client.

Three shapes of request: GPT Image models (base64 always, own qualities), the retired DALL·E models (style,
`response_format`), and what other servers take. Models whose names are of neither family are asked to look
at pictures through chat. The vendor takes no seed, so a seed only tells one sample from another; servers
that do take one get it with `seeded`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from PIL import Image

from danqing.conditioning.questions import describe_question
from danqing.errors import ConfigError, DataError, RequestError
from danqing.evaluation.items import Ability, Item, Made, content_key
from danqing.evaluation.remote.answers import INVALID, fetched, noted, picture_from
from danqing.evaluation.remote.asking import picture_of, request_of
from danqing.evaluation.remote.pool import Pool
from danqing.evaluation.systems import SourceOf
from danqing.retry import Retry, retried
from danqing.scoring.openai_client import check_own, explained, opened, vendor_of
from danqing.scoring.vendors import checked_endpoint, data_address, png_of, reason

if TYPE_CHECKING:
    import openai

Shape = Literal["gpt-image", "dall-e", "images", "chat"]
"""How a request is worded: GPT Image, DALL·E, pictures of other servers, or a chat about a picture."""

_ABILITIES: Final[Mapping[Shape, frozenset[Ability]]] = {
    "gpt-image": frozenset({"draw", "edit"}),
    "dall-e": frozenset({"draw"}),
    "images": frozenset({"draw", "edit"}),
    "chat": frozenset({"describe"}),
}
_MOST_TOKENS: Final = 2048  # of an answer in words, with what a model thinks before it


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAIOptions:
    """What is asked of a model besides the prompt; None leaves it to the vendor."""

    size: str | None = None
    quality: str | None = None
    style: str | None = None
    background: str | None = None
    moderation: str | None = None
    response_format: Literal["b64_json", "url"] | None = None
    seeded: bool = False
    """Send the seed along, to servers that take one."""
    fetch: bool = False
    """Fetch pictures that an answer only points to."""
    shape: Shape | None = None
    """By default what the name of the model says."""
    concurrency: int = 4
    seconds: float = 180.0
    """How long one attempt may take."""
    price: float | None = None
    """US dollars a picture, for endpoints that the table of prices does not know."""

    def told(self) -> dict[str, Any]:
        """Return what decides the answer, of what is given."""
        names = ("size", "quality", "style", "background", "moderation", "response_format")
        given = {name: getattr(self, name) for name in names}
        return {name: value for name, value in given.items() if value is not None} | (
            {"seeded": True} if self.seeded else {}
        )


class OpenAISystem:
    """A model behind OpenAI's API, or behind an endpoint of the same shape."""

    def __init__(
        self,
        model: str,
        options: OpenAIOptions | None = None,
        *,
        endpoint: str | None = None,
        name: str | None = None,
        source_of: SourceOf | None = None,
        retry: Retry | None = None,
        rng: np.random.Generator | None = None,
    ) -> None:
        """`endpoint` is the address before `/images/generations`, by default OpenAI's own.

        Raises ConfigError for options that the model's shape does not know. The key is read from the
        environment when the first answer is asked for, or by `check`.
        """
        self._options = options or OpenAIOptions()
        self._model, self._source_of = model, source_of
        if endpoint is None:
            check_own()
        self._endpoint = None if endpoint is None else checked_endpoint(endpoint)
        self.shape: Shape = self._options.shape or shape_of(model, compatible=endpoint is not None)
        _check_options(self.shape, self._options)
        self.abilities = _ABILITIES[self.shape]
        self.concurrency = self._options.concurrency
        self.name = name or model
        self.settings: Mapping[str, Any] = {
            "kind": "live",
            "vendor": "openai" if endpoint is None else "openai-compatible",
            **({} if endpoint is None else {"endpoint": self._endpoint}),
            "model": model,
            "shape": self.shape,
            **self._options.told(),
            **({} if self._options.price is None else {"price": self._options.price}),
        }
        self.version = content_key({**self.settings, "price": None})[:12]
        self._retry, self._rng = retry or Retry(), rng or np.random.default_rng()
        self._pool = Pool(self._ask, self.concurrency)
        self._client: openai.OpenAI | None = None

    def check(self) -> None:
        """Raise ConfigError unless the client library and a key are there."""
        self._opened()

    def request(self, item: Item, seed: int) -> Mapping[str, Any]:
        """Return what decides the answer; the seed is the number of the sample."""
        return request_of(item, seed)

    def answer(self, items: Sequence[Item], seed: int) -> list[Made]:
        """Ask for each item, several at a time; revised prompt and tokens are among a picture's notes.

        Raises RequestError when the vendor refuses an item, ResourceError when it did not answer in time or
        after all attempts, DataError for an invalid picture, ConfigError for a wrong key or model.
        """
        return self._pool.answer(items, seed)

    def _ask(self, item: Item, seed: int) -> Made:
        if item.ability not in self.abilities:
            able = ", ".join(sorted(self.abilities))
            raise RequestError(f"{self._model}: expected an item to {able}, found one to {item.ability}")
        client = self._opened()
        return retried(lambda: self._once(client, item, seed), self._retry, self._rng)

    def _once(self, client: "openai.OpenAI", item: Item, seed: int) -> Made:
        import openai

        try:
            if item.ability == "describe":
                return self._described(client, item, seed)
            common = self._wanted(seed)
            if item.ability == "draw":
                return self._picture(client.images.generate(prompt=item.prompt, **common))
            given = ("source.png", png_of(picture_of(item, self._source_of)), "image/png")
            return self._picture(client.images.edit(image=given, prompt=item.prompt, **common))
        except openai.OpenAIError as error:
            raise explained(error, self._options.seconds, vendor_of(self._endpoint), client.api_key) from None
        except ValueError as error:  # a body that is not the JSON it claims to be
            raise DataError(f"{vendor_of(self._endpoint)}: {reason(error, [client.api_key])}") from None

    def _wanted(self, seed: int) -> dict[str, Any]:
        options = self._options
        wanted: dict[str, Any] = {"model": self._model, "n": 1}
        shared = {"size": options.size, "quality": options.quality}
        if self.shape == "gpt-image":
            shared |= {"background": options.background, "output_format": "png"}
            shared |= {"moderation": options.moderation}
        else:
            shared |= {"style": options.style, "response_format": options.response_format or "b64_json"}
        wanted |= {name: value for name, value in shared.items() if value is not None}
        return wanted | ({"extra_body": {"seed": seed}} if options.seeded else {})

    def _picture(self, answer: Any) -> Image.Image:
        one = answer.data[0] if answer.data else None
        if one is None or not (one.b64_json or one.url):
            raise DataError(f"{INVALID}: expected one, found none in the answer")
        if one.b64_json:
            picture = picture_from(one.b64_json)
        elif self._options.fetch:
            picture = picture_from(self._fetched(one.url))
        else:
            raise DataError(f"{INVALID}: expected it in the answer, found an address; allow with fetch=yes")
        usage = answer.usage.model_dump(exclude_none=True) if answer.usage is not None else None
        return noted(picture, {"revised_prompt": one.revised_prompt, "usage": usage})

    def _fetched(self, address: str) -> bytes:
        """Fetch a picture, again where that fails: making it again would be paid again."""
        endpoint, seconds = str(self._opened().base_url), self._options.seconds
        return retried(lambda: fetched(address, endpoint=endpoint, seconds=seconds), self._retry, self._rng)

    def _described(self, client: "openai.OpenAI", item: Item, seed: int) -> str:
        encoded = data_address(picture_of(item, self._source_of))
        content: Any = [
            {"type": "text", "text": item.prompt or describe_question(item.language)},
            {"type": "image_url", "image_url": {"url": encoded}},
        ]
        asked: dict[str, Any] = {"messages": [{"role": "user", "content": content}], "model": self._model}
        own = self._endpoint is None
        asked["max_completion_tokens" if own else "max_tokens"] = _MOST_TOKENS
        asked |= {} if own else {"temperature": 0}
        if self._options.seeded:
            asked["seed"] = seed
        answer = client.chat.completions.create(**asked)
        choice = answer.choices[0] if answer.choices else None
        if choice is None or choice.finish_reason == "content_filter" or choice.message.refusal:
            told = choice.message.refusal if choice is not None else "no answer"
            raise RequestError(f"refused: {reason(told or 'content filter', [client.api_key])}")
        text = (choice.message.content or "").strip()
        if not text:
            raise DataError(f"expected words, found an empty answer ({choice.finish_reason})")
        return text

    def _opened(self) -> "openai.OpenAI":
        if self._client is None:
            self._client = opened(self._endpoint, self._options.seconds)
        return self._client


def shape_of(model: str, *, compatible: bool) -> Shape:
    """Return how requests to a model are worded, by its name."""
    name = model.rpartition("/")[2]
    if name.startswith(("gpt-image", "chatgpt-image")):
        return "gpt-image"
    if name.startswith("dall-e"):
        return "dall-e"
    return "images" if compatible else "chat"


def _check_options(shape: Shape, options: OpenAIOptions) -> None:
    unknown = {
        "gpt-image": ("style", "response_format"),
        "dall-e": ("background", "moderation", "seeded"),
        "images": ("background", "moderation"),
        "chat": ("size", "quality", "style", "background", "moderation", "response_format"),
    }[shape]
    if found := [name for name in unknown if getattr(options, name)]:
        raise ConfigError(f"{found[0]}: expected an option of {shape} requests, found one of another shape")
