"""What T2I-CompBench reads out of a prompt: noun phrases, things in a relation, numbers of things.

The reference parses prompts with spaCy. Where spaCy and its small English model are installed they can be
asked; else a few rules do, which know the closed classes of English, common adjectives and verbs of its
prompts. On the 600 prompts about places the rules find the same two things as spaCy 3.8; of the 1,200 with
attributes 90 % have the very same phrases, and many of the others are those where spaCy takes "rose" for a
verb.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from typing import Any, Final, NamedTuple, Protocol

MODEL: Final = "en_core_web_sm"
"""Of spaCy, as the reference loads it."""
DROPPED: Final = ("top", "the side", "the left", "the right")
"""Noun phrases that are no things; the reference leaves them out since January 2024."""
RELATIONS: Final = (
    "on side of",
    "next to",
    "near",
    "on the left of",
    "on the right of",
    "on the bottom of",
    "on the top of",
    "on top of",
)
"""Looked for in this order; the first that a prompt contains is its relation."""
DEPTHS: Final = ("in front of", "behind", "hidden")
_CUES: Final = ("on top of", "on bottom of", "on the left", "on the right", "next to", "on side of", "near")
"""Phrases between the two things of a complex prompt."""
NUMBERS: Final = ("a", "an", "one", "two", "three", "four", "five", "six", "seven", "eight")


class Word(NamedTuple):
    """A word of a prompt, or a mark."""

    text: str
    tag: str
    """NOUN, PROPN, ADJ, or another tag of Universal Dependencies."""


class Parser(Protocol):
    """Tells the words of English prompts apart."""

    @property
    def name(self) -> str:
        """What reports call it, with its version."""

    def words(self, prompt: str) -> list[Word]:
        """Return the words and marks of a prompt."""

    def noun_phrases(self, prompt: str) -> list[str]:
        """Return the noun phrases of a prompt as they are written."""


@dataclass(frozen=True, slots=True)
class SpacyParser:
    """Asks spaCy, as the reference does."""

    pipeline: Any
    name: str

    def words(self, prompt: str) -> list[Word]:
        """Return the words and marks of a prompt."""
        return [Word(token.text, token.pos_) for token in self.pipeline(prompt)]

    def noun_phrases(self, prompt: str) -> list[str]:
        """Return the noun phrases of a prompt as they are written."""
        return [chunk.text for chunk in self.pipeline(prompt).noun_chunks]


def spacy_parser(model: str = MODEL) -> SpacyParser | None:
    """Return a parser with a model of spaCy; None where either is not installed."""
    try:
        pipeline = import_module("spacy").load(model)
    except (ImportError, OSError):  # OSError: spaCy is there, its model is not
        return None
    return SpacyParser(pipeline, f"spaCy {model} {pipeline.meta['version']}")


class RuleParser:
    """Tags words by lists, endings and neighbours."""

    name = "danqing rules 1"

    def words(self, prompt: str) -> list[Word]:
        """Return the words and marks of a prompt."""
        return [Word(prompt[start:end], tag) for start, end, tag in _tagged(prompt)]

    def noun_phrases(self, prompt: str) -> list[str]:
        """Return the noun phrases of a prompt as they are written; pronouns are none."""
        tagged = _tagged(prompt)
        phrases, first = [], 0
        while first < len(tagged):
            last = _phrase_end(prompt, tagged, first)
            if last > first:
                phrases.append(prompt[tagged[first][0] : tagged[last - 1][1]])
            first = max(last, first + 1)
        return phrases


def things(prompt: str, relations: Sequence[str] = (*RELATIONS, *DEPTHS)) -> tuple[str, str] | None:
    """Return the two things of a prompt such as "a key on side of a traffic light"; None without relation."""
    for relation in relations:
        before, found, after = prompt.strip().rstrip(".").partition(f" {relation} ")
        if found:
            return _bare(before), _bare(after.removeprefix("by "))
    return None


def nouns_around(words: Sequence[Word]) -> tuple[str, str] | None:
    """Return the nouns next to the cue of a complex prompt, as the reference picks them; None without two.

    Of "the brown coat rack" that is "coat", the first noun behind the cue.
    """
    found = []
    for index in range(len(words)):
        cues = [size for size in (3, 2, 1) if " ".join(one.text for one in words[index:][:size]) in _CUES]
        if not cues:
            continue
        before = [one.text for one in words[:index] if one.tag in ("NOUN", "PROPN")]
        after = words[index + cues[0] :]
        nouns = [one.text for one in after if one.tag == "NOUN"] or _last_proper(after)
        found += before[-1:] + nouns[:1]
    return (found[0], found[1]) if len(found) == 2 else None


def phrases_around(prompt: str, parser: Parser) -> tuple[str, str] | None:
    """Return the heads of the noun phrases around the cue of a complex prompt; None without two.

    Of "the brown coat rack" that is "coat rack".
    """
    for cue in _CUES:
        before, found, after = prompt.partition(f" {cue} ")
        left, right = parser.noun_phrases(before), parser.noun_phrases(after.removeprefix("of "))
        if found and left and right:
            return _nouns(left[-1], parser), _nouns(right[0], parser)
    return None


def without_adjectives(words: Sequence[Word]) -> str:
    """Return the words of a prompt, and its marks, that are no adjectives, with spaces between."""
    return " ".join(one.text for one in words if one.tag != "ADJ")


def quantities(
    prompt: str, singulars: Mapping[str, str], plurals: Mapping[str, str]
) -> list[tuple[str, int]]:
    """Return the things of a prompt that a number stands before, in the singular, with their numbers.

    `singulars` and `plurals` map either form to the singular, as the benchmark's list of things has them.
    """
    words = [prompt[start:end] for start, end, _ in _tagged(prompt)]
    found = []
    for index, word in enumerate(words):
        if word not in NUMBERS:
            continue
        for size in (2, 1):
            thing = " ".join(words[index + 1 : index + 1 + size])
            if thing in singulars or thing in plurals:
                number = 1 if word in NUMBERS[:3] else NUMBERS.index(word) - 1
                found.append((singulars.get(thing, plurals.get(thing, thing)), number))
                break
    return found


def _last_proper(words: Sequence[Word]) -> list[str]:
    ends = [one.text for one, after in pairwise(words) if one.tag == "PROPN" != after.tag]
    return ends[:1]


def _bare(phrase: str) -> str:
    words = phrase.split()
    return " ".join(words[1:] if words[0].lower() in ("a", "an", "the") else words)


def _nouns(phrase: str, parser: Parser) -> str:
    """Return the nouns at the end of a noun phrase."""
    words = parser.words(phrase)
    first = len(words)
    while first and words[first - 1].tag in ("NOUN", "PROPN"):
        first -= 1
    return " ".join(one.text for one in words[first:]) or words[-1].text


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_WORD: Final = re.compile(r"[^\W_]+(?:[-'’:][^\W_]+)*|[^\w\s]")
_DETERMINERS: Final = _set(
    """
    a an the this these those its their his her my our your each every some many several two three four five
    six seven eight nine ten one another
    """
)
_CLOSED: Final = _set(
    """
    of on in with to for by above below between near through down over across from as past against up at out
    onto into inside outside beside under beneath behind beyond along around among after before during toward
    towards off about within without upon next and or but while when where which who that it they them she he
    him we us you i there then than so if was were is are be been being am has have had do does did can could
    will would may might must should together nearby back away apart even most like lazily gracefully
    seamlessly firmly deliciously effortlessly ominously neatly freshly otherwise nearly both not warmly
    """
)
_VERBS: Final = _set(
    """
    hold holds held hung hang hangs lay lies lie sat sit sits stood stand stands flowed fell drove lit cast
    slid slept strode wrote flew swam ran grew woke sank blew left shone spun crept swept bent kept cut cook
    met leads led provide provides makes made write reads read shines features contains display displays
    burst sped wove clung dug serve decorate illuminate attract measure used rest rests
    """
)
_ALSO_NOUNS: Final = _set("stand stands rest rests display displays cook cut cast lead leads features")
_ADJECTIVES: Final = _set(
    """
    soft white black smooth rough green brown blue fluffy red warm sleek wooden yellow hard sharp shiny
    bright cool rectangular grey gray colorful striped jagged crisp dark natural intricate pink cozy sweet
    delicate hot fresh gentle vibrant square tall juicy fuzzy crunchy glossy fragrant bumpy bold silver old
    rocky tired angular ancient perfect round dull prickly rich comfortable translucent calm modern beige
    circular rusty long ripe dusty rugged thorny cold dim metallic graceful heavy spherical cylindrical
    conical elegant icy grand early romantic lush human endless artistic plush timeless purple thick lumpy
    gold compact short clean bulky tart damp slimy wet deep murky opaque silky curvy straight choppy busy
    quiet sticky sour dry light golden distant delicious pentagonal sturdy plain slushy therapeutic pungent
    daily brilliant sugary luxurious treacherous fiery serene urban earthy seasonal aerodynamic geometric
    healthful dizzying ceramic curious unique stylish chilly savory delectable furry tiny priceless plump
    ready eager ornate dynamic beautiful maternal sheer dramatic abstract emotional floral clear open
    majestic powerful orange violet small big large little thin wide narrow low high oval oblong triangular
    cubic pyramidal teardrop leather plastic rubber fabric glass blonde young new same other full empty fast
    slow loud crispy spicy salty bitter creamy spiky shaggy hairy muddy sandy grassy snowy sunny rainy foggy
    windy stormy dense fine coarse steep shallow fragile brittle flexible rigid soapy oily greasy velvety
    leathery wooly woolly cotton woolen
    """
)
_ENDINGS: Final = ("ful", "ous", "ive", "less", "ical", "ular", "esque")

_Tagged = tuple[int, int, str]


def _tagged(prompt: str) -> list[_Tagged]:
    """Return start, end and tag of each word; a word is judged by itself and by its neighbours."""
    spans = [match.span() for match in _WORD.finditer(prompt)]
    words = [prompt[start:end].lower() for start, end in spans]
    tags: list[str] = []
    for index, word in enumerate(words):
        after, later = (*words[index + 1 : index + 3], ".", ".")[:2]
        tags.append(_tag(word, tags[-1] if tags else "PUNCT", after, later))
    return [(start, end, tag) for (start, end), tag in zip(spans, tags, strict=True)]


def _tag(word: str, before: str, after: str, later: str) -> str:
    ends = not after[0].isalnum() or (after in _CLOSED and after != "can") or after in _DETERMINERS
    if not word[0].isalnum():
        return "PUNCT"
    if word in _DETERMINERS:
        return "DET"
    noun = (before == "DET" and not after[0].isalnum()) or (before == "ADJ" and after == "of")
    if word in _CLOSED and not noun:
        return "ADP"
    is_verb = word in _VERBS and before not in ("DET", "ADJ")
    is_verb = is_verb and (after[0].isalnum() or word not in _ALSO_NOUNS)
    if is_verb or (before == "NOUN" and after in _DETERMINERS):
        return "VERB"  # two noun phrases have something between them
    if word.endswith(("ed", "ing")) and len(word) > 4:
        return "VERB" if before in ("NOUN", "ADP") and word not in _ADJECTIVES else "NOUN" if ends else "ADJ"
    joined = after in (",", "and") and (_is_adjective(later) or later.endswith(("ed", "ing")))
    if _is_adjective(word) and (not ends or joined or before == "VERB"):
        return "ADJ"
    return "NOUN"


def _is_adjective(word: str) -> bool:
    return word in _ADJECTIVES or word.endswith(_ENDINGS)


def _phrase_end(prompt: str, tagged: Sequence[_Tagged], first: int) -> int:
    """Return where the noun phrase ends that begins at `first`; `first` itself where none does."""
    last = nouns = first
    while last < len(tagged):
        start, end, tag = tagged[last]
        inner = [one for _, _, one in tagged[first:last] if one != "DET"]
        only_adjectives = bool(inner) and all(one in ("ADJ", "PUNCT", "ADP") for one in inner)
        after = tagged[last + 1][2] if last + 1 < len(tagged) else ""
        if tag == "NOUN":
            nouns = last + 1
        elif tag == "DET" and last > first:
            break
        elif prompt[start:end] in (",", "and") and only_adjectives:
            if after != "ADJ" and not (prompt[start:end] == "," and after == "NOUN"):
                break
        elif tag not in ("DET", "ADJ"):
            break
        last += 1
    return nouns if nouns > first else first
