"""The concepts of the drawn world and their names in twelve languages, as `choose` fixed them."""

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final

LANGUAGES: Final = ("en", "zh", "es", "fr", "de", "pt", "it", "ja", "ko", "ru", "ar", "hi")
"""Caption languages; English and Chinese are written as phrases, the rest as labels."""

_AN: Final = ("hour",)
_A: Final = ("unicorn", "unicycle", "ukulele", "uniform", "one ", "euro", "ewe")


@dataclass(frozen=True, slots=True, kw_only=True)
class Concept:
    """One drawable thing: a Unicode character and its nouns."""

    code: str
    """Hexadecimal code points, upper case, as in "1F34E"."""
    group: str
    """animals, food, travel, activities, objects, faces, people or shapes."""
    english: str
    plural: str
    chinese: str
    measure: str
    """Chinese measure word."""
    names: dict[str, str]
    """Language -> label, for all of `LANGUAGES`."""
    core: bool = False
    """Whether it is one of the 500 that the packaged atlas and every comparison have."""
    same: tuple[str, ...] = ()
    """Codes that look so alike that a fair judge takes one for the other; never its own."""

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
    """Return all concepts by code, in their fixed order: the core first, plain shapes last."""
    rows = {row["code"]: row for row in _rows()}
    alike = {code: list(row.get("same", ())) for code, row in rows.items()}
    for shape in _file("shapes")["shapes"]:
        for code in alike[shape["code"]]:
            alike[code].append(shape["code"])
    return {code: Concept(**{**row, "same": tuple(alike[code])}) for code, row in rows.items()}


@cache
def core_codes() -> tuple[str, ...]:
    """Return the codes of the core, in their fixed order."""
    return tuple(code for code, concept in concepts().items() if concept.core)


@cache
def drawn_codes() -> tuple[str, ...]:
    """Return the codes of all concepts that picture sets draw: all but the plain shapes."""
    return tuple(code for code, concept in concepts().items() if concept.group != "shapes")


@cache
def missing_pictures() -> dict[str, frozenset[str]]:
    """Return style -> codes of the concepts that its picture set does not draw."""
    return {style: frozenset(codes) for style, codes in _file()["missing"].items()}


def _rows() -> list[dict[str, Any]]:
    return [*_file()["concepts"], *_file("shapes")["shapes"]]


@cache
def _file(name: str = "concepts") -> dict[str, Any]:
    return json.loads((resources.files("danqing.data") / f"{name}.json").read_text("utf-8"))
