"""What the verbs that draw share: pictures named by flags, and the loop that writes what is drawn."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from danqing.cli.outputs import writing
from danqing.cli.progress import Bar
from danqing.errors import ResourceError

if TYPE_CHECKING:
    from danqing.model import Model
    from danqing.pipelines.draw import Drawn, Progress
    from danqing.pipelines.rewriting import WishRequest

R = TypeVar("R", bound="WishRequest")

_SAVED_AS: dict[str, dict[str, Any]] = {
    ".jpg": {"quality": 95, "subsampling": 0},
    ".jpeg": {"quality": 95, "subsampling": 0},
    ".webp": {"quality": 95, "method": 6},
}
_OPAQUE = (".jpg", ".jpeg")
_INPUTS = ("wish", "pictures", "image", "mask", "strength")


def opened(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a request with the pictures that flags name opened."""
    from danqing.conditioning.given import open_mask, open_transparent

    opening = {"image": open_transparent, "mask": open_mask}
    return {
        name: opening[name](value) if name in opening and value is not None else value
        for name, value in fields.items()
    }


def needed(task: str, *, enhance: bool) -> tuple[str, ...]:
    """Return the tasks to load a checkpoint for."""
    return (task, "enhance") if enhance else (task,)


def told_first(request: R, enhanced: Callable[[R], R], shown: Bar) -> R:
    """Return a request with its words rewritten where it asks for that, and show what changed."""
    if not request.enhance:
        return request
    from danqing.conditioning.enhance import prompt_diff

    shown.show("rewriting the words")
    told = enhanced(request)
    shown.result(prompt_diff(request.prompt, told.prompt), err=True)
    return told


def write_drawn(
    model: "Model",
    steps: Iterator["Progress"],
    paths: Sequence[Sequence[Path]],
    shown: Bar,
    *,
    overwrite: bool,
) -> Iterator[dict[str, Any]]:
    """Write every picture as it is finished; yield what there is to say about each file.

    `paths` holds the files of each request, in the order of its pictures.
    """
    import torch

    from danqing.conditioning.given import opaque
    from danqing.model import labelled

    pictures, done = sum(map(len, paths)), 0
    waiting = [iter(names) for names in paths]
    steps_done, started = 0, time.perf_counter()
    try:
        for progress in steps:
            steps_done += len(progress.seeds)
            place = f"picture {done + 1}/{pictures}  " if pictures > 1 else ""
            shown.show(f"{place}step {progress.step}/{progress.steps}", steps_done)
            now = time.perf_counter()
            for drawn in progress.drawn:
                path = next(waiting[drawn.index])
                kind = path.suffix.lower()
                if kind in _OPAQUE:
                    drawn = replace(drawn, image=opaque(drawn.image))
                with writing(path, overwrite=overwrite) as temporary:
                    labelled(drawn, model.components).save(temporary, **_SAVED_AS.get(kind, {}))
                done += 1
                yield _line(drawn, path, model, (now - started) / len(progress.drawn))
            if progress.drawn:
                started = time.perf_counter()
    except torch.OutOfMemoryError as error:
        raise ResourceError(
            f"{model.components.device} is out of memory; draw a smaller --size ({error})"
        ) from None


def _line(drawn: "Drawn", path: Path, model: "Model", seconds: float) -> dict[str, Any]:
    from danqing.pipelines.request import parameters

    told = parameters(drawn.request)
    loras = {"loras": model.loras} if model.loras else {}
    given = {name: told[name] for name in _INPUTS if told.get(name) is not None}
    settings = {name: told[name] for name in ("prompt", "seed", "size", "steps", "guidance")}
    return {
        "path": str(path),
        **settings,
        **given,
        "model": model.info.name,
        **loras,
        "seconds": round(seconds, 3),
    }
