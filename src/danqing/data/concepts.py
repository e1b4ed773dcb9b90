"""The concepts of the drawn world and their names in twelve languages.

`concepts.json` is made by `make_concepts` and committed; nothing else writes it. Its rule, in order:

1. Candidates are the entries of `nouns.json`: emoji of the groups animals, food, travel, activities and objects that
   have a picture in all four training styles and a hand-checked noun in English and Chinese. People, hands, faces of
   animals that also exist whole, flags, symbols, signs, clock faces, moon phases, coloured twins (green book) and
   views of the same thing (oncoming bus) have no entry: one clock, one moon, one closed book.
2. Candidates named under "dropped" look too much like another one or read as nothing in some style; they go out.
3. The rest is ordered by the emoji version that introduced the character (oldest first), then by the number of words of its
   English noun, then by Unicode's own order; the first 300 stay.

English and Chinese come from `nouns.json`, the other ten languages from Unicode CLDR short names, with the
label-like ones corrected there as well.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

from danqing.errors import DataError

LANGUAGES: Final = ("en", "zh", "es", "fr", "de", "pt", "it", "ja", "ko", "ru", "ar", "hi")
"""Caption languages; English and Chinese are written as phrases, the rest as labels."""

_GROUPS: Final = {3: "animals", 4: "food", 5: "travel", 6: "activities", 7: "objects"}
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


def make_concepts(packages: Path, styles_with: dict[str, set[str]], *, count: int = 300) -> list[dict[str, Any]]:
    """Choose the concepts by the rule of this module and return the rows of `concepts.json`.

    `packages` holds the unpacked emojibase-data and cldr-annotations-full; `styles_with` maps each style to the codes
    it can draw. Raises DataError when fewer than `count` candidates remain.
    """
    table = json.loads((resources.files("danqing.data") / "nouns.json").read_text("utf-8"))
    known = {row["hexcode"].removesuffix("-FE0F"): row for row in
             json.loads((packages / "emojibase-data/package/en/data.json").read_text("utf-8"))}
    drawable = set.intersection(*styles_with.values())
    rows = []
    for code, noun in table["nouns"].items():
        row = known[code]
        if row.get("group") in _GROUPS and code in drawable and code not in table["dropped"]:
            rows.append((row["version"], len(noun["english"].split()), row["order"], code))
    if len(rows) < count:
        raise DataError(f"expected {count} concepts, found {len(rows)} candidates; add nouns to nouns.json")
    labels = {language: _cldr_names(packages, language) for language in LANGUAGES}
    return [_row(code, known[code], table["nouns"][code], labels) for *_, code in sorted(rows)[:count]]


def _row(code: str, known: dict[str, Any], noun: dict[str, Any], labels: dict[str, dict[str, str]]) -> dict[str, Any]:
    names = {language: labels[language][known["emoji"].replace("\ufe0f", "")] for language in LANGUAGES}
    names |= {"en": noun["english"], "zh": noun["chinese"]} | noun.get("names", {})
    return {"code": code, "group": _GROUPS[known["group"]], "english": noun["english"],
            "plural": noun.get("plural") or _plural(noun["english"]), "chinese": noun["chinese"],
            "measure": noun["measure"], "names": names}


def _cldr_names(packages: Path, language: str) -> dict[str, str]:
    path = packages / f"cldr-annotations-full/package/annotations/{language}/annotations.json"
    entries = json.loads(path.read_text("utf-8"))["annotations"]["annotations"]
    return {emoji: entry["tts"][0].replace("\u200b", "").strip() for emoji, entry in entries.items() if "tts" in entry}


def _plural(noun: str) -> str:
    if noun.endswith(("s", "x", "ch", "sh", "z")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in _VOWELS:
        return noun[:-1] + "ies"
    return noun + "s"
