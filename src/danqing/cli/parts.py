"""`--transformer`, `--vae` and `--text-encoder`: single files in place of a folder's parts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
_FILE = click.Path(path_type=Path)
_OPTIONS = (
    click.option(
        "--transformer",
        type=_FILE,
        metavar="FILE",
        help="Take the denoiser from a safetensors or GGUF file, the rest from --model.",
    ),
    click.option("--vae", type=_FILE, metavar="FILE", help="Take the autoencoder from a file."),
    click.option(
        "--text-encoder",
        type=_FILE,
        multiple=True,
        metavar="FILE",
        help="Take the conditioner from a file; of GGUF twice, words and mmproj.",
    ),
    click.option(
        "--release", metavar="NAME", help="The release that --transformer is of, where the file does not say."
    ),
)


def part_options(command: F) -> F:
    """Add the flags of single files."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def named_parts(fields: dict[str, Any]) -> dict[str, Any]:
    """Take the files that flags name out of `fields`, as arguments of `danqing.load`."""
    return {name: fields.pop(name) for name in ("transformer", "vae", "text_encoder", "release")}
