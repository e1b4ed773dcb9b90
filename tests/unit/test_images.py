"""Pictures: 8 bits and pixels, and the parameters that travel in files."""

import copy
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from danqing.conditioning.images import describe_picture, sheet, to_pictures, to_pixels

PARAMETERS = {
    "model": "tiny",
    "prompt": "一个红苹果 on a “blue” table",
    "negative_prompt": "blurry",
    "size": (4, 2),
    "steps": 3,
    "guidance": 4.0,
    "seed": 7,
    "count": 1,
    "solver": "euler",
}


@pytest.fixture
def labelled():
    return describe_picture(Image.new("RGB", (4, 2), "red"), PARAMETERS)


def reopened(file):
    with Image.open(file) as picture:
        picture.load()
        return picture


def assert_labelled(picture):
    stored = json.loads(picture.info["danqing"])
    assert stored == {**PARAMETERS, "size": [4, 2]}
    assert picture.info["parameters"] == (
        "一个红苹果 on a “blue” table\nNegative prompt: blurry\n"
        "Steps: 3, Sampler: Euler, CFG scale: 4, Seed: 7, Size: 4x2, Model: tiny"
    )


def test_pixels_and_pictures_are_inverse():
    values = np.arange(256, dtype=np.uint8).reshape(1, 8, 8, 4)
    pixels = to_pixels(values)
    assert pixels.shape == (1, 4, 8, 8)
    assert pixels.min() == -1
    assert pixels.max() == 1
    assert np.array_equal(np.asarray(to_pictures(pixels)[0]), values[0])


def test_pictures_are_clamped():
    picture = to_pictures(torch.tensor([-7.0, 7.0]).view(1, 1, 1, 2).expand(1, 3, 1, 2))[0]
    assert np.asarray(picture).tolist() == [[[0, 0, 0], [255, 255, 255]]]


def test_a_sheet_holds_every_picture():
    page = sheet(torch.linspace(-1, 1, 5).view(5, 1, 1, 1).expand(5, 3, 4, 6), columns=2)
    assert page.size == (6 * 2 + 2, 4 * 3 + 2 * 2)
    assert page.getpixel((0, 0)) == (0, 0, 0)
    assert page.getpixel((8, 6)) == (191, 191, 191)


def test_a_png_carries_its_parameters(labelled, tmp_path):
    labelled.save(tmp_path / "a.png")
    labelled.save(str(tmp_path / "b.PNG"))
    buffer = io.BytesIO()
    labelled.save(buffer, "png")
    with (tmp_path / "c.png").open("wb") as file:
        labelled.save(file)
    for file in (tmp_path / "a.png", tmp_path / "b.PNG", tmp_path / "c.png", buffer):
        picture = reopened(file)
        assert_labelled(picture)
        assert picture.tobytes() == labelled.tobytes()


def test_other_formats_are_saved(labelled, tmp_path):
    for name in ("a.jpg", "a.webp", "a.bmp"):
        labelled.save(tmp_path / name)
        assert reopened(tmp_path / name).size == (4, 2)


def test_given_text_is_kept(labelled):
    from PIL.PngImagePlugin import PngInfo

    own, buffer = PngInfo(), io.BytesIO()
    own.add_text("Author", "me")
    labelled.save(buffer, "png", pnginfo=own)
    assert reopened(buffer).info == {"Author": "me"}


def test_a_cleared_picture_carries_nothing(labelled):
    labelled.info.clear()
    for kind in ("png", "jpeg"):
        buffer = io.BytesIO()
        labelled.save(buffer, kind)
        assert "parameters" not in reopened(buffer).info


@pytest.mark.parametrize(
    "change",
    [
        lambda picture: picture.copy(),
        lambda picture: picture.convert("L"),
        lambda picture: picture.resize((8, 8)),
        lambda picture: picture.crop((0, 0, 2, 2)),
        lambda picture: picture.rotate(90),
        copy.copy,
        copy.deepcopy,
    ],
    ids=["copy", "convert", "resize", "crop", "rotate", "copy.copy", "copy.deepcopy"],
)
def test_changed_pictures_work_like_any_other(labelled, change):
    changed = change(labelled)
    assert_labelled(changed)
    buffer = io.BytesIO()
    changed.save(buffer, "png")
    assert reopened(buffer).size == changed.size
    assert np.asarray(changed).shape[:2] == changed.size[::-1]


def test_labelling_leaves_the_picture_alone():
    plain = Image.new("RGB", (4, 2), "red")
    labelled = describe_picture(plain, PARAMETERS)
    assert plain.info == {}
    assert labelled.tobytes() == plain.tobytes()
    assert labelled == plain or labelled.mode == plain.mode


def test_no_negative_prompt_is_written_when_there_is_none():
    picture = describe_picture(Image.new("RGB", (4, 2)), {**PARAMETERS, "negative_prompt": " "})
    assert "Negative" not in picture.info["parameters"]
