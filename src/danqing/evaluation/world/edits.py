"""Edits of true pictures: what is asked for, and which facts tell that it was done."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, get_args

import numpy as np

from danqing.data.atlas import Atlas
from danqing.data.concepts import LANGUAGES
from danqing.data.language import instruction
from danqing.data.world import SceneKind, sample_scene
from danqing.data.world.edits import Edit, EditKind, sample_edit
from danqing.data.world.sample import weighted
from danqing.data.world.split import Split, contains_held_out
from danqing.evaluation.items import Clause, Item
from danqing.evaluation.results import Answer, Results, Row
from danqing.evaluation.world.asked import COUNTS, SEED, Asked, Profile, readable, source_name, take

OUTSIDE: Final = "outside"
"""The fact that all the rest stayed as it was."""
KINDS: Final[tuple[EditKind, ...]] = get_args(EditKind)
_TRIES: Final = 12  # edits drawn of a scene before another one is taken
_ANY: Final[Mapping[SceneKind, float]] = {"single": 0.4, "count": 0.2, "group": 0.15, "pair": 0.25}
_SCENES: Final[Mapping[EditKind, Mapping[SceneKind, float]]] = {
    "add": {"single": 1.0},
    "remove": {"group": 0.4, "pair": 0.6},
    "more": {"single": 0.5, "count": 0.5},
    "fewer": {"count": 1.0},
    "replace": _ANY,
    "recolour": _ANY,
    "background": _ANY,
    "style": _ANY,
    "move": {"single": 1.0},
    "resize": {"single": 0.5, "group": 0.2, "pair": 0.3},
    "swap": {"pair": 1.0},
    "text": {"words": 1.0},
}
"""Scenes that each kind of edit is drawn for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """How the items of one row are drawn."""

    languages: tuple[str, ...] = ("en",)
    split: Split = "train"


EDIT_ROWS: Final[Mapping[str, _Part]] = {
    "edit": _Part(),
    "edit-unseen": _Part(split="held_out"),
    "edit-languages": _Part(languages=LANGUAGES[1:]),
}


def edit_rows() -> list[Row]:
    """Return the rows of the table about edits."""
    return [
        Row(
            name="edit",
            title="Edit",
            about="One of twelve kinds of change is made: every fact that it changes is met.",
            value=change_made,
        ),
        Row(
            name="edit-unseen",
            title="Edit, unseen",
            about="Before and after, the picture holds a combination that training never met.",
            value=change_made,
        ),
        Row(
            name="edit-languages",
            title="Edit, 11 languages",
            about="Instructions in eleven other languages.",
            value=change_made,
        ),
        Row(
            name="edit-outside",
            of="edit",
            title="Edit, outside",
            about="How well the rest is kept, where the edit changes nothing: PSNR against the autoencoder's "
            "reconstruction of the source, minus that of the reconstruction against the truth.",
            value=outside,
            unit="dB",
            counts=False,
        ),
    ]


def edit_items(row: str, atlas: Atlas, sprites: str, codes: Sequence[str], profile: Profile) -> list[Asked]:
    """Return the items of a row of `EDIT_ROWS`; `sprites` is the digest of the atlas."""
    part, counts = EDIT_ROWS[row], COUNTS[profile]
    wanted = counts["row"] if len(part.languages) == 1 else counts["part"] * len(part.languages)
    return take(_items(row, part, atlas, sprites, codes), wanted)


def change_made(answer: Answer) -> float:
    """Return 1 when every fact that an edit changes is met, else 0."""
    return min(atom.value for atom in answer.atoms if atom.name != OUTSIDE)


def outside(answer: Answer) -> float | None:
    """Return how many dB nearer the rest is to what an autoencoder keeps than that is to the truth."""
    return next((atom.measure for atom in answer.atoms if atom.name == OUTSIDE), None)


def by_kind(results: Results) -> str | None:
    """Return one line: the share of changes made of each kind of edit; None without a judged edit."""
    values: dict[str, list[float]] = {}
    for row in results.rows:
        if row.value is change_made:
            for answer in results.of(results.entrants[0], row):
                if answer.state == "judged":
                    values.setdefault(answer.item.tags["kind"], []).append(change_made(answer))
    told = [f"{kind} {np.mean(values[kind]):.2f} of {len(values[kind])}" for kind in KINDS if kind in values]
    return f"changes made, by kind: {', '.join(told)}" if told else None


def changed_facts(edit: Edit) -> tuple[tuple[Clause, ...], tuple[Clause, ...]]:
    """Return what an edit changes: clauses that must hold of its result, and clauses that must not.

    Style, place and size of a thing are no clauses: a judge compares them with both scenes. What is left
    after something was removed must hold too, or an empty page would do.
    """
    source, target = edit.source, edit.target
    if edit.kind == "background":
        return (Clause(background=target.background.colour),), ()
    if edit.kind == "text":
        assert target.words is not None
        return (Clause(text=" ".join(target.words.lines)),), ()
    if edit.kind == "add":
        assert edit.direction is not None
        new, old = target.things[edit.subject].concept, source.things[0].concept
        return (Clause(concept=new, position=(edit.direction, 1)), Clause(concept=old)), ()
    subject = source.things[edit.subject]
    if edit.kind == "remove":
        left = dict.fromkeys(thing.concept for thing in target.things)
        return tuple(Clause(concept=code) for code in left), (Clause(concept=subject.concept),)
    if edit.kind == "swap":
        assert target.relation is not None
        first, second = (thing.concept for thing in target.things)
        return (Clause(concept=first, position=(target.relation, 1)), Clause(concept=second)), ()
    if edit.kind == "replace":
        new = target.things[edit.subject].concept
        count = sum(thing.concept == new for thing in target.things)
        return (Clause(concept=new, count=count),), (Clause(concept=subject.concept),)
    if edit.kind in ("more", "fewer"):
        return (Clause(concept=subject.concept, count=len(target.things)),), ()
    colour = target.things[edit.subject].colour if edit.kind == "recolour" else None
    return (Clause(concept=subject.concept, colour=colour),), ()


def _items(row: str, part: _Part, atlas: Atlas, sprites: str, codes: Sequence[str]) -> Iterator[Asked]:
    """Yield edits of all kinds and languages in turn."""
    rng = np.random.default_rng([SEED, *row.encode()])
    number = 0
    while True:
        kind = KINDS[number % len(KINDS)]
        edit = _edit(kind, part.split, rng, atlas, codes)
        if edit is None:
            continue
        language = part.languages[number % len(part.languages)]
        include, exclude = changed_facts(edit)
        item = Item(
            row=row,
            prompt=instruction(edit, language, rng),
            language=language,
            ability="edit",
            source=source_name(edit.source, sprites),
            include=include,
            exclude=exclude,
            tags={"kind": kind},
        )
        yield Asked(item=item, scene=edit.target, edit=edit)
        number += 1


def _edit(
    kind: EditKind, split: Split, rng: np.random.Generator, atlas: Atlas, codes: Sequence[str]
) -> Edit | None:
    """Draw a scene and an edit of this kind with what is taught; None where the scene allows none."""
    scene = sample_scene(rng, atlas, split, shares={weighted(rng, _SCENES[kind]): 1.0}, codes=codes)
    for _ in range(_TRIES):
        edit = sample_edit(scene, rng, atlas)
        known = {thing.concept for thing in edit.target.things if not thing.concept.startswith("shape-")}
        legible = kind != "text" or readable(edit.target)
        unseen = contains_held_out(edit.target) == (split == "held_out")
        if edit.kind == kind and known <= set(codes) and legible and unseen:
            return edit
    return None
