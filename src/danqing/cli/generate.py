"""`danqing generate`: text to picture, or picture to picture."""

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from danqing.cli.adapters import adapter_options
from danqing.cli.batch import Order, read_batch
from danqing.cli.checkpoint import checkpoint_options, named_checkpoint
from danqing.cli.controls import control_options, opened_controls
from danqing.cli.drawing import needed, opened, told_first, write_drawn
from danqing.cli.options import drawing_options, json_option, overwrite_option, use_threads
from danqing.cli.outputs import check_writable, make_folder, paths_for
from danqing.cli.progress import bar
from danqing.errors import RequestError

if TYPE_CHECKING:
    from danqing.weights.layouts import CheckpointInfo

EXAMPLES = """\b
Examples:
  danqing "a red apple on a blue table"
  danqing generate "a red apple" --seed 7 -n 4 -o apple.png
  danqing generate "a red apple" --size 256x192 --steps 20 --guidance 5
  danqing generate "the same in watercolours" --image photo.png --strength 0.6
  danqing generate "a green apple" --image photo.png --mask apple-is-white.png
  danqing generate "a red apple" --model path/to/Qwen-Image --lora ink.safetensors:0.8
  danqing generate "a red apple" --model path/to/Qwen-Image --lightning Lightning-4steps-V2.0.safetensors
  danqing generate "a red house" --control edges.png:0.9 --controlnet path/to/Qwen-Image-ControlNet-Union
  danqing generate "a dragon that reads" --enhance --model path/to/Qwen-Image-2.1
  danqing generate "a red apple" --model Qwen/Qwen-Image --memory 16GB --dry-run
  echo "a red apple" | danqing generate -
  danqing generate --batch prompts.jsonl -o pictures --resume --json

\b
A line of a batch, of which only the prompt is needed:
  {"prompt": "a red apple", "seed": 7, "size": "256x256", "output": "apple.png"}
"""
_MAX_PROMPT_BYTES = 2**20
_FILE = click.Path(path_type=Path)


@click.command(epilog=EXAMPLES, short_help="Draw a picture from text.")
@click.argument("prompt", nargs=-1)
@click.option("--prompt-file", type=_FILE, metavar="FILE", help="Read the prompt from a file.")
@click.option("--batch", type=_FILE, metavar="JSONL", help="Draw every line of a file of JSON objects.")
@click.option("--image", type=_FILE, metavar="FILE", help="Start from this picture instead of noise.")
@click.option("--mask", type=_FILE, metavar="FILE", help="Draw over --image only where this is white.")
@click.option(
    "--strength",
    type=float,
    metavar="S",
    help="How far from --image: 0.01 keeps it, 1 forgets it.  [default: 0.6; with --mask 1]",
)
@control_options
@adapter_options
@drawing_options
@overwrite_option
@click.option("--resume", is_flag=True, help="With --batch: skip the pictures that are there.")
@checkpoint_options
@json_option
@click.option("--quiet", is_flag=True, help="Show no progress.")
def generate(
    prompt: tuple[str, ...],
    prompt_file: Path | None,
    batch: Path | None,
    controlnet: Path | None,
    control: tuple[str, ...],
    control_mask: Path | None,
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

    from danqing.pipelines.generate import enhanced
    from danqing.pipelines.generate import generate as draw
    from danqing.pipelines.prepare import steps_taken

    tasks = needed("generate", enhance=fields["enhance"])
    checkpoint = named_checkpoint(
        fields, model, device=device, precision=precision, tasks=tasks, controlnet=controlnet, quiet=quiet
    )
    fields = opened(fields) | {"controls": opened_controls(control, control_mask, controlnet)}
    info = checkpoint.info
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
        total = sum(order.request.count * steps_taken(order.request) for order in orders)
        with bar(total, quiet=quiet) as shown:
            shown.show(f"loading {info.name}")
            wishes = [order.request for order in orders]
            loaded = checkpoint.load(wishes, tasks=tasks, as_json=as_json)
            if batch is None:  # a rewrite may choose the shape where nobody else does
                wishes = [replace(wish, size=fields["size"]) for wish in wishes]
            requests = [
                told_first(wish, lambda said: enhanced(loaded.components, said), shown) for wish in wishes
            ]
            steps = draw(loaded.components, requests)
            paths = [order.paths for order in orders]
            for line in write_drawn(loaded, steps, paths, shown, overwrite=overwrite):
                shown.result(json.dumps(line, ensure_ascii=False) if as_json else line["path"])


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
    return Order(request=request, paths=paths_for(output, prompt, request.seed, request.count))
