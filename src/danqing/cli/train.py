"""`danqing train`: run a recipe."""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import click

from danqing.cli.options import machine_options, use_threads
from danqing.cli.outputs import make_folder
from danqing.errors import ConfigError

EXAMPLES = """\b
Examples:
  danqing train recipes/nano.py
  danqing train recipes/nano.py --stage vae --set vae.steps=200 --max-seconds 600

\b
A recipe is a Python file with a function train(run), which is given a danqing.training.run.Run.
A run that was stopped goes on where it was when it is started again with the same folder.
"""
_FILE = click.Path(path_type=Path)


@click.command(epilog=EXAMPLES, short_help="Train with a recipe.")
@click.argument("recipe", type=_FILE)
@click.option(
    "--run-dir",
    type=_FILE,
    metavar="DIR",
    help="Where the run is kept.  [default: ~/.cache/danqing/runs/RECIPE]",
)
@click.option("--max-seconds", type=click.FloatRange(min=0), metavar="N", help="Stop and save after so long.")
@click.option(
    "--set", "settings", multiple=True, metavar="STAGE.KEY=VALUE", help="Override a setting; repeatable."
)
@click.option("--stage", "stages", multiple=True, metavar="NAME", help="Do this stage only; repeatable.")
@click.option(
    "--atlas", type=_FILE, metavar="FILE", help="Sprites to draw scenes with, from danqing data build."
)
@click.option(
    "--init", metavar="NAME|FOLDER", help="Start from the weights of a shipped model or checkpoint folder."
)
@machine_options
def train(
    recipe: Path,
    run_dir: Path | None,
    max_seconds: float | None,
    settings: tuple[str, ...],
    stages: tuple[str, ...],
    atlas: Path | None,
    init: str | None,
    device: str,
    threads: int | None,
) -> None:
    """Train with RECIPE, a Python file; prints the folder of the run when done.

    Runs are kept in $DANQING_RUNS, by default ~/.cache/danqing/runs.
    """
    for setting in settings:
        if "=" not in setting or "." not in setting.partition("=")[0]:
            raise ConfigError(f"--set: expected stage.key=value, found {setting!r}")
    for file, what in ((recipe, "a recipe"), (atlas, "an atlas")):
        if file is not None and not file.is_file():
            raise ConfigError(f"{file}: expected {what}, found no file")

    from danqing.device import resolve_device
    from danqing.training.run import Run

    where = resolve_device(device)
    use_threads(threads)
    module = load_recipe(recipe)
    folder = run_dir or runs_folder() / recipe.stem
    make_folder(folder)
    module.train(
        Run(
            run_dir=folder,
            max_seconds=max_seconds,
            device=where,
            settings=settings,
            stages=stages,
            atlas=atlas,
            init=init,
        )
    )
    click.echo(folder)


def runs_folder() -> Path:
    """Return the folder of all runs."""
    return Path(os.environ.get("DANQING_RUNS") or Path.home() / ".cache" / "danqing" / "runs")


def load_recipe(file: Path) -> ModuleType:
    """Import a recipe by its path; raises ConfigError unless it is Python that defines `train`."""
    name = f"danqing_recipe_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{file}: expected a Python file that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and workers look their module up
    try:
        spec.loader.exec_module(module)
    except (SyntaxError, UnicodeDecodeError, ImportError, OSError) as error:
        raise ConfigError(f"{file}: cannot load this recipe ({type(error).__name__}: {error})") from None
    if not callable(getattr(module, "train", None)):
        raise ConfigError(f"{file}: expected a recipe that defines train(run), found no such function")
    return module
