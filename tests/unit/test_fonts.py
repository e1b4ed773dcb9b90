"""Fonts of signs and captions: nothing is missing, licences are there, every language is set properly."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from fontTools.ttLib import TTFont
from PIL import Image

import danqing.data.fonts as fonts
from danqing.data import LANGUAGES, caption, sample_scene
from danqing.data.atlas import packaged_atlas
from danqing.data.fonts import CAPTION_FACES, FONTS, MAX_BYTES, caption_characters, font
from danqing.data.lettering import caption_picture, runs, wrap
from danqing.data.preview import preview, preview_edits
from danqing.data.world.boards import words_tile
from danqing.data.world.edits import Edit
from danqing.data.world.render import render
from danqing.data.world.scene import Background, Scene, Words
from danqing.data.world.split import held_out_words
from danqing.data.world.vocabulary import all_words, vocabulary
from danqing.data.world.words import another_text, sample_words
from danqing.errors import DataError

FOLDER = Path(fonts.__file__).parent / "fonts"
FACES = (*FONTS, *CAPTION_FACES)


@cache
def characters(name: str) -> set[str]:
    with TTFont(FOLDER / f"{name}.ttf") as face:
        return {chr(code) for code in face.getBestCmap()}


def test_fonts_are_few_and_small_and_each_has_its_licence() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {"LICENSE", *(f"{face.name}.ttf" for face in FACES)}
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= MAX_BYTES
    licence = (FOLDER / "LICENSE").read_text("utf-8")
    for face in FACES:
        assert f"{face.name}.ttf: {face.source.attribution} ({face.source.licence})\n" in licence
    assert licence.count("SIL OPEN FONT LICENSE Version 1.1") == 1
    assert "Apache License\n" in licence


def test_no_subset_bears_a_reserved_name() -> None:
    for face in FACES:
        with TTFont(FOLDER / f"{face.name}.ttf") as file:
            notice, family = str(file["name"].getDebugName(0)), str(file["name"].getDebugName(1))
        reserved = notice.partition("Reserved Font Name")[2].strip(" .'\"")
        assert not reserved or reserved not in family


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_character_of_the_tables_can_be_set(language: str) -> None:
    missing = "build the fonts again: danqing.data.fonts.build_fonts()"
    for character in sorted(caption_characters(language)):
        ((_, name),) = runs(character, language)
        assert character in characters(name), f"{character!r} is not in {name}; {missing}"


@pytest.mark.parametrize("language", LANGUAGES)
def test_captions_with_quoted_words_can_be_set(language: str) -> None:
    atlas, rng = packaged_atlas(), np.random.default_rng(3)
    for kind in ("words", "portrait", "pair", "count"):
        for _ in range(10):
            text = caption(sample_scene(rng, atlas, shares={kind: 1.0}), language, rng, atlas)
            for part, name in runs(text, language):
                assert not set(part) - characters(name), text


def test_arabic_runs_from_the_right_and_is_joined() -> None:
    word = caption_picture("تفاحة", "ar", 200)
    inked = np.flatnonzero((np.asarray(word) < 128).any((0, 2)))
    assert inked[0] > 140
    joined, apart = (
        font("arabic", 40).getlength(text) for text in ("تفاحة", "ت ف ا ح ة".replace(" ", "\u200c"))
    )
    assert joined < apart


@pytest.mark.parametrize(("language", "text"), [("en", "a red apple " * 9), ("zh", "一个红色的苹果，" * 6)])
def test_lines_fit_the_picture_and_lose_nothing(language: str, text: str) -> None:
    lines = wrap(text, language, 160, 13)
    assert len(lines) > 2
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert not any(line.startswith(("，", " ")) for line in lines)
    assert caption_picture(text, language, 160, lines=2).height < 50
    assert all(caption_picture(line, language, 160).height < 25 for line in lines)


def test_a_language_or_font_that_is_not_there_is_refused() -> None:
    with pytest.raises(DataError, match="expected a language"):
        caption_picture("x", "tlh", 100)
    with pytest.raises(DataError, match="expected a font"):
        font("gothic", 12)


def test_words_are_many_and_short() -> None:
    latin, chinese = all_words("latin"), all_words("chinese")
    assert len(set(latin)) == len(latin) >= 1500
    assert len(set(chinese)) == len(chinese) >= 800
    assert all(word.isalpha() and word.isascii() and word.isupper() and 3 <= len(word) <= 8 for word in latin)
    assert all(1 <= len(word) <= 4 for word in chinese)
    hidden = held_out_words(vocabulary())
    assert len(hidden) == 200
    assert sum(word.isascii() for word in hidden) == pytest.approx(130, abs=15)


def test_held_out_words_are_never_written() -> None:
    rng, hidden = np.random.default_rng(0), held_out_words(vocabulary())
    drawn = [line for _ in range(20_000) for line in sample_words(rng).lines]
    assert not hidden & set(drawn)
    single = [line for line in drawn if len(line) == 1 and line.isascii()]
    assert len(set(single)) == 26


def test_another_text_fits_the_same_board() -> None:
    rng = np.random.default_rng(1)
    for _ in range(60):
        words = sample_words(rng)
        other = another_text(rng, words)
        assert all(new != old for new, old in zip(other.lines, words.lines, strict=True))
        assert (other.x, other.y, other.board, other.font) == (words.x, words.y, words.board, words.font)
        if words.board != "none":
            assert other.size == words.size
            assert np.array_equal(words_tile(other)[..., 3], words_tile(words)[..., 3])


@pytest.mark.parametrize("line", ["STOP", "WISDOM", "HALLO", "X"])
@pytest.mark.parametrize("board", ["sign", "poster", "sticker", "none"])
def test_capitals_are_thirteen_pixels_high_in_the_picture(line: str, board) -> None:
    words = Words(
        lines=(line,),
        font="bold",
        ink="black",
        ink_rgb=(0, 0, 0),
        board=board,
        board_colour=None if board == "none" else "white",
        board_rgb=(255, 255, 255),
        size=0.9,
        x=0.5,
        y=0.5,
    )
    picture = render(Scene((), Background.plain("yellow"), words=words), packaged_atlas())
    dark = (picture < 90).all(-1)
    dark[:, [0, -1]] = False
    middle = dark[: 64 if board == "sign" else 128, 20:108] if board == "sign" else dark
    rows = np.flatnonzero(middle.any(1))
    assert rows[-1] - rows[0] + 1 >= 13


def test_sheets_show_scenes_and_edits_in_any_language(tmp_path: Path) -> None:
    scene = Scene((), Background.plain("red"), words=sample_words(np.random.default_rng(0), ("red",)))
    after = Scene((), Background.plain("blue"), words=scene.words)
    edit = Edit(kind="background", source=scene, target=after, subject=0)
    for language in LANGUAGES:
        path = preview_edits(
            [edit] * 3, ["x " * 40, "y", "z"], tmp_path / "e.png", columns=2, language=language
        )
        with Image.open(path) as sheet:
            assert sheet.width == 2 * (2 * 160 + 22 + 8) + 8
    with Image.open(preview([scene] * 3, ["a"] * 3, tmp_path / "s.png", columns=2)) as sheet:
        assert sheet.width == 2 * 168 + 8
        assert sheet.getpixel((10, 10))[0] > 150
    with pytest.raises(DataError, match="as many instructions"):
        preview_edits([edit], [], tmp_path / "none.png")
