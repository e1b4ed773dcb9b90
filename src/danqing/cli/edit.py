"""`danqing edit`: change pictures as told."""

import json
from pathlib import Path
from typing import Any

import click

from danqing.cli.adapters import adapter_options
from danqing.cli.checkpoint import checkpoint_options, named_checkpoint
from danqing.cli.drawing import needed, opened, told_first, write_drawn
from danqing.cli.options import drawing_options, json_option, overwrite_option, use_threads
from danqing.cli.outputs import FORMATS, check_writable, paths_for
from danqing.cli.progress import bar
from danqing.errors import RequestError

EXAMPLES = """\b
Examples:
  danqing edit photo.png "make the apple green" -o green.png
  danqing edit cat.png sofa.jpg "put the cat of picture 1 on the sofa of picture 2" --seed 7
  danqing edit photo.png "a green apple" --mask apple-is-white.png
  danqing edit photo.png "in watercolours" --model path/to/Qwen-Image-Edit-2511 --steps 40 --guidance 4
  danqing edit logo.png shirt.jpg "print the logo on the shirt" --enhance --model path/to/Qwen-Image-2.1
"""
_TRY = 'danqing edit photo.png "make the apple green"'


@click.command(epilog=EXAMPLES, short_help="Change pictures as told.")
@click.argument("words", nargs=-1, metavar="PICTURE... INSTRUCTION")
@click.option(
    "--mask",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Change the last picture only where this one is white.",
)
@click.option(
    "--strength",
    type=float,
    metavar="S",
    help="Start from the last picture moved this far towards noise, 0.01 to 1.  [default: with --mask 1]",
)
@adapter_options
@drawing_options
@overwrite_option
@checkpoint_options
@json_option
@click.option("--quiet", is_flag=True, help="Show no progress.")
def edit(
    words: tuple[str, ...],
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
    """Change pictures as told: one or more PICTUREs, then the INSTRUCTION in quotes.

    The result has the shape of the last picture. Prints the path of every picture, by default
    danqing-SEED-WORDS.png in the current folder.
    """
    files, instruction = _told(words)

    from danqing.conditioning.given import open_transparent
    from danqing.pipelines.edit import EditRequest, enhanced
    from danqing.pipelines.edit import edit as draw
    from danqing.pipelines.prepare import steps_taken

    tasks = needed("edit", enhance=fields["enhance"])
    checkpoint = named_checkpoint(fields, model, device=device, precision=precision, tasks=tasks, quiet=quiet)
    info = checkpoint.info
    pictures = tuple(map(open_transparent, files))
    request = EditRequest(pictures=pictures, prompt=instruction, **opened(fields)).resolved(info)
    assert request.seed is not None
    paths = paths_for(output, instruction, request.seed, request.count)
    check_writable(paths, overwrite=overwrite)
    use_threads(threads)
    with bar(request.count * steps_taken(request), quiet=quiet) as shown:
        shown.show(f"loading {info.name}")
        loaded = checkpoint.load([request], tasks=tasks, as_json=as_json)
        request = told_first(request, lambda wish: enhanced(loaded.components, wish), shown)
        steps = draw(loaded.components, [request])
        for line in write_drawn(loaded, steps, [paths], shown, overwrite=overwrite):
            shown.result(json.dumps(line, ensure_ascii=False) if as_json else line["path"])


def _told(words: tuple[str, ...]) -> tuple[tuple[Path, ...], str]:
    """Return the files and the instruction behind them, or say which of the two is missing."""
    if not words:
        raise RequestError(f"expected pictures and an instruction, found none; try {_TRY}")
    *files, instruction = words
    if Path(instruction).is_file() or (not files and Path(instruction).suffix.lower() in FORMATS):
        raise RequestError(f"expected the instruction last, found the picture {instruction}; try {_TRY}")
    if not files:
        raise RequestError(f"expected a picture before the instruction, found none; try {_TRY}")
    for place, name in enumerate(files):
        if place and not Path(name).exists() and Path(name).suffix.lower() not in FORMATS:
            said = " ".join(words[place:])
            raise RequestError(f'{name}: expected a picture, found no file; quote the instruction: "{said}"')
    return tuple(map(Path, files)), instruction
