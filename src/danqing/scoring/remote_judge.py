"""A judge behind OpenAI's chat API, or behind an endpoint of the same shape, at temperature 0.

Everything it says is kept in a folder, by model, wording and picture, so that a benchmark that stopped or is
scored by other rules pays for no question twice. How answers are worded and read is part of its version.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from danqing.errors import DataError, RequestError
from danqing.files import write_whole
from danqing.log import logger
from danqing.retry import Retry, retried
from danqing.scoring.openai_client import check_own, explained, opened, vendor_of
from danqing.scoring.vendors import checked_endpoint, data_address, reason

if TYPE_CHECKING:
    import openai

PARSER: Final = "1"
"""Version of how a yes or a no is found in what a judge writes."""
_CHOICE: Final = "{question}\nAnswer with one word: {first} or {second}."
_TOP: Final = 20  # likeliest tokens that the API tells
_UNCLEAR: Final = 0.0
_SHOWN: Final = 80  # characters of an answer in a warning


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteOptions:
    """How a judge is asked."""

    longest: int = 1024
    """Tokens of an answer, with what a model thinks before it."""
    choice: str = _CHOICE
    """How a question with two answers is put; its places are question, first and second."""
    logprobs: bool = False
    """Ask how likely the two answers are, of servers that tell; otherwise an answer is 0 or 1."""
    system: str = ""
    """What is said before every question."""
    temperature: float | None = 0.0
    """None leaves it out, for models that take none."""
    image_detail: str | None = None
    """low, high or auto: how closely OpenAI's models look."""
    seconds: float = 120.0
    """How long one attempt may take."""


class RemoteJudge:
    """Asks a model over HTTP about pictures."""

    def __init__(
        self,
        model: str,
        options: RemoteOptions | None = None,
        *,
        endpoint: str | None = None,
        kept: Path | None = None,
        retry: Retry | None = None,
        rng: np.random.Generator | None = None,
    ) -> None:
        """`model` is an id that does not move, as gpt-4o-2024-11-20; `kept` is the folder of answers.

        Raises ConfigError for an address that is none. The key is read from the environment when the first
        question is asked.
        """
        if endpoint is None:
            check_own()
        self._model, self._options = model, options or RemoteOptions()
        self._endpoint = None if endpoint is None else checked_endpoint(endpoint)
        self._kept = kept
        self._retry, self._rng = retry or Retry(), rng or np.random.default_rng()
        self._client: openai.OpenAI | None = None
        self.name = model
        wording = asdict(self._options)
        del wording["seconds"]
        told = {"endpoint": self._endpoint, **wording}
        self.version = f"{model} prompts {_key(told)[:12]} parser {PARSER}"
        self.unclear = 0
        """Answers so far that were neither the first nor the second; they count as the second."""

    def ask(self, picture: Image.Image, question: str) -> str:
        """Return what the judge writes.

        Raises RequestError when it refuses, ResourceError when it did not answer after all attempts,
        DataError for an empty answer, ConfigError for a wrong key or model.
        """
        return str(self._answer(picture, question, {})["text"])

    def answer_probability(
        self, picture: Image.Image, question: str, answers: tuple[str, str] = ("yes", "no")
    ) -> float:
        """Return 1 for the first answer and 0 for the second, or with `logprobs` the share of the first.

        What is neither, and a refusal, counts as the second, as in the official codes of benchmarks;
        `unclear` tells how many. Raises as `ask` otherwise.
        """
        first, second = answers
        asked = self._options.choice.format(question=question, first=first, second=second)
        more = {"logprobs": True, "top_logprobs": _TOP} if self._options.logprobs else {}
        try:
            told = self._answer(picture, asked, more)
        except RequestError as error:
            return self._not_told(str(error))
        share = _share(told["likely"], answers) if told["likely"] else None
        if share is not None:
            return share
        said = chosen(str(told["text"]), answers)
        return self._not_told(str(told["text"])) if said is None else float(said == first)

    def _not_told(self, said: str) -> float:
        self.unclear += 1
        logger.warning(
            f"{self._model}: expected one of two answers, found {reason(said)[:80]!r}; it counts as no"
        )
        return _UNCLEAR

    def _answer(self, picture: Image.Image, asked: str, more: Mapping[str, Any]) -> dict[str, Any]:
        """Return the text, and how likely the first tokens are, kept or new."""
        request = self._request(asked, more)
        seen = hashlib.sha256(f"{picture.mode}{picture.size}".encode() + picture.tobytes()).hexdigest()
        key = _key({"endpoint": self._endpoint, "request": request, "picture": seen})
        path = None if self._kept is None else self._kept / key[:2] / f"{key}.json"
        if path is not None and path.is_file():
            return _read(path)
        client = self._opened()
        found = retried(lambda: self._once(client, picture, request), self._retry, self._rng)
        if path is not None:
            _write(path, found | {"model": self._model, "asked": asked, "picture": seen})
        return found

    def _request(self, asked: str, more: Mapping[str, Any]) -> dict[str, Any]:
        options = self._options
        request: dict[str, Any] = {"model": self._model, "asked": asked, "system": options.system, **more}
        own = self._endpoint is None
        request["max_completion_tokens" if own else "max_tokens"] = options.longest
        request |= {} if options.temperature is None else {"temperature": options.temperature}
        return request | ({} if options.image_detail is None else {"detail": options.image_detail})

    def _once(
        self, client: "openai.OpenAI", picture: Image.Image, request: Mapping[str, Any]
    ) -> dict[str, Any]:
        import openai

        image = {"url": data_address(picture)} | (
            {"detail": request["detail"]} if "detail" in request else {}
        )
        content = [{"type": "image_url", "image_url": image}, {"type": "text", "text": request["asked"]}]
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if request["system"]:
            messages.insert(0, {"role": "system", "content": request["system"]})
        rest = {name: value for name, value in request.items() if name not in ("asked", "system", "detail")}
        create: Callable[..., Any] = client.chat.completions.create
        try:
            answer = create(messages=messages, **rest)
        except openai.OpenAIError as error:
            vendor = vendor_of(self._endpoint)
            raise explained(error, self._options.seconds, vendor, client.api_key) from None
        except ValueError as error:  # a body that is not the JSON it claims to be
            raise DataError(f"{vendor_of(self._endpoint)}: {reason(error, [client.api_key])}") from None
        return self._told(answer, client.api_key)

    def _told(self, answer: Any, key: str) -> dict[str, Any]:
        choice = answer.choices[0] if answer.choices else None
        if choice is None or choice.finish_reason == "content_filter" or choice.message.refusal:
            told = choice.message.refusal if choice is not None else "no answer"
            raise RequestError(f"refused: {reason(told or 'content filter', [key])}")
        text = (choice.message.content or "").strip()
        if not text:
            raise DataError(
                f"{self._model}: expected words, found none ({choice.finish_reason}); allow a longer answer"
            )
        tokens = choice.logprobs.content if choice.logprobs is not None and choice.logprobs.content else []
        likely = [[one.token, one.logprob] for one in tokens[0].top_logprobs] if tokens else []
        return {"text": text, "likely": likely, "answered by": answer.model}

    def _opened(self) -> "openai.OpenAI":
        if self._client is None:
            self._client = opened(self._endpoint, self._options.seconds)
        return self._client


def chosen(text: str, answers: tuple[str, str]) -> str | None:
    """Return which of two answers a judge gives in words; None where it gives neither, or both.

    The last line counts where it has one of them alone, since models think before they answer; otherwise the
    whole text must.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    for part in (*lines[-1:], text):
        found = [one for one in answers if re.search(rf"(?<!\w){re.escape(one)}(?!\w)", part, re.IGNORECASE)]
        if len(found) == 1:
            return found[0]
    return None


def _share(likely: list[tuple[str, float]], answers: tuple[str, str]) -> float | None:
    """Return what the first answer has of the probability of both; None where neither is likely."""
    masses = [
        sum(float(np.exp(chance)) for token, chance in likely if token.strip().casefold() == one.casefold())
        for one in answers
    ]
    return masses[0] / sum(masses) if sum(masses) > 0 else None


def _key(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {"text": found["text"], "likely": [tuple(one) for one in found["likely"]]}
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(f"{path}: expected an answer of a judge, found something else; remove it") from None


def _write(path: Path, content: Mapping[str, Any]) -> None:
    write_whole(path, json.dumps(content, ensure_ascii=False))
