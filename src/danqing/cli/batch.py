"""Many requests from one JSONL file, all checked before the first is drawn."""

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from danqing.cli.options import parse_size
from danqing.cli.outputs import check_format, numbered, slug
from danqing.errors import RequestError

if TYPE_CHECKING:
    from danqing.pipelines.generate import GenerateRequest
    from danqing.weights.layouts import CheckpointInfo

MAX_BYTES = 256 * 2**20

_TYPES: dict[str, tuple[type, ...]] = {
    "prompt": (str,),
    "negative_prompt": (str,),
    "size": (str, list),
    "steps": (int,),
    "guidance": (int, float),
    "seed": (int,),
    "count": (int,),
    "solver": (str,),
    "output": (str,),
}
_SAID = {str: "a text", int: "a whole number", float: "a number", list: "[width, height]"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A request with the checkpoint's values filled in, and the file of each of its pictures."""

    request: "GenerateRequest"
    paths: tuple[Path, ...]


def read_batch(file: Path, defaults: Mapping[str, Any], info: "CheckpointInfo", folder: Path) -> list[Order]:
    """Return one order a picture of the batch `file`; flags fill what a line leaves out.

    Pictures are named by `output`, or by the line's number and words, so that another run finds them again.
    Raises RequestError with the number of the first wrong line.
    """
    orders: list[Order] = []
    owners: dict[Path, int] = {}
    for number, line in _lines(file):
        try:
            for order in _orders(json.loads(line), number, defaults, info, folder):
                if order.paths[0] in owners:
                    raise RequestError(
                        f"output: line {owners[order.paths[0]]} writes {order.paths[0].name} as well"
                    )
                owners[order.paths[0]] = number
                orders.append(order)
        except (RequestError, ValueError, RecursionError) as error:
            problem = f"expected a JSON object ({error})" if isinstance(error, ValueError) else str(error)
            raise RequestError(f"{file}:{number}: {problem}") from None
    if not orders:
        raise RequestError(f"{file}: expected one JSON object a line, found an empty file")
    return orders


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Yield the number and text of every line that is not blank."""
    try:
        if file.stat().st_size > MAX_BYTES:
            raise RequestError(f"{file}: expected at most {MAX_BYTES} bytes, found {file.stat().st_size}")
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{file}: expected JSON lines in UTF-8, cannot read them ({error})") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line


def _orders(
    value: Any, number: int, defaults: Mapping[str, Any], info: "CheckpointInfo", folder: Path
) -> Iterator[Order]:
    from danqing.pipelines.generate import GenerateRequest

    fields = {**defaults, **_checked(value)}
    output = fields.pop("output", None)
    request = GenerateRequest(**fields)
    path = folder / (f"{number:04d}-{slug(request.prompt)}.png" if output is None else _plain_name(output))
    for place, target in enumerate(numbered(path, request.count)):
        seed = None if request.seed is None else request.seed + place
        yield Order(request=replace(request, seed=seed, count=1).resolved(info), paths=(target,))


def _checked(value: Any) -> dict[str, Any]:
    """Return the fields of one line, each of its type; null means the same as leaving it out."""
    if not isinstance(value, dict):
        raise RequestError(
            f'expected an object like {{"prompt": "a red apple"}}, found a {type(value).__name__}'
        )
    fields: dict[str, Any] = {}
    for key, found in value.items():
        if key not in _TYPES:
            near = difflib.get_close_matches(key, _TYPES, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(_TYPES)}"
            raise RequestError(f"unknown field {key!r}; {hint}")
        if found is None:
            continue
        if isinstance(found, bool) or not isinstance(found, _TYPES[key]):
            raise RequestError(
                f"{key}: expected {' or '.join(_SAID[kind] for kind in _TYPES[key])}, found {found!r}"
            )
        if isinstance(found, str) and re.search(r"[\ud800-\udfff]", found):
            raise RequestError(f"{key}: expected valid Unicode text, found half of a surrogate pair")
        fields[key] = _size(found) if key == "size" else found
    if "guidance" in fields:
        fields["guidance"] = float(fields["guidance"])
    if "prompt" not in fields:
        raise RequestError("prompt: expected some text, found none")
    return fields


def _size(value: Any) -> tuple[int, int]:
    if isinstance(value, str):
        return parse_size(value)
    if len(value) != 2 or not all(type(side) is int for side in value):
        raise RequestError(f"size: expected [width, height] in pixels, found {value!r}")
    return value[0], value[1]


def _plain_name(output: str) -> str:
    if Path(output).name != output or "\\" in output or "\0" in output:
        raise RequestError(f"output: expected a plain file name, found {output!r}")
    check_format(Path(output))
    return output
