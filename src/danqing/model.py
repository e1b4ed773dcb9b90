"""The front door: load a checkpoint, one method a task."""

from collections.abc import Iterator
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

from PIL import Image

from danqing.conditioning.images import describe_picture
from danqing.device import resolve_device, resolve_precision
from danqing.errors import CheckpointError, RequestError
from danqing.pipelines.components import Components, load_components
from danqing.pipelines.generate import Drawn, GenerateRequest, Progress, generate
from danqing.weights.layouts import CheckpointInfo, Folder

SHIPPED = ("nano",)


def find_checkpoint(name: str | Path) -> Folder:
    """Return the checkpoint called `name`: one that is shipped, or a folder in the released layout."""
    path = Path(name)
    if str(name) in SHIPPED and not path.is_dir():
        path = Path(str(resources.files("danqing") / "checkpoints" / str(name)))
        if not path.is_dir():
            raise CheckpointError(f"expected {name} inside the package, found none; install danqing again")
    if not path.is_dir():
        raise CheckpointError(
            f"expected a shipped model ({', '.join(SHIPPED)}) or a checkpoint folder, found {name}"
        )
    return Folder(path)


def load(name: str | Path = "nano", *, device: str = "auto", precision: str = "auto") -> "Model":
    """Load a checkpoint: a shipped name or a folder as released (`model_index.json` and its parts).

    `device` is auto, cpu, cuda or mps; `precision` auto, fp32 or bf16. Raises CheckpointError when files are
    missing, broken or do not fit.
    """
    folder = find_checkpoint(name)
    where = resolve_device(device)
    return Model(load_components(folder, device=where, dtype=resolve_precision(precision, where)))


class Model:
    """A loaded checkpoint."""

    def __init__(self, components: Components) -> None:
        self.components = components

    @property
    def info(self) -> CheckpointInfo:
        """How this checkpoint wants to be used: sizes, steps, guidance, licence."""
        return self.components.info

    def generate(self, prompt: str | GenerateRequest, **options: Any) -> Image.Image | list[Image.Image]:
        """Draw `prompt`; options are the fields of GenerateRequest. With `count` above 1, return a list.

        Every parameter is in the picture's `info` and goes into the file when it is saved as PNG.
        """
        request = _request(prompt, options)
        pictures = [labelled(drawn, self.info) for drawn in self._drawn([request])]
        return pictures if request.count > 1 else pictures[0]

    def stream(self, prompt: str | GenerateRequest, **options: Any) -> Iterator[Progress]:
        """Draw like `generate`, yielding every step with a preview; the last step of a picture carries it."""
        return generate(self.components, [_request(prompt, options)])

    def _drawn(self, requests: list[GenerateRequest]) -> Iterator[Drawn]:
        for progress in generate(self.components, requests):
            yield from progress.drawn


def labelled(drawn: Drawn, info: CheckpointInfo) -> Image.Image:
    """Return the picture with everything needed to draw it again in its metadata."""
    return describe_picture(drawn.image, {"model": info.name, **asdict(drawn.request)})


def _request(prompt: str | GenerateRequest, options: dict[str, Any]) -> GenerateRequest:
    if isinstance(prompt, GenerateRequest):
        if options:
            raise RequestError(f"expected a request or options, found both ({', '.join(options)})")
        return prompt
    known = set(GenerateRequest.__dataclass_fields__)
    if unknown := set(options) - known:
        raise RequestError(f"unknown option {sorted(unknown)[0]!r}; known: {', '.join(sorted(known))}")
    return GenerateRequest(prompt=prompt, **options)
