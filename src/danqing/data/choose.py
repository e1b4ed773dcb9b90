"""How the concepts were chosen: the rule that makes `concepts.json`, which nothing else writes.

1. Candidates are the entries of `nouns.json`: emoji of the groups animals, food, travel, activities and
   objects that have a picture in all four training styles and a hand-checked noun in English and Chinese.
   People, hands, faces of animals that also exist whole, flags, symbols, signs, clock faces, moon phases,
   coloured twins (green book) and views of the same thing (oncoming bus) have no entry.
2. Candidates under "dropped" look too much like another one, or are drawn as different things in different
   styles; they go out, each with its reason: one dog, one umbrella, one book.
3. The rest is ordered by the emoji version that introduced the character (oldest first), then by the number
   of words of its English noun, then by Unicode's own order; the first 300 stay.

English and Chinese nouns come from `nouns.json`, the other ten languages from the short names of Unicode
CLDR, with the label-like and the coloured ones ("red apple") corrected in `nouns.json` as well.
"""

import json
import re
from importlib import resources
from pathlib import Path
from typing import Any, Final

from danqing.data.assets import NAMES, STYLES, fetch, open_pictures, read_member
from danqing.data.concepts import LANGUAGES
from danqing.errors import DataError

_GROUPS: Final = {3: "animals", 4: "food", 5: "travel", 6: "activities", 7: "objects"}
# what CLDR puts around an animal that is drawn as a head
_FACE: Final = {
    "pt": ("rosto de ", ""),
    "fr": ("tête de ", ""),
    "ar": ("وجه ", ""),
    "ja": ("", "の顔"),
    "ko": ("", " 얼굴"),
    "hi": ("", " का चेहरा"),
}


def write_concepts(out: Path, archives: Path, *, count: int = 300) -> Path:
    """Choose the concepts by the rule above, from packages kept in `archives`, and write them as JSON.

    Raises DataError when fewer than `count` candidates remain.
    """
    table = json.loads((resources.files("danqing.data") / "nouns.json").read_text("utf-8"))
    cldr, emojibase = (fetch(source, archives) for source in NAMES)
    known = {
        row["hexcode"].removesuffix("-FE0F"): row
        for row in json.loads(read_member(emojibase, "en/data.json"))
    }
    drawable = set.intersection(*(set(open_pictures(style, fetch(style, archives))) for style in STYLES))
    ranked = sorted(
        (known[code]["version"], len(noun["english"].split()), known[code]["order"], code)
        for code, noun in table["nouns"].items()
        if code in drawable and code not in table["dropped"] and known[code].get("group") in _GROUPS
    )
    if len(ranked) < count:
        raise DataError(f"expected {count} concepts, found {len(ranked)} candidates; add nouns to nouns.json")
    labels = {language: _cldr_names(cldr, language) for language in LANGUAGES}
    rows = [_row(code, known[code], table["nouns"][code], labels) for *_, code in ranked[:count]]
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    out.write_text(f'{{"concepts": [\n{lines}\n]}}\n', "utf-8")
    return out


def _row(
    code: str, known: dict[str, Any], noun: dict[str, Any], labels: dict[str, dict[str, str]]
) -> dict[str, Any]:
    emoji = known["emoji"].replace("\ufe0f", "")
    names = {language: labels[language][emoji] for language in LANGUAGES}
    return {
        "code": code,
        "group": _GROUPS[known["group"]],
        "english": noun["english"],
        "plural": noun.get("plural") or _plural(noun["english"]),
        "chinese": noun["chinese"],
        "measure": noun["measure"],
        "names": names | {"en": noun["english"], "zh": noun["chinese"]} | noun.get("names", {}),
    }


def _cldr_names(archive: Path, language: str) -> dict[str, str]:
    table = json.loads(read_member(archive, f"annotations/{language}/annotations.json"))
    entries = table["annotations"]["annotations"].items()
    return {emoji: _clean(entry["tts"][0], language) for emoji, entry in entries if "tts" in entry}


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
