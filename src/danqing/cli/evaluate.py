"""`danqing evaluate`: how good a checkpoint is, with the judge's own ceiling and floor."""

import shlex
import sys
from pathlib import Path
from typing import Literal

import click

from danqing.cli.evaluate_run import compare, export, fetch, list_benchmarks, run
from danqing.cli.options import json_option, model_options, use_threads
from danqing.cli.progress import bar

EXAMPLES = """\b
Examples:
  danqing evaluate gate
  danqing evaluate gate --model runs/nano/nano --count 24 -o gate
"""
WORLD_EXAMPLES = """\b
Examples:
  danqing evaluate world
  danqing evaluate world --model runs/nano/nano --earlier nano --profile full -o evaluation
  danqing evaluate world --rows object --rows count --plan
  danqing evaluate world --rows edit --rows describe --rows questions --concepts 300
"""
GROUP_EXAMPLES = """\b
Examples:
  danqing evaluate world
  danqing evaluate list
  danqing evaluate run world --system nano --system published:GPT-Image-1 -o evaluation
  danqing evaluate compare nano earlier --folder evaluation
"""
_FOLDER = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group(epilog=GROUP_EXAMPLES)
def evaluate() -> None:
    """Measure checkpoints and other systems."""


for _command in (run, list_benchmarks, fetch, compare, export):
    evaluate.add_command(_command)


@evaluate.command(epilog=EXAMPLES)
@model_options
@click.option(
    "--count", type=click.IntRange(1, 5000), default=100, show_default=True, metavar="N", help="Prompts."
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N", help="Of every picture."
)
@click.option("--steps", type=click.IntRange(min=1), metavar="N", help="[default: the checkpoint's own]")
@click.option("-o", "--output", type=_FOLDER, metavar="FOLDER", help="Keep pictures and report; resumes.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@json_option
def gate(
    model: str,
    device: str,
    precision: str,
    threads: int | None,
    count: int,
    seed: int,
    steps: int | None,
    output: Path | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Draw held-out prompts of one thing each and judge thing and background.

    The judge sees the pictures only. Its ceiling is what it reads off true renders, plain and through the
    model's
    autoencoder; its floor is how often the same readings fit other prompts.
    """
    use_threads(threads)
    import danqing
    from danqing.evaluation.world.gate import measure

    loaded = danqing.load(model, device=device, precision=precision)
    with bar(count, quiet=quiet) as live:
        report = measure(
            loaded,
            count=count,
            seed=seed,
            steps=steps,
            out=output,
            progress=lambda done, total: live.show(f"{done}/{total} prompts", done),
        )
    click.echo(report.to_json() if as_json else str(report))


@evaluate.command(epilog=WORLD_EXAMPLES)
@model_options
@click.option(
    "--profile",
    type=click.Choice(["smoke", "full"]),
    default="smoke",
    show_default=True,
    help="How many items a row: two dozen, or hundreds.",
)
@click.option("--rows", multiple=True, metavar="NAME", help="Only rows whose name begins so; repeat.")
@click.option("--earlier", metavar="MODEL", help="Another checkpoint to compare with.")
@click.option(
    "--concepts",
    type=click.IntRange(min=1),
    metavar="N",
    help="Ask for the first N concepts of the core only.  [default: all 500]",
)
@click.option(
    "--atlas", type=_FILE, metavar="FILE", help="Sprites of true renders.  [default: the package's]"
)
@click.option("--steps", type=click.IntRange(min=1), metavar="N", help="[default: the checkpoint's own]")
@click.option("--no-baselines", is_flag=True, help="Leave out the baseline that is told or shown nothing.")
@click.option("--plan", "plan_only", is_flag=True, help="Say what is missing and stop.")
@click.option(
    "-o",
    "--output",
    type=_FOLDER,
    default=Path("evaluation"),
    show_default=True,
    metavar="FOLDER",
    help="Keeps answers, scores, report.json and report.html; resumes.",
)
@click.option("--quiet", is_flag=True, help="No progress bar.")
@json_option
def world(
    model: str,
    device: str,
    precision: str,
    threads: int | None,
    profile: Literal["smoke", "full"],
    rows: tuple[str, ...],
    earlier: str | None,
    concepts: int | None,
    atlas: Path | None,
    steps: int | None,
    no_baselines: bool,
    plan_only: bool,
    output: Path,
    quiet: bool,
    as_json: bool,
) -> None:
    """Measure a checkpoint on the drawn world: what it draws, edits and describes, in twelve languages.

    Makes and judges what is missing in the output folder, then prints the table and writes one page that
    works offline. Stopped at any point it goes on where it was. Rows that the checkpoint cannot do are left
    out.
    """
    use_threads(threads)
    import danqing
    from danqing.data.atlas import Atlas, packaged_atlas
    from danqing.evaluation.evaluate import STORE, evaluate, plans
    from danqing.evaluation.store import Store
    from danqing.evaluation.world.exam import World, world_evaluation

    def loaded(name: str) -> danqing.Model:
        return danqing.load(name, device=device, precision=precision)

    asked = World(
        model=loaded(model),
        atlas=packaged_atlas() if atlas is None else Atlas.load(atlas),
        profile=profile,
        rows=rows,
        concepts=concepts,
        steps=steps,
    )
    older = None if earlier is None else loaded(earlier)
    evaluation = world_evaluation(asked, output, earlier=older, baselines=not no_baselines)
    if plan_only:
        output.mkdir(parents=True, exist_ok=True)
        with Store.open(output / STORE) as store:
            for part in plans(evaluation, store):
                click.echo(str(part))
        return
    with bar(1000, quiet=quiet) as live:
        report = evaluate(
            evaluation,
            command=shlex.join(["danqing", *sys.argv[1:]]),
            tell=lambda done, total, row: live.show(f"{row} {done}/{total}", 1000 * done // max(total, 1)),
        )
    click.echo(report.to_json() if as_json else str(report))
