"""Prompts for evaluation: enough of them, each checkable, none that training could hold."""

import re
from collections import Counter
from typing import Any

import numpy as np
import pytest

from danqing.data import LANGUAGES, caption, concepts, sample_scene
from danqing.data.atlas import packaged_atlas
from danqing.errors import DataError
from danqing.evaluation.world.prompts import Clause, ambiguous, natural, parse_ambiguous, parse_natural

AMBIGUOUS_AT_LEAST = {"en": 40, "zh": 20}
CAT, DOG = "1F408", "1F415"


def bare(text: str) -> str:
    """Return a text without what does not change its words."""
    return re.sub(r"[\W_]+", " ", text.casefold()).strip()


def document(**scene: Any) -> dict[str, Any]:
    return {"scenes": {"pets": {"include": [{"concept": CAT}], "text": {"en": "a cat, mind you"}, **scene}}}


def wish(**prompt: Any) -> dict[str, Any]:
    row = {"ambiguity": "category", "readings": [[{"any": "pet"}]], "text": {"en": "a pet, mind you"}}
    return {"groups": {"pet": "🐈 🐕"}, "prompts": {"pet": {**row, **prompt}}}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_enough_prompts_of_every_kind(language: str) -> None:
    prompts = natural(language)
    assert len(prompts) >= 32
    things = Counter(len(prompt.include) for prompt in prompts)
    first = [prompt.include[0] for prompt in prompts]
    plain = sum(len(p.include) == 1 and p.include == (Clause(concept=p.include[0].concept),) for p in prompts)
    assert 0.35 <= plain / len(prompts) <= 0.45
    assert things[2] >= 5
    assert sum(clause.count is not None for clause in first) >= 5
    assert sum(clause.colour is not None for clause in first) >= 4
    assert sum(clause.background is not None for clause in first) >= 3
    assert len(ambiguous(language)) >= AMBIGUOUS_AT_LEAST.get(language, 6)


def test_the_same_scenes_exist_in_every_language() -> None:
    scenes = [{prompt.scene for prompt in natural(language)} for language in LANGUAGES]
    assert len(set.intersection(*scenes)) >= 24
    meanings = [{prompt.meaning for prompt in ambiguous(language)} for language in LANGUAGES]
    assert len(set.intersection(*meanings)) >= 6


def test_a_colour_is_one_that_some_picture_of_the_thing_can_have() -> None:
    atlas = packaged_atlas()
    for prompt in natural():
        for clause in prompt.include:
            if clause.colour is not None and clause.concept is not None:
                facts = [atlas.facts(clause.concept, style) for style in atlas.styles_of(clause.concept)]
                assert any(clause.colour in (one.colour, *one.dyes) for one in facts), prompt.text


def test_no_prompt_stands_twice() -> None:
    texts = Counter(
        (prompt.language, bare(prompt.text)) for prompts in (natural(), ambiguous()) for prompt in prompts
    )
    assert [text for text, count in texts.items() if count > 1] == []


def test_no_prompt_is_a_caption_of_the_grammar() -> None:
    atlas, rng = packaged_atlas(), np.random.default_rng(0)
    scenes = [sample_scene(rng, atlas) for _ in range(2000)]
    for language in LANGUAGES:
        captions = {bare(caption(scene, language, rng, atlas)) for scene in scenes}
        prompts = {bare(prompt.text) for prompt in (*natural(language), *ambiguous(language))}
        assert not captions & prompts


def test_readings_are_distinct_and_of_known_concepts() -> None:
    for prompt in ambiguous():
        assert 0 < len(prompt.readings) == len(set(prompt.readings))
        codes = {clause.concept for reading in prompt.readings for clause in reading}
        assert codes <= {None, *concepts()}
    several = [len(prompt.readings) > 1 for prompt in ambiguous()]
    assert sum(several) >= 0.9 * len(several)


def test_only_readings_that_a_judge_can_tell_are_given() -> None:
    found = {prompt.meaning: prompt.readings for prompt in ambiguous("en", known={CAT, DOG})}
    assert found["pet"] == ((Clause(concept=DOG),), (Clause(concept=CAT),))
    assert "train" not in found


def test_groups_are_spelt_out_with_the_other_facts() -> None:
    prompt = parse_ambiguous(wish(readings=[[{"any": "pet", "colour": "red"}], [{"background": "red"}]]))[0]
    assert prompt.readings == (
        (Clause(concept=CAT, colour="red"),),
        (Clause(concept=DOG, colour="red"),),
        (Clause(background="red"),),
    )


@pytest.mark.parametrize(
    "scene",
    [
        {"include": []},
        {"include": [{"concept": "1F0000"}]},
        {"include": [{"concept": CAT, "colour": "teal"}]},
        {"include": [{"concept": CAT, "background": "sky"}]},
        {"include": [{"concept": CAT, "count": 0}]},
        {"include": [{"concept": CAT, "size": "big"}]},
        {"include": [{"colour": "red"}]},
        {"include": [{"concept": CAT, "position": ["left", 0]}]},
        {"include": [{"concept": CAT, "position": ["left", 1]}]},
        {"include": [{"concept": CAT, "position": ["near", 1]}, {"concept": DOG}]},
        {"text": {}},
        {"text": {"nl": "een kat"}},
        {"text": {"en": " "}},
        {"kind": "single"},
    ],
)
def test_facts_that_no_judge_knows_are_refused(scene: dict[str, Any]) -> None:
    assert len(parse_natural(document())) == 1
    with pytest.raises(DataError, match="expected"):
        parse_natural(document(**scene))


@pytest.mark.parametrize(
    "prompt",
    [
        {"readings": []},
        {"readings": [[]]},
        {"readings": [[{"any": "pet"}], [{"concept": CAT}]]},
        {"readings": [[{"any": "fish"}]]},
        {"ambiguity": "unclear"},
    ],
)
def test_readings_that_are_missing_unknown_or_twice_are_refused(prompt: dict[str, Any]) -> None:
    assert len(parse_ambiguous(wish())[0].readings) == 2
    with pytest.raises(DataError, match="expected"):
        parse_ambiguous(wish(**prompt))


def test_a_text_in_two_scenes_and_an_unknown_language_are_refused() -> None:
    scene = document()["scenes"]["pets"]
    with pytest.raises(DataError, match="each prompt once"):
        parse_natural({"scenes": {"one": scene, "two": scene}})
    with pytest.raises(DataError, match="language"):
        natural("nl")
    with pytest.raises(DataError, match="language"):
        ambiguous("nl")
