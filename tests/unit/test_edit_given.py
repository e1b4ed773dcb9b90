"""Pictures from users: opened within limits, upright, opaque, or refused in one line."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from danqing.conditioning import given
from danqing.conditioning.given import GivenPicture, open_mask, open_picture
from danqing.errors import RequestError
from tests.editor import noisy


def saved(image, kind, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "TIFF", "GIF", "JPEG"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
def test_every_format_opens_as_rgb(kind, mode):
    if (kind, mode) in {("JPEG", "P"), ("JPEG", "1")}:
        pytest.skip("no such files")
    source = noisy(9, 7).convert(mode)
    options = {"lossless": True} if kind == "WEBP" else {}
    opened = open_picture(saved(source, kind, **options)).image
    assert (opened.mode, opened.size) == ("RGB", (9, 7))
    if kind not in ("JPEG", "GIF"):
        assert np.array_equal(np.asarray(opened), np.asarray(source.convert("RGB")))


def test_transparency_lies_over_white_and_in_a_mask_over_black():
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert open_picture(clear).image.getpixel((0, 0)) == (255, 255, 255)
    assert open_mask(Image.new("LA", (4, 4), (255, 0))).image.getpixel((0, 0)) == 0
    palette = noisy(4, 4).convert("P")
    palette.info["transparency"] = palette.getpixel((0, 0))
    assert open_picture(saved(palette, "PNG", transparency=palette.getpixel((0, 0)))).image.getpixel(
        (0, 0)
    ) == (255, 255, 255)


def test_a_turned_photo_is_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    opened = open_picture(saved(noisy(8, 4), "PNG", exif=exif)).image
    assert opened.size == (4, 8)
    assert np.array_equal(np.asarray(opened), np.rot90(np.asarray(noisy(8, 4)), -1))


def test_an_animation_is_its_first_frame():
    frames = [Image.new("RGB", (5, 5), colour) for colour in ("red", "blue")]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert open_picture(data).image.getpixel((0, 0)) == (255, 0, 0)


def test_sixteen_bits_keep_their_contrast():
    grey = np.linspace(0, 65535, 16, dtype=np.uint16).reshape(4, 4)
    opened = np.asarray(open_picture(saved(Image.fromarray(grey), "PNG")).image)[..., 0]
    assert np.array_equal(opened, (grey / 257).round())


def test_what_is_open_stays_and_keeps_its_name(tmp_path):
    noisy(4, 4).save(tmp_path / "cat.png")
    opened = open_picture(tmp_path / "cat.png")
    assert opened.name == "cat.png"
    assert open_picture(opened) is opened
    assert open_picture(str(tmp_path / "cat.png"), name="a").name == "a"
    assert open_mask(opened) == GivenPicture(image=opened.image.convert("L"), name="cat.png")


def test_limits_hold_before_anything_is_decoded(tmp_path, monkeypatch):
    noisy(20, 10).save(tmp_path / "large.png")
    monkeypatch.setattr(given, "MAX_PIXELS", 100)
    monkeypatch.setattr(Image.Image, "load", None)
    with pytest.raises(RequestError, match=r"large.png: expected at most 100 pixels, found 20x10"):
        open_picture(tmp_path / "large.png")
    monkeypatch.setattr(given, "MAX_BYTES", 100)
    with pytest.raises(RequestError, match=r"large.png: expected at most 100 bytes, found more"):
        open_picture(tmp_path / "large.png")


def test_a_bomb_is_one_line():
    png = saved(Image.new("1", (1, 1)), "PNG")
    header = png[12:16] + (60_000).to_bytes(4, "big") * 2 + png[24:29]  # says 60,000 x 60,000 pixels
    bomb = png[:12] + header + zlib.crc32(header).to_bytes(4, "big") + png[33:]
    with pytest.raises(RequestError, match="picture: expected") as caught:
        open_picture(bomb)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no such format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no such format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no such format"),
        (b"\x89PNG\r\n\x1a\n", "expected a whole picture"),
        (saved(noisy(64, 64), "PNG")[:-2000], "expected a whole picture"),
        (saved(noisy(64, 64), "JPEG")[:-500], "expected a whole picture"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, content, said):
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(RequestError, match=said) as caught:
        open_picture(tmp_path / "x.png")
    assert "x.png" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about EXIF
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_damaged_files_open_or_are_refused_and_nothing_else(kind):
    whole = bytearray(saved(noisy(16, 16), kind))
    random = np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(whole)
        for place in random.integers(0, len(whole), 4):
            damaged[place] = random.integers(0, 256)
        try:
            open_picture(bytes(damaged[: random.integers(1, len(whole) + 1)]))
        except RequestError:
            continue


def test_what_is_no_picture_is_refused(tmp_path):
    with pytest.raises(RequestError, match=r"no.png: expected a picture, found no file"):
        open_picture(tmp_path / "no.png")
    with pytest.raises(RequestError, match="expected a whole picture"):
        open_picture(tmp_path)
    with pytest.raises(RequestError, match="found floating-point numbers"):
        open_picture(Image.new("F", (4, 4)))
