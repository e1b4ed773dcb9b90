"""What an import costs, and which packages the source may name. Layers are import-linter's: `poe imports`."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.guards.files import ROOT, SOURCE, modules, short

HEAVY = {
    "torch",
    "numpy",
    "PIL",
    "diffusers",
    "transformers",
    "tokenizers",
    "safetensors",
    "einops",
    "jaxtyping",
}
REPORT = "print('loaded:', *sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr)"


def _loaded(code: str) -> set[str]:
    """Return the top-level packages that a fresh interpreter has loaded after `code`."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\n{REPORT}"], capture_output=True, text=True, check=True
    )
    return set(done.stderr.splitlines()[-1].split()[1:])


def test_importing_danqing_loads_nothing_heavy():
    loaded = _loaded("import danqing")
    assert "danqing" in loaded
    assert loaded & (HEAVY | {"click", "rich", "asyncio", "importlib.metadata"}) == set()


def test_the_public_errors_load_nothing_heavy():
    assert _loaded("import danqing; danqing.RequestError") & HEAVY == set()


def test_help_loads_nothing_heavy():
    code = "from danqing.cli.main import main\nsys.argv = ['danqing', '--help']\ntry:\n    main()\n"
    loaded = _loaded(code + "except SystemExit as end:\n    assert not end.code, end.code")
    assert "click" in loaded
    assert loaded & HEAVY == set()


def _project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in requirements}


def _imports(tree: ast.Module) -> Iterator[tuple[str, bool]]:
    """Yield (top-level package, whether it is imported with the module)."""
    lazy = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or _is_type_checking(node)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        yield from ((name.split(".")[0], id(node) not in lazy) for name in names)


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _foreign() -> Iterator[tuple[str, str, bool]]:
    """Yield (file, distribution, with the module) of everything the source imports from elsewhere."""
    homes = packages_distributions()
    for path, tree in modules().items():
        if not path.is_relative_to(SOURCE):
            continue
        for package, at_once in _imports(tree):
            if package != "danqing" and package not in sys.stdlib_module_names:
                yield short(path), canonicalize_name(homes.get(package, [package])[0]), at_once


def test_a_module_imports_at_once_only_what_every_install_has():
    required = _names(_project()["dependencies"])
    wrong = {(path, name) for path, name, at_once in _foreign() if at_once and name not in required}
    assert {pair for pair in wrong if not pair[0].startswith("src/danqing/serving/")} == set()


def test_whatever_the_source_imports_is_a_declared_dependency():
    project = _project()
    extras = project["optional-dependencies"]
    declared = _names(project["dependencies"]).union(*map(_names, extras.values()))
    assert {(path, name) for path, name, _ in _foreign() if name not in declared} == set()


def test_the_scan_tells_lazy_imports_from_others():
    code = "import a.b\nif TYPE_CHECKING:\n    import c\ndef f():\n    from d.e import g\n    import h\n"
    assert set(_imports(ast.parse(code))) == {("a", True), ("c", False), ("d", False), ("h", False)}
