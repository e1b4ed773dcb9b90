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
from datetime import date
from pathlib import Path
from typing import Final

from danqing.errors import RequestError
from danqing.evaluation.frozen import FrozenSystem
from danqing.evaluation.frozen_layouts import layout_named
from danqing.evaluation.items import System
from danqing.evaluation.named import Known, Options, amount, count, one_of, parsed, size, values, yes
from danqing.evaluation.report.published import PublishedSystem, withdrawn
from danqing.evaluation.systems import ModelSystem, SourceOf
from danqing.retry import Retry

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
    options = parsed(query, text)
    name = options.pop("name", None)
    if kind in ("openai", "openai-compatible"):
        return _openai(kind, what, options, name, source_of, today or date.today())
    if kind in ("gemini", "gemini-compatible"):
        return _gemini(kind, what, options, name, source_of, today or date.today())
    if kind == "diffusers":
        from danqing.evaluation.remote.diffusers_pipeline import DiffusersOptions, DiffusersSystem

        given = {
            "device": device,
            "precision": precision,
            **values(options, _LOCAL | _DIFFUSERS, text, always=_NAME),
        }
        return DiffusersSystem(what, DiffusersOptions(**given), name=name, source_of=source_of)
    if kind == "frozen":
        return FrozenSystem(Path(what), name=name, **values(options, _FROZEN, text, always=_NAME))
    if kind == "published":
        values(options, {}, text, always=_NAME)
        return PublishedSystem(what)
    import danqing

    given = values(options, _LOCAL, text, always=_NAME)
    model = danqing.load(what, device=device, precision=precision)
    return ModelSystem(model, name=name, source_of=source_of, **given)


def _openai(
    kind: str, what: str, options: Options, name: str | None, source_of: SourceOf | None, today: date
) -> System:
    from danqing.evaluation.remote.openai_api import OpenAIOptions, OpenAISystem

    model, endpoint = _served(kind, what, today)
    given = values(options, _LIVE | _OPENAI, f"{kind}:{what}", always=_NAME)
    retry = Retry(attempts=given.pop("attempts", Retry().attempts))
    return OpenAISystem(
        model, OpenAIOptions(**given), endpoint=endpoint, name=name, source_of=source_of, retry=retry
    )


def _gemini(
    kind: str, what: str, options: Options, name: str | None, source_of: SourceOf | None, today: date
) -> System:
    from danqing.evaluation.remote.gemini_api import GeminiOptions, GeminiSystem

    model, endpoint = _served(kind, what, today)
    given = values(options, _LIVE | _GEMINI, f"{kind}:{what}", always=_NAME)
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


_NAME: Final = ("name",)
_LIVE: Final[Known] = {
    "concurrency": count,
    "attempts": count,
    "seconds": amount,
    "price": amount,
    "seeded": yes,
    "size": str,
}
_OPENAI: Final[Known] = {
    "quality": str,
    "style": str,
    "background": str,
    "moderation": str,
    "response_format": one_of("b64_json", "url"),
    "fetch": yes,
    "shape": one_of("gpt-image", "dall-e", "images", "chat"),
}
_GEMINI: Final[Known] = {"aspect": str}
_LOCAL: Final[Known] = {"size": size, "steps": count, "guidance": amount}
_DIFFUSERS: Final[Known] = {"negative": str, "device": str, "precision": str}
_FROZEN: Final[Known] = {
    "layout": layout_named,
    "grid": size,
    "model": str,
    "prompts": Path,
    "first_seed": int,
}
