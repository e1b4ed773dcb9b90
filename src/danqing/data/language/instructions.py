"""Instructions: edits of scenes in words, in twelve languages."""

from typing import Final

import numpy as np

from danqing.data.atlas import Atlas, packaged_atlas
from danqing.data.concepts import with_article
from danqing.data.language import chinese, english, labels
from danqing.data.language.captions import fields_of
from danqing.data.language.fields import Fields
from danqing.data.language.nouns import nouns
from danqing.data.language.seen import style_of
from danqing.data.language.tables import pick, table
from danqing.data.world.edits import Edit, sample_edit
from danqing.data.world.scene import Scene, Thing
from danqing.data.world.split import Split

_COLOUR_SHARE: Final = 0.4  # of dyed things are called by their colour too


def edit_instruction(
    scene: Scene,
    language: str,
    rng: np.random.Generator,
    atlas: Atlas | None = None,
    *,
    split: Split = "train",
) -> tuple[str, Edit]:
    """Draw an edit of a scene and word it; returns the instruction and the edit with its resulting scene.

    Uses the packaged atlas when none is given. Raises DataError for an unknown language.
    """
    table(language)  # refuses an unknown language before anything is drawn
    edit = sample_edit(scene, rng, atlas if atlas is not None else packaged_atlas())
    return instruction(edit, language, rng, split=split), edit


def instruction(edit: Edit, language: str, rng: np.random.Generator, *, split: Split = "train") -> str:
    """Word an edit in one of `LANGUAGES`; a held-out phrasing comes only with split "held_out".

    Raises DataError for an unknown language.
    """
    fields = fields_of(edit.target, language, rng, None, split)
    if language == "en":
        fields.said.update(_english(fields, edit))
        return fields.fill(f"edit.{_pattern(edit)}")
    if language == "zh":
        fields.said.update(_chinese(fields, edit))
        return fields.fill(f"edit.{_pattern(edit)}")
    fields.said.update(_label(fields, edit))
    return fields.fill("edit").rstrip()


def about(edit: Edit) -> tuple[Thing, Thing] | None:
    """Return the thing that an edit is about, before and after; of an addition the neighbour and the new one.

    None where an edit is about no thing. What was removed is returned twice.
    """
    source, target = edit.source.things, edit.target.things
    if edit.kind == "add":
        return source[0], target[edit.subject]
    if not source:
        return None
    kept = edit.kind not in ("remove", "fewer") and edit.subject < len(target)
    return source[edit.subject], (target if kept else source)[edit.subject]


def _pattern(edit: Edit) -> str:
    if edit.kind == "resize":
        return _direction_of_size(edit)
    if edit.kind in ("replace", "recolour"):
        code = edit.source.things[edit.subject].concept
        if sum(thing.concept == code for thing in edit.source.things) > 1:
            return f"{edit.kind}_all"
    return edit.kind


def _direction_of_size(edit: Edit) -> str:
    old, new = edit.source.things[edit.subject], edit.target.things[edit.subject]
    return "smaller" if new.size < old.size else "larger"


def _english(fields: Fields, edit: Edit) -> dict[str, str]:
    words, rng, target = fields.words, fields.rng, edit.target
    on_ground = target.background.kind == "ground"
    said = {"ground": pick(rng, words["ask"]["ground"]) if on_ground else words["ask"]["background"]}
    said["colour"] = target.background.colour
    things = about(edit)
    if things is not None:
        old, new = things
        colour = old.colour if rng.random() < _COLOUR_SHARE else None
        said |= {"old": english.noun(old.concept, colour)}
        said |= {"olds": english.noun(old.concept, colour, many=True)}
        said |= {"new": nouns()[new.concept].indefinite, "news": nouns()[new.concept].plural}
        said["number"] = english.number(len(target.things))
        said["kept"] = said["old" if len(target.things) == 1 else "olds"]
        if edit.kind == "recolour":
            said["colour"] = str(new.colour)
    if edit.direction is not None:
        said["rel"] = pick(rng, words["relation"][edit.direction])
        said |= {"to": pick(rng, words["to"][edit.direction]), "at": words["place"][edit.direction]}
    if edit.kind == "swap":
        said["other"] = nouns()[edit.source.things[1].concept].english
    if edit.source.words is not None:
        said["was"] = english.quoted(fields, edit.source.words.lines)
    return said | {"a_colour": with_article(said["colour"])}


def _chinese(fields: Fields, edit: Edit) -> dict[str, str]:
    words, rng, target = fields.words, fields.rng, edit.target
    on_ground = target.background.kind == "ground"
    said = {"ground": pick(rng, words["ask"]["ground"]) if on_ground else words["ask"]["background"]}
    colour = target.background.colour
    things = about(edit)
    if things is not None:
        old, new = things
        said["old"] = chinese.noun(rng, old.concept, old.colour if rng.random() < _COLOUR_SHARE else None)
        said["measure"] = nouns()[old.concept].measure
        said["new_bare"] = nouns()[new.concept].chinese
        said["new"] = chinese.several("一", new.concept, said["new_bare"])
        said["number"] = chinese.number(len(target.things))
        if edit.kind == "recolour":
            colour = str(new.colour)
    if edit.direction is not None:
        said |= {"at": words["at"][edit.direction], "side": words["place"][edit.direction]}
    if edit.kind == "swap":
        said["other"] = nouns()[edit.source.things[1].concept].chinese
    if edit.source.words is not None:
        said["was"] = chinese.quoted(fields, edit.source.words.lines)
        if edit.source.words.board == "none":
            said["thing"] = "图"
    return said | {"colour": chinese.colour_of(colour)}


def _label(fields: Fields, edit: Edit) -> dict[str, str]:
    """Return the verb of an edit and what it is about: "cambiar color", "manzana → verde"."""
    words, target, language = fields.words, edit.target, fields.language
    verb = {"more": "count", "fewer": "count"}.get(edit.kind, edit.kind)
    if verb == "resize":
        verb = _direction_of_size(edit)
    if verb == "background" and target.background.kind == "ground":
        verb = "ground"
    things = about(edit)
    if edit.kind == "background":
        what = fields["tint"]
    elif edit.kind == "text":
        what = fields["Q"]
    elif edit.kind == "style":
        what = labels.style_label(language, str(style_of(target)))
    else:
        assert things is not None
        old, new = (labels.label(language, thing.concept) for thing in things)
        what = {
            "add": lambda: labels.bracketed(words, new, [words["at"][edit.direction]]),
            "replace": lambda: f"{old} → {new}",
            "recolour": lambda: f"{old} → {words['colour'][things[1].colour]}",
            "more": lambda: f"{old} × {len(target.things)}",
            "fewer": lambda: f"{old} × {len(target.things)}",
            "move": lambda: f"{old} → {words['at'][edit.direction]}",
            "swap": lambda: f"{old} ↔ {labels.label(language, edit.source.things[1].concept)}",
        }.get(edit.kind, lambda: old)()
    return {"verb": words["edit"][verb], "what": what}
