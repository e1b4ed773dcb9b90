"""A contact sheet of scenes with their captions, to look at the data with one's own eyes."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from danqing.errors import DataError

_CELL: Final = 160
_LINES: Final = 4


def preview(pictures: Sequence[np.ndarray], captions: Sequence[str], out: Path | str, *, columns: int = 8) -> Path:
    """Write rendered scenes, (height, width, 3) uint8 each, as one PNG with a caption below each."""
    if len(pictures) != len(captions) or not pictures:
        raise DataError(f"expected as many captions as pictures, found {len(pictures)=} and {len(captions)=}")
    height = _CELL + 12 * _LINES + 8
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (_CELL + 8), rows * height), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(10)
    for index, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        row, column = divmod(index, columns)
        left, top = column * (_CELL + 8) + 4, row * height + 4
        sheet.paste(Image.fromarray(picture).resize((_CELL, _CELL), Image.Resampling.LANCZOS), (left, top))
        lines = textwrap.wrap(caption, 30)[:_LINES]
        pen.multiline_text((left, top + _CELL + 2), "\n".join(lines), "black", font, spacing=1)
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out)
    return out
