"""Ten languages as labels: "manzana (azul), sobre un fondo verde".

Names from Unicode CLDR carry neither gender nor plural, so a sentence about them could not be inflected. What
is written instead is short, correct in each language, and complete.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from danqing.data.language.english import capital
from danqing.data.language.fields import Fields, Maker
from danqing.data.language.nouns import nouns
from danqing.data.language.seen import ends, pair_patterns, place_of, said_colour, said_size, sizes, style_of
from danqing.data.language.tables import pick, table
from danqing.data.world.scene import Background, Portrait, Thing, Words


def label(language: str, code: str, colour: str | None = None, size: str | None = None) -> str:
    """Return a thing's name, its colour and size in brackets: "manzana (azul, tamaño pequeño)"."""
    words = table(language).words
    said = [words["colour"][colour]] if colour is not None else []
    said += [words["size"][size]] if size is not None else []
    return bracketed(words, nouns()[code].names[language], said)


def bracketed(words: Mapping[str, Any], name: str, said: Sequence[str]) -> str:
    """Return a name with what is said of it in brackets; full-width brackets touch the name."""
    if not said:
        return name
    bracket: str = words["bracket"].format(words["c"].join(said))
    return name + ("" if bracket.startswith("（") else " ") + bracket


def groups(fields: Fields, pattern: str, *, coloured: bool = True) -> str:
    """Return the groups of a scene, those of several things with their number as `pattern` has it."""
    parts = []
    for thing, count in fields.scene.groups:
        colour = said_colour(fields.rng, thing, fields.atlas) if coloured else None
        name = label(fields.language, thing.concept, colour)
        parts.append(name if count == 1 else pattern.format(name=name, number=count, k=fields.words["k"]))
    return str(fields.words["c"].join(parts))


def background_place(fields: Fields, background: Background) -> str:
    """Return a background as a place: "sobre un fondo azul a rayas"."""
    pattern: str = pick(fields.rng, fields.words["backgrounds"][background.kind])
    return pattern.format(fields.words["on"][background.colour])


def quoted(fields: Fields, lines: Sequence[str]) -> str:
    """Quote what is written, two lines as one text or as two, with the marks of the language."""
    marks = pick(fields.rng, fields.words["quotes"])
    first, last = marks[: len(marks) - 1], marks[1:]
    if len(lines) == 1:
        return f"{first}{lines[0]}{last}"
    between = pick(fields.rng, (" ", " / ", f"{last}{fields.words['c']}{first}"))
    return str(first + between.join(lines) + last)


def style_label(language: str, style: str) -> str:
    """Return a style: "estilo plano"."""
    words = table(language).words
    return str(words["style"].get(style) or words["style_word"].format(style))


def hair(language: str, portrait: Portrait) -> str:
    """Return the hair of a face with its colour: "pelo corto (marrón)"."""
    words = table(language).words
    colour = [] if portrait.hair == "bald" else [words["colour"][portrait.hair_colour]]
    return bracketed(words, words["hair"].get(portrait.hair, portrait.hair), colour)


def hat(language: str, portrait: Portrait) -> str:
    """Return the hat of a face with its colour: "gorra (rojo)"."""
    words = table(language).words
    return bracketed(
        words, words["hat"].get(portrait.hat, portrait.hat), [words["colour"][portrait.hat_colour]]
    )


def _thing(index: int) -> Maker:
    def word(fields: Fields) -> str:
        scene, rng = fields.scene, fields.rng
        thing: Thing = scene.things[index]
        size = said_size(rng, scene, index) if fields.sized else None
        return label(fields.language, thing.concept, said_colour(rng, thing, fields.atlas), size)

    return word


def _end(side: int) -> Maker:
    return lambda fields: fields[ends(fields.scene)[side]]


def _main(fields: Fields) -> str:
    scene = fields.scene
    if scene.kind == "single":
        return fields["A"]
    if scene.kind == "pair":
        return fields.fill(pair_patterns(scene))
    if scene.words is not None:
        return fields.fill("pair.stacked") if scene.things else fields["W"]
    return fields.fill(f"{scene.kind}.x")


def _lettering(fields: Fields) -> str:
    """Return what is written and on what, as a noun phrase."""
    return fields.fill("words.bare" if _text_of(fields).board == "none" else "words.x")


def _short(fields: Fields) -> str:
    if fields.scene.words is not None:
        return pick(fields.rng, (fields["Q"], f"{fields['text']}{fields['k']}{fields['Q']}"))
    if fields.scene.portrait is not None:
        return pick(fields.rng, (fields["person"], fields["portrait"]))
    return groups(fields, "{number} × {name}", coloured=fields.rng.random() < 0.5)


def _text_of(fields: Fields) -> Words:
    words = fields.scene.words
    assert words is not None
    return words


def _sign(fields: Fields) -> str:
    words = _text_of(fields)
    assert words.board_colour is not None
    return bracketed(
        fields.words, fields.words["sign"][words.board], [fields.words["colour"][words.board_colour]]
    )


def _ink(fields: Fields) -> str:
    return bracketed(fields.words, fields.words["letters"], [fields.words["colour"][_text_of(fields).ink]])


def _features(fields: Fields) -> str:
    portrait, words = fields.scene.portrait, fields.words
    assert portrait is not None
    said = [
        words["mouth"].get(portrait.mouth, portrait.mouth),
        words["skin"].get(portrait.skin, portrait.skin),
    ]
    said.append(hair(fields.language, portrait))
    if portrait.beard:
        said.append(words["beard"])
    if portrait.glasses != "none":
        said.append(words["glasses"].get(portrait.glasses, portrait.glasses))
    if portrait.hat != "none":
        said.append(hat(fields.language, portrait))
    said.append(bracketed(words, words["shirt"], [words["colour"][portrait.shirt]]))
    return str(words["c"].join(said))


def _details(fields: Fields) -> str:
    """Return one more detail for a long caption: size and place of a lone thing, or a number."""
    kind, colon = fields.scene.kind, fields["k"]
    if kind == "single":
        return fields.fill("details.single")
    if kind == "portrait":
        return fields["head"]
    if kind == "words":
        return f"{fields['Lines']}{colon}{len(_text_of(fields).lines)}"
    return f"{fields['Total']}{colon}{fields['number']}"


def _tint(fields: Fields) -> str:
    words = fields.words
    return str(words.get("tint", words["colour"])[fields.scene.background.colour])


def _style(fields: Fields) -> str:
    style = style_of(fields.scene)
    assert style is not None
    return style_label(fields.language, style)


def _word(name: str) -> Maker:
    return lambda fields: str(fields.words[name])


def _at(name: str) -> Maker:
    return lambda fields: str(fields.words["at"][name])


_WORDS: Final = (
    *("c", "k", "s", "text", "person", "portrait", "please", "see", "nothing"),
    *("Size", "Position", "Total", "Background", "Lines", "head"),
)
_AT: Final = ("left", "right", "above", "below", "front", "behind", "inside", "outside", "middle", "ends")

MAKERS: Final[Mapping[str, Maker]] = MappingProxyType(
    {
        **{name: _word(name) for name in _WORDS},
        **{name: _at(name) for name in _AT},
        "X": _main,
        "W": _lettering,
        "on": lambda f: background_place(f, f.scene.background),
        "style": _style,
        "Style": lambda f: capital(f["style"]),
        "A": _thing(0),
        "B": _thing(1),
        "C": _thing(2),
        "L": _end(0),
        "R": _end(1),
        "bare": lambda f: label(f.language, f.scene.things[0].concept),
        "number": lambda f: str(len(f.scene.things)),
        "before": lambda f: groups(f, "{number} × {name}"),
        "after": lambda f: groups(f, "{name} × {number}"),
        "colons": lambda f: groups(f, "{name}{k}{number}"),
        "short": _short,
        "sign": _sign,
        "ink": _ink,
        "Q": lambda f: quoted(f, _text_of(f).lines),
        "features": _features,
        "details": _details,
        "bulk": lambda f: str(f.words["bulk"][sizes(f.scene)[0] or ""]),
        "place": lambda f: str(f.words["place"][place_of(f.scene.things[0])]),
        "tint": _tint,
        "texture": lambda f: str(f.words["texture"][f.scene.background.kind]),
    }
)
"""How every field of the patterns of the label languages is worded."""
