"""`danqing info`: what a checkpoint is, or how a picture was drawn."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from danqing.cli.file_info import SUFFIXES, describe_tensor_file, tensor_file_table
from danqing.cli.hub import HubChoice, lookup_options, named_hub, summary, with_revision
from danqing.cli.inventory import megabytes, shortened
from danqing.cli.options import json_option
from danqing.cli.outputs import FORMATS
from danqing.errors import RequestError

EXAMPLES = """\b
Examples:
  danqing info
  danqing info checkpoints/my-model --json
  danqing info danqing-7-a-red-apple.png
  danqing info qwen-image-Q4_K_M.gguf
  danqing info Qwen/Qwen-Image
"""


@click.command(epilog=EXAMPLES, short_help="Describe a model, a file or a picture.")
@click.argument("what", default="nano")
@lookup_options
@json_option
def info(what: str, as_json: bool, **fields: Any) -> None:
    """Describe WHAT: a shipped model, a checkpoint folder or hub repository, a safetensors or GGUF file, or a
    picture.

    Of a checkpoint only configs and file headers are read; of a picture, the parameters it was drawn with.
    """
    path = Path(what)
    if path.suffix.lower() in FORMATS and not path.is_dir():
        values = describe_picture_file(path)
        lines = values.get("parameters", "").splitlines() or [
            f"{key}: {value}" for key, value in values.items()
        ]
    elif path.suffix.lower() in SUFFIXES and not path.is_dir():
        values = describe_tensor_file(path)
        lines = tensor_file_table(values)
    else:
        values = describe_hub(what, named_hub(fields)) or describe_checkpoint(what)
        lines = _table(values)
    click.echo(json.dumps(values, ensure_ascii=False) if as_json else "\n".join(lines))


def describe_picture_file(path: Path) -> dict[str, Any]:
    """Return the parameters in a picture file: ours, or the text another program left."""
    from PIL import Image, UnidentifiedImageError

    from danqing.conditioning.images import picture_parameters

    try:
        with Image.open(path) as picture:
            texts = picture_parameters(picture)
    except FileNotFoundError:
        raise RequestError(f"{path}: expected a picture, found no file") from None
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise RequestError(f"{path}: expected a picture, cannot read it ({error})") from None
    if "danqing" in texts:
        try:
            values = json.loads(texts["danqing"])
        except ValueError as error:
            raise RequestError(f"{path}: its parameters are broken ({error})") from None
        return (
            {"path": str(path), **values}
            if isinstance(values, dict)
            else {"path": str(path), "danqing": values}
        )
    if "parameters" not in texts:
        raise RequestError(
            f"{path}: expected parameters in its metadata, found none: not drawn here, or stripped"
        )
    return {"path": str(path), "parameters": texts["parameters"]}


def describe_checkpoint(name: str) -> dict[str, Any]:
    """Return what `danqing info` says about a checkpoint."""
    from danqing.cli.inventory import kept_of_a_reference, parts_of
    from danqing.model import find_checkpoint

    folder = find_checkpoint(name)
    about, parts = folder.info(), parts_of(folder)
    loaded, kept = sum(part.drawing for part in parts), kept_of_a_reference(folder)
    return {
        **dataclasses.asdict(about),
        "path": str(folder.path),
        "components": [dataclasses.asdict(part) for part in parts],
        "parameters": sum(part.parameters for part in parts),
        "bytes": sum(part.size for part in parts),
        "memory": {"fp32": 4 * loaded, "bf16": 2 * loaded},
        "reference_memory": {"fp32": 4 * kept, "bf16": 2 * kept} if kept else None,
    }


def describe_hub(model: str, choice: HubChoice) -> dict[str, Any] | None:
    """Return what `danqing info` says about a checkpoint of the hub, or None for what is none.

    Only configs and headers are fetched.
    """
    from danqing.weights.hub_download import hub_plan, local, outline
    from danqing.weights.hub_files import is_hub_id, parse_hub_id

    found = parse_hub_id(model) if is_hub_id(model) else None
    if found is None:
        return None
    hub = with_revision(found, choice)
    here = local(hub, offline=choice.offline)
    if here is not None:
        return describe_checkpoint(str(here)) | {"name": hub.repo.partition("/")[2]}
    plan = hub_plan(hub)
    with outline(plan) as folder:
        values = describe_checkpoint(str(folder))
    return values | {"path": f"{hub} (not downloaded: {megabytes(plan.to_fetch)})", "hub": summary(plan)}


def _table(values: dict[str, Any]) -> list[str]:
    lines = [
        f"{values['name']}  ({values['licence']}{'' if values['commercial'] else ': no commercial use'})",
        *([values["about"]] if values["about"] else []),
        *(f"{name:<10} {said}" for name, said in _facts(values)),
        "",
    ]
    for part in values["components"]:
        said = f"{shortened(part['parameters']):>9} parameters  {megabytes(part['size']):>11}"
        lines.append(f"{part['name']:<13}{said}  {', '.join(part['precisions'])}")
    lines += ["", f"Weights in memory while drawing: {_sizes(values['memory'])}; activations come on top."]
    if values["reference_memory"]:
        lines.append(f"Each picture to look at takes another {_sizes(values['reference_memory'])}.")
    return lines


def _facts(values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what a checkpoint wants, each with its name."""
    draws = not {"generate", "edit", "layers"}.isdisjoint(values["tasks"])
    yield "folder", values["path"]
    yield "tasks", ", ".join(values["tasks"])
    yield "languages", ", ".join(values["languages"])
    if not draws:
        return
    sides = f"{values['min_side']} to {values['max_side']}"
    yield "size", f"{_by(values['size'])}; sides of {sides} in steps of {values['multiple']}"
    if values["sizes"]:
        yield "also", ", ".join(map(_by, values["sizes"]))
    yield "pictures", "RGBA, transparent where asked for" if values["transparency"] else "RGB"
    if "edit" in values["tasks"]:
        side = round(values["reference_area"] ** 0.5)
        yield "references", f"up to {values['max_references']}, seen at the area of {side}x{side}"
    yield "steps", f"{values['steps']}{', no others' if values['fixed_steps'] else ''}"
    yield "guidance", f"{values['guidance']:g}{'' if values['guidance'] > 1 else ' (off)'}"
    yield "negative", json.dumps(values["negative_prompt"], ensure_ascii=False)
    yield "prompt", f"up to {values['max_length']} tokens"


def _by(size: Sequence[int]) -> str:
    return f"{size[0]}x{size[1]}"


def _sizes(memory: dict[str, int]) -> str:
    return " or ".join(f"{megabytes(size)} in {name}" for name, size in memory.items())
