"""Flags that several verbs share, and values with a form of their own."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from danqing.errors import RequestError

F = TypeVar("F", bound=Callable[..., Any])


def parse_size(text: str) -> tuple[int, int]:
    """Return (width, height) of a text like 256x192."""
    match = re.fullmatch(r"\s*([0-9]{1,6})\s*[xX×]\s*([0-9]{1,6})\s*", text)
    if match is None:
        raise RequestError(f"size: expected WIDTHxHEIGHT in pixels like 256x256, found {text!r}")
    return int(match[1]), int(match[2])


class Size(click.ParamType):
    """A WIDTHxHEIGHT argument."""

    name = "WxH"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Parse the text of the flag; a tuple has been parsed already."""
        return parse_size(value) if isinstance(value, str) else value


def machine_options(command: F) -> F:
    """Add the flags that say where and how to compute."""
    for option in (
        click.option("--threads", type=click.IntRange(min=1), metavar="N", help="CPU threads to use."),
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps."),
    ):
        command = option(command)
    return command


def model_options(command: F) -> F:
    """Add the flags that say which checkpoint to load, and where to."""
    precision = click.option(
        "--precision",
        type=click.Choice(["auto", "fp32", "bf16", "int8", "int4"]),
        default="auto",
        show_default=True,
        help="Number format of the weights; auto is that of the device and the checkpoint.",
    )
    model = click.option(
        "--model",
        default="nano",
        show_default=True,
        metavar="NAME|FOLDER|OWNER/NAME",
        help="Shipped model, folder, or repository of the hub.",
    )
    return model(machine_options(precision(command)))


def drawing_options(command: F) -> F:
    """Add the flags that every verb that draws has; their names are the fields of its request."""
    for option in reversed(_DRAWING):
        command = option(command)
    return command


_DRAWING = (
    click.option("--size", type=Size(), help="Width and height in pixels.  [default: the model's own]"),
    click.option("--steps", type=int, metavar="N", help="Denoising steps.  [default: the model's own]"),
    click.option(
        "--guidance", type=float, metavar="G", help="How closely to follow the words; 1 turns it off."
    ),
    click.option("--negative-prompt", metavar="TEXT", help="What the picture should not be."),
    click.option(
        "--enhance", is_flag=True, help="Let the model rewrite the words first; shows what it changed."
    ),
    click.option(
        "--seed",
        type=int,
        metavar="N",
        help="The same seed gives the same picture.  [default: a fresh one]",
    ),
    click.option(
        "-n",
        "--count",
        type=int,
        default=1,
        show_default=True,
        metavar="N",
        help="Pictures; seeds count up.",
    ),
    click.option("--solver", default="euler", show_default=True, help="euler, or heun: slower, more exact."),
    click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="File to write (png, jpg, webp), or a folder.",
    ),
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace files that exist.")


def use_threads(count: int | None) -> None:
    """Compute with `count` CPU threads; None leaves what torch chose."""
    if count is not None:
        import torch

        torch.set_num_threads(count)
