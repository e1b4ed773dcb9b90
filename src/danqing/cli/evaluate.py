"""`danqing evaluate`: how good a checkpoint is, with the judge's own ceiling and floor."""

from pathlib import Path

import click

from danqing.cli.options import json_option, model_options, use_threads
from danqing.cli.progress import bar

EXAMPLES = """\b
Examples:
  danqing evaluate gate
  danqing evaluate gate --model runs/nano/nano --count 24 -o gate
"""
_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.group(epilog=EXAMPLES)
def evaluate() -> None:
    """Measure a checkpoint."""


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
    from danqing.evaluation.gate import measure

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
