"""Checkpoints of the hub: what a download would take, and the download into the cache all programs share.

Nothing is fetched that is code, or runs when it is read.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danqing.errors import CheckpointError, RequestError, ResourceError
from danqing.weights.hub import (
    Show,
    cache_folder,
    fetch_all,
    fetch_heads,
    fetch_json,
    is_offline,
    listing_address,
)
from danqing.weights.hub_cache import Cached, free_bytes, lacks
from danqing.weights.hub_files import (
    INDEX,
    HubId,
    Licence,
    Listing,
    RemoteFile,
    config_files,
    index_of,
    parse_listing,
    single_file,
    wanted_parts,
    weight_files,
    word_files,
)

_SPARE_DISK = 256 * 2**20  # bytes left free
_MAX_HEADER = 32 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class HubPlan:
    """What a download would do."""

    hub: HubId
    commit: str
    licence: Licence
    gated: bool
    files: tuple[RemoteFile, ...]
    """All that is needed."""
    missing: tuple[RemoteFile, ...]
    """What of it the cache lacks."""
    to_fetch: int
    """Bytes of that, without what an earlier run left."""
    free: int
    """Bytes free where the cache is."""
    place: Cached
    accepted: bool
    """Whether the licence needs no question: it is permissive, or was accepted before."""

    @property
    def size(self) -> int:
        """Bytes of all that is needed."""
        return sum(file.size for file in self.files)

    @property
    def result(self) -> Path:
        """The folder of the checkpoint, or the one file; of a folder the configs are there already."""
        folder = self.place.snapshot(self.commit)
        return folder / self.hub.path if self.hub.path else folder


def local(
    hub: HubId,
    *,
    tasks: Collection[str] | None = None,
    given: Collection[str] = (),
    offline: bool = False,
) -> Path | None:
    """Return a checkpoint's folder, or a file, that is in the cache with all that `tasks` need; else None.

    `given` are parts that come from elsewhere. Nobody is asked, so a branch is what it last was here.
    Offline, what is not there in full is a CheckpointError.
    """
    place = Cached(cache=cache_folder(), repo=hub.repo)
    commit = place.commit(hub.revision)
    if commit is None:
        lacking: str | None = hub.path or INDEX
    elif hub.path is not None:
        lacking = None if (place.snapshot(commit) / hub.path).is_file() else hub.path
    else:
        lacking = lacks(place.snapshot(commit), wanted_parts(tasks, given))
    if commit is not None and lacking is None:
        return place.snapshot(commit) / (hub.path or "")
    if offline or is_offline():
        raise CheckpointError(
            f"{hub}: expected it in the cache, since this is offline, found no {lacking}; "
            f"run danqing download {hub} with a network"
        )
    return None


def obtain(
    hub: HubId,
    *,
    tasks: Collection[str] | None = None,
    given: Collection[str] = (),
    offline: bool = False,
    accept_licence: bool = False,
    before: Callable[[HubPlan], None] | None = None,
    show: Show | None = None,
) -> Path:
    """Return the folder of a checkpoint, or the path of a file, downloading what the cache lacks.

    What the cache holds in full is taken as it is, and nobody asked. Otherwise `before` is told the plan
    before any weight is fetched, and may raise. Raises CheckpointError for what is missing, broken or
    refused, RequestError for a licence to accept, ResourceError for disk, network and permission.
    """
    here = local(hub, tasks=tasks, given=given, offline=offline)
    if here is not None:
        return here
    plan = hub_plan(hub, tasks=tasks, given=given)
    if before is not None:
        before(plan)
    return download(plan, accept_licence=accept_licence, show=show)


def hub_plan(hub: HubId, *, tasks: Collection[str] | None = None, given: Collection[str] = ()) -> HubPlan:
    """Ask the hub what a download would take; only configs and indexes of shards are fetched.

    Raises as `obtain` does.
    """
    if is_offline():
        raise ResourceError(f"{hub}: expected a network to ask the hub, found HF_HUB_OFFLINE=1; unset it")
    listing = parse_listing(hub.repo, fetch_json(hub, listing_address(hub)))
    place = Cached(cache=cache_folder(), repo=hub.repo)
    files = [single_file(listing, hub.path)] if hub.path else _needed(hub, listing, place, tasks, given)
    missing = tuple(file for file in files if not place.holds(file, listing.commit))
    contents = {file.digest: file.size - place.fetched(file) for file in missing}
    return HubPlan(
        hub=hub,
        commit=listing.commit,
        licence=listing.licence,
        gated=listing.gated,
        files=tuple(files),
        missing=missing,
        to_fetch=sum(contents.values()),
        free=free_bytes(place.cache),
        place=place,
        accepted=listing.licence.permissive or place.accepted(listing.licence),
    )


def download(plan: HubPlan, *, accept_licence: bool = False, show: Show | None = None) -> Path:
    """Fetch what a plan says is missing; return the checkpoint's folder, or the file. Errors as `obtain`."""
    check_room(plan)
    if not plan.accepted and plan.missing:
        if not accept_licence:
            said = f"{plan.licence.name}{f', {plan.licence.link}' if plan.licence.link else ''}"
            raise RequestError(
                f"{plan.hub}: expected consent to its licence ({said}), which is not known to allow every "
                "use; read it, then repeat with --accept-licence"
            )
        plan.place.accept(plan.licence)
    fetch_all(plan.hub, plan.commit, plan.missing, plan.place, show)
    for file in plan.files:
        plan.place.show(file, plan.commit)
    plan.place.note_revision(plan.hub.revision or "main", plan.commit)
    return plan.result


def check_room(plan: HubPlan) -> None:
    """Raise ResourceError where the disk has no room for a download."""
    needed = plan.to_fetch + _SPARE_DISK
    if plan.to_fetch and needed > plan.free:
        raise ResourceError(
            f"{plan.hub}: expected {needed / 1e9:.2f} GB free in {plan.place.cache}, found "
            f"{plan.free / 1e9:.2f} GB; free some, or set HF_HUB_CACHE to a folder on another disk"
        )


@contextmanager
def outline(plan: HubPlan) -> Iterator[Path]:
    """Yield a passing folder with the configs of a checkpoint and its weights as headers without data.

    Of files that are not here only the headers are fetched, a few hundred kB each; the data are holes, so
    the files have their true sizes and take no room. Whatever reads headers alone can read it: `danqing
    info`, the plan of the memory.
    """
    if plan.hub.path is not None:
        raise RequestError(f"{plan.hub}: expected a checkpoint to outline, found a file")
    weights = [file for file in plan.files if file.path.endswith(".safetensors")]
    heads = fetch_heads(plan.hub, plan.commit, weights, plan.place, _MAX_HEADER)
    with tempfile.TemporaryDirectory(prefix="danqing-") as temporary:
        folder = Path(temporary) / plan.hub.repo.partition("/")[2]
        for file in plan.files:
            target = folder / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            if file.path in heads:
                with target.open("wb") as stream:
                    stream.write(heads[file.path])
                    stream.truncate(file.size)
            elif plan.place.holds(file, plan.commit):
                shutil.copyfile(plan.place.show(file, plan.commit), target)
        yield folder


def _needed(
    hub: HubId, listing: Listing, place: Cached, tasks: Collection[str] | None, given: Collection[str]
) -> list[RemoteFile]:
    """Return the files that a checkpoint needs; its configs, which say so, are fetched for it."""
    parts = wanted_parts(tasks, given)
    configs = config_files(listing, parts)
    indexed = {part: index for part in parts if (index := index_of(listing, part)) is not None}
    for part in parts:
        if part not in indexed:
            weight_files(listing, part, None)  # refuses pickles before anything is fetched
    fetch_all(
        hub, listing.commit, [one for one in configs if not place.holds(one, listing.commit)], place, None
    )
    read = {file.path: place.show(file, listing.commit) for file in configs}
    files = [*configs, *word_files(listing)]
    for part in parts:
        said = _read_json(read[indexed[part].path]) if part in indexed else None
        files += weight_files(listing, part, said)
    return files


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected a JSON object, cannot read it ({error})") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found a {type(value).__name__}")
    return value
