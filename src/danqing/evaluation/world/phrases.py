"""The tables that write captions in twelve languages, turned round: patterns that read them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from string import Formatter
from typing import Any, Final

from danqing.data.colours import COLOURS
from danqing.data.language.nouns import nouns
from danqing.data.language.tables import SPOKEN, table
from danqing.data.world.scene import Relation

_UNSPACED: Final = ("zh", "ja")
_LETTER: Final = (
    r"\w\u0300-\u036f\u0610-\u061a\u064b-\u065f\u0900-\u0963\u0971-\u097f"  # marks that `\w` leaves out
)
_BACKGROUNDS: Final = ("solid", "gradient", "radial", "stripes", "dots", "checks", "ground")
_GAP: Final = r".{0,90}?"
_THING: Final = r"⟨\d+⟩"
_ROLES: Final = {"L": 0, "R": 1, "A": 0, "B": 1, "C": 2, "bare": 0, "other": 1, "third": 2}
_ENDS: Final = ("first", "second", "third")
_LISTS: Final[Mapping[Relation, tuple[str, ...]]] = {
    "left": ("pair.beside",),
    "above": ("pair.stacked",),
    "front": ("pair.front",),
    "inside": ("pair.inside",),
    "between": ("between.x", "between.full"),
}
_TURNED: Final[Mapping[str, Relation]] = {"behind": "front", "outside": "inside"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Phrases:
    """Patterns that find what a text of one language names; all of lower case."""

    thing: re.Pattern[str]
    """A thing with all that is said of it: groups `name`, and where given `number`, `after` and `colour`."""
    names: Mapping[str, str]
    """Name -> code of the concept; a plural is a name too."""
    colours: re.Pattern[str]
    colour: Mapping[str, str]
    """Word in any of its forms -> colour word of the package."""
    background: re.Pattern[str]
    """Whatever tells the colour of the background."""
    lettering: re.Pattern[str]
    """Colours of letters and boards."""
    boards: frozenset[str]
    """What words stand on."""
    number: Mapping[str, int]
    frame: re.Pattern[str]
    """What patterns of captions say around things and could be taken for one: "a picture of"."""
    homographs: frozenset[str]
    """Names that stand in such fixed words, where they mean something else."""


@cache
def phrases(language: str) -> Phrases:
    """Return the patterns of a language; raises DataError for an unknown one."""
    words = table(language).words
    names = _names(language)
    colour = _colours(language, words)
    signs = [form for one in words["sign"].values() for form in ([one] if isinstance(one, str) else one)]
    boards = frozenset(sign.casefold() for sign in signs)
    make = {"en": _english, "zh": _chinese}.get(language, _label)
    thing, lettering = make(language, words, {*names, *boards}, colour, boards)
    frame, homographs = _frames(language, names)
    return Phrases(
        thing=re.compile(thing),
        names=names,
        colours=re.compile(_bounded(language, _any(colour))),
        colour=colour,
        background=re.compile("|".join(_backgrounds(language, words, colour))),
        lettering=re.compile(lettering),
        boards=boards,
        number=_numbers(language, words),
        frame=re.compile(frame),
        homographs=homographs,
    )


@cache
def relation_patterns(language: str) -> tuple[tuple[Relation, re.Pattern[str]], ...]:
    """Return patterns over a text in which ⟨0⟩, ⟨1⟩... stand for things, with the relation they tell.

    The groups `first`, `second` and `third` are the things in the order of the relation.
    """
    patterns, words = table(language).patterns, table(language).words
    fixed = {**_symbols(words), "on": _GAP, "bg": _GAP, "style": _GAP}
    found: dict[tuple[Relation, str], None] = {}
    for relation, lists in _LISTS.items():
        for pattern in dict.fromkeys(one for name in lists for one in patterns.get(name, ())):
            found[relation, _relating(pattern, fixed, turned=False)] = None
    said: Mapping[str, Any] = words.get("relation") or words["at"]
    for pattern in [*patterns.get("pair.short", ()), *patterns.get("pair.full", ())]:
        if not re.search(r"\{(rel|at)\}", pattern):
            continue
        for name, forms in said.items():
            word = _any([forms] if isinstance(forms, str) else forms)
            turned = _TURNED.get(name)
            regex = _relating(pattern, {**fixed, "rel": word, "at": word}, turned=turned is not None)
            found[turned or name, regex] = None  # type: ignore[index]
    return tuple((relation, re.compile(regex)) for relation, regex in found if regex.count("(?P<") > 1)


def _relating(pattern: str, fixed: Mapping[str, str], *, turned: bool) -> str:
    """Turn a pattern that relates things into an expression; of a role named twice the last counts."""
    parts = [(text, field) for text, field, _, _ in Formatter().parse(pattern)]
    last = {_ROLES[field]: at for at, (_, field) in enumerate(parts) if field in _ROLES}
    made: list[str] = []
    for at, (text, field) in enumerate(parts):
        literal = text.casefold()
        if field in _ROLES:
            made.append(re.escape(literal.removesuffix("the ")))
            role = _ROLES[field]
            end = _ENDS[1 - role if turned and role < 2 else role]
            made.append(rf"⟨(?P<{end}>\d+)⟩" if last[role] == at else _THING)
        else:
            made.append(re.escape(literal))
            made += [] if field is None else [fixed[field]]
    while made and (made[0] == _GAP or not re.search(r"[^\W\d]|⟨", made[0])):
        made.pop(0)
    while made and (made[-1] == _GAP or not re.search(r"[^\W\d]|⟨", made[-1])):
        made.pop()
    return "".join(made)


def _frames(language: str, names: Iterable[str]) -> tuple[str, frozenset[str]]:
    """Return an expression for the fixed words of captions that hold a name, and those names.

    Words in front of a caption count only there.
    """
    named = re.compile(_bounded(language, _any(names)))
    first, inner = set(), set()
    for name, patterns in table(language).patterns.items():
        if name.startswith(("ask.", "edit", "pair.", "between.")):
            continue
        for pattern in patterns:
            texts = [text.casefold() for text, _, _, _ in Formatter().parse(pattern)]
            first |= {text for text in texts[:1] if named.search(text)}
            inner |= {text for text in texts[1:] if named.search(text)}
    held = frozenset(name for text in first | inner for name in named.findall(text))
    return rf"(?:(?:^|(?<=[.。।])\s*){_any(first)}|{_any(inner - first)})" if held else r"(?!)", held


def _names(language: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for code, noun in nouns().items():
        forms = [noun.english, noun.plural] if language == "en" else [noun.names[language]]
        for form in [noun.chinese] if language == "zh" else forms:
            found.setdefault(form.casefold(), code)
    return found


def _colours(language: str, words: Mapping[str, Any]) -> dict[str, str]:
    found = {word: word for word in COLOURS} if language == "en" else {}
    for forms in (words.get(name, {}) for name in ("tint", "on", "colour")):
        if isinstance(forms, Mapping):
            found |= {form.casefold(): word for word, form in forms.items()}
    return found


def _numbers(language: str, words: Mapping[str, Any]) -> dict[str, int]:
    found = {str(count): count for count in range(1, 10)}
    if language in SPOKEN:
        found |= {word: count for count, word in enumerate(words["number"]) if count}
    return found | ({"a": 1, "an": 1} if language == "en" else {})


def _symbols(words: Mapping[str, Any]) -> dict[str, str]:
    """Return the fields of label patterns that are the same in every caption."""
    at = words.get("at", {})
    return {name: re.escape(word.casefold()) for name, word in at.items()} | {
        name: rf"\s*{re.escape(words[name].strip())}\s*" for name in ("c", "k", "s") if name in words
    }


def _english(
    language: str,
    words: Mapping[str, Any],
    names: Iterable[str],
    colour: Iterable[str],
    boards: Iterable[str],
) -> tuple[str, str]:
    colours, numbers = _any(colour), _any(_numbers(language, words))
    plain = [re.escape(one).replace(r"\ of\ ", rf"\ of\ (?:(?:{colours})\ )?", 1) for one in _longest(names)]
    sizes = [one for forms in words["size"].values() for one in forms]
    adjectives = _any(["single", *sizes, *(style.casefold() for style in words["style"].values())])
    thing = (
        rf"(?:the )?(?:(?P<number>{numbers}) )?(?:(?:{adjectives}) )*(?:(?P<colour>{colours}) )?"
        rf"(?P<name>{'|'.join(plain)})(?:, (?P<after>{numbers}) of them)?"
    )
    on = _any([*boards, "letters", "characters", "text", "writing"])
    lettering = rf"\bin (?:{colours})(?: (?:letters|characters))?\b|\b(?:{colours}) (?:{on})\b"
    return _bounded(language, thing), lettering


def _chinese(
    language: str,
    words: Mapping[str, Any],
    names: Iterable[str],
    colour: Iterable[str],
    boards: Iterable[str],
) -> tuple[str, str]:
    colours, numbers = _any(colour), _any(_numbers(language, words))
    measures = _any({noun.measure for noun in nouns().values()})
    sizes = _any(form for forms in words["size"].values() for form in forms)
    thing = (
        rf"(?:(?P<number>{numbers})\s?(?:{measures}))?(?:{sizes})??(?:(?P<colour>{colours})的?)?(?:{sizes})??"
        rf"(?P<name>{_any(names)})"
    )
    return thing, rf"(?:{colours})的?(?:{_any(boards)}|文字)"


def _label(
    language: str,
    words: Mapping[str, Any],
    names: Iterable[str],
    colour: Iterable[str],
    boards: Iterable[str],
) -> tuple[str, str]:
    bracket = r"\s?[(（](?P<bracket>[^)）]*)[)）]"
    colon = rf"\s*{re.escape(words['k'].strip())}\s*"
    places = _any(word for word in words["at"].values() if " " in word)
    thing = (
        rf"{_start(language)}(?!{places}{_end(language)})(?:(?P<number>[1-9])\s?×\s?)?(?P<name>{_any(names)}){_end(language)}(?:{bracket})?"
        rf"(?:\s?×\s?(?P<after>[1-9])|{colon}(?P<colon>[1-9]))?"
    )
    letters = _any([*boards, words["letters"].casefold()])
    return thing, rf"(?:{letters})\s?[(（][^)）]*[)）]"


def _backgrounds(language: str, words: Mapping[str, Any], colour: Iterable[str]) -> list[str]:
    """Return expressions for the background, the longest first."""
    colours = f"(?:{_any(colour)})"
    if language not in SPOKEN:
        patterns = [one.replace("{}", "{colour}") for some in words["backgrounds"].values() for one in some]
        found = [_filled(one, {"colour": colours}) for one in patterns]
        head = rf"{re.escape(words['Background'].casefold())}\s*{re.escape(words['k'].strip())}"
        end = r"[^.。।\n]*?"
        return [*_longest(found), rf"{head}{end}{_bounded(language, colours)}"]
    grounds = _any([*words["ground"], *words["ask"]["ground"]])
    fields = {"colour": colours, "a_colour": rf"an? {colours}", "ground": f"(?:{grounds})"}
    patterns = [one for some in words["background"].values() for one in some]
    patterns.append("{colour} {ground}" if language == "en" else "{colour}{ground}")
    patterns += ["{colour}的{ground}", "{colour}的背景"] if language == "zh" else []
    for kind in _BACKGROUNDS:
        patterns += [one for one in table(language).patterns[f"long.{kind}"] if "colour}" in one]
    found = [_filled(one, fields) for one in dict.fromkeys(patterns)]
    return [_bounded(language, one) for one in _longest(found)]


def _filled(pattern: str, fields: Mapping[str, str]) -> str:
    made = []
    for text, field, _, _ in Formatter().parse(pattern):
        made.append(re.escape(text.casefold()))
        made += [] if field is None else [fields[field]]
    return "".join(made).removesuffix(r"\.")


def _any(words: Iterable[str]) -> str:
    """Return an expression for any of the words, the longest first."""
    kept = _longest(words)
    return f"(?:{'|'.join(re.escape(word) for word in kept)})" if kept else "(?!)"


def _longest(words: Iterable[str]) -> Sequence[str]:
    return sorted(words, key=len, reverse=True)


def _bounded(language: str, expression: str) -> str:
    """Return an expression that begins and ends with whole words, where a language has spaces."""
    return f"{_start(language)}(?:{expression}){_end(language)}"


def _start(language: str) -> str:
    return "" if language in _UNSPACED else f"(?<![{_LETTER}])"


def _end(language: str) -> str:
    return "" if language in _UNSPACED else f"(?![{_LETTER}])"
