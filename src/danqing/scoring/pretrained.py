"""Models of `transformers` that judge: from a folder, or from the hub at one commit, safetensors alone.

Pictures are prepared by the library's PIL path, so that scores do not depend on whether torchvision is there;
only conversations are prepared as the library chooses, and their judges' versions say how. No code of a
repository is run.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import torch
from PIL import Image
from safetensors import SafetensorError

from danqing.device import resolve_device, resolve_precision
from danqing.errors import CheckpointError, ConfigError, RequestError
from danqing.scoring.digest import module_digest
from danqing.scoring.pinned import PINNED

EXTRA: Final = "pip install 'danqing[judges]'"
_ID: Final = re.compile(r"[\w.-]+/[\w.-]+")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a judge's weights are, and how they are held."""

    place: str
    """A folder, or the id of a repository."""
    revision: str | None = None
    """Commit of the repository; None for a folder."""
    device: str = "auto"
    precision: str = "fp32"
    """fp32, bf16 or auto; scores of published benchmarks are of fp32 unless they say otherwise."""


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A loaded model, in evaluation mode."""

    source: Source
    model: Any
    device: torch.device
    dtype: torch.dtype
    name: str
    """The id of the repository, or the name of the folder."""
    version: str
    """Commit, digest of the weights, precision, and the library's version."""

    def held(self, inputs: Any) -> dict[str, Any]:
        """Return inputs where the model is, floating ones in its precision."""
        return {
            name: value.to(self.device, self.dtype) if value.is_floating_point() else value.to(self.device)
            for name, value in inputs.items()
        }


def source_of(place: str | Path, role: str, *, device: str = "auto", precision: str = "fp32") -> Source:
    """Return where the weights of a judge are.

    `place` is a folder, a name of the table of pinned weights, `ORG/NAME@COMMIT`, or empty for what is pinned
    for `role`. Raises RequestError for an id without a commit, since a branch moves and scores would with it,
    and CheckpointError for a folder that is not there.
    """
    text = str(place)
    if text and Path(text).is_dir():
        return Source(place=text, device=device, precision=precision)
    known = {one.id: one for one in PINNED.values()} | PINNED | {"": PINNED[role]}
    if text in known:
        found = known[text]
        return Source(place=found.id, revision=found.revision, device=device, precision=precision)
    name, _, commit = text.partition("@")
    if not _ID.fullmatch(name):
        names = ", ".join(PINNED)
        raise CheckpointError(f"expected a folder, ORG/NAME@COMMIT or one of {names}, found {text!r}")
    if not _COMMIT.fullmatch(commit):
        raise RequestError(f"expected {name}@COMMIT with its 40 digits, found {text!r}; a branch may move")
    return Source(place=name, revision=commit, device=device, precision=precision)


def library() -> ModuleType:
    """Return the `transformers` library; raises ConfigError without the extra."""
    try:
        import transformers
    except ImportError:
        raise ConfigError(f"expected the transformers library, found none; {EXTRA}") from None
    return transformers


def open_model(source: Source, kind: str, families: Sequence[str] = ()) -> Pretrained:
    """Load a model of the class `kind` of the library, whose family is one of `families` where given.

    Raises CheckpointError for files that are missing, broken, of another family, pickled, or that leave a
    weight of the model open.
    """
    made = library()
    device = resolve_device(source.device)
    dtype = resolve_precision(source.precision, device)
    with opening(source):
        config = made.AutoConfig.from_pretrained(
            source.place, revision=source.revision, trust_remote_code=False
        )
        if families and config.model_type not in families:
            raise CheckpointError(
                f"{source.place}: expected a model of {', '.join(families)}, found {config.model_type}"
            )
        model, told = getattr(made, kind).from_pretrained(
            source.place,
            revision=source.revision,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    if missing := sorted(told["missing_keys"]):
        raise CheckpointError(
            f"{source.place}: expected all weights of {type(model).__name__}, found none for {missing[0]} "
            f"and {len(missing) - 1} more; is it another model?"
        )
    model = model.eval().requires_grad_(False).to(device)
    folder = source.revision is None
    parts = [] if folder else [str(source.revision)[:12]]
    parts += [module_digest(model), str(dtype).removeprefix("torch."), f"transformers-{made.__version__}"]
    return Pretrained(
        source=source,
        model=model,
        device=device,
        dtype=dtype,
        name=Path(source.place).resolve().name if folder else source.place,
        version=" ".join(parts),
    )


def open_pictures(source: Source) -> Any:
    """Load what prepares pictures, by the PIL path on every machine."""
    made = library()
    with opening(source):
        return made.AutoImageProcessor.from_pretrained(
            source.place, revision=source.revision, backend="pil", trust_remote_code=False
        )


def open_tokenizer(source: Source) -> Any:
    """Load what takes texts apart."""
    made = library()
    with opening(source):
        return made.AutoTokenizer.from_pretrained(
            source.place, revision=source.revision, trust_remote_code=False
        )


def open_processor(source: Source) -> Any:
    """Load what prepares conversations with pictures."""
    made = library()
    with opening(source):
        return made.AutoProcessor.from_pretrained(
            source.place, revision=source.revision, trust_remote_code=False
        )


@contextmanager
def opening(source: Source) -> Iterator[None]:
    """Turn what the library says of files into errors of ours."""
    try:
        yield
    except ImportError as error:
        raise ConfigError(f"{source.place}: {_line(error)}; {EXTRA}") from None
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        hint = ""
        if "safetensors" in str(error) or "pytorch_model.bin" in str(error):
            hint = "; weights are read as safetensors: load them once and write them with save_pretrained"
        raise CheckpointError(f"{source.place}: cannot load a judge: {_line(error)}{hint}") from None


class LastPicture:
    """Keeps what was computed for the last picture, since several questions are about one."""

    def __init__(self) -> None:
        self._key: bytes | None = None
        self._value: Any = None

    def get(self, picture: Image.Image, compute: Any) -> Any:
        """Return what `compute` makes of the picture, or made of the same pixels just before."""
        head = f"{picture.mode}{picture.size}".encode()
        key = hashlib.blake2b(head + picture.tobytes()).digest()
        if key != self._key:
            self._value, self._key = compute(picture), key
        return self._value


def _line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
