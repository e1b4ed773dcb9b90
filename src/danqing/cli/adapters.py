"""`--lora` and `--lightning`: adapters named on the command line."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from danqing.pipelines.adapting import AdapterFiles

F = TypeVar("F", bound=Callable[..., Any])
_LORAS = (
    click.option(
        "--lora",
        multiple=True,
        metavar="FILE[:SCALE]",
        help="A LoRA, LoKr or LoHa of any program, and how strongly.  Repeatable.",
    ),
    click.option(
        "--merge-loras", is_flag=True, help="Add adapters to the weights: longer to load, faster to draw."
    ),
)
_LIGHTNING = click.option(
    "--lightning",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A Qwen-Image-Lightning adapter: draw in the 4 or 8 steps of its name, without guidance.",
)


def lora_options(command: F) -> F:
    """Add the flags of adapters."""
    for option in reversed(_LORAS):
        command = option(command)
    return command


def adapter_options(command: F) -> F:
    """Add the flags of adapters, distilled ones too."""
    return lora_options(_LIGHTNING(command))


def named_adapters(fields: dict[str, Any], local: Callable[[Path], Path] = Path) -> "AdapterFiles":
    """Take the adapters that flags name out of `fields`, and return them.

    `local` returns where a named file is. `steps` among the fields is for a distilled one whose name tells
    none.
    """
    from danqing.pipelines.adapting import AdapterFiles, parse_lora

    named = map(parse_lora, fields.pop("lora"))
    lightning = fields.pop("lightning", None)
    return AdapterFiles(
        loras=tuple((local(path), strength) for path, strength in named),
        merged=fields.pop("merge_loras"),
        lightning=None if lightning is None else local(lightning),
        lightning_steps=fields.get("steps"),
    )
