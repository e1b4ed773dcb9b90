"""`--control`: pictures that steer, named on the command line."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from danqing.errors import RequestError

if TYPE_CHECKING:
    from danqing.pipelines.control import Control

F = TypeVar("F", bound=Callable[..., Any])
_FILE = click.Path(path_type=Path)
_NUMBERS = re.compile(r"(.+?)((?::[0-9.]+){0,3})")
_NAMES = ("scale", "start", "end")


def control_options(command: F) -> F:
    """Add the flags of pictures that steer."""
    for option in (
        click.option(
            "--control-mask", type=_FILE, metavar="FILE", help="White where --control is drawn anew."
        ),
        click.option(
            "--control",
            multiple=True,
            metavar="FILE[:SCALE[:START[:END]]]",
            help="Edges, depth, a pose to follow: how strongly, in which share of the steps. Repeatable.",
        ),
        click.option("--controlnet", type=_FILE, metavar="FOLDER", help="The network that reads --control."),
    ):
        command = option(command)
    return command


def opened_controls(said: Sequence[str], mask: Path | None, controlnet: Path | None) -> tuple["Control", ...]:
    """Return the controls that flags name, their pictures opened.

    Raises RequestError where pictures come without a network that reads them, or it without them.
    """
    from danqing.conditioning.given import open_mask

    if bool(said) != (controlnet is not None):
        wanted, found = ("--controlnet FOLDER", "--control") if said else ("--control FILE", "--controlnet")
        raise RequestError(f"expected {wanted} with {found}, found none")
    if mask is not None and len(said) != 1:
        raise RequestError(f"--control-mask: expected one --control to mask, found {len(said)}")
    opened = None if mask is None else open_mask(mask)
    return tuple(parse_control(text, mask=opened) for text in said)


def parse_control(text: str, **more: Any) -> "Control":
    """Return the control that FILE[:SCALE[:START[:END]]] names; a file of that very name wins."""
    from danqing.conditioning.given import open_picture
    from danqing.pipelines.control import Control

    match = None if Path(text).is_file() else _NUMBERS.fullmatch(text)
    if match is None:
        return Control(picture=open_picture(text), **more)
    try:
        numbers = [float(number) for number in match[2].split(":")[1:]]
    except ValueError:
        raise RequestError(f"--control: expected FILE[:SCALE[:START[:END]]], found {text!r}") from None
    values: dict[str, Any] = dict(zip(_NAMES, numbers, strict=False))
    return Control(picture=open_picture(match[1]), **values, **more)
