"""Pictures carry what they were drawn with, in every format the command line writes."""

import json

import pytest
from PIL import Image

from danqing.conditioning.images import describe_picture, picture_parameters

DRAWN = {
    "model": "nano",
    "prompt": "一只红色的苹果 🍎",
    "negative_prompt": "blurry",
    "size": [8, 8],
    "steps": 4,
    "guidance": 2.5,
    "seed": 7,
    "solver": "euler",
}
NUMBERS = "Steps: 4, Sampler: Euler, CFG scale: 2.5, Seed: 7, Size: 8x8, Model: nano"
TEXT = f"一只红色的苹果 🍎\nNegative prompt: blurry\n{NUMBERS}"


def saved(path, parameters):
    describe_picture(Image.new("RGB", (8, 8)), parameters).save(path)
    with Image.open(path) as picture:
        return picture_parameters(picture)


def test_png_holds_both_forms(tmp_path):
    found = saved(tmp_path / "a.png", DRAWN)
    assert json.loads(found["danqing"]) == DRAWN
    assert found["parameters"] == TEXT


@pytest.mark.parametrize("name", ["a.jpg", "a.jpeg", "a.webp", "A.JPG"])
def test_others_hold_the_text_as_exif_comment(tmp_path, name):
    assert saved(tmp_path / name, DRAWN) == {"parameters": TEXT}


@pytest.mark.parametrize("character", ["苹", "🍎"])
def test_a_text_too_long_for_exif_keeps_its_numbers(tmp_path, character):
    long = {**DRAWN, "prompt": character * 20_000, "negative_prompt": character * 20_000}
    text = saved(tmp_path / "a.jpg", long)["parameters"]
    assert text.startswith(character * 100)
    assert " … " in text
    assert text.endswith(NUMBERS)


def test_other_pictures_say_nothing(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture_parameters(picture) == {}
