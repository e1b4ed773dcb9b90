"""`danqing layers`: a picture to the transparent layers it could be made of."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from danqing.cli.adapters import lora_options
from danqing.cli.checkpoint import checkpoint_options, named_checkpoint
from danqing.cli.options import json_option, overwrite_option, use_threads
from danqing.cli.outputs import check_writable, free_path, make_folder, writing
from danqing.cli.progress import bar
from danqing.errors import RequestError, ResourceError

if TYPE_CHECKING:
    from PIL import Image

    from danqing.cli.progress import Bar
    from danqing.model import Model
    from danqing.pipelines.draw import Drawn
    from danqing.pipelines.layered import LayersRequest

EXAMPLES = """\b
Examples:
  danqing layers poster.png --model path/to/Qwen-Image-Layered
  danqing layers poster.png --count 6 -o poster.ora --model path/to/Qwen-Image-Layered
  danqing layers poster.png --prompt "a cat before a wall with the word OPEN" -o parts --seed 7
  danqing layers poster.png --resolution 1024 --language zh --json
"""
_DOCUMENT = ".ora"
_TRANSPARENT = (".png", ".webp")


@click.command(epilog=EXAMPLES, short_help="Take a picture apart into layers.")
@click.argument("picture", type=click.Path(path_type=Path))
@click.option(
    "-n", "--count", type=int, default=4, show_default=True, metavar="N", help="Layers, one to twenty."
)
@click.option(
    "--prompt",
    default="",
    metavar="TEXT",
    help="What the whole picture shows, hidden parts included.  [default: the model's own caption]",
)
@click.option(
    "--language",
    default="en",
    show_default=True,
    metavar="CODE",
    help="Of the model's own caption: en or zh.",
)
@click.option(
    "--resolution", type=int, metavar="PIXELS", help="Root of the layers' area: 640 or 1024.  [default: 640]"
)
@click.option("--steps", type=int, metavar="N", help="Denoising steps.  [default: the model's own]")
@click.option(
    "--guidance", type=float, metavar="G", help="How closely to follow the caption; 1 turns it off."
)
@click.option("--rescale", is_flag=True, help="Keep the strength of what is predicted under guidance.")
@click.option("--negative-prompt", metavar="TEXT", help="What the layers should not be.")
@click.option(
    "--seed", type=int, metavar="N", help="The same seed gives the same layers.  [default: a fresh one]"
)
@click.option("--solver", default="euler", show_default=True, help="euler, or heun: slower, more exact.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE|FOLDER",
    help="One .ora document, or the names or the folder of pictures.  [default: PICTURE-1.png, …]",
)
@lora_options
@overwrite_option
@checkpoint_options
@json_option
@click.option("--quiet", is_flag=True, help="Show no progress.")
def layers(
    picture: Path,
    output: Path | None,
    overwrite: bool,
    model: str,
    device: str,
    precision: str,
    threads: int | None,
    as_json: bool,
    quiet: bool,
    **fields: Any,
) -> None:
    """Take PICTURE apart into transparent layers that give it when laid over each other, the lowest first.

    Prints the path of every layer and says on stderr how close they come to the picture; an .ora document,
    which GIMP and Krita open, holds all of them.
    """
    from danqing.conditioning.given import open_transparent
    from danqing.pipelines.layered import LayersRequest

    checkpoint = named_checkpoint(
        fields, model, device=device, precision=precision, tasks=("layers",), quiet=quiet
    )
    info = checkpoint.info
    request = LayersRequest(picture=open_transparent(picture), **fields).resolved(info)
    paths = _paths(picture, output, request.count)
    check_writable(paths, overwrite=overwrite)
    use_threads(threads)
    with bar(request.steps, quiet=quiet) as shown:
        shown.show(f"loading {info.name}")
        loaded = checkpoint.load([request], tasks=("layers",), as_json=as_json)
        shown.show("reading the picture")
        drawn = _drawn(loaded, request, shown)
        closeness = _write(drawn, paths, loaded, overwrite=overwrite)
        for number, path in enumerate(paths, 1):
            line = _line(drawn, path, loaded.info.name, closeness, None if len(paths) == 1 else number)
            shown.result(json.dumps(line, ensure_ascii=False) if as_json else line["path"])
    if not quiet and not as_json:
        click.echo(f"laid over each other they are the picture at {closeness:.1f} dB", err=True)


def _paths(picture: Path, output: Path | None, count: int) -> tuple[Path, ...]:
    """Return the document, or the file of every layer, the lowest first."""
    suffix = "" if output is None else output.suffix.lower()
    if output is not None and suffix == _DOCUMENT:
        return (output,)
    if output is not None and suffix and not output.is_dir():
        if suffix not in _TRANSPARENT:
            known = ", ".join((_DOCUMENT, *_TRANSPARENT))
            raise RequestError(f"{output}: expected a folder or a name that ends in {known}, found {suffix}")
        return tuple(output.with_name(f"{output.stem}-{number}{suffix}") for number in range(1, count + 1))
    folder = output or Path()
    make_folder(folder)
    return tuple(free_path(folder / f"{picture.stem}-{number}.png") for number in range(1, count + 1))


def _drawn(model: "Model", request: "LayersRequest", shown: "Bar") -> "Drawn":
    import torch

    from danqing.pipelines.layered import draw_layers

    try:
        for progress in draw_layers(model.components, [request]):
            shown.show(f"step {progress.step}/{progress.steps}", progress.step)
    except torch.OutOfMemoryError as error:
        raise ResourceError(
            f"{model.components.device} is out of memory; draw fewer layers or "
            f"a smaller --resolution ({error})"
        ) from None
    return progress.drawn[0]


def _write(drawn: "Drawn", paths: tuple[Path, ...], model: "Model", *, overwrite: bool) -> float:
    """Write the document or the layers; return how close they come to the picture, in dB."""
    from danqing.model import labelled_layers
    from danqing.pipelines.documents import write_openraster
    from danqing.pipelines.layered import composite_psnr

    if paths[0].suffix.lower() == _DOCUMENT:
        with writing(paths[0], overwrite=overwrite) as temporary:
            write_openraster(temporary, drawn.layers)
    else:
        for path, layer in zip(paths, labelled_layers(drawn, model.components), strict=True):
            with writing(path, overwrite=overwrite) as temporary:
                layer.save(temporary, lossless=True)  # what WebP asks for and PNG is anyway
    return composite_psnr(_given(drawn), drawn.layers)


def _given(drawn: "Drawn") -> "Image.Image":
    from danqing.pipelines.layered import LayersRequest

    assert isinstance(drawn.request, LayersRequest)
    return drawn.request.picture.image


def _line(drawn: "Drawn", path: Path, model: str, closeness: float, layer: int | None) -> dict[str, Any]:
    request = drawn.request
    return {
        "path": str(path),
        **({} if layer is None else {"layer": layer}),
        "layers": len(drawn.layers),
        "prompt": request.prompt,
        "seed": request.seed,
        "size": request.size,
        "steps": request.steps,
        "guidance": request.guidance,
        "psnr": None if math.isinf(closeness) else round(closeness, 2),
        "model": model,
    }
