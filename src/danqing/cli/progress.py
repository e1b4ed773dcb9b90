"""The bar on stderr: what is being done, how far it is, how long it will take."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.progress import Progress


class Bar:
    """A live progress bar, or nothing when nobody watches; results go to stdout between its frames."""

    def __init__(self, live: "Progress | None", total: int | None) -> None:
        self._live = live
        self._task = None if live is None else live.add_task("", total=total)

    def show(self, text: str, done: int = 0) -> None:
        """Say what is being done, and how much of the total is."""
        if self._live is not None and self._task is not None:
            self._live.update(self._task, description=text, completed=done)

    def result(self, line: str, *, err: bool = False) -> None:
        """Print a result on stdout, or what is no result on stderr, above the bar."""
        if self._live is None:
            click.echo(line, err=err)
            return
        self._live.stop()  # clears the bar, so that both may share a terminal
        click.echo(line, err=err)
        self._live.start()


@contextmanager
def bar(total: int | None, *, quiet: bool) -> Iterator[Bar]:
    """Show a bar over `total` units of work during the block, if stderr is a terminal and not quiet."""
    if quiet or not sys.stderr.isatty():
        yield Bar(None, total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    text = TextColumn("{task.description}", markup=False)
    live = Progress(
        text,
        BarColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    with live:
        yield Bar(live, total)
