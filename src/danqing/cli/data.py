"""`danqing data`: build the sprites of the drawn world, and look at what it draws."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from danqing.cli.options import overwrite_option
from danqing.cli.outputs import check_format, check_writable, writing
from danqing.cli.progress import bar
from danqing.errors import RequestError

if TYPE_CHECKING:
    from danqing.data.world import SceneKind, Split

BUILD_EXAMPLES = """\b
Examples:
  danqing data build -o atlas.safetensors
  danqing data build -o all.safetensors --concepts all --archives packages
  danqing data build -o flat.safetensors --style flat --style glossy --size 256
  danqing train recipes/nano.py --atlas atlas.safetensors
"""
PREVIEW_EXAMPLES = """\b
Examples:
  danqing data preview
  danqing data preview -o german.png --language de --count 16 --seed 3
  danqing data preview -o signs.png --kind words --split held_out
  danqing data preview -o edits.png --edits --language ar
"""
_KINDS = ["single", "count", "group", "pair", "between", "words", "portrait"]
_FILE = click.Path(path_type=Path)
_FOLDER = click.Path(path_type=Path, file_okay=False)


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
@click.option(
    "--concepts",
    type=click.Choice(["core", "all"]),
    default="core",
    show_default=True,
    help="The 500 that figures are about, or all.",
)
@click.option("--style", "styles", multiple=True, metavar="WORD", help="Only this style; may be repeated.")
@click.option(
    "--size",
    type=click.IntRange(16, 512),
    default=128,
    show_default=True,
    metavar="N",
    help="Side of a sprite in pixels.",
)
@click.option(
    "--quality",
    type=click.IntRange(1, 100),
    default=90,
    show_default=True,
    metavar="N",
    help="Of the colours; outlines are exact. 100 is lossless.",
)
@click.option(
    "--archives", type=_FOLDER, metavar="FOLDER", help="Keep the packages here, and take them from here."
)
@click.option("--quiet", is_flag=True, help="Show no progress.")
@overwrite_option
def build(
    output: Path,
    concepts: str,
    styles: tuple[str, ...],
    size: int,
    quality: int,
    archives: Path | None,
    quiet: bool,
    overwrite: bool,
) -> None:
    """Build an atlas of sprites.

    Fetches pinned packages of openly licensed pictures with npm and draws them: some minutes. Needs
    pip install danqing[data].
    """
    if output.suffix != ".safetensors":
        raise RequestError(f"{output}: expected a name that ends in .safetensors, found {output.name!r}")
    check_writable([output], overwrite=overwrite)

    from danqing.data.assets import build_atlas
    from danqing.data.concepts import core_codes, drawn_codes

    codes = core_codes() if concepts == "core" else drawn_codes()
    with writing(output, overwrite=overwrite) as temporary, bar(len(codes), quiet=quiet) as live:
        build_atlas(
            temporary,
            styles or None,
            codes=codes,
            size=size,
            archives=archives,
            quality=None if quality == 100 else quality,
            progress=live.show,
        )
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
@click.option("--kind", "kinds", type=click.Choice(_KINDS), multiple=True, help="Only this; may be repeated.")
@click.option(
    "--split",
    type=click.Choice(["train", "held_out"]),
    default="train",
    show_default=True,
    help="What is trained on, or what is held out.",
)
@click.option("--edits", is_flag=True, help="Edits of scenes: before, after and the instruction.")
@click.option(
    "--atlas", type=_FILE, metavar="FILE", help="Sprites to draw with.  [default: those of the package]"
)
@overwrite_option
def preview(
    output: Path,
    count: int,
    seed: int,
    language: str,
    kinds: tuple["SceneKind", ...],
    split: "Split",
    edits: bool,
    atlas: Path | None,
    overwrite: bool,
) -> None:
    """Draw a sheet of training scenes with their captions, or of edits with their instructions."""
    check_format(output)
    check_writable([output], overwrite=overwrite)

    import numpy as np

    from danqing.data.atlas import Atlas, packaged_atlas
    from danqing.data.language import caption, edit_instruction
    from danqing.data.preview import preview as draw_scenes
    from danqing.data.preview import preview_edits as draw_edits
    from danqing.data.world import KIND_SHARES, sample_scene

    sprites = packaged_atlas() if atlas is None else Atlas.load(atlas)
    rng = np.random.default_rng(seed)
    shares = {kind: share for kind, share in KIND_SHARES.items() if not kinds or kind in kinds}
    scenes = [sample_scene(rng, sprites, split, shares=shares) for _ in range(count)]
    with writing(output, overwrite=overwrite) as temporary:
        if edits:
            worded = [edit_instruction(scene, language, rng, sprites, split=split) for scene in scenes]
            texts = [text for text, _ in worded]
            draw_edits([edit for _, edit in worded], texts, temporary, sprites, language=language)
        else:
            captions = [caption(scene, language, rng, sprites, split=split) for scene in scenes]
            draw_scenes(scenes, captions, temporary, sprites, language=language)
    click.echo(output)
