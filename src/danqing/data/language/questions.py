"""Questions about scenes with their true answers, in twelve languages."""

from typing import Any, Final

import numpy as np

from danqing.data.atlas import Atlas
from danqing.data.language import chinese, english, labels
from danqing.data.language.captions import fields_of
from danqing.data.language.english import joined
from danqing.data.language.fields import Fields
from danqing.data.language.nouns import nouns
from danqing.data.language.seen import inverse, seen_colour
from danqing.data.language.tables import pick
from danqing.data.world.scene import Portrait, Scene
from danqing.data.world.split import Split

_PRESENT_SHARE: Final = 0.5  # of "is there ...?" are about something that is there
_FACE: Final = ("hair", "glasses", "hat", "beard", "mouth", "shirt")

Asked = tuple[dict[str, str], str]
"""The fields of a question that only this question has, and its answer."""


def question(
    scene: Scene,
    language: str,
    rng: np.random.Generator,
    atlas: Atlas | None = None,
    *,
    split: Split = "train",
    kind: str | None = None,
) -> tuple[str, str]:
    """Return a question about a scene and its true answer; with `kind`, such as "what", one of that kind.

    Asked are number, colour of a thing (where it is certain), colour of the background, neighbours, content,
    whether something is there, what is written and in which colours, and everything about a face. Raises
    DataError for an unknown language.
    """
    fields = fields_of(scene, language, rng, atlas, split)
    kind = pick(rng, _kinds(fields)) if kind is None else kind
    ask = {"en": _english, "zh": _chinese}.get(language, _label)
    said, answer = ask(fields, kind)
    fields.said.update(said)
    if language == "en" and kind == "colour" and said["count"] != "1":
        kind = "colours"
    return fields.fill(f"ask.{kind}"), answer


def _kinds(fields: Fields) -> list[str]:
    """Return what can be asked about a scene."""
    scene = fields.scene
    kinds = ["background"] if fields.language in ("en", "zh") or scene.background.kind != "ground" else []
    if scene.portrait is not None:
        return [*kinds, *_FACE]
    if scene.words is not None:
        kinds += ["text", "text", "ink"] if scene.words.board == "none" else ["text", "text", "ink", "board"]
    if scene.things:
        kinds += ["exists"] if scene.words is not None else ["many", "what", "exists"]
        if any(_certain(fields, index) for index in range(len(scene.things))):
            kinds.append("colour")
    if scene.relation is not None:
        kinds.append("between" if scene.relation == "between" else "where")
    return kinds


def _certain(fields: Fields, index: int) -> str | None:
    """Return the colour of a thing where all of its kind have it beyond doubt."""
    things = fields.scene.things
    colours = {seen_colour(t, fields.atlas) for t in things if t.concept == things[index].concept}
    return colours.pop() if len(colours) == 1 else None


def _subject(fields: Fields, kind: str) -> int:
    """Draw the thing that a question is about."""
    things = fields.scene.things
    choices = list(range(len(things)))
    if kind == "colour":
        choices = [index for index in choices if _certain(fields, index)]
    if kind == "where":
        choices = [1] if fields.scene.relation == "inside" else [0, 1]
    if kind == "between":
        choices = [1]
    return pick(fields.rng, choices) if choices else 0


def _neighbour(scene: Scene, subject: int) -> str:
    """Return where the other thing of a pair is, seen from the subject."""
    relation = str(scene.relation)
    return relation if subject == 1 else inverse(relation)


def _absent(fields: Fields) -> str:
    present = {thing.concept for thing in fields.scene.things}
    codes = fields.atlas.codes if fields.atlas is not None else tuple(nouns())
    while True:
        code = pick(fields.rng, codes)
        if code not in present:
            return code


def _written(scene: Scene) -> str:
    assert scene.words is not None
    return " ".join(scene.words.lines)


def _english(fields: Fields, kind: str) -> Asked:
    scene, words, rng = fields.scene, fields.words, fields.rng
    on_ground = scene.background.kind == "ground"
    said = {"ground": pick(rng, words["ask"]["ground"]) if on_ground else words["ask"]["background"]}
    if scene.portrait is not None and kind in _FACE:
        return said, _face_english(words, scene.portrait, kind)
    if scene.words is not None and kind in ("text", "ink", "board"):
        return said, {"text": _written(scene), "ink": scene.words.ink}.get(
            kind, str(scene.words.board_colour)
        )
    if kind == "background":
        return said, scene.background.colour
    subject = _subject(fields, kind)
    thing = scene.things[subject]
    there = rng.random() < _PRESENT_SHARE
    count = sum(other.concept == thing.concept for other in scene.things)
    said |= {"old": nouns()[thing.concept].english, "olds": nouns()[thing.concept].plural}
    named = [
        english.several(english.number(many), one, one.colour)
        for one, many in (scene.groups if kind == "what" else [(one, 1) for one in scene.things])
    ]
    if kind == "exists":
        said["new"] = nouns()[thing.concept if there else _absent(fields)].indefinite
        return said, words["yes" if there else "no"]
    if kind == "where":
        said["rel"] = pick(rng, words["relation"][_neighbour(scene, subject)])
        return said, named[1 - subject]
    if kind == "colour":
        return said | {"count": str(count)}, str(_certain(fields, subject))
    return said, {"many": english.number(count), "between": named[0]}.get(kind, joined(named))


def _face_english(words: dict[str, Any], portrait: Portrait, kind: str) -> str:
    if kind == "hair":
        return english.hair(portrait)
    if kind == "glasses":
        kinds = words["glasses"].get(portrait.glasses, portrait.glasses + " glasses")
        return "no" if portrait.glasses == "none" else f"yes, {kinds}"
    if kind == "hat":
        return "no" if portrait.hat == "none" else f"yes, {english.hat(portrait)}"
    if kind == "beard":
        return str(words["yes" if portrait.beard else "no"])
    return portrait.mouth if kind == "mouth" else portrait.shirt


def _chinese(fields: Fields, kind: str) -> Asked:
    scene, words, rng = fields.scene, fields.words, fields.rng
    on_ground = scene.background.kind == "ground"
    said = {"ground": pick(rng, words["ask"]["ground"]) if on_ground else words["ask"]["background"]}
    if scene.portrait is not None and kind in _FACE:
        return said, _face_chinese(words, scene.portrait, kind)
    if scene.words is not None and kind in ("text", "ink", "board"):
        if scene.words.board == "none":
            return said | {"thing": "图"}, _written(scene) if kind == "text" else fields["ink"]
        board = chinese.colour_of(str(scene.words.board_colour))
        return said, {"text": _written(scene), "ink": fields["ink"]}.get(kind, board)
    if kind == "background":
        return said, fields["colour"]
    subject = _subject(fields, kind)
    thing = scene.things[subject]
    there = rng.random() < _PRESENT_SHARE
    count = sum(other.concept == thing.concept for other in scene.things)
    said |= {"old": nouns()[thing.concept].chinese, "measure": nouns()[thing.concept].measure}
    named = [
        chinese.several(chinese.number(many), one.concept, chinese.noun(rng, one.concept, one.colour))
        for one, many in (scene.groups if kind == "what" else [(one, 1) for one in scene.things])
    ]
    if kind == "exists":
        said["new_bare"] = nouns()[thing.concept if there else _absent(fields)].chinese
        return said, words["yes" if there else "no"]
    if kind == "where":
        said["at"] = words["at"][_neighbour(scene, subject)]
        return said, named[1 - subject]
    if kind == "colour":
        return said, chinese.colour_of(str(_certain(fields, subject)))
    counted = chinese.several(chinese.number(count), thing.concept, "")
    return said, {"many": counted, "between": named[0]}.get(kind, chinese.joined(named))


def _face_chinese(words: dict[str, Any], portrait: Portrait, kind: str) -> str:
    if kind == "hair":
        return chinese.hair(portrait)
    if kind == "glasses":
        kinds = words["glasses"].get(portrait.glasses, portrait.glasses)
        return "没有" if portrait.glasses == "none" else f"戴着{kinds}"
    if kind == "hat":
        return "没戴帽子" if portrait.hat == "none" else f"戴着{chinese.hat(portrait)}"
    if kind == "beard":
        return str(words["yes" if portrait.beard else "no"])
    if kind == "mouth":
        return str(words["mouth"].get(portrait.mouth, portrait.mouth))
    return chinese.colour_of(portrait.shirt)


def _label(fields: Fields, kind: str) -> Asked:
    scene, words, language = fields.scene, fields.words, fields.language
    if scene.portrait is not None and kind in _FACE:
        return {}, _face_label(fields, scene.portrait, kind)
    if scene.words is not None and kind in ("text", "ink", "board"):
        if kind == "text":
            return {}, _written(scene)
        colour = scene.words.ink if kind == "ink" else scene.words.board_colour
        return {"thing": words["sign"].get(scene.words.board, "")}, words["colour"][colour]
    if kind == "background":
        return {}, words["colour"][scene.background.colour]
    if kind == "many":
        return {}, str(len(scene.things))
    if kind == "what":
        return {}, labels.groups(fields, "{name} × {number}")
    subject = _subject(fields, kind)
    thing = scene.things[subject]
    if kind == "exists":
        there = fields.rng.random() < _PRESENT_SHARE
        code = thing.concept if there else _absent(fields)
        return {"new": labels.label(language, code)}, words["yes" if there else "no"]
    if kind == "colour":
        old = labels.label(language, thing.concept)
        return {"old": old}, words["colour"][_certain(fields, subject)]
    if kind == "where":  # of the picture, not of a neighbour: labels cannot be inflected
        relation = str(scene.relation) if subject == 0 else inverse(str(scene.relation))
        return {"at": words["at"][relation]}, labels.label(language, thing.concept, thing.colour)
    first = scene.things[0]
    return {}, labels.label(language, first.concept, first.colour)


def _face_label(fields: Fields, portrait: Portrait, kind: str) -> str:
    words, language = fields.words, fields.language
    if kind == "hair":
        return labels.hair(language, portrait)
    if kind == "glasses":
        kinds = words["glasses"].get(portrait.glasses, portrait.glasses)
        return str(words["no"] if portrait.glasses == "none" else f"{words['yes']}{words['c']}{kinds}")
    if kind == "hat":
        worn = labels.hat(language, portrait)
        return str(words["no"] if portrait.hat == "none" else f"{words['yes']}{words['c']}{worn}")
    if kind == "beard":
        return str(words["yes" if portrait.beard else "no"])
    if kind == "mouth":
        return str(words["mouth"].get(portrait.mouth, portrait.mouth))
    return str(words["colour"][portrait.shirt])
