"""The names by which people choose systems, as in `openai:gpt-image-2?quality=high`.

What follows the first colon says which one, what follows a question mark how it is asked:

    openai:MODEL              gemini:MODEL              a vendor, its key in the environment
    openai-compatible:ADDRESS#MODEL   gemini-compatible:ADDRESS#MODEL   another server of that shape
    diffusers:FOLDER          a pipeline of diffusers
    frozen:FOLDER             pictures that were made before
    published:NAME            scores that somebody printed
    danqing:CHECKPOINT        a checkpoint of danqing; the word before the colon may be left out
"""

import difflib
import re
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl

from danqing.errors import RequestError
from danqing.evaluation.frozen import FrozenSystem
from danqing.evaluation.frozen_layouts import layout_named
from danqing.evaluation.items import System
from danqing.evaluation.published import PublishedSystem, withdrawn
from danqing.evaluation.systems import ModelSystem, SourceOf
from danqing.retry import Retry

Options = dict[str, str]
Known = dict[str, Callable[[str], Any]]
"""What an option is read with, by its name."""
KINDS: Final = (
    "openai",
    "gemini",
    "openai-compatible",
    "gemini-compatible",
    "diffusers",
    "frozen",
    "published",
    "danqing",
)
_YES: Final = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}


def system_named(
    text: str,
    *,
    source_of: SourceOf | None = None,
    device: str = "auto",
    precision: str = "auto",
    today: date | None = None,
) -> System:
    """Return the system that a name means; models are loaded, vendors are not asked yet.

    `source_of` gives the pictures that edits and questions are about. Raises RequestError for a name or an
    option that means nothing and for a system that its vendor has withdrawn by `today`, and what loading or
    reading raises.
    """
    kind, rest = _split(text)
    what, _, query = rest.partition("?")
    if not what:
        raise RequestError(f"expected a name such as {kind}:..., found {text!r}")
    options = _parsed(query, text)
    name = options.pop("name", None)
    if kind in ("openai", "openai-compatible"):
        return _openai(kind, what, options, name, source_of, today or date.today())
    if kind in ("gemini", "gemini-compatible"):
        return _gemini(kind, what, options, name, source_of, today or date.today())
    if kind == "diffusers":
        from danqing.evaluation.remote.diffusers_pipeline import DiffusersOptions, DiffusersSystem

        given = {"device": device, "precision": precision, **_values(options, _LOCAL | _DIFFUSERS, text)}
        return DiffusersSystem(what, DiffusersOptions(**given), name=name, source_of=source_of)
    if kind == "frozen":
        return FrozenSystem(Path(what), name=name, **_values(options, _FROZEN, text))
    if kind == "published":
        _values(options, {}, text)
        return PublishedSystem(what)
    import danqing

    given = _values(options, _LOCAL, text)
    model = danqing.load(what, device=device, precision=precision)
    return ModelSystem(model, name=name, source_of=source_of, **given)


def _openai(
    kind: str, what: str, options: Options, name: str | None, source_of: SourceOf | None, today: date
) -> System:
    from danqing.evaluation.remote.openai_api import OpenAIOptions, OpenAISystem

    model, endpoint = _served(kind, what, today)
    given = _values(options, _LIVE | _OPENAI, f"{kind}:{what}")
    retry = Retry(attempts=given.pop("attempts", Retry().attempts))
    return OpenAISystem(
        model, OpenAIOptions(**given), endpoint=endpoint, name=name, source_of=source_of, retry=retry
    )


def _gemini(
    kind: str, what: str, options: Options, name: str | None, source_of: SourceOf | None, today: date
) -> System:
    from danqing.evaluation.remote.gemini_api import GeminiOptions, GeminiSystem

    model, endpoint = _served(kind, what, today)
    given = _values(options, _LIVE | _GEMINI, f"{kind}:{what}")
    retry = Retry(attempts=given.pop("attempts", Retry().attempts))
    return GeminiSystem(
        model, GeminiOptions(**given), endpoint=endpoint, name=name, source_of=source_of, retry=retry
    )


def _served(kind: str, what: str, today: date) -> tuple[str, str | None]:
    """Return the model and, of another server, its address; raises RequestError for a withdrawn model."""
    if kind.endswith("-compatible"):
        address, _, model = what.partition("#")
        if not address or not model:
            raise RequestError(f"expected {kind}:ADDRESS#MODEL, found {kind}:{what}")
        return model, address
    gone = withdrawn(what, today=today)
    if gone is not None:
        raise RequestError(
            f"{gone}; expected a model that is served: name its pictures as frozen:FOLDER, its scores as "
            f"published:{gone.system}, or a server that still has it as {kind}-compatible:ADDRESS#{what}"
        )
    return what, None


def _split(text: str) -> tuple[str, str]:
    """Return the kind of a name and the rest; a name without a kind is a checkpoint of danqing."""
    kind, colon, rest = text.partition(":")
    if kind in KINDS and colon:
        return kind, rest
    if colon and re.fullmatch(r"[a-z][a-z-]*", kind) and not Path(text).exists():
        near = difflib.get_close_matches(kind, KINDS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise RequestError(f"expected a system of {', '.join(KINDS)}, found {kind!r}{hint}")
    return "danqing", text


def _parsed(query: str, text: str) -> Options:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError:
        raise RequestError(f"{text}: expected options such as ?size=1024x1024&name=mine") from None
    if len(dict(pairs)) != len(pairs):
        raise RequestError(f"{text}: expected every option once, found one twice")
    return dict(pairs)


def _values(options: Options, known: Known, text: str) -> dict[str, Any]:
    """Return options as what they mean; raises RequestError for one that is not known, or means nothing."""
    found = {}
    for key, value in options.items():
        if key not in known:
            names = ", ".join(sorted((*known, "name")))
            raise RequestError(f"{text}: expected options of {names}, found {key!r}")
        try:
            found[key] = known[key](value)
        except (ValueError, KeyError):
            raise RequestError(f"{text}: {key}: expected another value, found {value!r}") from None
    return found


def _size(text: str) -> tuple[int, int]:
    width, height = text.split("x")
    return _count(width), _count(height)


def _count(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number


def _amount(text: str) -> float:
    if not 0 <= (number := float(text)) < float("inf"):
        raise ValueError(text)
    return number


def _yes(text: str) -> bool:
    return _YES[text.casefold()]


def _one_of(*known: str) -> Callable[[str], str]:
    return lambda text: known[known.index(text)]


_LIVE: Final[Known] = {
    "concurrency": _count,
    "attempts": _count,
    "seconds": _amount,
    "price": _amount,
    "seeded": _yes,
    "size": str,
}
_OPENAI: Final[Known] = {
    "quality": str,
    "style": str,
    "background": str,
    "moderation": str,
    "response_format": _one_of("b64_json", "url"),
    "fetch": _yes,
    "shape": _one_of("gpt-image", "dall-e", "images", "chat"),
}
_GEMINI: Final[Known] = {"aspect": str}
_LOCAL: Final[Known] = {"size": _size, "steps": _count, "guidance": _amount}
_DIFFUSERS: Final[Known] = {"negative": str, "device": str, "precision": str}
_FROZEN: Final[Known] = {
    "layout": layout_named,
    "grid": _size,
    "model": str,
    "prompts": Path,
    "first_seed": int,
}
