"""docs/checkpoints.md names tests that exist, and the defaults that the code has."""

import re

import pytest

from danqing.weights.layouts import RELEASES, CheckpointInfo
from tests.guards.files import ROOT

PAGE = ROOT / "docs" / "checkpoints.md"
TEXT = PAGE.read_text(encoding="utf-8")
PROOF = re.compile(r"\[(\w+)\]\((\.\./tests/[\w/]+\.py)\)")
NOTHING = ("–", "not trained yet")


def _tables() -> list[list[list[str]]]:
    """Return the cells of every row of every table, headings first."""
    blocks = [block.splitlines() for block in TEXT.split("\n\n") if block.startswith("|")]
    return [
        [[cell.strip() for cell in line[1:-1].split("|")] for line in (block[0], *block[2:])]
        for block in blocks
    ]


TABLES = _tables()
MATRIX = next(table for table in TABLES if "draw" in table[0])
PROOFS = [table for table in TABLES if table[0][-1] == "proof"]
DEFAULTS = next(table for table in TABLES if "steps" in table[0])


@pytest.mark.parametrize("name", sorted(set(PROOF.findall(TEXT))), ids="::".join)
def test_a_proof_is_a_test_that_exists(name):
    function, file = name
    assert f"\ndef {function}(" in (PAGE.parent / file).read_text(encoding="utf-8")


def test_what_a_release_does_is_proved():
    cells = [cell for row in MATRIX[1:] for cell in row[1:]]
    cells += [row[-1] for table in PROOFS for row in table[1:]]
    assert len(cells) > 40
    assert [cell for cell in cells if not PROOF.search(cell) and cell not in NOTHING] == []


def test_defaults_are_those_of_the_code():
    told = {row[0].strip("`"): row[2:] for row in DEFAULTS[1:]}
    assert told == {name: _defaults(info) for name, info in RELEASES.items()}


def _defaults(info: CheckpointInfo) -> list[str]:
    pictures = str(info.max_references) if "edit" in info.tasks else "1" if "layers" in info.tasks else "–"
    tokens = "–" if info.tasks[0] == "edit" else f"{info.max_length:,}"  # instructions are not cut
    width, height = info.size
    return [str(info.steps), f"{info.guidance:g}", f"{width}x{height}", tokens, pictures]
