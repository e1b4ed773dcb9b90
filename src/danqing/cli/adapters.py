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


def named_adapters(fields: dict[str, Any]) -> "AdapterFiles":
    """Take the adapters that flags name out of `fields`, and return them.

    `steps` among the fields is for a distilled one whose name tells none.
    """
    from danqing.pipelines.adapting import AdapterFiles, parse_lora

    return AdapterFiles(
        loras=tuple(map(parse_lora, fields.pop("lora"))),
        merged=fields.pop("merge_loras"),
        lightning=fields.pop("lightning", None),
        lightning_steps=fields.get("steps"),
    )


def loading(files: "AdapterFiles") -> dict[str, Any]:
    """Return the adapters as arguments of `danqing.load`."""
    return {
        "loras": files.loras,
        "merge_loras": files.merged,
        "lightning": files.lightning,
        "lightning_steps": files.lightning_steps,
    }
