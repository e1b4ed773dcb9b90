"""Descriptions of true pictures and questions about them: what is asked for, and how answers are judged."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from PIL import Image

from danqing.data.atlas import Atlas
from danqing.data.concepts import LANGUAGES
from danqing.data.language import question
from danqing.data.language.nouns import nouns
from danqing.data.world import SceneKind, sample_scene
from danqing.data.world.sample import weighted
from danqing.data.world.scene import OPPOSITE
from danqing.data.world.split import Split
from danqing.errors import DataError
from danqing.evaluation.items import Atom, Clause, Item, Made
from danqing.evaluation.results import Row, mean_fact
from danqing.evaluation.world.asked import COUNTS, SEED, Asked, Profile, clauses, readable, source_name, take
from danqing.evaluation.world.phrases import phrases
from danqing.evaluation.world.said import Mention, Said, understand

NOTHING: Final = "nothing"
_KINDS: Final[dict[SceneKind, float]] = {
    "single": 0.35,
    "count": 0.2,
    "group": 0.15,
    "pair": 0.15,
    "between": 0.05,
    "words": 0.1,
}
_FACES: Final[dict[SceneKind, float]] = {**_KINDS, "portrait": 0.08}  # clauses do not speak of faces
_ARTICLES: Final = re.compile(r"\b(?:an?|the)\b")
_JOINTS: Final = re.compile(r"\s+and\s+|[,，、،;]|(?<=[\u4e00-\u9fff])和")
_MARKS: Final = re.compile(r"[^\w\s×(（]|_")
TEXT_ROWS: Final = ("describe", "describe-languages", "questions", "questions-languages")


def text_rows() -> list[Row]:
    """Return the rows of the table about descriptions and questions."""
    facts = "share of facts right, with every thing that is said but not there as a wrong one."
    return [
        Row(
            name="describe",
            title="Describe",
            about=f"A true picture never trained on: {facts}",
            value=mean_fact,
        ),
        Row(
            name="describe-languages",
            title="Describe, 11 languages",
            about=f"In eleven other languages: {facts}",
            value=mean_fact,
        ),
        Row(
            name="questions",
            title="Questions",
            about="About such a picture; the answer must be the true one.",
        ),
        Row(
            name="questions-languages",
            title="Questions, 11 languages",
            about="Asked in eleven other languages.",
        ),
    ]


def text_items(row: str, atlas: Atlas, sprites: str, codes: Sequence[str], profile: Profile) -> list[Asked]:
    """Return the items of a row of `TEXT_ROWS`; `sprites` is the digest of the atlas."""
    counts = COUNTS[profile]
    languages = LANGUAGES[1:] if row.endswith("languages") else ("en",)
    wanted = counts["row"] if len(languages) == 1 else counts["part"] * len(languages)
    return take(_items(row, languages, atlas, sprites, codes), wanted)


class TextJudge:
    """Reads what a text says; knows nothing of the picture but the clauses of the item."""

    name, version = "world, texts", "1"

    def judge(self, made: Made, item: Item) -> tuple[Atom, ...]:
        """Return an atom for each fact of a description and each thing not there, or one for an answer."""
        if isinstance(made, Image.Image):
            raise DataError(f"expected a text for {item.row}, found a picture")
        if item.answer:
            right = same_answer(made, item.answer, item.language)
            return (Atom(name="answer", value=float(right), wanted=item.answer, seen=made.strip()),)
        return tuple(stated_facts(understand(made, item.language), item.include))


def stated_facts(said: Said, include: Sequence[Clause]) -> Iterator[Atom]:
    """Yield what a text says of each fact, and each thing and word that it says without being asked."""
    seen = [_meant(said, clause, include) for clause in include]
    for clause, mentions in zip(include, seen, strict=True):
        if clause.concept is not None:
            yield from _thing_atoms(said, clause, mentions)
        if clause.position is not None:
            relation = clause.position[0]
            right = _related(said, clause, include)
            yield _atom("position", right, relation, relation if right else "not said")
        if clause.background is not None:
            told = ", ".join(dict.fromkeys(said.backgrounds)) or NOTHING
            yield _atom("background", told == clause.background, clause.background, told)
        if clause.text is not None:
            words = " ".join(said.quotes)
            yield _atom("words", _letters(words) == _letters(clause.text), clause.text, words or NOTHING)
    asked = [clause.concept for clause in include]
    others = [one.concept for one in said.mentions if not any(_is_fair(one, code) for code in asked)]
    for code in dict.fromkeys(others):
        name = nouns()[code].english
        yield _atom("object", False, f"no {name}", name)
    if said.quotes and all(clause.text is None for clause in include):
        yield _atom("words", False, "no words", " ".join(said.quotes))


def same_answer(said: str, wanted: str, language: str) -> bool:
    """Tell whether an answer is the wanted one: in the same words, or naming the same things.

    Articles, marks, capitals and the order of a list do not matter, nor whether a number is a word.
    """
    if _parts(said, language) == _parts(wanted, language):
        return True
    told, true = understand(said, language).mentions, understand(wanted, language).mentions
    return bool(true) and len(told) == len(true) and all(any(_alike(a, b) for a in told) for b in true)


def _items(
    row: str, languages: Sequence[str], atlas: Atlas, sprites: str, codes: Sequence[str]
) -> Iterator[Asked]:
    rng = np.random.default_rng([SEED, *row.encode()])
    number = 0
    while True:
        asks = row.startswith("questions")
        kind = weighted(rng, _FACES if asks else _KINDS)
        split: Split = "train" if kind == "portrait" else "held_out"  # nothing about faces is held out
        scene = sample_scene(rng, atlas, split, shares={kind: 1.0}, codes=codes)
        if kind == "words" and not readable(scene):
            continue
        language = languages[number % len(languages)]
        prompt, answer = question(scene, language, rng, atlas) if asks else ("", "")
        item = Item(
            row=row,
            prompt=prompt,
            language=language,
            ability="describe",
            source=source_name(scene, sprites),
            answer=answer,
            include=() if asks else clauses(scene),
        )
        yield Asked(item=item, scene=scene)
        number += 1


def _thing_atoms(said: Said, clause: Clause, mentions: Sequence[Mention]) -> Iterator[Atom]:
    assert clause.concept is not None
    wanted = nouns()[clause.concept].english
    others = dict.fromkeys(nouns()[mention.concept].english for mention in said.mentions)
    yield _atom("object", bool(mentions), wanted, wanted if mentions else ", ".join(others) or NOTHING)
    if clause.count is not None:
        count = sum(mention.count or 0 for mention in mentions)
        yield _atom("count", count == clause.count, str(clause.count), str(count))
    if clause.colour is not None:
        colours = [mention.colour for mention in mentions if mention.colour is not None]
        told = ", ".join(dict.fromkeys(colours)) or NOTHING
        yield _atom("colour", told == clause.colour, clause.colour, told)


def _meant(said: Said, clause: Clause, include: Sequence[Clause]) -> tuple[Mention, ...]:
    """Return the mentions a clause is about: where two clauses share a concept, colours tell them apart."""
    if clause.concept is None:
        return ()
    mentions = said.of(clause.concept)
    if sum(other.concept == clause.concept for other in include) > 1:
        return tuple(mention for mention in mentions if mention.colour == clause.colour)
    return mentions


def _related(said: Said, clause: Clause, include: Sequence[Clause]) -> bool:
    """Tell whether a text says the relation of a clause, this way round or the other."""
    assert clause.position is not None
    relation, *others = clause.position
    codes = [clause.concept, *(include[at].concept for at in others)]
    wanted = {(relation, *codes)}
    if relation in OPPOSITE:
        wanted.add((OPPOSITE[relation], *reversed(codes)))
    if relation == "between":
        wanted.add((relation, codes[0], codes[2], codes[1]))
    return any(
        told == name and all(_is_fair(said.mentions[at], code) for at, code in zip(ends, right, strict=True))
        for told, *ends in said.relations
        for name, *right in wanted
        if len(ends) == len(right)
    )


def _is_fair(mention: Mention, code: str | None) -> bool:
    return code is not None and mention.concept in {code, *nouns()[code].same}


def _alike(said: Mention, wanted: Mention) -> bool:
    """Tell whether a mention says at least what is wanted, and nothing else."""
    counts = said.count == wanted.count or None in (said.count, wanted.count)
    return _is_fair(said, wanted.concept) and counts and wanted.colour in (None, said.colour)


def _parts(text: str, language: str) -> Counter[str]:
    """Return the parts of a list, plain, with numbers as digits."""
    digits = {word: str(count) for word, count in phrases(language).number.items() if len(word) > 1}
    signs = str.maketrans(
        {word: str(count) for word, count in phrases(language).number.items() if word > "z"}
    )
    found: Counter[str] = Counter()
    for part in _JOINTS.split(text.casefold()):
        bare = _ARTICLES.sub(" ", part) if language == "en" else part
        words = _MARKS.sub(" ", bare.translate(signs)).split()
        if words:
            found[" ".join(digits.get(word, word) for word in words)] += 1
    return found


def _letters(text: str) -> str:
    return re.sub(r"[\W_]", "", text.casefold())


def _atom(name: str, right: bool, wanted: str, seen: str) -> Atom:
    return Atom(name=name, value=float(right), wanted=wanted, seen=seen)
