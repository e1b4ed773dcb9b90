"""What every request to draw has in common, checked once."""

import dataclasses
import math
from typing import Any, ClassVar, Protocol, TypeVar

from danqing.conditioning.given import GivenPicture
from danqing.conditioning.pictures import fitted_size
from danqing.errors import RequestError
from danqing.rng import check_seed, fresh_seed
from danqing.sampling.denoise import SOLVERS
from danqing.weights.layouts import CheckpointInfo

MAX_COUNT = 1000
MAX_PROMPT_CHARACTERS = 20_000
MIN_STRENGTH = 0.01
_MAX_ASPECT_ERROR = 0.02


class DrawRequest(Protocol):
    """The options that all drawing tasks know; None takes the checkpoint's own value."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def prompt(self) -> str:
        """What to draw, or the instruction of an edit."""

    @property
    def negative_prompt(self) -> str | None:
        """What guidance leads away from."""

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height in pixels."""

    @property
    def steps(self) -> int | None:
        """Length of the schedule."""

    @property
    def guidance(self) -> float | None:
        """Strength of classifier-free guidance; 1 turns it off."""

    @property
    def seed(self) -> int | None:
        """Seed of the first picture; further ones count up."""

    @property
    def count(self) -> int:
        """Pictures to draw."""

    @property
    def solver(self) -> str:
        """How the schedule is followed."""

    @property
    def mask(self) -> GivenPicture | None:
        """White where to draw."""

    @property
    def strength(self) -> float | None:
        """How far towards noise the picture that drawing starts from is moved."""


R = TypeVar("R", bound=DrawRequest)


def check_request(request: DrawRequest, *, example: str | None) -> None:
    """Raise RequestError for the first value that no checkpoint could draw with.

    Without an `example` of it the prompt may be empty.
    """
    if example is not None and not (isinstance(request.prompt, str) and request.prompt.strip()):
        raise RequestError(f'prompt: expected some text, found none; try "{example}"')
    for name in ("prompt", "negative_prompt", "wish"):
        _check_text(name, getattr(request, name, None))
    if request.size is not None and not _is_size(request.size):
        raise RequestError(f"size: expected width and height, found {request.size!r}; try (1024, 768)")
    if request.steps is not None:
        _check_number("steps", request.steps, 1, 1000)
    if request.guidance is not None:
        _check_number("guidance", request.guidance, 1, 100, whole=False)
    if request.strength is not None:
        _check_number("strength", request.strength, MIN_STRENGTH, 1, whole=False)
    _check_number("count", request.count, 1, MAX_COUNT)
    if request.solver not in SOLVERS:
        raise RequestError(f"solver: expected one of {', '.join(SOLVERS)}, found {request.solver!r}")
    if request.seed is not None:
        check_seed(request.seed)
        check_seed(request.seed + request.count - 1)


def check_given(name: str, picture: object) -> None:
    """Raise RequestError unless `picture` was opened by `open_picture` or `open_mask`."""
    if not isinstance(picture, GivenPicture):
        raise RequestError(f"{name}: expected an opened picture, found {type(picture).__name__}")


def check_mask(mask: GivenPicture, picture: GivenPicture) -> None:
    """Raise RequestError unless the mask covers the picture: the same aspect, some white."""
    check_given("mask", mask)
    wide, high = (a / b for a, b in zip(mask.image.size, picture.image.size, strict=True))
    if abs(wide / high - 1) > _MAX_ASPECT_ERROR:
        sizes = [f"{one.image.width}x{one.image.height}" for one in (picture, mask)]
        raise RequestError(f"mask: expected the shape of the picture, {sizes[0]}, found {sizes[1]}")


def settled(request: R, info: CheckpointInfo, *, size: tuple[int, int]) -> R:
    """Return the request with the checkpoint's values filled in; `size` stands in for a missing one."""
    size = request.size or size
    for label, side in zip(("width", "height"), size, strict=True):
        if side % info.multiple or not info.min_side <= side <= info.max_side:
            raise RequestError(
                f"size: {info.name} draws {info.min_side} to {info.max_side} pixels a side in multiples "
                f"of {info.multiple}, found {label} {side}"
            )
    if info.fixed_steps and request.steps not in (None, info.steps):
        raise RequestError(
            f"steps: {info.name} was made for {info.steps}, found {request.steps}; leave steps out"
        )
    return dataclasses.replace(
        request,
        size=size,
        negative_prompt=info.negative_prompt if request.negative_prompt is None else request.negative_prompt,
        steps=request.steps or info.steps,
        guidance=info.guidance if request.guidance is None else request.guidance,
        seed=fresh_seed() if request.seed is None else request.seed,
    )


def check_task(info: CheckpointInfo, task: str) -> None:
    """Raise RequestError, saying what the checkpoint can do, unless it was trained for `task`."""
    if task not in info.tasks:
        wanted = {"layers": "draw layers", "enhance": "enhance prompts"}.get(task, task)
        raise RequestError(f"{info.name} cannot {wanted}; it can {', '.join(info.tasks)}")


def inside(size: tuple[int, int], info: CheckpointInfo) -> tuple[int, int]:
    """Return the nearest size whose sides the checkpoint draws."""
    low = -(-info.min_side // info.multiple) * info.multiple
    high = info.max_side // info.multiple * info.multiple
    width, height = (min(max(round(side / info.multiple) * info.multiple, low), high) for side in size)
    return width, height


def size_of_aspect(info: CheckpointInfo, ratio: tuple[int, int]) -> tuple[int, int]:
    """Return the width and height at which a checkpoint draws best that have about the aspect of `ratio`."""
    wanted = ratio[0] / ratio[1]

    def error(size: tuple[int, int]) -> float:
        return abs(math.log(size[0] / size[1] / wanted))

    nearest = min((info.size, *info.sizes), key=error)
    if error(nearest) <= _MAX_ASPECT_ERROR:
        return nearest
    return inside(fitted_size(ratio, info.size[0] * info.size[1], info.multiple), info)


def parameters(request: DrawRequest) -> dict[str, Any]:
    """Return the fields of a request for metadata: pictures are told by name."""
    return {field.name: _told(getattr(request, field.name)) for field in dataclasses.fields(request)}


def _told(value: object) -> object:
    if isinstance(value, GivenPicture):
        return value.name
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _told(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [_told(item) for item in value]
    return value


def _check_text(name: str, text: object) -> None:
    if text is None:
        return
    if not isinstance(text, str):
        raise RequestError(f"{name}: expected text, found {text!r}")
    if len(text) > MAX_PROMPT_CHARACTERS:
        raise RequestError(f"{name}: expected at most {MAX_PROMPT_CHARACTERS} characters, found {len(text)}")


def _check_number(name: str, value: object, low: float, high: float, *, whole: bool = True) -> None:
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise RequestError(f"{name}: expected a {'whole ' if whole else ''}number, found {value!r}")
    if not low <= value <= high:
        off = " (off)" if name == "guidance" else ""
        raise RequestError(f"{name}: expected {low}{off} to {high}, found {value}")


def _is_size(size: object) -> bool:
    return (
        isinstance(size, tuple | list)
        and len(size) == 2
        and all(isinstance(side, int) and not isinstance(side, bool) for side in size)
    )
