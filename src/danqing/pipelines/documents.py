"""Layers as a file that painting programs open: OpenRaster (GIMP, Krita, MyPaint).

It is a zip of PNGs and a list of them: the baseline of the OpenRaster specification, version 0.0.6.
"""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from PIL import Image

_THUMBNAIL = 256  # pixels a side that the specification allows


def flatten(layers: Sequence[Image.Image]) -> Image.Image:
    """Return RGBA layers, the lowest first, laid over each other."""
    flat = layers[0].convert("RGBA")
    for layer in layers[1:]:
        flat = Image.alpha_composite(flat, layer)
    return flat


def write_openraster(path: Path, layers: Sequence[Image.Image]) -> None:
    """Write RGBA layers of one size, the lowest first."""
    width, height = layers[0].size
    image = ElementTree.Element("image", version="0.0.6", w=str(width), h=str(height))
    stack = ElementTree.SubElement(image, "stack")
    for number in range(len(layers), 0, -1):  # the topmost first
        values = {"name": f"Layer {number}", "src": f"data/layer{number}.png", "x": "0", "y": "0"}
        ElementTree.SubElement(stack, "layer", {**values, "opacity": "1.0", "composite-op": "svg:src-over"})
    flat = flatten(layers)
    thumbnail = flat.copy()
    thumbnail.thumbnail((_THUMBNAIL, _THUMBNAIL))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:  # PNGs are compressed already
        archive.writestr("mimetype", "image/openraster")  # must be first, and stored
        archive.writestr("stack.xml", ElementTree.tostring(image, encoding="UTF-8", xml_declaration=True))
        for number, layer in enumerate(layers, 1):
            archive.writestr(f"data/layer{number}.png", _png(layer))
        archive.writestr("mergedimage.png", _png(flat))
        archive.writestr("Thumbnails/thumbnail.png", _png(thumbnail))


def _png(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "png")
    return stream.getvalue()
