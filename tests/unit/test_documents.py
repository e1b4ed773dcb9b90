"""Layers as a file of painting programs: what is written is what is read back."""

import zipfile
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from danqing.pipelines.documents import flatten, write_openraster


@pytest.fixture
def layers():
    """Return a grey ground, a red square with a hole in it and noise of every transparency."""
    ground = Image.new("RGBA", (300, 20), (90, 90, 90, 255))
    square = Image.new("RGBA", (300, 20), (0, 0, 0, 0))
    square.paste((255, 0, 0, 255), (10, 5, 60, 15))
    square.paste((0, 0, 0, 0), (20, 8, 30, 12))
    noise = np.random.default_rng(0).integers(0, 256, (20, 300, 4), dtype=np.uint8)
    return [ground, square, Image.fromarray(noise)]


def same(a, b):
    return a.size == b.size and np.array_equal(np.asarray(a.convert("RGBA")), np.asarray(b.convert("RGBA")))


def test_the_first_layer_is_the_lowest(layers):
    flat = flatten(layers[:2])
    assert flat.getpixel((15, 6)) == (255, 0, 0, 255)
    assert flat.getpixel((25, 10)) == flat.getpixel((100, 10)) == (90, 90, 90, 255)


def test_openraster(layers, tmp_path):
    path = tmp_path / "poster.ora"
    write_openraster(path, layers)
    with zipfile.ZipFile(path) as archive:
        first = archive.infolist()[0]
        assert first.filename == "mimetype"
        assert first.compress_type == zipfile.ZIP_STORED
        assert archive.read("mimetype") == b"image/openraster"
        stack = ElementTree.fromstring(archive.read("stack.xml"))
        assert (stack.get("w"), stack.get("h")) == ("300", "20")
        sources = [layer.get("src") for layer in stack.iter("layer")]  # the topmost first
        read = [Image.open(archive.open(source)) for source in reversed(sources)]
        assert all(same(*pair) for pair in zip(read, layers, strict=True))
        assert same(Image.open(archive.open("mergedimage.png")), flatten(layers))
        assert max(Image.open(archive.open("Thumbnails/thumbnail.png")).size) == 256
