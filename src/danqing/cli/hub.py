"""`danqing download`, and the flags of every verb that may download: checkpoints of the Hugging Face hub."""

import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from danqing.cli.inventory import megabytes
from danqing.cli.options import json_option
from danqing.cli.progress import bar
from danqing.errors import RequestError

if TYPE_CHECKING:
    from danqing.weights.hub_download import HubPlan
    from danqing.weights.hub_files import HubId

F = TypeVar("F", bound=Callable[..., Any])
Memory = Callable[[Path], list[str]]
"""Lines about the memory that a checkpoint folder will take; it may raise where that does not fit."""
EXAMPLES = """\b
Examples:
  danqing download Qwen/Qwen-Image --dry-run
  danqing download Qwen/Qwen-Image
  danqing download Qwen/Qwen-Image-2.1 --accept-licence
  danqing download Qwen/Qwen-Image --parts vae,text_encoder
  danqing download owner/name:split_files/denoiser-fp8.safetensors
"""
_ACCEPT = click.option(
    "--accept-licence", is_flag=True, help="Accept a licence that does not allow every use; asked once."
)
_REVISION = click.option(
    "--revision", metavar="NAME", help="Branch, tag or commit of a repository of the hub.  [default: main]"
)
_OFFLINE = click.option("--offline", is_flag=True, help="Download nothing: take the cache alone.")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubChoice:
    """What the flags say about downloads."""

    offline: bool = False
    accept_licence: bool = False
    revision: str | None = None


def hub_options(command: F) -> F:
    """Add the flags of verbs that may download what they use."""
    return lookup_options(_ACCEPT(command))


def lookup_options(command: F) -> F:
    """Add the flags of verbs that ask the hub and fetch no weights."""
    return _OFFLINE(_REVISION(command))


def named_hub(fields: dict[str, Any]) -> HubChoice:
    """Take what flags say about downloads out of `fields`."""
    known = ("offline", "accept_licence", "revision")
    return HubChoice(**{name: fields.pop(name) for name in known if name in fields})


def local_model(
    model: str,
    choice: HubChoice,
    *,
    tasks: Collection[str] | None = None,
    given: Collection[str] = (),
    memory: Memory | None = None,
    dry_run: bool = False,
    quiet: bool = False,
) -> str | None:
    """Return `model` as it is, or for a repository of the hub its folder in the cache, downloaded if need be.

    Before a download its licence, its size, the free disk and the lines of `memory` are shown on stderr; with
    `dry_run` on stdout, and there is none: None is returned.
    """
    from danqing.weights.hub_files import is_hub_id, parse_hub_id

    hub = parse_hub_id(model) if is_hub_id(model) else None
    if hub is None:
        if choice.revision is not None:
            raise RequestError(f"--revision is for a repository of the hub, found --model {model}")
        return model
    hub = with_revision(hub, choice)
    if dry_run:
        return _shown(hub, choice, tasks, given, memory)
    return str(_obtained(hub, choice, tasks, given, memory, quiet))


def local_file(file: Path | str, choice: HubChoice, *, quiet: bool = False) -> Path:
    """Return a file as it is, or one of the hub (`owner/name:path`) from the cache, downloaded if need be."""
    from danqing.weights.hub_files import is_hub_file, parse_hub_file

    hub = parse_hub_file(str(file)) if is_hub_file(str(file)) else None
    return Path(file) if hub is None else _obtained(hub, choice, None, (), None, quiet)


def with_revision(hub: "HubId", choice: HubChoice) -> "HubId":
    """Return a repository at the revision that a flag names."""
    from danqing.weights.hub_files import HubId, parse_hub_id

    if choice.revision is None:
        return hub
    if hub.revision not in (None, choice.revision):
        raise RequestError(f"{hub}: expected one revision, found --revision {choice.revision} too")
    if parse_hub_id(f"{hub.repo}@{choice.revision}") is None:
        raise RequestError(f"--revision: expected a branch, tag or commit, found {choice.revision!r}")
    return HubId(repo=hub.repo, revision=choice.revision, path=hub.path)


def _shown(
    hub: "HubId",
    choice: HubChoice,
    tasks: Collection[str] | None,
    given: Collection[str],
    memory: Memory | None,
) -> str | None:
    """Return a folder of the cache, or say what a download would do and return None."""
    from danqing.weights.hub_download import hub_plan, local

    here = local(hub, tasks=tasks, given=given, offline=choice.offline)
    if here is not None:
        return str(here)
    for line in plan_lines(hub_plan(hub, tasks=tasks, given=given), memory):
        click.echo(line)
    return None


def _obtained(
    hub: "HubId",
    choice: HubChoice,
    tasks: Collection[str] | None,
    given: Collection[str],
    memory: Memory | None,
    quiet: bool,
) -> Path:
    from danqing.weights.hub_download import hub_plan, local

    here = local(hub, tasks=tasks, given=given, offline=choice.offline)
    if here is not None:
        return here
    plan = hub_plan(hub, tasks=tasks, given=given)
    for line in plan_lines(plan, memory):
        click.echo(line, err=True)
    return _fetched(plan, choice, quiet)


def _fetched(plan: "HubPlan", choice: HubChoice, quiet: bool) -> Path:
    """Download what a plan says, under a bar that counts its bytes."""
    from danqing.weights.hub_download import download

    total = megabytes(plan.to_fetch)
    with bar(plan.to_fetch, quiet=quiet) as shown:

        def show(_: str, done: int) -> None:
            shown.show(f"{megabytes(done)} of {total}", done)

        return download(plan, accept_licence=choice.accept_licence, show=show)


def plan_lines(plan: "HubPlan", memory: Memory | None = None) -> Iterator[str]:
    """Yield what a download will do, a line each."""
    from danqing.weights.hub_download import outline

    at = "" if plan.hub.revision == plan.commit else f" ({plan.hub.revision or 'main'})"
    yield f"{plan.hub.repo} at {plan.commit[:10]}{at}"
    link = f", {plan.licence.link}" if plan.licence.link else ""
    kind = "" if plan.licence.permissive else ": not known to allow every use"
    yield f"  licence   {plan.licence.name}{link}{kind}"
    if plan.missing:
        held, count = plan.size - plan.to_fetch, len(plan.missing)
        kept = "" if held < 10**6 else f"; {megabytes(held)} are here already"
        yield f"  download  {megabytes(plan.to_fetch)} in {count} {'file' if count == 1 else 'files'}{kept}"
    else:
        yield f"  download  nothing, all {megabytes(plan.size)} are here"
    yield f"  disk      {megabytes(plan.free)} free in {plan.place.cache}"
    if memory is not None:
        with outline(plan) as folder:
            lines = memory(folder)
        yield from (f"  {'memory' if place == 0 else '':<8}  {line}" for place, line in enumerate(lines))


def summary(plan: "HubPlan") -> dict[str, Any]:
    """Return a plan as values for JSON."""
    return {
        "repo": plan.hub.repo,
        "revision": plan.hub.revision or "main",
        "commit": plan.commit,
        "licence": asdict(plan.licence) | {"permissive": plan.licence.permissive, "accepted": plan.accepted},
        "gated": plan.gated,
        "bytes": plan.size,
        "to_fetch": plan.to_fetch,
        "free": plan.free,
        "files": [
            {"path": file.path, "bytes": file.size, "here": file not in plan.missing} for file in plan.files
        ],
        "path": str(plan.result),
    }


@click.command(epilog=EXAMPLES, short_help="Download a checkpoint or a file of the hub.")
@click.argument("what", metavar="REPO|REPO:FILE")
@click.option(
    "--parts", metavar="NAMES", help="Weights to fetch: transformer, vae, text_encoder.  [default: all]"
)
@click.option("--tasks", metavar="NAMES", help="Fetch what these need: generate, edit, layers, describe.")
@click.option("--dry-run", is_flag=True, help="Show what would be done, and download no weights.")
@_ACCEPT
@_REVISION
@json_option
@click.option("--quiet", is_flag=True, help="Show no progress.")
def download(
    what: str,
    parts: str | None,
    tasks: str | None,
    dry_run: bool,
    accept_licence: bool,
    revision: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Download a checkpoint (owner/name) or a single file (owner/name:path) into the cache, and check it.

    The cache is the one that all programs of the hub share; what it holds is not fetched again, and a
    download that was cut off goes on. Prints where it is. HF_ENDPOINT, HF_TOKEN and HF_HUB_CACHE count.
    """
    from danqing.weights.hub_download import hub_plan
    from danqing.weights.hub_files import PARTS, parse_hub_file, parse_hub_id

    hub = parse_hub_file(what) or parse_hub_id(what)
    if hub is None:
        raise RequestError(f"expected a repository of the hub like Qwen/Qwen-Image, found {what!r}")
    wanted = _names("--parts", parts, PARTS)
    asked = _names("--tasks", tasks, ("generate", "edit", "layers", "describe", "enhance"))
    hub = with_revision(hub, HubChoice(revision=revision))
    given = () if wanted is None else [part for part in PARTS if part not in wanted]
    plan = hub_plan(hub, tasks=asked, given=given)
    if not as_json:
        for line in plan_lines(plan):
            click.echo(line, err=not dry_run)
    if not dry_run:
        path = _fetched(plan, HubChoice(accept_licence=accept_licence), quiet)
        if not as_json:
            click.echo(path)
    if as_json:
        click.echo(json.dumps(summary(plan), ensure_ascii=False))


def _names(flag: str, text: str | None, known: Collection[str]) -> list[str] | None:
    names = None if text is None else [name.strip() for name in text.split(",")]
    for name in names or ():
        if name not in known:
            raise RequestError(f"{flag}: expected some of {', '.join(known)}, found {name!r}")
    return names
