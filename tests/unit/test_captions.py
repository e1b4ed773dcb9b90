"""Captions, instructions and questions say what is true of their scene, in words that a reader would use."""

import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from danqing.data import (
    COLOURS,
    LANGUAGES,
    Atlas,
    Background,
    Scene,
    Thing,
    caption,
    concepts,
    edit_instruction,
    facts,
    instruction,
    ordered,
    question,
    sample_scene,
)
from danqing.data.atlas import packaged_atlas
from danqing.data.language import chinese, english
from danqing.data.language.nouns import nouns
from danqing.data.language.seen import style_of
from danqing.data.language.tables import held_out_phrasings, phrasings, table
from danqing.data.world import RELATIONS, Portrait, Words, is_held_out
from danqing.data.world.edits import Edit, sample_edit
from danqing.errors import DataError

APPLE, DOG, CAT, SCISSORS, JEANS = "1F34E", "1F415", "1F408", "2702", "1F456"
LENGTHS = ("short", "full", "styled", "long")
RTL = ("ar",)


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    return packaged_atlas()


def thing(code: str, colour: str | None = None, size: float = 0.4, x: float = 0.5, y: float = 0.5) -> Thing:
    return Thing(code, "flat", colour, size, x, y)


def single(code: str = APPLE, colour: str | None = None, kind: str = "solid", size: float = 0.6) -> Scene:
    return Scene((thing(code, colour, size),), Background.plain("blue", kind))


def count(n: int = 3) -> Scene:
    return Scene(
        tuple(thing(APPLE, None, 0.3, x) for x in np.linspace(0.1, 0.9, n)), Background.plain("yellow")
    )


def group() -> Scene:
    things = (thing(APPLE, "green"), thing(APPLE, "green"), thing(DOG), thing(DOG), thing(DOG))
    return Scene(things, Background.plain("pink"))


def pair(relation: str = "left", sizes: tuple[float, float] = (0.4, 0.4)) -> Scene:
    things = (thing(APPLE, "green", sizes[0], 0.27), thing(DOG, None, sizes[1], 0.73))
    return Scene(things, Background.plain("orange"), relation)


def between() -> Scene:
    things = (thing(APPLE), thing(DOG, x=0.2), thing(CAT, x=0.8))
    return Scene(things, Background.plain("white"), "between")


def sign(*lines: str, board: str = "sign") -> Scene:
    words = Words(
        lines=lines or ("OPEN",),
        font="heiti",
        ink="white",
        ink_rgb=(255, 255, 255),
        board=board,
        board_colour=None if board == "none" else "red",
        board_rgb=(200, 0, 0),
        size=0.8,
        x=0.5,
        y=0.5,
    )
    return Scene((), Background.plain("gray"), words=words)


def face(**changed: object) -> Scene:
    portrait = Portrait(
        skin="dark",
        hair="curly",
        hair_colour="black",
        glasses="round",
        hat="cap",
        hat_colour="red",
        beard=True,
        mouth="smiling",
        shirt="green",
        size=0.9,
        x=0.5,
        y=0.5,
    )
    return Scene((), Background.plain("white"), portrait=replace(portrait, **changed))


SCENES = [single(), count(), group(), pair(), pair("above"), pair("inside"), pair("front"), between()]
SCENES += [sign(), sign("SUMMER", "SALE"), sign("你好", board="none"), face()]


def many(scene: Scene, language: str, n: int = 300, atlas: Atlas | None = None, **options: str) -> set[str]:
    rng = np.random.default_rng(0)
    return {caption(scene, language, rng, atlas, **options) for _ in range(n)}


def varied(rng: np.random.Generator, atlas: Atlas) -> Iterator[Scene]:
    """Yield scenes as they are drawn, and among them signs and faces, on all backgrounds."""
    while True:
        yield sample_scene(rng, atlas)
        scene = SCENES[int(rng.integers(len(SCENES)))]
        kind = ("solid", "gradient", "radial", "ground", "stripes", "dots", "checks")[int(rng.integers(7))]
        yield replace(scene, background=Background.plain(COLOURS[int(rng.integers(11))], kind))


# phrasings


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: f"{scene.kind}-{scene.relation}")
def test_every_kind_of_scene_has_twenty_phrasings_and_more(scene: Scene, language: str) -> None:
    assert len(many(scene, language, 400, length="full")) >= 20
    assert len(many(scene, language, 400, length="long")) >= 20


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_list_is_without_a_phrasing_to_train_on(language: str) -> None:
    held_out = held_out_phrasings(language)
    for name, patterns in table(language).patterns.items():
        assert not set(patterns) <= held_out, name
        assert len(set(patterns)) < 5 or set(patterns) & held_out, name
        assert {one for one in patterns if is_held_out("phrasing", language, one)} <= held_out
        kept, other = (set(phrasings(language, (name,), split)) for split in ("train", "held_out"))
        assert kept == set(patterns) - held_out
        assert other == (set(patterns) & held_out or set(patterns))


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: f"{scene.kind}-{scene.relation}")
def test_held_out_phrasings_are_never_drawn_for_training(scene: Scene, language: str) -> None:
    for length in LENGTHS[1:]:
        trained = many(scene, language, 150, length=length)
        assert trained.isdisjoint(many(scene, language, 150, length=length, split="held_out"))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_held_out_instructions_and_questions_are_others(language: str, atlas: Atlas) -> None:
    edit = Edit(kind="recolour", source=single(), target=single(colour="green"), subject=0)
    rng = np.random.default_rng(0)
    drawn = {split: {instruction(edit, language, rng, split=split) for _ in range(200)} for split in SPLITS}
    assert len(drawn["train"]) >= 5
    assert drawn["train"].isdisjoint(drawn["held_out"])
    asked = {
        split: {question(single(), language, rng, split=split)[0] for _ in range(200)} for split in SPLITS
    }
    assert asked["train"].isdisjoint(asked["held_out"])


SPLITS = ("train", "held_out")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_edit_has_six_phrasings(language: str) -> None:
    patterns = table(language).patterns
    for name in patterns:
        assert not name.startswith("edit.") or len(set(patterns[name])) >= 6, name


# grammar


@pytest.mark.parametrize("language", LANGUAGES)
def test_captions_are_filled_in_and_not_too_long(language: str, atlas: Atlas) -> None:
    rng = np.random.default_rng(1)
    for _, scene in zip(range(600), varied(rng, atlas), strict=False):
        text = caption(scene, language, rng, atlas)
        assert text == text.strip()
        assert 0 < len(text.split()) <= 50, text
        assert len(text) <= (110 if language in ("zh", "ja") else 300), text
        assert not set("{}") & set(text), text
        assert "None" not in text
        assert "  " not in text
        assert not re.search(r",,|, ,|\.\.|: :|、、|，，|。。|的的|\bnone\b(?! of)", text), text


def test_english_articles_are_right(atlas: Atlas) -> None:
    rng = np.random.default_rng(2)
    odd = ("unicorn", "uniform", "ukulele", "hourglass", "one-piece")
    for _, scene in zip(range(3000), varied(rng, atlas), strict=False):
        text = caption(scene, "en", rng, atlas)
        wrong = re.findall(r"\b[Aa] ([aeiouAEIOU][\w-]*)|\b[Aa]n ([^aeiouAEIOU\s]\w*)", text)
        assert all((vowel or other) in odd for vowel, other in wrong), text
        assert not re.search(r"\b(one|a|an|1) \w+ are\b|\b(two|three|[2-9]) \w+ is\b|\ba an?\b", text), text


def test_sentences_of_long_captions_begin_with_capitals(atlas: Atlas) -> None:
    rng = np.random.default_rng(3)
    for _, scene in zip(range(300), varied(rng, atlas), strict=False):
        text = caption(scene, "en", rng, atlas, length="long")
        assert 24 <= len(text.split()) <= 50, text
        assert all(
            sentence[0].isupper() or sentence[0] in "0123456789\"“'" for sentence in text.split(". ")
        ), text
    lengths = [len(caption(scene, "zh", rng, atlas, length="long")) for scene in SCENES for _ in range(20)]
    assert 30 <= min(lengths) <= max(lengths) <= 100


def test_short_captions_are_a_few_words(atlas: Atlas) -> None:
    assert max(len(text.split()) for text in many(single(), "en", length="short")) <= 3
    assert "apple and dog" in many(pair(), "en", length="short")
    assert "苹果" in many(single(), "zh", length="short")
    assert "manzana" in many(single(), "es", length="short")


def test_counts_are_said_and_nouns_are_plural() -> None:
    for text in many(count(3), "en"):
        assert "apples" in text
        assert not re.search(r"\b(two|2)\b(?! (?:tones|shades))", text)
    assert any(text.startswith("nine apples") for text in many(count(9), "en"))
    assert any("两个苹果" in text for text in many(count(2), "zh"))
    assert not any("二个" in text for text in many(count(2), "zh"))
    assert any("九个苹果" in text for text in many(count(9), "zh"))
    assert all("7" in text for text in many(count(7), "ru"))


@pytest.mark.parametrize("language", LANGUAGES)
def test_full_captions_say_every_number(language: str) -> None:
    said = {"en": ("two green apples", "three dogs"), "zh": ("两个绿色", "三只狗")}.get(language, ("2", "3"))
    digits = {"en": ("2 green apples", "3 dogs")}.get(language, said)
    for text in many(group(), language, length="full"):
        assert all(word in text or digit in text for word, digit in zip(said, digits, strict=True)), text


def test_dyes_are_always_said_and_never_invented() -> None:
    assert all("green" in text for text in many(single(colour="green"), "en", length="full"))
    assert all("绿色" in text for text in many(single(colour="green"), "zh", length="full"))
    undyed = many(single(), "en")
    others = "|".join(set(COLOURS) - {"blue"})
    assert not any(re.search(rf"\b({others})\b", text) for text in undyed)


def test_natural_colours_are_said_only_with_an_atlas(atlas: Atlas) -> None:
    assert any("red apple" in text for text in many(single(), "en", atlas=atlas))
    assert not any(re.search(r"\bred\b", text) for text in many(single(), "en"))


@pytest.mark.parametrize("split", SPLITS)
def test_relations_are_said_the_right_way_round(split: str) -> None:
    for text in many(pair(), "en", split=split):
        if re.search(r"apple\b.*(to the left of|left of|on the left side of) (a|the) dog", text):
            continue
        if re.search(r"dog\b.*(to the right of|right of|on the right of) (a|the) green apple", text):
            continue
        assert not re.search(r"apple (to the )?right of|dog (to the )?left of", text), text
    for text in many(pair("front"), "en", split=split):
        assert not re.search(
            r"apple\b( is)? behind (a|the) dog|dog\b( is)? in front of (a|the) green apple", text
        )
    for text in many(pair("inside"), "en", split=split):
        said = re.findall(r"(apple|dog) (?:that is |is )?inside (?:a |the )?(?:green )?(apple|dog)", text)
        for found in said:
            assert found == ("apple", "dog"), text
    for text in many(pair(), "zh", split=split):
        if "狗的左边" in text or "狗左边" in text:
            assert "苹果" in text
        assert not re.search(r"狗在[^，]*苹果的?左边|苹果在[^，]*狗的?右边", text), text


def test_textures_and_tables_are_said() -> None:
    assert all(re.search("strip", text) for text in many(single(kind="stripes"), "en", length="full"))
    assert all(re.search("dot", text) for text in many(single(kind="dots"), "en", length="full"))
    assert all(re.search("check", text) for text in many(single(kind="checks"), "en", length="full"))
    assert all("条纹" in text for text in many(single(kind="stripes"), "zh", length="full"))
    ground = many(single(kind="ground"), "en")
    assert any("on a blue table" in text for text in ground)
    assert not any("background" in text for text in ground)
    assert any("auf blauem Hintergrund" in text for text in many(single(), "de"))
    assert any("青い背景" in text for text in many(single(), "ja"))


def test_background_is_nearly_always_said() -> None:
    rng = np.random.default_rng(0)
    said = np.mean(["blue" in caption(single(), "en", rng) for _ in range(500)])
    assert said > 0.8


def test_sizes_are_said_of_plainly_small_and_large_things() -> None:
    assert any("small apple" in text for text in many(single(size=0.3), "en"))
    assert any("large apple" in text for text in many(single(size=0.82), "en"))
    assert not any(
        re.search("small|large|big|tiny|huge", text) for text in many(single(), "en", length="full")
    )
    contrast = many(pair(sizes=(0.2, 0.4)), "en", length="full")
    assert any(re.search("(small|little|tiny) green apple", text) for text in contrast)
    assert not any(
        re.search("(small|little|tiny) dog|(large|big|huge) green apple", text) for text in contrast
    )
    assert any(
        "the apple is much smaller than the dog" in text.lower()
        for text in many(pair(sizes=(0.2, 0.4)), "en", length="long")
    )


def test_words_are_quoted_as_they_are_written() -> None:
    for language in LANGUAGES:
        for text in many(sign(), language, 100):
            assert re.search("[\"“„«»「『‘'] ?OPEN ?[\"”“«»」』’']", text), text
        assert any(
            re.search("SUMMER SALE|SUMMER / SALE", text) for text in many(sign("SUMMER", "SALE"), language)
        )
    assert all("red" in text and "white" in text for text in many(sign(), "en", length="full"))
    assert all(
        "white" in text and "red" not in text for text in many(sign(board="none"), "en", length="full")
    )
    assert any("红底白字" in text for text in many(sign(), "zh", length="full"))


def test_faces_are_described_whole() -> None:
    for text in many(face(), "en", length="full"):
        for said in (
            "smiling",
            "dark skin",
            "curly black hair",
            "a beard",
            "round glasses",
            "red cap",
            "green shirt",
        ):
            assert said in text
    plain = many(face(glasses="none", hat="none", beard=False, mouth="neutral"), "en")
    assert not any(re.search("glasses|cap|beard|neutral|none", text) for text in plain)
    assert all("bald" in text for text in many(face(hair="bald"), "en", length="full"))
    assert all("圆框眼镜" in text and "红色鸭舌帽" in text for text in many(face(), "zh", length="full"))
    assert all("gafas redondas" in text for text in many(face(), "es", length="full"))


def test_colours_stand_where_english_puts_them() -> None:
    assert english.noun(SCISSORS, "blue", "small") == "small pair of blue scissors"
    assert english.noun(JEANS, "red", many=True) == "pairs of red jeans"
    assert english.noun(APPLE, "green") == "green apple"
    assert english.joined(["a", "b", "c"]) == "a, b and c"


def test_colours_and_sizes_stand_where_chinese_puts_them() -> None:
    rng = np.random.default_rng(0)
    found = {chinese.noun(rng, APPLE, "red", size) for size in ("小", "很大的") for _ in range(9)}
    assert found == {"红色的小苹果", "红色小苹果", "很大的红色的苹果", "很大的红色苹果"}


def test_labels_in_other_languages() -> None:
    assert any(text.startswith("manzana (verde)") for text in many(single(colour="green"), "es"))
    assert any("りんご" in text or "リンゴ" in text for text in many(single(), "ja"))
    left = many(pair(), "es", length="full")
    assert any("a la izquierda: manzana (verde), a la derecha: perro" in text for text in left)
    assert not any("a la derecha: manzana" in text for text in left)


def test_unknown_names_are_refused() -> None:
    rng = np.random.default_rng(0)
    for call in (caption, question, edit_instruction):
        with pytest.raises(DataError, match="tlh"):
            call(single(), "tlh", rng)
    with pytest.raises(DataError, match="endless"):
        caption(single(), "en", rng, length="endless")


# labels


def test_facts_are_the_state(atlas: Atlas) -> None:
    labels = facts(pair())
    codes = list(concepts())
    assert labels.concepts == (codes.index(APPLE), codes.index(DOG))
    assert labels.counts == (1, 1)
    assert labels.colours == (COLOURS.index("green"), -1)
    assert labels.background == COLOURS.index("orange")
    assert labels.relation == 0
    assert facts(count(3)).counts == (3,)
    assert facts(group()).counts == (2, 3)
    assert len(facts(between()).concepts) == 2
    assert facts(sign()).concepts == facts(face()).colours == ()
    assert facts(single(), atlas).colours == (COLOURS.index("red"),)


def test_both_ways_of_saying_a_relation_have_the_same_labels() -> None:
    assert ordered(facts(pair("left"))) == facts(pair("left"))
    turned = replace(pair("right"), things=pair("left").things[::-1])
    assert ordered(facts(turned)) == facts(pair("left"))
    for relation in ("inside", "front"):
        assert RELATIONS[ordered(facts(pair(relation))).relation] == relation


# edits and questions


@pytest.mark.parametrize("language", LANGUAGES)
def test_instructions_are_filled_in(language: str, atlas: Atlas) -> None:
    rng = np.random.default_rng(3)
    kinds = set()
    for _, scene in zip(range(400), varied(rng, atlas), strict=False):
        text, edit = edit_instruction(scene, language, rng, atlas)
        kinds.add(edit.kind)
        assert text == text.strip()
        assert text
        assert not set("{}") & set(text)
        assert not re.search(r"None|  |\ba [aeio]", text), text
        assert len(text.split()) <= 30
    assert len(kinds) == 12


def test_each_instruction_names_what_changes(atlas: Atlas) -> None:
    rng = np.random.default_rng(4)
    for _, scene in zip(range(1500), varied(rng, atlas), strict=False):
        edit = sample_edit(scene, rng, atlas)
        text, after = instruction(edit, "en", rng), edit.target
        named = (
            nouns()[after.things[min(edit.subject, len(after.things) - 1)].concept] if after.things else None
        )
        match edit.kind:
            case "add" | "replace":
                assert named.english in text or named.plural in text
                assert edit.direction is None or re.search(
                    {"left": "left", "right": "right", "above": "above|over", "below": "below|under"}[
                        edit.direction
                    ],
                    text,
                )
            case "remove":
                assert nouns()[edit.source.things[edit.subject].concept].english.split()[-1] in text
            case "recolour":
                assert after.things[edit.subject].colour in text
            case "background":
                assert after.background.colour in text
            case "style":
                assert style_of(after) in text
            case "text":
                assert all(line in text for line in after.words.lines)
            case "resize":
                smaller = after.things[edit.subject].size < edit.source.things[edit.subject].size
                assert bool(re.search("small|shrink|reduce|down", text)) == smaller, text
            case "swap":
                assert all(nouns()[one.concept].english.split()[-1] in text for one in after.things)


def test_answers_are_true(atlas: Atlas) -> None:
    rng = np.random.default_rng(5)

    def asked(scene: Scene, language: str = "en") -> set[tuple[str, str]]:
        return {question(scene, language, rng) for _ in range(500)}

    answers = asked(pair())
    assert ("what do you see to the right of the apple?", "a dog") in answers
    assert ("which thing is to the left of the dog?", "a green apple") in answers
    assert ("what colour is the apple?", "green") in answers
    assert ("what colour is the background?", "orange") in answers
    assert ("is there a dog in the picture?", "yes") in answers
    assert not any(text.startswith("is there a dog") and answer == "no" for text, answer in answers)
    assert ("what do you see behind the apple?", "a dog") in asked(pair("front"))
    assert ("what is between the dog and the cat?", "an apple") in asked(between())
    assert ("what is the number of apples?", "three") in asked(count())
    assert ("what is the number of dogs?", "three") in asked(group())
    assert ("有几个苹果？", "三个") in asked(count(), "zh")
    assert ("¿Qué hay a la izquierda?", "manzana (verde)") in asked(pair(), "es")
    assert ("what does the sign say?", "SUMMER SALE") in asked(sign("SUMMER", "SALE"))
    assert ("牌子上写着什么？", "OPEN") in asked(sign(), "zh")
    assert ("what colour are the letters?", "white") in asked(sign())
    assert ("is the person wearing glasses?", "yes, round glasses") in asked(face())
    assert ("what colour is the shirt?", "green") in asked(face())
    assert ("does the person have a beard?", "no") in asked(face(beard=False))


@pytest.mark.parametrize("language", LANGUAGES)
def test_questions_of_all_scenes_have_answers(language: str, atlas: Atlas) -> None:
    rng = np.random.default_rng(6)
    for _, scene in zip(range(400), varied(rng, atlas), strict=False):
        asked, answer = question(scene, language, rng, atlas)
        assert asked
        assert answer
        assert not set("{}") & set(asked + answer)
        assert "None" not in asked + answer


def test_no_colour_is_asked_that_is_not_certain() -> None:
    rng = np.random.default_rng(6)
    assert not any("apple" in question(single(), "en", rng)[0].partition("colour")[2] for _ in range(200))
