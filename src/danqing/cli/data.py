"""`danqing data`: build the sprites of the drawn world, and look at what it draws."""

from pathlib import Path

import click

from danqing.cli.options import overwrite_option
from danqing.cli.outputs import check_format, check_writable, writing
from danqing.errors import RequestError

BUILD_EXAMPLES = """\b
Examples:
  danqing data build -o atlas.safetensors
  danqing train recipes/nano.py --atlas atlas.safetensors
"""
PREVIEW_EXAMPLES = """\b
Examples:
  danqing data preview
  danqing data preview -o german.png --language de --count 16 --seed 3
"""
_FILE = click.Path(path_type=Path)


@click.group(epilog=BUILD_EXAMPLES)
def data() -> None:
    """Build and look at training data."""


@data.command(epilog=BUILD_EXAMPLES)
@click.option(
    "-o",
    "--output",
    type=_FILE,
    default="atlas.safetensors",
    show_default=True,
    metavar="FILE",
    help="File to write.",
)
@overwrite_option
def build(output: Path, overwrite: bool) -> None:
    """Build the full atlas of sprites.

    Fetches pinned packages of openly licensed pictures with npm and draws them. Needs
    pip install danqing[data].
    """
    if output.suffix != ".safetensors":
        raise RequestError(f"{output}: expected a name that ends in .safetensors, found {output.name!r}")
    check_writable([output], overwrite=overwrite)

    from danqing.data.assets import build_atlas

    with writing(output, overwrite=overwrite) as temporary:
        build_atlas(temporary)
    click.echo(output)


@data.command(epilog=PREVIEW_EXAMPLES)
@click.option(
    "-o",
    "--output",
    type=_FILE,
    default="sheet.png",
    show_default=True,
    metavar="FILE",
    help="File to write.",
)
@click.option(
    "--count", type=click.IntRange(1, 1000), default=24, show_default=True, metavar="N", help="Scenes."
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N", help="Which scenes."
)
@click.option("--language", default="en", show_default=True, metavar="L", help="Language of the captions.")
@click.option(
    "--atlas", type=_FILE, metavar="FILE", help="Sprites to draw with.  [default: those of the package]"
)
@overwrite_option
def preview(output: Path, count: int, seed: int, language: str, atlas: Path | None, overwrite: bool) -> None:
    """Draw a sheet of training scenes with their captions."""
    check_format(output)
    check_writable([output], overwrite=overwrite)

    import numpy as np

    from danqing.data.atlas import Atlas, packaged_atlas
    from danqing.data.language import caption
    from danqing.data.preview import preview as draw_sheet
    from danqing.data.world import sample_scene

    sprites = packaged_atlas() if atlas is None else Atlas.load(atlas)
    rng = np.random.default_rng(seed)
    scenes = [sample_scene(rng, sprites) for _ in range(count)]
    captions = [caption(scene, language, rng, sprites) for scene in scenes]
    with writing(output, overwrite=overwrite) as temporary:
        draw_sheet(scenes, captions, temporary, sprites)
    click.echo(output)
