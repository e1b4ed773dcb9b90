"""The concepts of the drawn world and their names in twelve languages, as `choose` fixed them."""

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

LANGUAGES: Final = ("en", "zh", "es", "fr", "de", "pt", "it", "ja", "ko", "ru", "ar", "hi")
"""Caption languages; English and Chinese are written as phrases, the rest as labels."""

_AN: Final = ("hourglass",)
_A: Final = ("unicorn",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Concept:
    """One drawable thing: a Unicode character and its nouns."""

    code: str
    """Hexadecimal code points, upper case, as in "1F34E"."""
    group: str
    english: str
    plural: str
    chinese: str
    measure: str
    """Chinese measure word."""
    names: dict[str, str]
    """Language -> label, for all of `LANGUAGES`."""

    @property
    def indefinite(self) -> str:
        """The English noun with its article: "an apple"."""
        return with_article(self.english)


def with_article(phrase: str) -> str:
    """Put "a" or "an" before an English phrase, by the sound of its first word."""
    vowel = phrase[0].lower() in "aeiou" and not phrase.startswith(_A)
    return f"{'an' if vowel or phrase.startswith(_AN) else 'a'} {phrase}"


@cache
def concepts() -> dict[str, Concept]:
    """Return the 300 concepts by code, in their fixed order."""
    rows = json.loads((resources.files("danqing.data") / "concepts.json").read_text("utf-8"))["concepts"]
    return {row["code"]: Concept(**row) for row in rows}
