"""`danqing`: the verbs, the default one, and how a mistake is told."""

import difflib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from danqing import __version__
from danqing.cli.convert import convert
from danqing.cli.data import data
from danqing.cli.describe import describe
from danqing.cli.doctor import doctor
from danqing.cli.edit import edit
from danqing.cli.evaluate import evaluate
from danqing.cli.generate import generate
from danqing.cli.hub import download
from danqing.cli.info import info
from danqing.cli.layers import layers
from danqing.cli.train import train
from danqing.errors import DanqingError
from danqing.log import show

EXAMPLES = """\b
Examples:
  danqing "a red apple on a blue table"
  danqing "一只红色的苹果" --size 256x256 --seed 7 -n 4
  danqing edit photo.png "make the apple green" -o green.png
  danqing info nano
  danqing doctor
"""
_OWN_OPTIONS = ("--help", "-h", "--version")
_NEAR = 0.8  # likeness from which a first word is a misspelt verb rather than a prompt


class Verbs(click.Group):
    """A group whose first argument may be a prompt instead of a verb."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the default verb in front where none is given."""
        return super().parse_args(ctx, with_verb(args, tuple(self.commands)))

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Keep the order in which the verbs are listed below."""
        return list(self.commands)


def with_verb(arguments: Sequence[str], verbs: Sequence[str]) -> list[str]:
    """Return the arguments with a verb in front: what starts with none of `verbs` is a prompt to draw.

    Raises UsageError for a single word that looks like a misspelt verb.
    """
    if not arguments:
        return ["--help"]
    first, *rest = arguments
    if first in verbs or first in _OWN_OPTIONS:
        return [*arguments]
    if first == "help" and (not rest or rest[0] in verbs):
        return [*rest, "--help"]
    near = [] if len(first.split()) > 1 else difflib.get_close_matches(first.lower(), verbs, 1, _NEAR)
    if near:
        raise click.UsageError(
            f"unknown verb {first!r}; did you mean {near[0]!r}? To draw the word: danqing generate {first}"
        )
    return ["generate", *arguments]


@click.group(cls=Verbs, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="danqing %(version)s")
def danqing() -> None:
    """Draw pictures from text, change them as told, and train and measure the models that do.

    Without a verb the words are a prompt: danqing "a red apple" is danqing generate "a red apple".
    """
    show()


for verb in (generate, edit, layers, describe, info, download, convert, doctor, evaluate, train, data):
    danqing.add_command(verb)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 when all is well, 2 for a user's mistake, 130 when interrupted."""
    try:
        code = danqing.main(args=arguments, prog_name="danqing", standalone_mode=False)
    except DanqingError as error:
        _fail(str(error))
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "danqing"
        _fail(f"{error.format_message()} (see {path} --help)")
    except click.ClickException as error:
        _fail(error.format_message())
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str) -> NoReturn:
    line = " ".join(message.split())
    click.secho(f"error: {line}", fg=None if "NO_COLOR" in os.environ else "red", err=True)
    sys.exit(2)
