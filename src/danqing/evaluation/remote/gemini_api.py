"""Gemini's image models, and the Imagen shape for endpoints that still speak it, through `google-genai`.

A picture comes as a part of a conversation (`generate_content`); Imagen's `generate_images` gives one
picture of a prompt, and the prompt as the service rewrote it. Models without "image" in their names look at
pictures and answer in words.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from PIL import Image

from danqing.conditioning.questions import describe_question
from danqing.errors import ConfigError, DanqingError, DataError, RequestError
from danqing.evaluation.items import Ability, Item, Made, content_key
from danqing.evaluation.remote.answers import INVALID, noted, picture_from
from danqing.evaluation.remote.asking import picture_of, request_of
from danqing.evaluation.remote.pool import Pool
from danqing.evaluation.systems import SourceOf
from danqing.retry import PASSING, PassingError, Retry, asked_pause, retried
from danqing.scoring.vendors import ENDPOINT_KEY, TIMED_OUT, checked_endpoint, png_of, reason

if TYPE_CHECKING:
    from google import genai
    from google.genai import errors, types

Shape = Literal["gemini-image", "imagen", "gemini"]
KEYS: Final = ("GEMINI_API_KEY", "GOOGLE_API_KEY")
"""Variables that may hold the key; the first that does is used."""
_ABILITIES: Final[Mapping[Shape, frozenset[Ability]]] = {
    "gemini-image": frozenset({"draw", "edit"}),
    "imagen": frozenset({"draw"}),
    "gemini": frozenset({"describe"}),
}
_REFUSALS: Final = frozenset(
    {
        "SAFETY",
        "RECITATION",
        "BLOCKLIST",
        "PROHIBITED_CONTENT",
        "SPII",
        "IMAGE_SAFETY",
        "IMAGE_PROHIBITED_CONTENT",
        "IMAGE_RECITATION",
        "MODEL_ARMOR",
        "PUP_LIMITED_DISABLED",
    }
)
"""Reasons to stop that are refusals."""
_DELAY: Final = re.compile(r"\s*([\d.]+)s\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class GeminiOptions:
    """What is asked of a model besides the prompt; None leaves it to the vendor."""

    aspect: str | None = None
    """As in 16:9."""
    size: str | None = None
    """1K, 2K or 4K."""
    seeded: bool = False
    """Send the seed along; the vendor follows it as well as it can."""
    concurrency: int = 4
    seconds: float = 180.0
    """How long one attempt may take."""
    price: float | None = None
    """US dollars a picture, for models that the table of prices does not know."""

    def told(self) -> dict[str, Any]:
        """Return what decides the answer, of what is given."""
        given = {"aspect": self.aspect, "size": self.size, "seeded": self.seeded or None}
        return {name: value for name, value in given.items() if value is not None}


class GeminiSystem:
    """A model behind Google's Gemini API, or behind an endpoint of the same shape."""

    def __init__(
        self,
        model: str,
        options: GeminiOptions | None = None,
        *,
        endpoint: str | None = None,
        name: str | None = None,
        source_of: SourceOf | None = None,
        retry: Retry | None = None,
        rng: np.random.Generator | None = None,
    ) -> None:
        """`endpoint` is the address before `/v1beta`, by default Google's own.

        The key is read from the environment when the first answer is asked for, or by `check`.
        """
        self._options = options or GeminiOptions()
        self._model, self._source_of = model, source_of
        self._endpoint = None if endpoint is None else checked_endpoint(endpoint)
        self.shape: Shape = shape_of(model)
        self.abilities = _ABILITIES[self.shape]
        self.concurrency = self._options.concurrency
        self.name = name or model
        self.settings: Mapping[str, Any] = {
            "kind": "live",
            "vendor": "gemini" if endpoint is None else "gemini-compatible",
            **({} if endpoint is None else {"endpoint": self._endpoint}),
            "model": model,
            "shape": self.shape,
            **self._options.told(),
            **({} if self._options.price is None else {"price": self._options.price}),
        }
        self.version = content_key({**self.settings, "price": None})[:12]
        self._retry, self._rng = retry or Retry(), rng or np.random.default_rng()
        self._pool = Pool(self._ask, self.concurrency)
        self._client: genai.Client | None = None

    def check(self) -> None:
        """Raise ConfigError unless the client library and a key are there."""
        self._opened()

    def request(self, item: Item, seed: int) -> Mapping[str, Any]:
        """Return what decides the answer; the seed is the number of the sample."""
        return request_of(item, seed)

    def answer(self, items: Sequence[Item], seed: int) -> list[Made]:
        """Ask for each item, several at a time; a rewritten prompt and tokens are among a picture's notes.

        Raises RequestError when the vendor refuses an item, ResourceError when it did not answer in time or
        after all attempts, DataError for an invalid picture, ConfigError for a wrong key or model.
        """
        return self._pool.answer(items, seed)

    def _ask(self, item: Item, seed: int) -> Made:
        if item.ability not in self.abilities:
            able = ", ".join(sorted(self.abilities))
            raise RequestError(f"{self._model}: expected an item to {able}, found one to {item.ability}")
        client, key = self._opened()
        return retried(lambda: self._once(client, key, item, seed), self._retry, self._rng)

    def _once(self, client: "genai.Client", key: str, item: Item, seed: int) -> Made:
        import httpx2
        from google.genai import errors

        try:
            return self._made(client, item, seed)
        except errors.APIError as error:
            raise _explained(error, self._endpoint is None, key) from None
        except httpx2.TimeoutException:
            raise PassingError(f"{TIMED_OUT} after {self._options.seconds:g} seconds") from None
        except httpx2.HTTPError:
            raise PassingError(f"cannot reach {_vendor(self._endpoint is None)}") from None
        except ValueError as error:  # a body of another shape, UnknownApiResponseError included
            raise DataError(f"{_vendor(self._endpoint is None)}: {reason(error, [key])}") from None

    def _made(self, client: "genai.Client", item: Item, seed: int) -> Made:
        from google.genai import types

        number = seed % 2**31 if self._options.seeded else None
        if self.shape == "imagen":
            wanted = types.GenerateImagesConfig(
                number_of_images=1,
                aspect_ratio=self._options.aspect,
                image_size=self._options.size,
                include_rai_reason=True,
                seed=number,
            )
            return _first(client.models.generate_images(model=self._model, prompt=item.prompt, config=wanted))
        contents: list[Any] = []
        if item.ability != "draw":
            contents.append(
                types.Part.from_bytes(data=png_of(picture_of(item, self._source_of)), mime_type="image/png")
            )
        contents.append(item.prompt or describe_question(item.language))
        config = types.GenerateContentConfig(seed=number)
        if self.shape == "gemini-image":
            config.response_modalities = ["TEXT", "IMAGE"]
            config.image_config = types.ImageConfig(
                aspect_ratio=self._options.aspect, image_size=self._options.size
            )
        answer = client.models.generate_content(model=self._model, contents=contents, config=config)
        return _worded(answer) if item.ability == "describe" else _pictured(answer)

    def _opened(self) -> "tuple[genai.Client, str]":
        key = _key(self._endpoint is None)
        if self._client is None:
            imagen = self.shape == "imagen"
            self._client = _client(self._endpoint, key, self._options.seconds, vertex=imagen)
        return self._client, key


def shape_of(model: str) -> Shape:
    """Return how requests to a model are worded, by its name."""
    name = model.rpartition("/")[2]
    if name.startswith("imagen"):
        return "imagen"
    return "gemini-image" if "image" in name else "gemini"


def _pictured(answer: "types.GenerateContentResponse") -> Image.Image:
    parts = _parts(answer)
    pictures = [part.inline_data.data for part in parts if part.inline_data is not None and not part.thought]
    if not pictures:
        words = " ".join(part.text for part in parts if part.text and not part.thought)
        found = f"words: {reason(words)}" if words else "none in the answer"
        raise DataError(f"{INVALID}: expected one, found {found}")
    used = answer.usage_metadata
    return noted(
        picture_from(pictures[-1]),  # earlier ones are drafts
        {"usage": used.model_dump(mode="json", exclude_none=True) if used is not None else None},
    )


def _worded(answer: "types.GenerateContentResponse") -> str:
    text = " ".join(part.text for part in _parts(answer) if part.text and not part.thought).strip()
    if not text:
        raise DataError("expected words, found an empty answer")
    return text


def _parts(answer: "types.GenerateContentResponse") -> "list[types.Part]":
    """Return the parts of an answer; raises RequestError when it was blocked."""
    blocked = answer.prompt_feedback.block_reason if answer.prompt_feedback is not None else None
    if blocked is not None:
        raise RequestError(f"refused ({blocked.value}): the prompt was blocked")
    candidate = answer.candidates[0] if answer.candidates else None
    if candidate is None:
        raise DataError(f"{INVALID}: expected one, found an empty answer")
    ended = candidate.finish_reason.value if candidate.finish_reason is not None else ""
    if ended in _REFUSALS:
        raise RequestError(f"refused ({ended}): {reason(candidate.finish_message or 'no reason given')}")
    content = candidate.content
    return list(content.parts or ()) if content is not None else []


def _first(answer: "types.GenerateImagesResponse") -> Image.Image:
    one = answer.generated_images[0] if answer.generated_images else None
    if one is not None and one.rai_filtered_reason:
        raise RequestError(f"refused: {reason(one.rai_filtered_reason)}")
    if one is None or one.image is None:
        raise DataError(f"{INVALID}: expected one, found none in the answer")
    return noted(picture_from(one.image.image_bytes), {"revised_prompt": one.enhanced_prompt})


def _key(own: bool) -> str:
    names = KEYS if own else (ENDPOINT_KEY,)
    key = next((os.environ[name] for name in names if os.environ.get(name)), "")
    if not key and own:
        raise ConfigError(f"expected a key in {KEYS[0]}, found none; set it in the environment")
    return key or "none"


def _client(endpoint: str | None, key: str, seconds: float, *, vertex: bool) -> "genai.Client":
    """Return a client; it knows `generate_images` in its Vertex mode alone."""
    try:
        from google import genai
        from google.genai import types
    except ImportError:
        raise ConfigError("expected google-genai, found none; pip install 'danqing[remote]'") from None
    options = types.HttpOptions(
        base_url=endpoint,
        timeout=round(seconds * 1000),
        retry_options=types.HttpRetryOptions(attempts=1),
    )
    return genai.Client(api_key=key, vertexai=vertex, http_options=options)


def _vendor(own: bool) -> str:
    return "Google" if own else "the endpoint"


def _explained(error: "errors.APIError", own: bool, key: str) -> DanqingError | PassingError:
    """Return what an error of the client means: a refusal, a failure, or something that may pass."""
    vendor, status, said = _vendor(own), error.code, reason(error.message or "no reason given", [key])
    if status in PASSING:
        return PassingError(f"{vendor} answered {status}", wait=_asked(error))
    if status == 401 or "api key" in said.lower():
        return ConfigError(
            f"{vendor} answered {status}: expected a valid key in {KEYS[0] if own else ENDPOINT_KEY}"
        )
    if status in (403, 404):
        return ConfigError(f"{vendor} answered {status}: {said}")
    return DataError(f"{vendor} answered {status}: {said}")


def _asked(error: "errors.APIError") -> float | None:
    """Return the pause that headers, or RetryInfo in the body, ask for."""
    headers = getattr(error.response, "headers", None)
    if headers is not None and (seconds := asked_pause(headers)) is not None:
        return seconds
    body = error.details if isinstance(error.details, Mapping) else {}
    body = body.get("error", body)
    told = body.get("details", []) if isinstance(body, Mapping) else []
    delays = [str(one.get("retryDelay", "")) for one in told if isinstance(one, Mapping)]
    found = next((match for delay in delays if (match := _DELAY.fullmatch(delay))), None)
    return float(found[1]) if found is not None else None
