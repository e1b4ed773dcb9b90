"""What follows the question mark in the names of systems and judges, as in `?size=512x512&seconds=60`."""

from collections.abc import Callable
from typing import Any, Final
from urllib.parse import parse_qsl

from danqing.errors import RequestError

Options = dict[str, str]
Known = dict[str, Callable[[str], Any]]
"""What an option is read with, by its name."""
_YES: Final = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}


def parsed(query: str, text: str) -> Options:
    """Return the options of a query of the name `text`; raises RequestError for what is none, or twice."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError:
        raise RequestError(f"{text}: expected options such as ?size=1024x1024&name=mine") from None
    if len(dict(pairs)) != len(pairs):
        raise RequestError(f"{text}: expected every option once, found one twice")
    return dict(pairs)


def values(options: Options, known: Known, text: str, *, always: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return options as what they mean; raises RequestError for one that is not known, or means nothing.

    `always` are options that were taken out before and belong to the names an error tells.
    """
    found = {}
    for key, value in options.items():
        if key not in known:
            names = ", ".join(sorted((*known, *always))) or "none"
            raise RequestError(f"{text}: expected options of {names}, found {key!r}")
        try:
            found[key] = known[key](value)
        except (ValueError, KeyError):
            raise RequestError(f"{text}: {key}: expected another value, found {value!r}") from None
    return found


def size(text: str) -> tuple[int, int]:
    """Read a size such as 640x480."""
    width, height = text.split("x")
    return count(width), count(height)


def count(text: str) -> int:
    """Read a whole number from 1."""
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number


def amount(text: str) -> float:
    """Read a number that is not negative."""
    if not 0 <= (number := float(text)) < float("inf"):
        raise ValueError(text)
    return number


def share(text: str) -> float:
    """Read a number from 0 to 1."""
    if (number := amount(text)) > 1:
        raise ValueError(text)
    return number


def yes(text: str) -> bool:
    """Read yes or no."""
    return _YES[text.casefold()]


def one_of(*known: str) -> Callable[[str], str]:
    """Return what reads one of some words."""
    return lambda text: known[known.index(text)]
