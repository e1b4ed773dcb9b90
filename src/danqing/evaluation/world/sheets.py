"""Pages of pictures with a text under each, for looking at."""

from collections.abc import Sequence
from typing import Final

from PIL import Image

from danqing.data.lettering import caption_picture
from danqing.errors import DataError

_LINES: Final = 3
_GAP: Final = 8  # pixels
_LETTERS: Final = 11  # pixels


def captioned_sheet(
    pictures: Sequence[Image.Image],
    captions: Sequence[str],
    *,
    language: str = "en",
    columns: int = 6,
    cell: int = 160,
) -> Image.Image:
    """Return one page with every picture, `cell` pixels a side, and its caption below it.

    Raises DataError when there are not as many captions as pictures, or for an unknown language.
    """
    if len(pictures) != len(captions) or not pictures:
        raise DataError(f"expected as many captions as pictures, found {len(pictures)=} and {len(captions)=}")
    columns = min(columns, len(pictures))
    texts = [caption_picture(text, language, cell, size=_LETTERS, lines=_LINES) for text in captions]
    height = cell + max(text.height for text in texts) + _GAP
    rows = -(-len(pictures) // columns)
    page = Image.new("RGB", (columns * (cell + _GAP) + _GAP, rows * height + _GAP), "white")
    for index, (picture, text) in enumerate(zip(pictures, texts, strict=True)):
        row, column = divmod(index, columns)
        left, top = column * (cell + _GAP) + _GAP, row * height + _GAP
        page.paste(picture.convert("RGB").resize((cell, cell), Image.Resampling.BICUBIC), (left, top))
        page.paste(text, (left, top + cell + 2))
    return page
