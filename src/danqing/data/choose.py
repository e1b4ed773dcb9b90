"""How the concepts were chosen: the rule that makes `concepts.json`, which nothing else writes.

1. Candidates are the entries of `nouns.json` (animals, food, travel, activities, objects) and of
   `people.json` (faces, people) that have a picture in the sets "shaded" and "cartoon" at least. Each is
   a hand-checked noun in English and Chinese. Flags, symbols, skin tones, hearts told apart by colour, people
   told apart by the way they face and families told apart by their members have no entry.
2. Candidates are ordered by the emoji version that introduced the character (oldest first), then by the
   number of words of the English noun, then by Unicode's own order.
3. The core are 500 nouns that are drawn by the first four sets at least and are not "dropped": those look too
   much like another one, or are different things in different sets. The first 300 were chosen when the table
   was shorter; they keep their places, so that figures stay comparable. The rest follow in the order of 2.
4. The long tail are all others, in the order of 2.

English and Chinese nouns come from the two tables, the other ten languages from the short names of Unicode
CLDR, corrected in the tables where those are labels rather than names ("red apple", "person: beard").
"""

import json
import re
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any, Final

from danqing.data.assets import CLDR, EMOJIBASE, STYLES
from danqing.data.concepts import LANGUAGES, core_codes
from danqing.data.packages import fetch, open_pictures, plain_code, read_member
from danqing.errors import DataError

CORE: Final = 500
_FIRST: Final = 300
_GROUPS: Final = ("faces", "people", "", "animals", "food", "travel", "activities", "objects")  # by number
_NOUNS: Final = _GROUPS[3:]
# what CLDR puts around an animal that is drawn as a head
_FACE: Final = {
    "pt": ("rosto de ", ""),
    "fr": ("tête de ", ""),
    "ar": ("وجه ", ""),
    "ja": ("", "の顔"),
    "ko": ("", " 얼굴"),
    "hi": ("", " का चेहरा"),
}


def write_concepts(out: Path, archives: Path) -> Path:
    """Choose the concepts by the rule above, from packages kept in `archives`, and write them as JSON.

    Raises DataError when fewer nouns remain than the core needs, or when two concepts share a name.
    """
    nouns, people = _table("nouns"), _table("people")
    entries = nouns["nouns"] | people["people"]
    drawn = {style.style: set(open_pictures(style, archives)) for style in STYLES}
    known = {
        plain_code(row["hexcode"]): row
        for row in json.loads(read_member(fetch(EMOJIBASE, archives), "en/data.json"))
    }
    ranked = sorted(
        (code for code in entries if code in drawn["shaded"] and code in drawn["cartoon"]),
        key=lambda c: (known[c]["version"], len(entries[c]["english"].split()), known[c]["order"]),
    )
    core = _core(ranked, known, drawn, set(nouns["dropped"]))
    ordered = core + [code for code in ranked if code not in set(core)]
    labels = {language: _cldr_names(archives, language) for language in LANGUAGES}
    alike = _alike([*nouns.get("same", []), *people["same"]], set(ordered))
    rows = [
        _row(code, known[code], entries[code], labels)
        | ({"core": True} if code in set(core) else {})
        | ({"same": alike[code]} if code in alike else {})
        for code in ordered
    ]
    _check_names(rows)
    missing = {style: [code for code in ordered if code not in codes] for style, codes in drawn.items()}
    lines = ",\n".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows)
    gaps = ",\n".join(f"{json.dumps(style)}: {json.dumps(codes)}" for style, codes in missing.items())
    out.write_text(f'{{"concepts": [\n{lines}\n],\n"missing": {{\n{gaps}\n}}}}\n', "utf-8")
    return out


def _table(name: str) -> dict[str, Any]:
    return json.loads((resources.files("danqing.data") / f"{name}.json").read_text("utf-8"))


def _core(
    ranked: list[str], known: dict[str, Any], drawn: dict[str, set[str]], dropped: set[str]
) -> list[str]:
    everywhere = set.intersection(*(drawn[source.style] for source in STYLES[:4]))
    first = list(core_codes())[:_FIRST]
    rest = [
        code
        for code in ranked
        if _GROUPS[known[code]["group"]] in _NOUNS and code in everywhere and code not in {*dropped, *first}
    ]
    if lost := sorted(set(first) - set(ranked)):
        raise DataError(f"expected nouns for the first {_FIRST} concepts, found none for {lost[:3]}")
    if len(first) + len(rest) < CORE:
        raise DataError(
            f"expected {CORE} nouns for the core, found {len(first) + len(rest)}; add to nouns.json"
        )
    return first + rest[: CORE - len(first)]


def _alike(groups: Iterable[list[str]], chosen: set[str]) -> dict[str, list[str]]:
    """Map each code to those that share a group with it; groups that meet are not joined."""
    alike: dict[str, list[str]] = {}
    for group in groups:
        for code in (known := [code for code in group if code in chosen]):
            others = [other for other in known if other != code and other not in alike.get(code, [])]
            if others:
                alike.setdefault(code, []).extend(others)
    return alike


def _row(
    code: str, known: dict[str, Any], noun: dict[str, Any], labels: dict[str, dict[str, str]]
) -> dict[str, Any]:
    emoji = known["emoji"].replace("\ufe0f", "")
    names = {"en": noun["english"], "zh": noun["chinese"]} | noun.get("names", {})
    return {
        "code": code,
        "group": _GROUPS[known["group"]],
        "english": noun["english"],
        "plural": noun.get("plural") or _plural(noun["english"]),
        "chinese": noun["chinese"],
        "measure": noun["measure"],
        "names": {language: names.get(language) or labels[language][emoji] for language in LANGUAGES},
    }


def _check_names(rows: list[dict[str, Any]]) -> None:
    """Refuse two concepts with one name: a prompt must say which thing is meant."""
    for field in ("english", "plural", "chinese"):
        seen: dict[str, str] = {}
        for row in rows:
            if other := seen.get(row[field]):
                raise DataError(
                    f"expected {field} names to differ, found {row[field]!r} for {other} and {row['code']}"
                )
            seen[row[field]] = row["code"]


def _cldr_names(archives: Path, language: str) -> dict[str, str]:
    names: dict[str, str] = {}
    for source, root in zip(CLDR, ("annotations", "annotationsDerived"), strict=True):
        text = read_member(fetch(source, archives), f"{root}/{language}/annotations.json")
        entries = json.loads(text)[root]["annotations"].items()
        names |= {emoji: _clean(entry["tts"][0], language) for emoji, entry in entries if "tts" in entry}
    return names


def _clean(label: str, language: str) -> str:
    """Keep the first name of a CLDR label and drop "face of", which it says where only the head is drawn."""
    label = re.split("[,،、（(]", label.replace("\u200b", ""))[0].strip()
    start, end = _FACE.get(language, ("", ""))
    return label.removeprefix(start).removesuffix(end)


def _plural(noun: str) -> str:
    if noun.endswith(("s", "x", "ch", "sh", "z")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"
