"""The checkpoint of a verb: from its flags to a loaded model, within the memory there is."""

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from danqing.cli.adapters import named_adapters
from danqing.cli.hub import hub_options, local_file, local_model, named_hub
from danqing.cli.memory import MemoryWish, memory_options, named_memory, plan_lines
from danqing.cli.options import model_options
from danqing.cli.parts import named_parts, part_options
from danqing.cli.speed import SpeedChoice, named_speed, speed_options

if TYPE_CHECKING:
    from danqing.model import Model
    from danqing.pipelines.adapting import AdapterFiles
    from danqing.pipelines.edit import EditRequest
    from danqing.pipelines.generate import GenerateRequest
    from danqing.pipelines.holding import Holding
    from danqing.pipelines.layered import LayersRequest
    from danqing.pipelines.wishes import Wishes
    from danqing.weights.layouts import CheckpointInfo, Folder
    from danqing.weights.parts import GivenParts

    Requests = Sequence[GenerateRequest] | Sequence[EditRequest] | Sequence[LayersRequest]

F = TypeVar("F", bound=Callable[..., Any])


def checkpoint_options(command: F) -> F:
    """Add the flags that say which checkpoint to use, how to hold it, and where to compute."""
    for add in (speed_options, memory_options, hub_options, model_options, part_options):
        command = add(command)
    return command


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint on this machine, and how flags want it; nothing of it is loaded."""

    folder: "Folder"
    adapters: "AdapterFiles"
    controlnet: Path | None
    device: str
    precision: str
    memory: MemoryWish
    speed: SpeedChoice

    @property
    def info(self) -> "CheckpointInfo":
        """How the checkpoint wants to be used, with its adapters."""
        return self.adapters.settle(self.folder.info())

    def load(self, requests: "Requests", *, tasks: Collection[str], as_json: bool = False) -> "Model":
        """Load it for resolved requests; with --dry-run print how it would be held instead, and exit."""
        from danqing.device import resolve_device
        from danqing.model import load_folder
        from danqing.pipelines.adapting import check_adapters
        from danqing.pipelines.holding import hold
        from danqing.pipelines.wishes import wishes_of

        check_adapters(self.folder, self.adapters)
        wishes = wishes_of(requests, self.info, tasks=tuple(tasks))
        held = hold(
            self.folder,
            wishes,
            device=resolve_device(self.device),
            precision=self.precision,
            memory=self.memory.memory,
            controlnet=self.controlnet,
            adapters=[path for path, _ in self.adapters.chosen],
        )
        if self.memory.dry_run:
            _print_plan(self.folder, wishes, held, self.device, as_json=as_json)
            click.get_current_context().exit()
        return load_folder(
            self.folder,
            adapters=self.adapters,
            controlnet=self.controlnet,
            tasks=tasks,
            device=self.device,
            holding=held,
            cache=self.speed.cache,
            compiled=self.speed.compiled,
        )


def named_checkpoint(
    fields: dict[str, Any],
    model: str,
    *,
    device: str,
    precision: str,
    tasks: Collection[str],
    controlnet: Path | None = None,
    quiet: bool = False,
) -> Checkpoint:
    """Take what flags say about the checkpoint out of `fields` and find it, downloading it if need be.

    With --dry-run nothing is downloaded: what a download would take is printed, and the program exits.
    """
    from danqing.model import find_checkpoint
    from danqing.weights.parts import GivenParts

    hub, memory, speed = named_hub(fields), named_memory(fields), named_speed(fields)
    adapters = named_adapters(fields, lambda file: local_file(file, hub, quiet=quiet))
    given = named_parts(fields)
    for name in ("transformer", "vae"):
        given[name] = given[name] and local_file(given[name], hub, quiet=quiet)
    given["text_encoder"] = tuple(local_file(file, hub, quiet=quiet) for file in given["text_encoder"])
    parts = GivenParts(**given)

    def memory_lines(folder: Path) -> list[str]:
        return _memory_lines(folder, parts, tasks, device, precision, memory)

    found = local_model(
        model,
        hub,
        tasks=tasks,
        given=[name for name in ("transformer", "vae", "text_encoder") if given[name]],
        memory=memory_lines,
        dry_run=memory.dry_run,
        quiet=quiet,
    )
    if found is None:
        click.get_current_context().exit()
    return Checkpoint(
        folder=find_checkpoint(found, parts),
        adapters=adapters,
        controlnet=controlnet,
        device=device,
        precision=precision,
        memory=memory,
        speed=speed,
    )


def _memory_lines(
    path: Path,
    given: "GivenParts",
    tasks: Collection[str],
    device: str,
    precision: str,
    memory: MemoryWish,
) -> list[str]:
    """Return how a checkpoint that is not here yet would be held; raise ResourceError if it does not fit."""
    from danqing.device import resolve_device
    from danqing.pipelines.effort import NOMINAL
    from danqing.pipelines.holding import hold
    from danqing.pipelines.plan_report import report_plan
    from danqing.pipelines.wishes import usual_wishes
    from danqing.weights.layouts import Folder

    folder, where = Folder(path, given), resolve_device(device)
    wishes = usual_wishes(folder.info(), tasks=tuple(tasks))
    held = hold(folder, wishes, device=where, precision=precision, memory=memory.memory)
    speed = NOMINAL.get(where.type, NOMINAL["cpu"])
    return plan_lines(report_plan(folder, wishes, held.plan, dtype=held.dtype, speed=speed))


def _print_plan(folder: "Folder", wishes: "Wishes", held: "Holding", device: str, *, as_json: bool) -> None:
    from danqing.device import resolve_device
    from danqing.pipelines.effort import measured_speed
    from danqing.pipelines.plan_report import report_json, report_plan

    speed = measured_speed(folder, resolve_device(device), held.dtype)
    report = report_plan(folder, wishes, held.plan, dtype=held.dtype, speed=speed)
    if as_json:
        click.echo(json.dumps(report_json(report), ensure_ascii=False))
    else:
        click.echo("\n".join(plan_lines(report)))
