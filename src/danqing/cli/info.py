"""`danqing info`: what a checkpoint is, or how a picture was drawn."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from danqing.cli.options import json_option
from danqing.cli.outputs import FORMATS
from danqing.errors import RequestError

EXAMPLES = """\b
Examples:
  danqing info
  danqing info checkpoints/my-model --json
  danqing info danqing-7-a-red-apple.png
"""


@click.command(epilog=EXAMPLES, short_help="Describe a model or a picture.")
@click.argument("what", default="nano")
@json_option
def info(what: str, as_json: bool) -> None:
    """Describe WHAT: a shipped model, a checkpoint folder or a picture.

    Of a checkpoint only configs and file headers are read; of a picture, the parameters it was drawn with.
    """
    path = Path(what)
    if path.suffix.lower() in FORMATS and not path.is_dir():
        values = describe_picture_file(path)
        lines = values.get("parameters", "").splitlines() or [
            f"{key}: {value}" for key, value in values.items()
        ]
    else:
        values = describe_checkpoint(what)
        lines = _table(values)
    click.echo(json.dumps(values, ensure_ascii=False) if as_json else "\n".join(lines))


def describe_picture_file(path: Path) -> dict[str, Any]:
    """Return the parameters in a picture file: ours, or the text another program left."""
    from PIL import Image, UnidentifiedImageError

    from danqing.conditioning.images import picture_parameters

    try:
        with Image.open(path) as picture:
            texts = picture_parameters(picture)
    except FileNotFoundError:
        raise RequestError(f"{path}: expected a picture, found no file") from None
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise RequestError(f"{path}: expected a picture, cannot read it ({error})") from None
    if "danqing" in texts:
        try:
            values = json.loads(texts["danqing"])
        except ValueError as error:
            raise RequestError(f"{path}: its parameters are broken ({error})") from None
        return (
            {"path": str(path), **values}
            if isinstance(values, dict)
            else {"path": str(path), "danqing": values}
        )
    if "parameters" not in texts:
        raise RequestError(
            f"{path}: expected parameters in its metadata, found none: not drawn here, or stripped"
        )
    return {"path": str(path), "parameters": texts["parameters"]}


def describe_checkpoint(name: str) -> dict[str, Any]:
    """Return what `danqing info` says about a checkpoint."""
    from danqing.cli.inventory import parts_of
    from danqing.model import find_checkpoint

    folder = find_checkpoint(name)
    about, parts = folder.info(), parts_of(folder)
    loaded = sum(part.drawing for part in parts)
    return {
        **dataclasses.asdict(about),
        "path": str(folder.path),
        "components": [dataclasses.asdict(part) for part in parts],
        "parameters": sum(part.parameters for part in parts),
        "bytes": sum(part.size for part in parts),
        "memory": {"fp32": 4 * loaded, "bf16": 2 * loaded},
    }


def _table(values: dict[str, Any]) -> list[str]:
    width, height = values["size"]
    sides = f"{values['min_side']} to {values['max_side']}"
    lines = [
        f"{values['name']}  ({values['licence']})",
        *([values["about"]] if values["about"] else []),
        f"folder     {values['path']}",
        f"tasks      {', '.join(values['tasks'])}",
        f"languages  {', '.join(values['languages'])}",
        f"size       {width}x{height}; sides of {sides} in steps of {values['multiple']}",
        f"steps      {values['steps']}",
        f"guidance   {values['guidance']:g}",
        "",
    ]
    for part in values["components"]:
        said = f"{_short(part['parameters']):>9} parameters  {megabytes(part['size']):>11}"
        lines.append(f"{part['name']:<13}{said}  {', '.join(part['precisions'])}")
    memory = " or ".join(f"{megabytes(size)} in {name}" for name, size in values["memory"].items())
    return [*lines, "", f"Weights in memory while drawing: {memory}; activations come on top."]


def _short(count: int) -> str:
    for factor, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= factor:
            return f"{count / factor:.2f} {letter}"
    return str(count)


def megabytes(size: int) -> str:
    """Return a number of bytes for people."""
    return f"{size / 10**9:.2f} GB" if size >= 10**9 else f"{size / 10**6:.1f} MB"
