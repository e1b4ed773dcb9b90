"""`danqing generate`: text to picture."""

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from danqing.cli.batch import Order, read_batch
from danqing.cli.options import Size, json_option, model_options, overwrite_option, use_threads
from danqing.cli.outputs import (
    check_format,
    check_writable,
    default_paths,
    free_path,
    make_folder,
    numbered,
    writing,
)
from danqing.cli.progress import Bar, bar
from danqing.errors import RequestError, ResourceError

if TYPE_CHECKING:
    from danqing.model import Model
    from danqing.pipelines.generate import Drawn
    from danqing.weights.layouts import CheckpointInfo

EXAMPLES = """\b
Examples:
  danqing "a red apple on a blue table"
  danqing generate "a red apple" --seed 7 -n 4 -o apple.png
  danqing generate "a red apple" --size 256x192 --steps 20 --guidance 5
  echo "a red apple" | danqing generate -
  danqing generate --batch prompts.jsonl -o pictures --resume --json

\b
A line of a batch, of which only the prompt is needed:
  {"prompt": "a red apple", "seed": 7, "size": "256x256", "output": "apple.png"}
"""
_SAVED_AS: dict[str, dict[str, Any]] = {
    ".jpg": {"quality": 95, "subsampling": 0},
    ".jpeg": {"quality": 95, "subsampling": 0},
    ".webp": {"quality": 95, "method": 6},
}
_MAX_PROMPT_BYTES = 2**20
_FILE = click.Path(path_type=Path)


@click.command(epilog=EXAMPLES, short_help="Draw a picture from text.")
@click.argument("prompt", nargs=-1)
@click.option("--prompt-file", type=_FILE, metavar="FILE", help="Read the prompt from a file.")
@click.option("--batch", type=_FILE, metavar="JSONL", help="Draw every line of a file of JSON objects.")
@click.option("--size", type=Size(), help="Width and height in pixels.  [default: the model's own]")
@click.option("--steps", type=int, metavar="N", help="Denoising steps.  [default: the model's own]")
@click.option("--guidance", type=float, metavar="G", help="How closely to follow the prompt; 1 turns it off.")
@click.option("--negative-prompt", metavar="TEXT", help="What the picture should not be.")
@click.option(
    "--seed", type=int, metavar="N", help="The same seed gives the same picture.  [default: a fresh one]"
)
@click.option(
    "-n", "--count", type=int, default=1, show_default=True, metavar="N", help="Pictures; seeds count up."
)
@click.option("--solver", default="euler", show_default=True, help="euler, or heun: slower, more exact.")
@click.option(
    "-o", "--output", type=_FILE, metavar="FILE", help="File to write (png, jpg, webp), or a folder."
)
@overwrite_option
@click.option("--resume", is_flag=True, help="With --batch: skip the pictures that are there.")
@model_options
@json_option
@click.option("--quiet", is_flag=True, help="Show no progress.")
def generate(
    prompt: tuple[str, ...],
    prompt_file: Path | None,
    batch: Path | None,
    output: Path | None,
    overwrite: bool,
    resume: bool,
    model: str,
    device: str,
    precision: str,
    threads: int | None,
    as_json: bool,
    quiet: bool,
    **fields: Any,
) -> None:
    """Draw a picture from text; a prompt of - is read from stdin.

    Prints the path of every picture, by default danqing-SEED-WORDS.png in the current folder.
    """
    if resume and batch is None:
        raise RequestError("--resume goes on with a --batch; a single picture has nothing to resume")
    text = _prompt(prompt, prompt_file, batch)

    from danqing.model import find_checkpoint, load

    info = find_checkpoint(model).info()
    if batch is not None:
        folder = output or Path()
        orders = read_batch(batch, fields, info, folder)
        make_folder(folder)
        orders = [order for order in orders if not (resume and order.paths[0].is_file())]
    else:
        orders = [_order(text, fields, info, output)]
    check_writable([path for order in orders for path in order.paths], overwrite=overwrite)
    if orders:
        use_threads(threads)
        total = sum(order.request.count * (order.request.steps or 0) for order in orders)
        with bar(total, quiet=quiet) as shown:
            shown.show(f"loading {info.name}")
            for line in draw(
                load(model, device=device, precision=precision), orders, shown, overwrite=overwrite
            ):
                shown.result(json.dumps(line, ensure_ascii=False) if as_json else line["path"])


def draw(model: "Model", orders: Sequence[Order], shown: Bar, *, overwrite: bool) -> Iterator[dict[str, Any]]:
    """Draw and write every picture of `orders`; yield what there is to say about each file."""
    import torch

    from danqing.model import labelled
    from danqing.pipelines.generate import generate as stream

    pictures, done = sum(len(order.paths) for order in orders), 0
    paths = [iter(order.paths) for order in orders]
    steps_done, started = 0, time.perf_counter()
    try:
        for progress in stream(model.components, [order.request for order in orders]):
            steps_done += len(progress.seeds)
            place = f"picture {done + 1}/{pictures}  " if pictures > 1 else ""
            shown.show(f"{place}step {progress.step}/{progress.steps}", steps_done)
            now = time.perf_counter()
            for drawn in progress.drawn:
                path = next(paths[drawn.index])
                with writing(path, overwrite=overwrite) as temporary:
                    labelled(drawn, model.info).save(temporary, **_SAVED_AS.get(path.suffix.lower(), {}))
                done += 1
                yield _line(drawn, path, model.info.name, (now - started) / len(progress.drawn))
            if progress.drawn:
                started = time.perf_counter()
    except torch.OutOfMemoryError as error:
        raise ResourceError(
            f"{model.components.device} is out of memory; draw a smaller --size ({error})"
        ) from None


def _line(drawn: "Drawn", path: Path, model: str, seconds: float) -> dict[str, Any]:
    request = drawn.request
    return {
        "path": str(path),
        "prompt": request.prompt,
        "seed": request.seed,
        "size": request.size,
        "steps": request.steps,
        "guidance": request.guidance,
        "model": model,
        "seconds": round(seconds, 3),
    }


def _prompt(words: tuple[str, ...], file: Path | None, batch: Path | None) -> str:
    """Return the text to draw from wherever it comes; empty with a batch, which brings its own."""
    if sum((bool(words), file is not None, batch is not None)) != 1:
        raise RequestError(
            "expected one prompt, --prompt-file or --batch, found "
            + ("several" if words or file or batch else 'none; try danqing "a red apple on a blue table"')
        )
    if batch is not None:
        return ""
    if len(words) > 1:
        raise RequestError(f'expected one prompt, found {len(words)} words; quote them: "{" ".join(words)}"')
    try:
        if file is not None:
            with file.open("rb") as opened:
                raw = opened.read(_MAX_PROMPT_BYTES)
        elif words == ("-",):
            raw = sys.stdin.buffer.read(_MAX_PROMPT_BYTES)
        else:
            return words[0]
        return raw.decode("utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(
            f"{file or 'stdin'}: expected a prompt in UTF-8, cannot read it ({error})"
        ) from None


def _order(prompt: str, fields: Mapping[str, Any], info: "CheckpointInfo", output: Path | None) -> Order:
    """Return the request for one prompt, and where its pictures go."""
    from danqing.pipelines.generate import GenerateRequest

    request = GenerateRequest(prompt=prompt, **fields).resolved(info)
    assert request.seed is not None
    if output is None or output.is_dir():
        named = default_paths(output or Path(), prompt, request.seed, request.count)
        return Order(request=request, paths=tuple(free_path(path) for path in named))
    check_format(output)
    return Order(request=request, paths=numbered(output, request.count))
