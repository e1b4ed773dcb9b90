"""The budget: short files, short functions, a small package, folders named for what they hold."""

import ast
from pathlib import Path

import pytest

from tests.guards.files import SOURCE, modules, short, texts, tracked

MAX_FILE = 500
MAX_FUNCTION = 60
MAX_SOURCE = 50_000
EMPTY_NAMES = {"utils", "util", "common", "core", "misc", "helpers", "base"}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def _is_table(tree: ast.Module) -> bool:
    """Return whether a module holds nothing but literal data."""
    for node in tree.body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        if not isinstance(node, (ast.Assign, ast.AnnAssign)) or node.value is None:
            return False
        try:
            ast.literal_eval(node.value)
        except ValueError:
            return False
    return bool(tree.body)


def _length(path: Path) -> int:
    return len(texts()[path].splitlines())


def _long_functions(tree: ast.Module) -> list[tuple[str, int]]:
    found = [node for node in ast.walk(tree) if isinstance(node, FUNCTIONS)]
    sizes = [(node.name, (node.end_lineno or node.lineno) - node.lineno + 1) for node in found]
    return [(name, size) for name, size in sizes if size > MAX_FUNCTION]


def test_no_file_is_longer_than_its_budget():
    lengths = {short(path): _length(path) for path, tree in modules().items() if not _is_table(tree)}
    assert {name: length for name, length in lengths.items() if length > MAX_FILE} == {}


def test_no_function_is_longer_than_its_budget():
    long = {short(path): found for path, tree in modules().items() if (found := _long_functions(tree))}
    assert long == {}


def test_the_package_fits_its_budget():
    inside = [path for path, tree in modules().items() if path.is_relative_to(SOURCE) and not _is_table(tree)]
    total = sum(_length(path) for path in inside)
    assert 0 < total <= MAX_SOURCE


def test_no_folder_or_module_is_named_for_nothing():
    parts = {
        part for path in tracked() for part in (*path.relative_to(SOURCE.parents[1]).parts[:-1], path.stem)
    }
    assert parts & EMPTY_NAMES == set()


def test_every_package_has_a_docstring():
    bare = [short(path) for path, tree in modules().items() if ast.get_docstring(tree) is None]
    assert bare == []


@pytest.mark.parametrize(
    ("code", "table"),
    [
        ('"""Names."""\nNAMES = ["a", "b"]\n', True),
        ("SIZES: dict[str, int] = {'a': -1}\n", True),
        ("import os\nNAMES = ['a']\n", False),
        ("NAMES = sorted(['a'])\n", False),
        ("def f():\n    return 1\n", False),
        ("", False),
    ],
)
def test_a_table_is_literal_data_only(code, table):
    assert _is_table(ast.parse(code)) is table


def test_the_budget_sees_methods_and_nested_functions():
    body = "\n".join(f"        a{i} = {i}" for i in range(MAX_FUNCTION))
    tree = ast.parse(f"class A:\n    async def method(self):\n{body}\n")
    assert _long_functions(tree) == [("method", MAX_FUNCTION + 1)]
