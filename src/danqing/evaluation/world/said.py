"""What a text says of a scene: things with number and colour, relations, background, words.

Read by rule, with the names and patterns of `data.language`, so that the grammar's own captions can be read
back in full and other sentences as far as they name things the same way. Nothing is known here of what would
be true.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from danqing.data.language.nouns import nouns
from danqing.data.language.tables import SPOKEN
from danqing.evaluation.world.phrases import Phrases, phrases, relation_patterns

Told = tuple[str, int, int] | tuple[str, int, int, int]
"""A relation and the mentions it holds of: the first is "left" of the second, or "between" two others."""

_QUOTED: Final = re.compile(
    r"[\"“”„«»「『]\s*([^\"“”„«»「」『』]+?)\s*[\"”“«»」』]|(?<!\w)['‘]([^'’]+)['’](?!\w)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mention:
    """One place where a text names a thing."""

    concept: str
    """Code of the concept that has this name."""
    count: int | None
    """How many; None where the text gives no number."""
    colour: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """All that is understood of one text."""

    mentions: tuple[Mention, ...]
    relations: frozenset[Told]
    backgrounds: tuple[str, ...]
    """Colour words of the background, as often as they are said."""
    quotes: tuple[str, ...]
    """What stands in quotation marks."""

    def of(self, concept: str) -> tuple[Mention, ...]:
        """Return the mentions of a concept, or of one that a fair judge takes for it."""
        fair = {concept, *nouns()[concept].same}
        return tuple(mention for mention in self.mentions if mention.concept in fair)


def understand(text: str, language: str) -> Said:
    """Read a text in one of `LANGUAGES`; raises DataError for an unknown one."""
    known = phrases(language)
    quotes = tuple(first or second for first, second in _QUOTED.findall(text))
    rest = _QUOTED.sub("⟨q⟩", text).casefold()
    backgrounds: list[str] = []

    def note(match: re.Match[str]) -> str:
        word = known.colours.search(match.group())
        backgrounds.extend([] if word is None else [known.colour[word.group()]])
        return "⟨b⟩"

    rest = known.background.sub(note, rest)
    rest = known.lettering.sub(" ", rest) if quotes else rest
    marked, mentions = _take_things(known.frame.sub("⟨f⟩", rest), language, known, lettered=bool(quotes))
    if not mentions and not quotes:  # a caption may be about a picture
        marked, mentions = _take_things(rest, language, known, lettered=bool(quotes))
    return Said(
        mentions=tuple(mentions),
        relations=frozenset(_relations(marked, language)),
        backgrounds=tuple(backgrounds),
        quotes=quotes,
    )


def _take_things(text: str, language: str, known: Phrases, *, lettered: bool) -> tuple[str, list[Mention]]:
    """Return a text with numbered marks in place of things, and the things."""
    mentions: list[Mention] = []

    def note(match: re.Match[str]) -> str:
        mention = _mention(match, language, known, lettered=lettered)
        if mention is None:
            return match.group()
        mentions.append(mention)
        return f"⟨{len(mentions) - 1}⟩"

    return known.thing.sub(note, text), mentions


def _mention(match: re.Match[str], language: str, known: Phrases, *, lettered: bool) -> Mention | None:
    """Return what a match of `Phrases.thing` says; None where the word is no thing after all."""
    given = match.groupdict()
    name, colour = _parted(given["name"], known)
    if name in known.boards and (lettered or name not in known.names):
        return None
    number = given["number"] or given.get("after") or given.get("colon")
    if language in SPOKEN and name in known.homographs and number is None:
        return None  # a verb
    if language == "en" and name in known.colour and number is None and match.group() == name != match.string:
        return None  # "its colour is orange" names no fruit
    word = colour or given.get("colour")
    if bracket := given.get("bracket"):
        found = known.colours.search(bracket)
        word = found.group() if found else None
    count = known.number[number] if number is not None else None if language in SPOKEN else 1
    return Mention(
        concept=known.names[name], count=count, colour=None if word is None else known.colour[word]
    )


def _parted(name: str, known: Phrases) -> tuple[str, str | None]:
    """Return a name as it stands in the table, and the colour inside it: "pair of blue glasses"."""
    if name in known.names or name in known.boards:
        return name, None
    head, of, rest = name.partition(" of ")
    colour, _, last = rest.partition(" ")
    return head + of + last, colour


def _relations(marked: str, language: str) -> Iterator[Told]:
    """Yield the relations that a text with marks in place of things tells."""
    for relation, pattern in relation_patterns(language):
        for match in pattern.finditer(marked):
            given = match.groupdict()
            ends = [int(given[end]) for end in ("first", "second", "third") if end in given]
            if len(set(ends)) == len(ends):
                yield (relation, *ends)  # type: ignore[misc]
