"""Chinese: nouns with their measure words and adjectives, places, and everything the patterns name."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

import numpy as np

from danqing.data.language.fields import Fields, Maker
from danqing.data.language.nouns import nouns
from danqing.data.language.seen import (
    ends,
    pair_patterns,
    place_of,
    said_colour,
    said_size,
    sizes,
    style_of,
)
from danqing.data.language.tables import pick, table
from danqing.data.world.scene import Background, Portrait, Thing, Words

_DIGIT_SHARE: Final = 0.15  # of numbers in captions
_OF_SHARE: Final = 0.6  # of colours are said with 的
_CLOSE: Final = 1.15  # sizes within this ratio count as the same


def colour_of(colour: str) -> str:
    """Return a colour word: "红色"."""
    return str(table("zh").words["colour"][colour])


def noun(rng: np.random.Generator, code: str, colour: str | None = None, size: str | None = None) -> str:
    """Return a noun phrase without number: "红色的小苹果", "很大的红色苹果"."""
    said = nouns()[code].chinese
    if size is not None and not size.endswith("的"):
        said = size + said
    if colour is not None:
        said = colour_of(colour) + ("的" if rng.random() < _OF_SHARE else "") + said
    return size + said if size is not None and size.endswith("的") else said


def number(count: int) -> str:
    """Return a number as it stands before a measure word: "两"."""
    return str(table("zh").words["number"][count])


def several(counted: str, code: str, said: str) -> str:
    """Return so many of a noun phrase: "三个红色的苹果"."""
    return counted + nouns()[code].measure + said


def joined(parts: Sequence[str]) -> str:
    """Join as Chinese does: "a、b和c"."""
    return "和".join(("、".join(parts[:-1]), parts[-1])) if len(parts) > 1 else parts[0]


def quoted(fields: Fields, lines: Sequence[str]) -> str:
    """Quote what is written, two lines as one text or as two."""
    first, last = pick(fields.rng, fields.words["quotes"])
    if len(lines) == 1:
        return f"{first}{lines[0]}{last}"
    between = pick(fields.rng, (" ", f"{last}和{first}"))
    return first + between.join(lines) + last


def background_noun(fields: Fields, background: Background) -> str:
    """Return a background as a noun phrase: "蓝色条纹背景", "蓝色的桌子"."""
    colour = colour_of(background.colour)
    if background.kind == "ground":
        return f"{colour}{'的' if fields.rng.random() < 0.5 else ''}{fields['ground']}"
    pattern: str = pick(fields.rng, fields.words["background"][background.kind])
    return pattern.format(colour=colour)


def _thing(index: int) -> Maker:
    """Return a maker of the noun phrase of one thing without number, the same whenever it is named."""

    def word(fields: Fields) -> str:
        scene, rng = fields.scene, fields.rng
        thing = scene.things[index]
        size = said_size(rng, scene, index) if fields.sized else None
        adjective = pick(rng, fields.words["size"][size]) if size else None
        return noun(rng, thing.concept, said_colour(rng, thing, fields.atlas), adjective)

    return word


def _one(name: str, index: int) -> Maker:
    return lambda fields: several("一", fields.scene.things[index].concept, fields[name])


def _bare(index: int) -> Maker:
    return lambda fields: nouns()[fields.scene.things[index].concept].chinese


def _end(side: int) -> Maker:
    """Return a maker of the left or upper thing of a pair, or of the other one."""
    return lambda fields: fields[ends(fields.scene)[side]]


def _main(fields: Fields) -> str:
    scene = fields.scene
    if scene.kind in ("single", "count"):
        return fields["A"]
    if scene.kind == "pair":
        return fields.fill(pair_patterns(scene))
    if scene.words is not None:
        return fields.fill("pair.stacked") if scene.things else fields["W"]
    return fields.fill(f"{scene.kind}.x")


def _lettering(fields: Fields) -> str:
    """Return what is written and on what, as a noun phrase."""
    return fields.fill("words.bare" if _text_of(fields).board == "none" else "words.x")


def _counted(fields: Fields, count: int) -> str:
    return str(count) if count > 1 and fields.rng.random() < _DIGIT_SHARE else number(count)


def _first(fields: Fields) -> str:
    """Return the first thing, or all of them where they are of one kind."""
    things = fields.scene.things
    count = len(things) if fields.scene.kind == "count" else 1
    return several(_counted(fields, count), things[0].concept, fields["N"])


def _group(fields: Fields, thing: Thing, count: int) -> str:
    said = noun(fields.rng, thing.concept, said_colour(fields.rng, thing, fields.atlas))
    return several(number(count), thing.concept, said)


def _parts(fields: Fields) -> list[str]:
    return [_group(fields, thing, count) for thing, count in fields.scene.groups]


def _rest(fields: Fields) -> str:
    head, *rest = _parts(fields)
    fields.said["head"] = head
    return joined(rest)


def _head(fields: Fields) -> str:
    fields.said["rest"] = _rest(fields)
    return fields.said["head"]


def _names(fields: Fields) -> list[str]:
    return [nouns()[thing.concept].chinese for thing, _ in fields.scene.groups]


def _text_of(fields: Fields) -> Words:
    words = fields.scene.words
    assert words is not None
    return words


def _sign(fields: Fields, part: int) -> str:
    """Return the measure word (0) or the noun (1) of what the words stand on."""
    words = _text_of(fields)
    return "文字" if words.board == "none" else str(fields.words["sign"][words.board][part])


def _coloured_sign(fields: Fields) -> str:
    words = _text_of(fields)
    assert words.board_colour is not None
    return colour_of(words.board_colour) + ("的" if fields.rng.random() < 0.4 else "") + fields["thing"]


def _inks(fields: Fields) -> str:
    """Return the colours of board and letters as the idiom says them: "红底白字"."""
    words = _text_of(fields)
    ground = words.board_colour or fields.scene.background.colour
    return f"{colour_of(ground)[0]}底{colour_of(words.ink)[0]}字"


def _face_of(fields: Fields) -> Portrait:
    portrait = fields.scene.portrait
    assert portrait is not None
    return portrait


def hair(portrait: Portrait) -> str:
    """Return the hair of a face: "棕色短发"."""
    pattern: str = table("zh").words["hair"].get(portrait.hair, "{}" + portrait.hair)
    return pattern.format(colour_of(portrait.hair_colour))


def hat(portrait: Portrait) -> str:
    """Return the hat of a face with its colour: "红色鸭舌帽"."""
    pattern: str = table("zh").words["hat"].get(portrait.hat, "{}" + portrait.hat)
    return pattern.format(colour_of(portrait.hat_colour))


def traits(portrait: Portrait) -> list[str]:
    """Return everything to be said of a face."""
    words = table("zh").words
    said = [
        words["mouth"].get(portrait.mouth, portrait.mouth),
        words["skin"].get(portrait.skin, portrait.skin),
    ]
    said.append(hair(portrait))
    if portrait.beard:
        said.append("留着" + words["beard"])
    if portrait.glasses != "none":
        said.append("戴" + words["glasses"].get(portrait.glasses, portrait.glasses))
    if portrait.hat != "none":
        said.append("戴" + hat(portrait))
    return [*said, "穿" + words["shirt"].format(colour_of(portrait.shirt))]


def _compare(fields: Fields) -> str:
    """Compare the sizes of two things: "苹果比狗小得多"."""
    small, big = sorted(fields.scene.things[:2], key=lambda thing: thing.size)
    names = [nouns()[thing.concept].chinese for thing in (small, big)]
    if big.size < _CLOSE * small.size:
        return f"{names[0]}和{names[1]}差不多大"
    much = "得多" if sizes(fields.scene)[0] else "一点"
    if fields.rng.random() < 0.5:
        return f"{names[1]}比{names[0]}大{much}"
    return f"{names[0]}比{names[1]}小{much}"


def _style(fields: Fields) -> str:
    style = style_of(fields.scene)
    assert style is not None
    return str(fields.words["style"].get(style, style))


MAKERS: Final[Mapping[str, Maker]] = MappingProxyType(
    {
        "X": _main,
        "W": _lettering,
        "on": lambda f: f["bg"] + "上",
        "bg": lambda f: background_noun(f, f.scene.background),
        "ground": lambda f: pick(f.rng, f.words["ground"]),
        "colour": lambda f: colour_of(f.scene.background.colour),
        "style": _style,
        "N": _thing(0),
        "M": _thing(1),
        "O": _thing(2),
        "A": _first,
        "B": _one("M", 1),
        "C": _one("O", 2),
        "L": _end(0),
        "R": _end(1),
        "bare": _bare(0),
        "other": _bare(1),
        "third": _bare(2),
        "bareA": lambda f: several(number(len(f.scene.things)), f.scene.things[0].concept, f["bare"]),
        "list": lambda f: joined(_parts(f)),
        "serial": lambda f: "、".join(_parts(f)),
        "head": _head,
        "rest": _rest,
        "names": lambda f: joined(_names(f)),
        "serial_names": lambda f: "、".join(_names(f)),
        "total": lambda f: number(len(f.scene.things)),
        "count": lambda f: several(number(len(f.scene.things)), f.scene.things[0].concept, ""),
        "at": lambda f: str(f.words["at"][f.scene.relation]),
        "measure": lambda f: _sign(f, 0),
        "thing": lambda f: _sign(f, 1),
        "sign": _coloured_sign,
        "Q": lambda f: quoted(f, _text_of(f).lines),
        "ink": lambda f: colour_of(_text_of(f).ink),
        "inks": _inks,
        "lines": lambda f: f"{'一两'[len(_text_of(f).lines) - 1]}行",
        "features": lambda f: "、".join(traits(_face_of(f))),
        "traits": lambda f: "，".join(traits(_face_of(f))),
        "mood": lambda f: str(f.words["mouth"].get(_face_of(f).mouth, _face_of(f).mouth)),
        "compare": _compare,
        "bulk": lambda f: str(pick(f.rng, f.words["bulk"][sizes(f.scene)[0] or ""])),
        "place": lambda f: str(f.words["place"][place_of(f.scene.things[0])]),
    }
)
"""How every field of the Chinese patterns is worded."""
