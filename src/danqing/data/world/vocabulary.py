"""The words that signs and posters carry: everyday words, chosen for this project, no names, no brands."""

import json
from functools import cache
from importlib import resources
from typing import Final, Literal

Script = Literal["latin", "chinese"]

LONGEST: Final = {"latin": 8, "chinese": 4}
"""How many characters a line may have."""
_MEASURED: Final = {"latin": range(3, 7), "chinese": range(1, 3)}


@cache
def vocabulary() -> tuple[str, ...]:
    """Return the words that a reader can be tested with, Latin in capitals, then Chinese.

    They have 3 to 6 letters or 1 or 2 Chinese characters, as text recognition reads them reliably; the words
    held out are drawn from these, about two Latin ones for each Chinese one.
    """
    return (*_measured("latin"), *_measured("chinese"))


@cache
def all_words(script: Script) -> tuple[str, ...]:
    """Return every word of a script that may stand on a sign, the longer ones too."""
    return tuple(_table()[script])


def script_of(line: str) -> Script:
    """Tell which script a line is written in; lines are never mixed."""
    return "latin" if line.isascii() else "chinese"


def _measured(script: Script) -> tuple[str, ...]:
    return tuple(word for word in all_words(script) if len(word) in _MEASURED[script])


@cache
def _table() -> dict[str, list[str]]:
    table: dict[str, list[str]] = json.loads(
        (resources.files("danqing.data.world") / "words.json").read_text("utf-8")
    )
    return table
