"""The concepts of the drawn world and their names in twelve languages, as `choose` fixed them."""

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

LANGUAGES: Final = ("en", "zh", "es", "fr", "de", "pt", "it", "ja", "ko", "ru", "ar", "hi")
"""Caption languages; English and Chinese are written as phrases, the rest as labels."""

_VOWELS: Final = "aeiou"
_ARTICLES: Final = {"unicorn": "a"}


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
        article = _ARTICLES.get(self.english, "an" if self.english[0].lower() in _VOWELS else "a")
        return f"{article} {self.english}"


@cache
def concepts() -> dict[str, Concept]:
    """Return the 300 concepts by code, in their fixed order."""
    rows = json.loads((resources.files("danqing.data") / "concepts.json").read_text("utf-8"))["concepts"]
    return {row["code"]: Concept(**row) for row in rows}
