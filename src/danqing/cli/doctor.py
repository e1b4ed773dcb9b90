"""`danqing doctor`: is everything here that drawing needs?"""

import json
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from danqing.cli.inventory import megabytes
from danqing.cli.options import json_option
from danqing.errors import DanqingError, ResourceError

EXAMPLES = """\b
Examples:
  danqing doctor
  danqing doctor --model checkpoints/my-model --json
"""
_LEAST_DISK = 10**9
_LEAST_MEMORY = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    found: str
    """What there is; where something is wrong, also what to do."""


@click.command(epilog=EXAMPLES, short_help="Check that all is here to draw.")
@click.option("--model", default="nano", show_default=True, metavar="NAME|FOLDER", help="Checkpoint to load.")
@json_option
@click.pass_context
def doctor(ctx: click.Context, model: str, as_json: bool) -> None:
    """Check Python, torch, devices, memory, disk, package data and the model; exit with 1 if one fails."""
    ok = True
    for check in checks(model):
        ok &= check.ok
        if as_json:
            click.echo(json.dumps(asdict(check), ensure_ascii=False))
        else:
            mark = click.style("ok  ", fg="green") if check.ok else click.style("FAIL", fg="red")
            click.echo(f"{mark}  {check.name:<9} {check.found}")
    ctx.exit(0 if ok else 1)


def checks(model: str) -> Iterator[Check]:
    """Look at one thing after the other."""
    looks: dict[str, Callable[[], str]] = {
        "python": _python,
        "torch": _torch,
        "devices": _devices,
        "memory": _memory,
        "disk": _disk,
        "data": _data,
        "model": lambda: _model(model),
    }
    for name, look in looks.items():
        try:
            yield Check(name=name, ok=True, found=look())
        except (DanqingError, ImportError) as error:
            yield Check(name=name, ok=False, found=" ".join(str(error).split()))


def _python() -> str:
    return f"{platform.python_version()} on {platform.system()} {platform.machine()}, {sys.executable}"


def _torch() -> str:
    import torch

    return f"{torch.__version__}, {torch.get_num_threads()} CPU threads"


def _devices() -> str:
    import torch

    from danqing.device import resolve_device, resolve_precision

    here = [f"cuda:{index} {torch.cuda.get_device_name(index)}" for index in range(torch.cuda.device_count())]
    here += ["mps"] if torch.backends.mps.is_available() else []
    chosen = resolve_device("auto")
    precision = str(resolve_precision("auto", chosen)).removeprefix("torch.")
    return f"{', '.join([*here, 'cpu'])}; auto is {chosen} in {precision}"


def _memory() -> str:
    from danqing.device import memory_report

    report = memory_report()
    found = f"{megabytes(report.available)} free of {megabytes(report.total)}"
    if report.available < _LEAST_MEMORY:
        raise ResourceError(f"{found}, expected {megabytes(_LEAST_MEMORY)}; close other programs")
    return found


def _disk() -> str:
    usage = shutil.disk_usage(Path())
    found = f"{megabytes(usage.free)} free of {megabytes(usage.total)} in this folder"
    if usage.free < _LEAST_DISK:
        raise ResourceError(f"{found}, expected {megabytes(_LEAST_DISK)}; free some, or work elsewhere")
    return found


def _data() -> str:
    from danqing.data.atlas import packaged_atlas
    from danqing.data.concepts import LANGUAGES, concepts
    from danqing.data.language.tables import table

    atlas = packaged_atlas()
    phrasings = sum(len(patterns) for name in LANGUAGES for patterns in table(name).patterns.values())
    return f"{len(concepts())} things in {len(atlas.styles)} styles, {phrasings} phrasings"


def _model(name: str) -> str:
    import torch

    from danqing.model import find_checkpoint
    from danqing.pipelines.components import load_components

    parts = load_components(find_checkpoint(name), device=torch.device("cpu"), dtype=torch.bfloat16)
    modules = (parts.transformer, parts.vae, parts.vlm)
    numbers = sum(value.numel() for module in modules for value in module.parameters())
    return f"{parts.info.name}: whole, all tensors fit, {numbers:,} parameters loaded to draw"
