"""`--compile` and `--no-cache`: work that is done once, or not at all."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
_OPTIONS = (
    click.option(
        "--compile",
        "compiled",
        is_flag=True,
        help="Compile the blocks first (a minute): for GPUs; on a CPU it gains nothing.",
    ),
    click.option(
        "--no-cache", is_flag=True, help="Keep nothing of what was read of prompts and noise levels on disk."
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedChoice:
    """What flags say about work that is done once."""

    compiled: bool = False
    cache: bool = True


def speed_options(command: F) -> F:
    """Add the flags of work that is done once."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def named_speed(fields: dict[str, Any]) -> SpeedChoice:
    """Take what flags say about work that is done once out of `fields`."""
    return SpeedChoice(compiled=fields.pop("compiled"), cache=not fields.pop("no_cache"))
