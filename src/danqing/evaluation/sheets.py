"""Pages of pictures with a text under each, for looking at."""

import textwrap
from collections.abc import Sequence
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from danqing.errors import DataError

_LINES: Final = 3
_LINE: Final = 13  # pixels
_GAP: Final = 8


def captioned_sheet(
    pictures: Sequence[Image.Image], captions: Sequence[str], *, columns: int = 6, cell: int = 160
) -> Image.Image:
    """Return one page with every picture, `cell` pixels a side, and its caption below it."""
    if len(pictures) != len(captions) or not pictures:
        raise DataError(f"expected as many captions as pictures, found {len(pictures)=} and {len(captions)=}")
    columns = min(columns, len(pictures))
    height = cell + _LINE * _LINES + _GAP
    rows = -(-len(pictures) // columns)
    page = Image.new("RGB", (columns * (cell + _GAP) + _GAP, rows * height + _GAP), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(11)
    for index, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        row, column = divmod(index, columns)
        left, top = column * (cell + _GAP) + _GAP, row * height + _GAP
        page.paste(picture.convert("RGB").resize((cell, cell), Image.Resampling.BICUBIC), (left, top))
        lines = textwrap.wrap(caption, 27)[:_LINES]
        pen.multiline_text((left, top + cell + 2), "\n".join(lines), "black", font, spacing=1)
    return page
