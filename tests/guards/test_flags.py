"""Every flag of every verb: adding one is a decision, removing one breaks users.

After a decision, rewrite the list: python -m tests.guards.test_flags > tests/guards/flags.txt
"""

from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from danqing.cli.main import danqing

SNAPSHOT = Path(__file__).with_name("flags.txt")


def _commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, group
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


COMMANDS = dict(_commands(danqing, "danqing"))


def _lines() -> Iterator[str]:
    for path, command in COMMANDS.items():
        context = click.Context(command, info_name=path)
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                record = parameter.get_help_record(context)
                yield f"{path} {record[0] if record else parameter.name}"
            else:
                yield f"{path} {parameter.make_metavar(context)}"


def test_the_flags_are_frozen():
    assert list(_lines()) == SNAPSHOT.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("path", COMMANDS)
def test_every_verb_is_described_with_examples(path):
    command = COMMANDS[path]
    assert command.help
    assert "Examples:" in (command.epilog or "")
    assert "  danqing " in (command.epilog or "")


@pytest.mark.parametrize("path", COMMANDS)
def test_every_flag_is_described(path):
    options = [option for option in COMMANDS[path].params if isinstance(option, click.Option)]
    assert [option.name for option in options if not option.help] == []


if __name__ == "__main__":
    print(*_lines(), sep="\n")
