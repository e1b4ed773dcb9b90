"""English: nouns with their articles, numbers and adjectives, places, and everything the patterns name."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from danqing.data.concepts import with_article
from danqing.data.language.fields import Fields, Maker
from danqing.data.language.nouns import nouns
from danqing.data.language.seen import (
    ends,
    inverse,
    pair_patterns,
    place_of,
    said_colour,
    said_size,
    sizes,
    style_of,
)
from danqing.data.language.tables import pick, table
from danqing.data.world.scene import Background, Portrait, Thing, Words

_GROUPING: Final = ("pair", "bunch", "slice", "piece", "loaf", "bouquet")  # "a bunch of green grapes"
_DIGIT_SHARE: Final = 0.25  # of numbers in captions
_CLOSE: Final = 1.15  # sizes within this ratio count as the same


def noun(code: str, colour: str | None = None, size: str | None = None, *, many: bool = False) -> str:
    """Return a noun phrase without article: "small pair of blue glasses", "red apples"."""
    concept = nouns()[code]
    said = concept.plural if many else concept.english
    if colour is not None:
        head, of, rest = said.partition(" of ")
        said = f"{head} of {colour} {rest}" if of and head.startswith(_GROUPING) else f"{colour} {said}"
    return f"{size} {said}" if size else said


def several(number: str, thing: Thing, colour: str | None) -> str:
    """Return so many things as a noun phrase: "a red apple", "three apples"."""
    if number in ("one", "1"):
        return with_article(noun(thing.concept, colour))
    return f"{number} {noun(thing.concept, colour, many=True)}"


def joined(parts: Sequence[str]) -> str:
    """Join as English does: "a, b and c"."""
    return " and ".join((", ".join(parts[:-1]), parts[-1])) if len(parts) > 1 else parts[0]


def number(count: int) -> str:
    """Return a number in words: "three"."""
    return str(table("en").words["number"][count])


def quoted(fields: Fields, lines: Sequence[str]) -> str:
    """Quote what is written, two lines as one text or as two."""
    first, last = pick(fields.rng, fields.words["quotes"])
    if len(lines) == 1:
        return f"{first}{lines[0]}{last}"
    between = pick(fields.rng, (" ", " ", f"{last} and {first}", f"{last} above {first}"))
    return first + between.join(lines) + last


def background_noun(fields: Fields, background: Background) -> str:
    """Return a background as a noun phrase without article: "striped blue background", "blue table"."""
    if background.kind == "ground":
        return f"{background.colour} {fields['ground']}"
    pattern: str = pick(fields.rng, fields.words["background"][background.kind])
    return pattern.format(colour=background.colour)


def _thing(index: int) -> Maker:
    """Return a maker of the noun phrase of one thing without article, the same whenever it is named."""

    def word(fields: Fields) -> str:
        scene, rng = fields.scene, fields.rng
        thing = scene.things[index]
        size = said_size(rng, scene, index) if fields.sized else None
        adjective = pick(rng, fields.words["size"][size]) if size else None
        return noun(thing.concept, said_colour(rng, thing, fields.atlas), adjective)

    return word


def _with(name: str) -> Maker:
    """Return a maker of another field with its article."""
    return lambda fields: with_article(fields[name])


def _bare(index: int) -> Maker:
    return lambda fields: nouns()[fields.scene.things[index].concept].english


def _end(side: int) -> Maker:
    """Return a maker of the left or upper thing of a pair, or of the other one."""
    return lambda fields: fields[ends(fields.scene)[side]]


def _main(fields: Fields) -> str:
    scene = fields.scene
    if scene.kind == "pair":
        return fields.fill(pair_patterns(scene))
    if scene.words is not None:
        return fields.fill("pair.stacked") if scene.things else fields["W"]
    return fields.fill(f"{scene.kind}.x")


def _lettering(fields: Fields) -> str:
    """Return what is written and on what, as a noun phrase."""
    return fields.fill("words.bare" if _text_of(fields).board == "none" else "words.x")


def _be(fields: Fields) -> str:
    words = fields["X"].split()
    plural = words[0].isdigit() or words[0] in fields.words["number"][2:] or words[0] == "exactly"
    return "are" if plural or words[1:2] in (["letters"], ["characters"]) else "is"


def _on(fields: Fields) -> str:
    ground = fields.scene.background.kind == "ground"
    where = "on" if ground or fields.scene.relation == "front" else pick(fields.rng, fields.words["on"])
    return f"{where} {with_article(fields['bg'])}"


def _number(fields: Fields) -> str:
    count = len(fields.scene.things)
    return str(count) if fields.rng.random() < _DIGIT_SHARE else number(count)


def _many(fields: Fields) -> str:
    thing = fields.scene.things[0]
    return several(fields["number"], thing, said_colour(fields.rng, thing, fields.atlas))


def _parts(fields: Fields) -> list[str]:
    """Return the groups of a scene: "two red cats", "a dog"."""
    digits = fields.rng.random() < _DIGIT_SHARE
    parts = []
    for thing, count in fields.scene.groups:
        counted = str(count) if digits and count > 1 else number(count)
        parts.append(several(counted, thing, said_colour(fields.rng, thing, fields.atlas)))
    return parts


def _rest(fields: Fields) -> str:
    head, *rest = _parts(fields)
    fields.said["head"] = head
    return joined(rest)


def _head(fields: Fields) -> str:
    fields.said["rest"] = _rest(fields)
    return fields.said["head"]


def _names(fields: Fields) -> list[str]:
    return [noun(thing.concept, many=count > 1) for thing, count in fields.scene.groups]


def _relation(fields: Fields) -> str:
    return str(pick(fields.rng, fields.words["relation"][fields.scene.relation]))


def _text_of(fields: Fields) -> Words:
    words = fields.scene.words
    assert words is not None
    return words


def _sign(fields: Fields) -> str:
    words = _text_of(fields)
    return "text" if words.board == "none" else str(pick(fields.rng, fields.words["sign"][words.board]))


def _letters(fields: Fields) -> str:
    chinese = not "".join(_text_of(fields).lines).isascii()
    return "characters" if chinese and fields.rng.random() < 0.5 else "letters"


def _lines(fields: Fields) -> str:
    return "one line" if len(_text_of(fields).lines) == 1 else "two lines"


def _face_of(fields: Fields) -> Portrait:
    portrait = fields.scene.portrait
    assert portrait is not None
    return portrait


def _face(fields: Fields) -> str:
    mouth = _face_of(fields).mouth
    mood = fields.words["mouth"].get(mouth, mouth)
    return with_article(f"{mood} person" if mood else "person")


def hair(portrait: Portrait) -> str:
    """Return the hair of a face: "short brown hair", "a bald head"."""
    pattern: str = table("en").words["hair"].get(portrait.hair, portrait.hair + " {} hair")
    return pattern.format(portrait.hair_colour)


def hat(portrait: Portrait) -> str:
    """Return the hat of a face with its colour: "a red cap"."""
    kind = table("en").words["hat"].get(portrait.hat, portrait.hat)
    return with_article(f"{portrait.hat_colour} {kind}")


def _features(fields: Fields) -> str:
    portrait = _face_of(fields)
    parts = [fields.words["skin"].get(portrait.skin, portrait.skin + " skin"), hair(portrait)]
    return joined([*parts, fields.words["beard"]] if portrait.beard else parts)


def _clothes(fields: Fields) -> str:
    portrait = _face_of(fields)
    parts = [with_article(f"{portrait.shirt} {fields.words['shirt']}")]
    if portrait.hat != "none":
        parts.insert(0, hat(portrait))
    if portrait.glasses != "none":
        parts.insert(0, fields.words["glasses"].get(portrait.glasses, portrait.glasses + " glasses"))
    return joined(parts)


def _compare(fields: Fields) -> str:
    """Compare the sizes of two things: "the apple is much smaller than the dog"."""
    things = fields.scene.things
    small, big = sorted(things[:2], key=lambda thing: thing.size)
    names = [nouns()[thing.concept].english for thing in (small, big)]
    if big.size < _CLOSE * small.size:
        return f"the {names[0]} and the {names[1]} are about the same size"
    much = "much" if sizes(fields.scene)[0] else "a little"
    if fields.rng.random() < 0.5:
        return f"the {names[1]} is {much} larger than the {names[0]}"
    return f"the {names[0]} is {much} smaller than the {names[1]}"


def _bulk(fields: Fields) -> str:
    return str(pick(fields.rng, fields.words["bulk"][sizes(fields.scene)[0] or ""]))


def _style(fields: Fields) -> str:
    style = style_of(fields.scene)
    assert style is not None
    return str(fields.words["style"].get(style, style))


def capital(text: str) -> str:
    """Return a text with its first letter as a capital."""
    return text[:1].upper() + text[1:]


MAKERS: Final[Mapping[str, Maker]] = MappingProxyType(
    {
        "X": _main,
        "W": _lettering,
        "be": _be,
        "on": _on,
        "On": lambda f: capital(f["on"]),
        "bg": lambda f: background_noun(f, f.scene.background),
        "a_bg": _with("bg"),
        "ground": lambda f: pick(f.rng, f.words["ground"]),
        "colour": lambda f: f.scene.background.colour,
        "a_colour": _with("colour"),
        "style": _style,
        "a_style": _with("style"),
        "N": _thing(0),
        "M": _thing(1),
        "O": _thing(2),
        "A": _with("N"),
        "B": _with("M"),
        "C": _with("O"),
        "L": _end(0),
        "R": _end(1),
        "bare": _bare(0),
        "other": _bare(1),
        "third": _bare(2),
        "G": _many,
        "number": _number,
        "plural": lambda f: noun(f.scene.things[0].concept, f.scene.things[0].colour, many=True),
        "bareG": lambda f: several(f["number"], f.scene.things[0], None),
        "list": lambda f: joined(_parts(f)),
        "serial": lambda f: ", ".join(_parts(f)),
        "head": _head,
        "rest": _rest,
        "names": lambda f: joined(_names(f)),
        "serial_names": lambda f: ", ".join(_names(f)),
        "total": lambda f: number(len(f.scene.things)),
        "rel": _relation,
        "inverse": lambda f: str(pick(f.rng, f.words["relation"][inverse(str(f.scene.relation))])),
        "thing": _sign,
        "sign": lambda f: f"{_text_of(f).board_colour} {f['thing']}",
        "a_sign": _with("sign"),
        "letters": _letters,
        "word": lambda f: "words" if len(_text_of(f).lines) > 1 else "word",
        "Q": lambda f: quoted(f, _text_of(f).lines),
        "ink": lambda f: _text_of(f).ink,
        "lines": _lines,
        "face": _face,
        "features": _features,
        "clothes": _clothes,
        "compare": _compare,
        "bulk": _bulk,
        "place": lambda f: str(f.words["place"][place_of(f.scene.things[0])]),
        "Place": lambda f: capital(f["place"]),
    }
)
"""How every field of the English patterns is worded."""
