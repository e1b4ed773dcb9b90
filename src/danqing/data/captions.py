"""What a scene is called: captions in twelve languages, labels for supervision, texts about signs.

English and Chinese captions are phrases of many patterns; the other ten languages are labels ("manzana
(azul), sobre un fondo verde"), since names from Unicode CLDR carry neither gender nor plural. A caption says
only what the scene holds; it may leave things out.
"""

from dataclasses import dataclass

import numpy as np

from danqing.data.atlas import Atlas
from danqing.data.colours import COLOURS
from danqing.data.concepts import concepts, with_article
from danqing.data.phrases import (
    NUMBERS,
    chinese_noun,
    chinese_place,
    english_noun,
    english_place,
    label,
    label_place,
    labels,
    phrases,
    pick,
    said_colour,
    seen_colour,
    size_word,
)
from danqing.data.world import OPPOSITE, RELATIONS, Scene
from danqing.errors import DataError

SHORT_SHARE = 0.12
STYLED_SHARE = 0.25
"""Captions of a few words without background, and captions that say the style; the rest says neither."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """The state of a scene as class numbers, to teach a language tower by classification."""

    concepts: tuple[int, ...]
    """Distinct concepts, as positions in `concepts()`."""
    counts: tuple[int, ...]
    """How many there are of each."""
    colours: tuple[int, ...]
    """Colour of each, as a position in `COLOURS`; -1 where no word is certain."""
    background: int
    """Position in `COLOURS`."""
    relation: int
    """Position in `RELATIONS`, of the first concept to the second; -1 without one."""


def caption(scene: Scene, language: str, rng: np.random.Generator, atlas: Atlas | None = None) -> str:
    """Word a scene in one of `LANGUAGES`, in at most 50 words.

    With an atlas, colours that things have by nature may be said too. Raises DataError for an unknown
    language.
    """
    if language not in ("en", "zh"):
        return _label_caption(scene, language, rng, atlas)
    patterns = phrases()[language][
        "pair" if scene.relation in OPPOSITE else "count" if scene.kind == "count" else "single"
    ]
    at = rng.random()
    kind = "short" if at < SHORT_SHARE else "styled" if at < SHORT_SHARE + STYLED_SHARE else "full"
    fields = _english(scene, rng, atlas) if language == "en" else _chinese(scene, rng, atlas)
    return str(pick(rng, patterns[kind])).format(**fields)


def facts(scene: Scene, atlas: Atlas | None = None) -> Labels:
    """Return the labels of a scene; natural colours count only when an atlas is given."""
    codes, order = list(concepts()), dict.fromkeys(thing.concept for thing in scene.things)
    first = {thing.concept: thing for thing in reversed(scene.things)}
    seen = [seen_colour(first[code], atlas) for code in order]
    return Labels(
        concepts=tuple(codes.index(code) for code in order),
        counts=tuple(sum(thing.concept == code for thing in scene.things) for code in order),
        colours=tuple(-1 if colour is None else COLOURS.index(colour) for colour in seen),
        background=COLOURS.index(scene.background.colour),
        relation=-1 if scene.relation is None else RELATIONS.index(scene.relation),
    )


def sign_text(rng: np.random.Generator, language: str = "en") -> str:
    """Return a text about a short written word, for language models only: nothing renders it.

    The word is quoted: one to six Latin capitals, in Chinese often one or two characters. Raises DataError
    for languages other than English and Chinese.
    """
    if language not in ("en", "zh"):
        raise DataError(f"expected language 'en' or 'zh', found {language!r}")
    chinese = language == "zh" and rng.random() < 0.7
    word = pick(rng, phrases()["words"]["chinese" if chinese else "latin"])
    first, second = rng.choice(len(COLOURS), 2, replace=False)
    colours = [COLOURS[first], COLOURS[second]]
    if language == "zh":
        colours = [phrases()["zh"]["colour"][colour] for colour in colours]
    text = str(pick(rng, phrases()[language]["sign"])).format(word=word, colour=colours[0], ground=colours[1])
    return text.replace("a orange", "an orange")


def _english(scene: Scene, rng: np.random.Generator, atlas: Atlas | None) -> dict[str, str]:
    words = phrases()["en"]
    background, on = english_place(rng, scene.background)
    first = scene.things[0]
    colour, size = said_colour(rng, first, atlas), size_word(rng, scene, "en")
    noun = english_noun(first.concept, colour, size)
    fields = {
        "on": on,
        "bg": background,
        "a_bg": with_article(background),
        "N": noun,
        "A": with_article(noun),
    }
    fields |= {"bare": english_noun(first.concept, first.colour), "style": words["style"][first.style]}
    if scene.kind == "count":
        plural = english_noun(first.concept, colour, many=True)
        fields |= {"A": f"{NUMBERS['en'][len(scene.things)]} {plural}", "plural": plural}
    elif len(scene.things) > 1 and scene.relation not in OPPOSITE:
        named = [
            with_article(english_noun(thing.concept, thing.colour))
            if count == 1
            else f"{NUMBERS['en'][count]} {english_noun(thing.concept, thing.colour, many=True)}"
            for thing, count in scene.groups
        ]
        fields |= dict.fromkeys(("A", "N", "bare"), " and ".join(named))
    if scene.relation in OPPOSITE:
        second = scene.things[1]
        fields["B"] = with_article(english_noun(second.concept, said_colour(rng, second, atlas)))
        fields["other"] = english_noun(second.concept, second.colour)
        fields |= _relation(rng, scene, words)
    return fields


def _chinese(scene: Scene, rng: np.random.Generator, atlas: Atlas | None) -> dict[str, str]:
    words = phrases()["zh"]
    background, on = chinese_place(rng, scene.background)
    first = scene.things[0]
    noun = chinese_noun(rng, first.concept, said_colour(rng, first, atlas), size_word(rng, scene, "zh"))
    number = NUMBERS["zh"][len(scene.things) if scene.kind == "count" else 1]
    fields = {"on": on, "bg": background, "N": noun, "A": number + concepts()[first.concept].measure + noun}
    fields |= {"bare": chinese_noun(rng, first.concept, first.colour), "style": words["style"][first.style]}
    if scene.kind != "count" and len(scene.things) > 1 and scene.relation not in OPPOSITE:
        named = [
            NUMBERS["zh"][count]
            + concepts()[thing.concept].measure
            + chinese_noun(rng, thing.concept, thing.colour)
            for thing, count in scene.groups
        ]
        fields |= dict.fromkeys(("A", "N", "bare"), "和".join(named))
    if scene.relation in OPPOSITE:
        second = scene.things[1]
        other = chinese_noun(rng, second.concept, said_colour(rng, second, atlas))
        fields["B"] = NUMBERS["zh"][1] + concepts()[second.concept].measure + other
        fields["other"] = chinese_noun(rng, second.concept, second.colour)
        fields |= _relation(rng, scene, words)
    return fields


def _relation(rng: np.random.Generator, scene: Scene, words: dict) -> dict[str, str]:
    assert scene.relation is not None
    inverse = OPPOSITE[scene.relation]
    fields = {"at": words["at"][scene.relation], "other_at": words["at"][inverse]}
    if "relation" in words:
        fields["rel"] = pick(rng, words["relation"][scene.relation])
        fields["inverse"] = pick(rng, words["relation"][inverse])
    return fields


def _label_caption(scene: Scene, language: str, rng: np.random.Generator, atlas: Atlas | None) -> str:
    words = labels(language)
    comma, colon = words["comma"], words["colon"]
    names = [label(language, thing.concept, said_colour(rng, thing, atlas)) for thing in scene.things]
    place = label_place(language, scene.background)
    if scene.relation in OPPOSITE:
        here, there = words["at"][scene.relation], words["at"][OPPOSITE[scene.relation]]
        things = pick(
            rng,
            (
                f"{here}{colon}{names[0]}{comma}{there}{colon}{names[1]}",
                f"{there}{colon}{names[1]}{comma}{here}{colon}{names[0]}",
                f"{names[0]} ({here}){comma}{names[1]} ({there})",
            ),
        )
    elif scene.kind == "count":
        things = pick(rng, (f"{len(names)} × {names[0]}", f"{names[0]} × {len(names)}"))
    else:
        things = comma.join(
            label(language, thing.concept, thing.colour) + (f" × {count}" if count > 1 else "")
            for thing, count in scene.groups
        )
        things = names[0] if len(scene.things) == 1 else things
    at, style = rng.random(), words["style"][scene.things[0].style]
    if at < SHORT_SHARE:
        return things
    if at < SHORT_SHARE + STYLED_SHARE:
        return pick(rng, (f"{things}{comma}{place}{comma}{style}", f"{style}{colon}{things}{comma}{place}"))
    return pick(rng, (f"{things}{comma}{place}", f"{things}{comma}{place}", f"{place}{colon}{things}"))
