"""Instructions and questions about scenes in twelve languages: texts for language models and for editing."""

from typing import Any

import numpy as np

from danqing.data.atlas import Atlas, packaged_atlas
from danqing.data.concepts import concepts, with_article
from danqing.data.phrases import (
    NUMBERS,
    chinese_noun,
    english_noun,
    label,
    label_place,
    labels,
    phrases,
    pick,
    seen_colour,
)
from danqing.data.world import OPPOSITE, Relation, Scene
from danqing.data.world.edits import Edit, sample_edit


def edit_instruction(
    scene: Scene, language: str, rng: np.random.Generator, atlas: Atlas | None = None
) -> tuple[str, Edit]:
    """Draw an edit of a scene and word it; returns the instruction and the edit with its resulting scene.

    Uses the packaged atlas when none is given. Raises DataError for an unknown language.
    """
    edit = sample_edit(scene, rng, atlas if atlas is not None else packaged_atlas())
    if language not in ("en", "zh"):
        return _label_instruction(edit, language), edit
    pattern: str = edit.kind
    if edit.kind in ("replace", "recolour") and _changed(edit) > 1:
        pattern += "_all"
    text = str(pick(rng, phrases()[language]["edit"][pattern]))
    fields = (_english if language == "en" else _chinese)(edit, rng)
    return text.format(**fields), edit


def question(
    scene: Scene, language: str, rng: np.random.Generator, atlas: Atlas | None = None
) -> tuple[str, str]:
    """Return a question about a scene and its true answer.

    Asked are number, colour of a thing (where it is certain), colour of the background, neighbours, content,
    and whether something is there. Raises DataError for an unknown language.
    """
    subject = int(rng.integers(2)) if scene.relation in OPPOSITE else 0
    kinds = ["many", "what", "exists"]
    if (
        len({thing.concept for thing in scene.things}) == len(scene.things)
        and seen_colour(scene.things[subject], atlas) is not None
    ):
        kinds.append("colour")
    if language in ("en", "zh") or scene.background.kind != "ground":
        kinds.append("background")
    if scene.relation in OPPOSITE:
        kinds.append("where")
    kind = pick(rng, kinds)
    asked = {"en": _ask_english, "zh": _ask_chinese}.get(language)
    if asked is not None:
        return asked(scene, kind, subject, rng, atlas)
    return _ask_label(scene, kind, subject, rng, atlas, language)


def _english(edit: Edit, rng: np.random.Generator) -> dict[str, str]:
    words, old = phrases()["en"], edit.source.things[0 if edit.kind == "add" else edit.subject]
    said = old.colour if rng.random() < 0.4 else None
    fields = {"old": english_noun(old.concept, said), "olds": english_noun(old.concept, said, many=True)}
    fields |= {"place": _english_place(edit.target, rng), "colour": edit.target.background.colour}
    new = edit.target.things[min(edit.subject, len(edit.target.things) - 1)]
    if edit.kind == "recolour":
        fields["colour"] = str(new.colour)
    fields |= {"new": concepts()[new.concept].indefinite, "news": concepts()[new.concept].plural}
    fields |= {"style": words["style"][new.style], "number": NUMBERS["en"][len(edit.target.things)]}
    if edit.direction is not None:
        fields |= {"rel": pick(rng, words["relation"][edit.direction]), "to": words["to"][edit.direction]}
    if edit.kind == "swap":
        fields["other"] = english_noun(edit.target.things[1].concept)
    if edit.kind == "resize":
        fields["size"] = words["smaller" if new.size < old.size else "larger"]
    return fields


def _chinese(edit: Edit, rng: np.random.Generator) -> dict[str, str]:
    words, old = phrases()["zh"], edit.source.things[0 if edit.kind == "add" else edit.subject]
    said = old.colour if rng.random() < 0.4 else None
    fields = {"old": chinese_noun(rng, old.concept, said), "measure": concepts()[old.concept].measure}
    fields |= {"place": _chinese_place(edit.target, rng), "colour": edit.target.background.colour}
    new = edit.target.things[min(edit.subject, len(edit.target.things) - 1)]
    if edit.kind == "recolour":
        fields["colour"] = str(new.colour)
    fields["colour"] = words["colour"][fields["colour"]]
    fields |= {"new": _chinese_one(new.concept), "new_bare": concepts()[new.concept].chinese}
    fields |= {"style": words["style"][new.style], "number": NUMBERS["zh"][len(edit.target.things)]}
    if edit.direction is not None:
        fields["at"] = words["at"][edit.direction]
    if edit.kind == "swap":
        fields["other"] = concepts()[edit.target.things[1].concept].chinese
    if edit.kind == "resize":
        fields["size"] = words["smaller" if new.size < old.size else "larger"]
    return fields


def _changed(edit: Edit) -> int:
    """Return how many things an edit of one concept changes."""
    return sum(thing.concept == edit.source.things[edit.subject].concept for thing in edit.source.things)


def _label_instruction(edit: Edit, language: str) -> str:
    words = labels(language)
    old, new = (
        edit.source.things[0 if edit.kind == "add" else edit.subject],
        edit.target.things[min(edit.subject, len(edit.target.things) - 1)],
    )
    name = label(language, old.concept)
    kind = "count" if edit.kind in ("more", "fewer") else edit.kind
    if kind == "add":
        name = f"{label(language, new.concept)} ({_at(words, edit.direction)})"
    elif kind == "replace":
        name = f"{name} → {label(language, new.concept)}"
    elif kind == "recolour":
        name = f"{name} → {words['colour'][new.colour]}"
    elif kind == "background":
        name = label_place(language, edit.target.background)
    elif kind == "style":
        name = words["style"][new.style]
    elif kind == "count":
        name = f"{name} × {len(edit.target.things)}"
    elif kind == "swap":
        name = f"{name} ↔ {label(language, edit.source.things[1].concept)}"
    elif kind == "resize":
        name = f"{name} × {new.size / old.size:.1f}"
    elif kind == "move":
        name = f"{name} → {_at(words, edit.direction)}"
    return f"{words['edit'][kind]}{words['colon']}{name}"


def _ask_english(
    scene: Scene, kind: str, subject: int, rng: np.random.Generator, atlas: Atlas | None
) -> tuple[str, str]:
    words = phrases()["en"]["question"]
    thing = scene.things[subject]
    asked = thing.concept if rng.random() < 0.5 else _absent(scene, rng)
    fields = {"old": concepts()[thing.concept].english, "olds": concepts()[thing.concept].plural}
    fields |= {"new": concepts()[asked].indefinite, "place": _english_place(scene, rng)}
    counts = sum(other.concept == thing.concept for other in scene.things)
    answers = {"many": NUMBERS["en"][counts], "background": scene.background.colour}
    answers["exists"] = words["yes" if asked == thing.concept else "no"]
    if kind == "colour":
        answers[kind] = str(seen_colour(thing, atlas))
    if scene.kind == "count":
        answers["what"] = f"{NUMBERS['en'][counts]} {english_noun(thing.concept, thing.colour, many=True)}"
    else:
        named = [
            with_article(english_noun(other.concept, other.colour))
            if count == 1
            else f"{NUMBERS['en'][count]} {english_noun(other.concept, other.colour, many=True)}"
            for other, count in scene.groups
        ]
        answers["what"] = " and ".join(named)
        answers["where"] = named[1 - subject] if scene.relation in OPPOSITE else ""
    if scene.relation in OPPOSITE:
        relation = OPPOSITE[scene.relation] if subject == 0 else scene.relation
        fields["rel"] = pick(rng, phrases()["en"]["relation"][relation])
    return str(pick(rng, words[kind])).format(**fields), answers[kind]


def _ask_chinese(
    scene: Scene, kind: str, subject: int, rng: np.random.Generator, atlas: Atlas | None
) -> tuple[str, str]:
    words, colours = phrases()["zh"]["question"], phrases()["zh"]["colour"]
    thing = scene.things[subject]
    asked = thing.concept if rng.random() < 0.5 else _absent(scene, rng)
    measure = concepts()[thing.concept].measure
    fields = {"old": concepts()[thing.concept].chinese, "measure": measure, "bare": concepts()[asked].chinese}
    fields["place"] = _chinese_place(scene, rng)
    number = NUMBERS["zh"][sum(other.concept == thing.concept for other in scene.things)] + measure
    answers = {"many": number, "background": colours[scene.background.colour]}
    answers["exists"] = words["yes" if asked == thing.concept else "no"]
    if kind == "colour":
        answers[kind] = colours[seen_colour(thing, atlas)]
    if scene.kind == "count":
        answers["what"] = number + chinese_noun(rng, thing.concept, thing.colour)
    else:
        named = [
            NUMBERS["zh"][count] + _chinese_one(other.concept, other.colour)[1:]
            for other, count in scene.groups
        ]
        answers["what"] = "和".join(named)
        answers["where"] = named[1 - subject] if scene.relation in OPPOSITE else ""
    if scene.relation in OPPOSITE:
        relation = OPPOSITE[scene.relation] if subject == 0 else scene.relation
        fields["at"] = phrases()["zh"]["at"][relation]
    return str(pick(rng, words[kind])).format(**fields), answers[kind]


def _ask_label(
    scene: Scene, kind: str, subject: int, rng: np.random.Generator, atlas: Atlas | None, language: str
) -> tuple[str, str]:
    words = labels(language)
    thing = scene.things[subject]
    asked = thing.concept if rng.random() < 0.5 else _absent(scene, rng)
    names = [label(language, other.concept, other.colour) for other in scene.things]
    filling, answer = "", ""
    if kind == "many":
        answer = str(len(scene.things))
    elif kind == "colour":
        filling, answer = label(language, thing.concept), words["colour"][seen_colour(thing, atlas)]
    elif kind == "background":
        answer = words["colour"][scene.background.colour]
    elif kind == "what":
        answer = words["comma"].join(
            label(language, other.concept, other.colour) + (f" × {count}" if count > 1 else "")
            for other, count in scene.groups
        )
    elif kind == "exists":
        filling = label(language, asked)
        answer = words["question"]["yes" if asked == thing.concept else "no"]
    elif scene.relation in OPPOSITE:
        relation = scene.relation if subject == 0 else OPPOSITE[scene.relation]
        filling, answer = _at(words, relation), names[subject]
    return str(words["question"][kind]).format(filling), answer


def _absent(scene: Scene, rng: np.random.Generator) -> str:
    present = {thing.concept for thing in scene.things}
    return str(pick(rng, [code for code in concepts() if code not in present]))


def _english_place(scene: Scene, rng: np.random.Generator) -> str:
    words = phrases()["en"]
    return str(
        pick(rng, words["ground"])
        if scene.background.kind == "ground"
        else words["question"]["background_word"]
    )


def _chinese_place(scene: Scene, rng: np.random.Generator) -> str:
    words = phrases()["zh"]
    return str(
        pick(rng, words["ground"])
        if scene.background.kind == "ground"
        else words["question"]["background_word"]
    )


def _chinese_one(code: str, colour: str | None = None) -> str:
    adjective = phrases()["zh"]["colour"][colour] + "的" if colour is not None else ""
    return "一" + concepts()[code].measure + adjective + concepts()[code].chinese


def _at(words: dict[str, Any], relation: Relation | None) -> str:
    return str(words["at"][relation])
