"""Sheets of scenes and of edits with their words, to look at the data with one's own eyes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw

from danqing.data.atlas import Atlas, packaged_atlas
from danqing.data.lettering import caption_picture
from danqing.data.world import Scene, render
from danqing.data.world.edits import Edit
from danqing.errors import DataError

_CELL: Final = 160  # pixels
_GAP: Final = 8
_ARROW: Final = 22  # between the two pictures of an edit


def preview(
    scenes: Sequence[Scene],
    captions: Sequence[str],
    out: Path | str,
    atlas: Atlas | None = None,
    *,
    columns: int = 8,
    language: str = "en",
) -> Path:
    """Draw scenes as one PNG with a caption below each; with the packaged atlas when none is given.

    Raises DataError for an unknown language, or unless there are as many captions as scenes.
    """
    _check(len(scenes), len(captions), "captions as scenes")
    atlas = atlas if atlas is not None else packaged_atlas()
    pictures = [_picture(scene, atlas) for scene in scenes]
    return _sheet(pictures, captions, Path(out), columns, language)


def preview_edits(
    edits: Sequence[Edit],
    instructions: Sequence[str],
    out: Path | str,
    atlas: Atlas | None = None,
    *,
    columns: int = 4,
    language: str = "en",
) -> Path:
    """Draw edits as one PNG: source, target and the instruction below; like `preview` otherwise."""
    _check(len(edits), len(instructions), "instructions as edits")
    atlas = atlas if atlas is not None else packaged_atlas()
    pictures = [_pair(_picture(edit.source, atlas), _picture(edit.target, atlas)) for edit in edits]
    return _sheet(pictures, instructions, Path(out), columns, language)


def _check(shown: int, said: int, what: str) -> None:
    if shown != said or not shown:
        raise DataError(f"expected as many {what}, at least one, found {said} and {shown}")


def _picture(scene: Scene, atlas: Atlas) -> Image.Image:
    return Image.fromarray(render(scene, atlas, _CELL))


def _pair(source: Image.Image, target: Image.Image) -> Image.Image:
    pair = Image.new("RGB", (2 * _CELL + _ARROW, _CELL), "white")
    pair.paste(source, (0, 0))
    pair.paste(target, (_CELL + _ARROW, 0))
    left, right, middle = _CELL + 4, _CELL + _ARROW - 4, _CELL // 2
    pen = ImageDraw.Draw(pair)
    pen.line((left, middle, right - 4, middle), "dimgray", 2)
    pen.polygon([(right, middle), (right - 6, middle - 5), (right - 6, middle + 5)], "dimgray")
    return pair


def _sheet(
    pictures: Sequence[Image.Image], texts: Sequence[str], out: Path, columns: int, language: str
) -> Path:
    """Put pictures of one size into a grid, each with its text; rows are as high as their longest text."""
    width, height = pictures[0].size
    captions = [caption_picture(text, language, width) for text in texts]
    columns = min(columns, len(pictures))
    starts = range(0, len(pictures), columns)
    heights = [
        height + 2 * _GAP + max(caption.height for caption in captions[at : at + columns]) for at in starts
    ]
    sheet = Image.new("RGB", (columns * (width + _GAP) + _GAP, sum(heights) + _GAP), "white")
    for index, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        row, column = divmod(index, columns)
        left, top = _GAP + column * (width + _GAP), _GAP + sum(heights[:row])
        sheet.paste(picture, (left, top))
        sheet.paste(caption, (left, top + height + 2))
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out)
    return out
