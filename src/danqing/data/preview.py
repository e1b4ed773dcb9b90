"""A contact sheet of scenes with their captions, to look at the data with one's own eyes."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from danqing.data.atlas import Atlas, packaged_atlas
from danqing.data.world import Scene, render
from danqing.errors import DataError

_CELL: Final = 160
_LINES: Final = 4


def preview(
    scenes: Sequence[Scene],
    captions: Sequence[str],
    out: Path | str,
    atlas: Atlas | None = None,
    *,
    columns: int = 8,
) -> Path:
    """Draw scenes as one PNG with a caption below each; with the packaged atlas when none is given."""
    if len(scenes) != len(captions) or not scenes:
        raise DataError(f"expected as many captions as scenes, found {len(scenes)=} and {len(captions)=}")
    atlas = atlas if atlas is not None else packaged_atlas()
    height = _CELL + 12 * _LINES + 8
    rows = -(-len(scenes) // columns)
    sheet = Image.new("RGB", (columns * (_CELL + 8), rows * height), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(10)
    for index, (scene, caption) in enumerate(zip(scenes, captions, strict=True)):
        row, column = divmod(index, columns)
        left, top = column * (_CELL + 8) + 4, row * height + 4
        sheet.paste(Image.fromarray(render(scene, atlas, _CELL)), (left, top))
        lines = textwrap.wrap(caption, 30)[:_LINES]
        pen.multiline_text((left, top + _CELL + 2), "\n".join(lines), "black", font, spacing=1)
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out)
    return out
