"""`danqing convert`: a checkpoint, a file or an adapter as other programs want it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from danqing.cli.inventory import NAMES, megabytes
from danqing.cli.options import json_option, overwrite_option
from danqing.cli.progress import bar
from danqing.errors import RequestError

if TYPE_CHECKING:
    from danqing.weights.convert import Plan
    from danqing.weights.convert_source import Origin

EXAMPLES = """\b
Examples:
  danqing convert Qwen-Image -o qwen-image-Q8_0.gguf --precision q8_0
  danqing convert Qwen-Image-Edit-2511 -o edit.safetensors --precision fp8
  danqing convert denoiser.gguf --like Qwen-Image -o my-folder
  danqing convert nano -o nano-vae.safetensors --part vae
  danqing convert kohya.safetensors --dialect diffusers -o lora.safetensors
"""
_FILE = click.Path(path_type=Path)
_PARTS = ("transformer", "vae", "text_encoder")
_PRECISIONS = ("keep", "fp32", "bf16", "fp16", "fp8", "int8", "int4", "q8_0", "q4_0")


@click.command(epilog=EXAMPLES, short_help="Write a checkpoint or an adapter as other programs want it.")
@click.argument("source")
@click.option("-o", "--output", type=_FILE, required=True, metavar="TARGET", help="File or folder to write.")
@click.option(
    "--to",
    type=click.Choice(["folder", "file", "gguf", "lora"]),
    help="What to write.  [default: as TARGET ends: .gguf, .safetensors, or else a folder]",
)
@click.option(
    "--part",
    type=click.Choice([*_PARTS, "all"]),
    help="Part to write; all is one file for ComfyUI.  [default: transformer, or what SOURCE holds]",
)
@click.option(
    "--precision",
    type=click.Choice(_PRECISIONS),
    default="keep",
    show_default=True,
    help="Number format; keep unpacks to bf16 what is packed. q8_0 and q4_0 are GGUF's.",
)
@click.option("--prefix", is_flag=True, help="Put model.diffusion_model. before the names of a denoiser.")
@click.option("--like", metavar="NAME|FOLDER", help="Checkpoint that gives what a single file does not hold.")
@click.option("--release", metavar="NAME", help="The release of a denoiser, where its file does not say so.")
@click.option("--transformer", type=_FILE, metavar="FILE", help="Take the denoiser of a folder from a file.")
@click.option("--vae", type=_FILE, metavar="FILE", help="Take the autoencoder of a folder from a file.")
@click.option(
    "--text-encoder",
    type=_FILE,
    multiple=True,
    metavar="FILE",
    help="Take the conditioner of a folder from a file; of GGUF twice, words and mmproj.",
)
@click.option(
    "--dialect",
    type=click.Choice(["diffusers", "comfyui", "kohya"]),
    help="How to spell an adapter.  [default: comfyui]",
)
@click.option(
    "--max-shard-size", default="5GB", show_default=True, metavar="SIZE", help="Of files in a folder."
)
@click.option("--dry-run", is_flag=True, help="Say what would be written, and how large it is.")
@overwrite_option
@json_option
def convert(source: str, output: Path, dry_run: bool, overwrite: bool, as_json: bool, **choices: Any) -> None:
    """Write SOURCE to TARGET: a model, a folder, a safetensors or GGUF file, or an adapter in any dialect.

    Weights go through memory one tensor at a time. Licence, release and switches are written down with them.
    """
    from danqing.weights.convert import carry_out

    plan = planned(source, output, choices)
    plan.check(overwrite=overwrite or dry_run)
    if not dry_run:
        total, done = plan.size, [0, 0]
        with bar(total, quiet=as_json) as shown:

            def report(name: str, size: int) -> None:
                done[0], done[1] = done[0] + 1, done[1] + size
                text = f"{done[0]}/{_tensors(plan)} tensors, {megabytes(done[1])} of {megabytes(total)}"
                shown.show(text, done[1])

            carry_out(plan, overwrite=overwrite, report=report)
    values = described(plan, written=not dry_run)
    click.echo(json.dumps(values, ensure_ascii=False) if as_json else "\n".join(_lines(values)))
    for note in () if as_json else plan.notes:
        click.echo(f"note: {note}", err=True)


def planned(source: str, target: Path, choices: Mapping[str, Any]) -> "Plan":
    """Return the plan for what the flags ask for; raises RequestError for flags that do not go together."""
    from danqing.weights.convert import plan_file
    from danqing.weights.convert_adapter import plan_adapter
    from danqing.weights.convert_folder import plan_folder, shard_bytes
    from danqing.weights.convert_gguf import plan_gguf

    adapter = _is_adapter(Path(source))
    kind = choices["to"] or _kind(target, adapter=adapter)
    _check_flags(choices, kind, adapter=adapter)
    if kind == "lora":
        like = _checkpoint(choices["like"])
        dialect: Any = choices["dialect"] or "comfyui"
        precision = choices["precision"]
        release = choices["release"]
        return plan_adapter(Path(source), target, dialect, like=like, release=release, precision=precision)
    origin = _origin(source, choices)
    if kind == "folder":
        size = shard_bytes(choices["max_shard_size"])
        return plan_folder(origin, target, precision=choices["precision"], max_shard_bytes=size)
    part = choices["part"]
    if kind == "gguf":
        if part == "all":
            raise RequestError("part: expected transformer or text_encoder for a GGUF file, found all")
        return plan_gguf(origin, target, part=part, precision=choices["precision"])
    parts = None if part is None else origin.parts if part == "all" else [part]
    return plan_file(origin, target, parts=parts, precision=choices["precision"], prefix=choices["prefix"])


def described(plan: "Plan", *, written: bool) -> dict[str, Any]:
    """Return what is said about a plan, or about what was written."""
    home = plan.target if plan.is_folder else Path()
    return {
        "path": str(plan.target),
        "written": written,
        "files": [
            {
                "path": str(home / file.path),
                "bytes": file.size,
                "tensors": file.tensors,
                "precisions": file.kinds,
            }
            for file in plan.files
        ],
        "copied": sorted([*plan.copies, *plan.texts]),
        "bytes": plan.size,
        "notes": list(plan.notes),
    }


def _origin(source: str, choices: Mapping[str, Any]) -> "Origin":
    from danqing.weights.convert_source import file_origin, folder_origin
    from danqing.weights.layouts import Folder
    from danqing.weights.parts import GivenParts
    from danqing.weights.releases import check_release

    check_release(choices["release"])
    given = {name: choices[name] for name in _PARTS}
    if Path(source).is_file():
        if any(given.values()):
            raise RequestError(f"{source}: expected a folder to take --transformer and others, found a file")
        return file_origin(Path(source), like=_checkpoint(choices["like"]), release=choices["release"])
    if choices["like"] is not None:
        raise RequestError(
            f"like: expected a single file that lacks configs, found {source}, which has its own"
        )
    folder = _checkpoint(source)
    assert folder is not None
    release = choices["release"] if choices["transformer"] is not None else None
    origin = folder_origin(Folder(folder.path, GivenParts(**given, release=release)))
    return origin if release or not choices["release"] else origin.called(choices["release"])


def _checkpoint(name: str | None) -> Any:
    from danqing.model import find_checkpoint

    return None if name is None else find_checkpoint(name)


def _is_adapter(path: Path) -> bool:
    from danqing.weights.headers import read_header
    from danqing.weights.releases import identify

    if path.is_dir():
        return (path / "adapter_config.json").is_file()
    return path.is_file() and identify(read_header(path)).kind == "adapter"


def _kind(target: Path, *, adapter: bool) -> str:
    if adapter:
        return "lora"
    return {".gguf": "gguf", ".safetensors": "file"}.get(target.suffix.lower(), "folder")


def _check_flags(choices: Mapping[str, Any], kind: str, *, adapter: bool) -> None:
    if adapter != (kind == "lora"):
        found = "an adapter" if adapter else "none"
        raise RequestError(f"to: expected an adapter to write a lora, and nothing else to, found {found}")
    for flag, kinds in (
        ("part", ("file", "gguf")),
        ("prefix", ("file",)),
        ("dialect", ("lora",)),
    ):
        if choices[flag] and kind not in kinds:
            raise RequestError(f"{flag}: expected it with --to {' or '.join(kinds)}, found --to {kind}")


def _tensors(plan: "Plan") -> int:
    return sum(file.tensors for file in plan.files)


def _lines(values: Mapping[str, Any]) -> list[str]:
    lines = []
    for file in values["files"]:
        kinds = file["precisions"].items()
        precisions = ", ".join(f"{count} in {NAMES.get(kind, kind)}" for kind, count in kinds)
        lines.append(f"{file['path']}  {megabytes(file['bytes'])}  tensors: {precisions}")
    if values["copied"]:
        lines.append(f"and {len(values['copied'])} configs and texts")
    verb = "written" if values["written"] else "to write"
    lines.append(f"{megabytes(values['bytes'])} {verb}")
    return lines
