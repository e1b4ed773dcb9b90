"""Words and letters drawn on boards are read back; needs the extra `evaluate`."""

import sys
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageFont

import danqing
from danqing.errors import DataError, ResourceError
from danqing.scoring.ocr import Reader, match_glyph, text_accuracy, words_match

FONTS = Path(danqing.__file__).parent / "data" / "fonts"
PLAIN, BOLD, CHINESE = FONTS / "plain.ttf", FONTS / "bold.ttf", FONTS / "heiti.ttf"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def sign(words, *, font=BOLD, height=16, board="navy", ink="white", at=(64, 64), behind="tan") -> Image.Image:
    """Draw words on a board, 128 x 128; `height` is that of the words in pixels."""
    picture = Image.new("RGB", (128, 128), behind)
    add_sign(picture, words, font, height, board, ink, at)
    return picture


def add_sign(picture, words, font, height, board, ink, at) -> None:
    draw = ImageDraw.Draw(picture)
    probe = ImageFont.truetype(str(font), 100).getbbox(words)
    face = ImageFont.truetype(str(font), 100 * height / (probe[3] - probe[1]))
    left, top, right, bottom = draw.textbbox(at, words, font=face, anchor="mm")
    draw.rectangle((left - 6, top - 6, right + 6, bottom + 6), fill=board)
    draw.text(at, words, font=face, fill=ink, anchor="mm")


def blurred(picture: Image.Image) -> Image.Image:
    return picture.filter(ImageFilter.GaussianBlur(1))


def squeezed(picture: Image.Image) -> Image.Image:
    file = BytesIO()
    picture.save(file, "JPEG", quality=75)
    return Image.open(file)


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader()


@pytest.mark.parametrize("wear", [Image.Image.copy, blurred, squeezed], ids=["plain", "blurred", "jpeg"])
@pytest.mark.parametrize(
    ("words", "look"),
    [
        ("OPEN", {"height": 8}),
        ("BAKERY", {"font": PLAIN, "board": "gold", "ink": "black"}),
        ("XQJVW", {"height": 20, "board": "darkred", "ink": "khaki"}),
        ("TEA", {"height": 40, "board": "white", "ink": "blue"}),
        ("茶", {"font": CHINESE, "height": 12}),
        ("书店", {"font": CHINESE, "height": 30, "board": "white", "ink": "red"}),
        ("福", {"font": CHINESE, "height": 90, "board": "red", "ink": "gold"}),
    ],
)
def test_the_word_of_a_sign_is_read(words, look, wear, reader):
    assert words_match(reader.read(wear(sign(words, **look))), words)


def test_lines_are_read_from_top_to_bottom_and_from_left_to_right(reader):
    picture = sign("OPEN", at=(28, 30), height=10)
    for words, at in (("CAFE", (100, 27)), ("DAILY", (50, 80))):
        add_sign(picture, words, BOLD, 10, "darkred", "white", at)
    assert reader.read(picture) == ("OPEN", "CAFE", "DAILY")
    boxes = [line.box for line in reader.find(picture)]
    for (left, top, right, bottom), (x, y) in zip(boxes, ((28, 30), (100, 27), (50, 80)), strict=True):
        assert left < x < right
        assert top < y < bottom


def test_arrays_and_images_of_any_size_read_alike(reader):
    picture = sign("MUSIC")
    large = picture.resize((700, 700))
    assert reader.read(np.asarray(picture)) == reader.read(large) == ("MUSIC",)
    assert reader.read(sign("SALE", ink="red", board="cyan")) == ("SALE",)  # channels in their order


def test_a_picture_without_words_has_none(reader):
    assert reader.read(np.full((128, 128, 3), 200, np.uint8)) == ()
    assert reader.read_letter(np.full((128, 128, 3), 200, np.uint8), LETTERS, [BOLD]) is None


@pytest.mark.parametrize("wear", [Image.Image.copy, blurred, squeezed], ids=["plain", "blurred", "jpeg"])
def test_single_letters_are_told_apart(wear, reader):
    looks = [("navy", "white"), ("gold", "black"), ("darkgreen", "yellow")]
    for i, letter in enumerate("AEIJMOQR"):
        board, ink = looks[i % 3]
        picture = wear(sign(letter, font=(PLAIN, BOLD)[i % 2], height=24, board=board, ink=ink))
        assert reader.read_letter(picture, LETTERS, [PLAIN, BOLD]) == letter


@pytest.mark.parametrize("height", [3, 5, 7])
def test_a_letter_too_small_to_tell_is_no_error(height, reader):
    picture = blurred(blurred(sign("E", height=height)))
    assert reader.read_letter(picture, LETTERS, [BOLD]) in (None, *LETTERS)


def test_a_letter_is_matched_in_a_crop_of_its_board():
    crop = sign("R", board="white", ink="purple", behind="white", height=30).crop((40, 40, 88, 88))
    assert match_glyph(crop, LETTERS, [PLAIN, BOLD]) == "R"
    with pytest.raises(DataError, match="found none"):
        match_glyph(np.full((40, 40, 3), 90, np.uint8), LETTERS, [BOLD])
    with pytest.raises(DataError, match="found 0 and 1"):
        match_glyph(crop, "", [BOLD])
    with pytest.raises(DataError, match="expected a font at"):
        match_glyph(crop, "AB", [FONTS / "missing.ttf"])


@pytest.mark.parametrize(
    ("found", "wanted", "match"),
    [
        (["Open"], "OPEN", True),
        (["OPEN", "DAILY"], "open daily", True),
        (["ＯＰＥＮ"], "open", True),  # full width
        (["OPEN", "JUL 17"], "OPEN", True),  # another text below
        (["OP", "EN"], "OPEN", True),  # one word found in two pieces
        (["OPENED"], "OPEN", False),
        (["OPEN"], "OPEN DAILY", False),
        (["書店"], "书店", False),  # traditional characters are others
        ([], "OPEN", False),
    ],
)
def test_words_match_whatever_their_case_width_and_spaces(found, wanted, match):
    assert words_match(found, wanted) is match


def test_words_to_look_for_must_be_given():
    with pytest.raises(DataError, match="found ' '"):
        words_match(["OPEN"], " ")


def test_text_accuracy_counts_wrong_missing_and_extra_letters():
    assert text_accuracy(["Open"], "OPEN") == 1
    assert text_accuracy(["OPFN"], "OPEN") == 0.75
    assert text_accuracy(["OPE"], "OPEN") == 0.75
    assert text_accuracy(["OPEN", "NOW!"], "OPEN") == 0.5
    assert text_accuracy(["kitten"], "sitting") == pytest.approx(1 - 3 / 7)
    assert text_accuracy([], "OPEN") == 0
    assert text_accuracy([], "") == 1


def test_pictures_must_be_rgb_bytes(reader):
    with pytest.raises(DataError, match=r"uint8, found \(128, 128\)"):
        reader.read(np.zeros((128, 128), np.uint8))


@contextmanager
def events(names: set[str]):
    """Collect the audit events of these names; a hook stays for good, so it is told when to stop."""
    seen, active = [], True

    def hook(name, arguments):
        if active and name in names:
            seen.append((name, arguments))

    sys.addaudithook(hook)
    try:
        yield seen
    finally:
        active = False


def test_reading_is_quiet_and_touches_neither_network_nor_files(capfd):
    with events({"open", "socket.connect", "socket.getaddrinfo", "os.mkdir"}) as seen:
        fresh = Reader()
        assert fresh.read(sign("QUIET")) == ("QUIET",)
        assert fresh.read(np.zeros((64, 64, 3), np.uint8)) == ()
    written = [one for one in seen if one[0] != "open" or set(str(one[1][1] or "r")) & set("wax+")]
    assert written == []
    assert capfd.readouterr() == ("", "")


def test_without_the_extra_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    with pytest.raises(ResourceError, match=r"'rapidocr'; run `pip install danqing\[evaluate\]`"):
        Reader()
