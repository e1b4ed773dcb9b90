"""`danqing evaluate run` and what surrounds it: benchmarks, their files, comparisons, exported pictures."""

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from danqing.cli.options import json_option, machine_options, use_threads
from danqing.cli.progress import bar

if TYPE_CHECKING:
    from danqing.evaluation.run import Plan

RUN_EXAMPLES = """\b
Examples:
  danqing evaluate run world --system nano -o evaluation
  danqing evaluate run geneval --system openai:gpt-image-2 --plan
  danqing evaluate run geneval --system openai:gpt-image-2 --system published:DALL·E\\ 3 \\
      --judge open-detector=pinned --judge clip=pinned --profile lite --max-cost 20
  danqing evaluate run longtext --system frozen:pictures?layout=manifest --judge words=ocr
"""
LIST_EXAMPLES = """\b
Examples:
  danqing evaluate list
  danqing evaluate list --json
"""
FETCH_EXAMPLES = """\b
Examples:
  danqing evaluate fetch geneval
  danqing evaluate fetch dpg --from Downloads/ELLA
"""
COMPARE_EXAMPLES = """\b
Examples:
  danqing evaluate compare nano earlier --folder evaluation
  danqing evaluate compare runs/new/evaluation runs/old/evaluation
  danqing evaluate compare runs/new/evaluation:nano runs/old/evaluation:nano --json
"""
EXPORT_EXAMPLES = """\b
Examples:
  danqing evaluate export evaluation -o pictures
  danqing evaluate export evaluation --layout geneval --benchmark geneval --system nano -o pictures
"""
_FOLDER = click.Path(path_type=Path, file_okay=False)
_LAYOUTS = ("manifest", "geneval", "compbench", "oneig", "tiif")
_OUTPUT = click.option(
    "-o",
    "--output",
    "folder",
    type=_FOLDER,
    default=Path("evaluation"),
    show_default=True,
    metavar="FOLDER",
    help="Keeps answers, scores, report.json and report.html; resumes.",
)
_DATA = click.option(
    "--data",
    type=_FOLDER,
    metavar="FOLDER",
    help="Files of benchmarks, in a folder a benchmark.  [default: where fetch puts them]",
)


@click.command(epilog=RUN_EXAMPLES)
@click.argument("benchmarks", nargs=-1, required=True, metavar="BENCHMARK...")
@click.option(
    "--system",
    "systems",
    multiple=True,
    required=True,
    metavar="NAME",
    help="Who answers: a checkpoint, openai:MODEL, gemini:MODEL, diffusers:FOLDER, frozen:FOLDER, "
    "published:NAME...; repeat, the first is what the report is about.",
)
@click.option(
    "--judge",
    "judges",
    multiple=True,
    metavar="ROLE=NAME",
    help="Who looks at pictures, as in clip=pinned or vqa=vlm:FOLDER; repeat.",
)
@click.option(
    "--second-judge",
    "second_judges",
    multiple=True,
    metavar="ROLE=NAME",
    help="Who looks at them too; the report says how far the two agree.",
)
@click.option(
    "--profile",
    type=click.Choice(["smoke", "lite", "official"]),
    default="smoke",
    show_default=True,
    help="Ten prompts, a hundred, or all with every seed of the protocol.",
)
@click.option(
    "--variant",
    "variants",
    type=click.Choice(["official", "fixed"]),
    multiple=True,
    help="Which score of benchmarks that have two; repeat for both.  [default: official]",
)
@click.option("--max-cost", type=click.FloatRange(min=0), metavar="USD", help="Ask for no more than this.")
@click.option("--plan", "plan_only", is_flag=True, help="Say what is missing and what it may cost, and stop.")
@click.option(
    "--ray",
    is_flag=False,
    flag_value="local",
    metavar="[ADDRESS]",
    help="Make and judge answers on a Ray cluster; without an address on one of this machine.",
)
@click.option("--no-baselines", is_flag=True, help="Leave out the baseline that is told or shown nothing.")
@click.option("--no-floor", is_flag=True, help="Do not judge answers for other prompts.")
@click.option("--title", default="", metavar="TEXT", help="Of the report.")
@click.option(
    "--page-limit",
    type=click.FloatRange(min=0),
    default=8.0,
    show_default=True,
    metavar="MB",
    help="Of pictures in the page.",
)
@_DATA
@machine_options
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16", "int8", "int4"]),
    default="auto",
    show_default=True,
    help="Number format of checkpoints and judges.",
)
@_OUTPUT
@click.option("--quiet", is_flag=True, help="No progress bar.")
@json_option
def run(
    threads: int | None,
    max_cost: float | None,
    page_limit: float,
    plan_only: bool,
    ray: str | None,
    no_baselines: bool,
    no_floor: bool,
    quiet: bool,
    as_json: bool,
    **fields: Any,
) -> None:
    """Measure any systems on any benchmarks, and compare the first with the others.

    Makes and judges what is missing in the output folder, then prints the tables and writes one page that
    works offline. Stopped at any point it goes on where it was. Benchmarks are those of
    `danqing evaluate list`.
    """
    use_threads(threads)
    from danqing.evaluation.request import EvaluateRequest, evaluate, planned

    fields |= {"baselines": not no_baselines, "floor": not no_floor, "page_limit": int(page_limit * 1e6)}
    benchmarks = fields.pop("benchmarks")
    if plan_only:
        _show_plans(planned(EvaluateRequest(benchmarks=benchmarks, **fields)), as_json=as_json)
        return
    with bar(1000, quiet=quiet) as live:
        report = evaluate(
            *benchmarks,
            **fields,
            max_cost=max_cost,
            ray=ray,
            command=shlex.join(["danqing", *sys.argv[1:]]),
            tell=lambda done, total, row: live.show(f"{row} {done}/{total}", 1000 * done // max(total, 1)),
        )
    click.echo(report.to_json() if as_json else str(report))


@click.command(name="list", epilog=LIST_EXAMPLES)
@_DATA
@json_option
def list_benchmarks(data: Path | None, as_json: bool) -> None:
    """List the benchmarks: licence, source, who judges, and whether their files are here."""
    from danqing.evaluation.benchmarks import BENCHMARKS
    from danqing.evaluation.request import default_data

    place = data or default_data()
    rows: list[dict[str, Any]] = [
        {
            "name": "world",
            "title": "The drawn world",
            "licence": "Apache-2.0",
            "source": "made here",
            "judges": {},
            "variants": [],
            "here": True,
        }
    ]
    for one in BENCHMARKS:
        needed = [file.name for file in one.files if not file.optional]
        here = all((place / one.name / name).is_file() for name in needed)
        rows.append(
            {
                "name": one.name,
                "title": one.title,
                "licence": one.licence or "none given",
                "source": one.source,
                "judges": dict(one.judges),
                "variants": list(one.variants),
                "here": here,
            }
        )
    if as_json:
        for row in rows:
            click.echo(json.dumps(row, ensure_ascii=False))
        return
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        state = "here" if row["here"] else f"missing: danqing evaluate fetch {row['name']}"
        click.echo(f"{row['name']:{width}}  {row['title']}; {row['licence']}; {state}")
        if row["judges"]:
            roles = ", ".join(f"--judge {role}=..." for role in row["judges"])
            click.echo(f"{'':{width}}  judged by {roles}")


@click.command(epilog=FETCH_EXAMPLES)
@click.argument("name", metavar="BENCHMARK")
@click.option("--from", "given", type=_FOLDER, metavar="FOLDER", help="Copy the files from there instead.")
@_DATA
def fetch(name: str, given: Path | None, data: Path | None) -> None:
    """Get the files of a benchmark, each compared with the one its reader was written for.

    Shows the licence first; what no licence permits to pass on is not fetched.
    """
    from danqing.evaluation.fetch import fetch as fetched
    from danqing.evaluation.request import default_data

    found = fetched(
        name, (data or default_data()) / name, show=lambda line: click.echo(line, err=True), given=given
    )
    for path in found:
        click.echo(str(path))


@click.command(epilog=COMPARE_EXAMPLES)
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.option(
    "--folder", type=_FOLDER, metavar="FOLDER", help="Of the evaluation in which A and B are names."
)
@json_option
def compare(first: str, second: str, folder: Path | None, as_json: bool) -> None:
    """Compare two systems on the prompts that both answered.

    A and B are folders of evaluations, meaning the system each is about, FOLDER:NAME, or names of systems
    of one --folder. Prints the difference in every row with its interval, a p value adjusted over the rows
    (Holm), and the places of all systems of the folder.
    """
    from danqing.evaluation.report.compare import compare_sides, side

    found = compare_sides(side(first, folder), side(second, folder))
    click.echo(found.to_json() if as_json else str(found))


@click.command(epilog=EXPORT_EXAMPLES)
@click.argument("evaluation", type=_FOLDER, metavar="FOLDER")
@click.option(
    "--layout",
    type=click.Choice(_LAYOUTS),
    default="manifest",
    show_default=True,
    help="How the pictures are laid out and named.",
)
@click.option("--system", metavar="NAME", help="Whose pictures.  [default: the one the report is about]")
@click.option("--benchmark", metavar="NAME", help="Of which benchmark.  [default: the first]")
@click.option("-o", "--output", type=_FOLDER, required=True, metavar="FOLDER", help="Where to write them.")
def export(
    evaluation: Path,
    layout: Literal["manifest", "geneval", "compbench", "oneig", "tiif"],
    system: str | None,
    benchmark: str | None,
    output: Path,
) -> None:
    """Write the pictures of an evaluation as the tools of other benchmarks expect them."""
    from danqing.evaluation.finished import export_finished

    count = export_finished(evaluation, output, layout, system=system, section=benchmark)
    click.echo(f"{count} pictures in {output}")


def _show_plans(plans: "list[Plan]", *, as_json: bool) -> None:
    for one in plans:
        cost = one.cost
        if as_json:
            told = {
                "benchmark": one.benchmark,
                "system": one.system.name,
                "wanted": len(one.tasks),
                "there": one.there,
                "refused": one.refused,
                "absent": one.absent,
                "missing": len(one.missing),
                "usd": cost.amount,
                "basis": cost.basis,
            }
            click.echo(json.dumps(told, ensure_ascii=False))
        else:
            click.echo(str(one))
            if one.missing and cost.amount != 0:
                click.echo(f"  {cost}")
    known = [one.cost.amount for one in plans if one.missing]
    if not as_json and any(amount != 0 for amount in known):
        total = "unknown" if None in known else f"about {sum(amount or 0 for amount in known):,.2f} USD"
        click.echo(f"together: {total}")
