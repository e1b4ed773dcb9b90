"""Text to picture; with a picture to start from, picture to picture; with a mask, inpainting.

Outpainting is inpainting of a padded picture whose mask is white over the padding.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from danqing.conditioning.given import GivenPicture
from danqing.conditioning.pictures import fitted_size
from danqing.conditioning.text import Conditioning
from danqing.errors import RequestError
from danqing.pipelines.components import Components
from danqing.pipelines.control import Control
from danqing.pipelines.draw import Progress, draw
from danqing.pipelines.job import Job
from danqing.pipelines.prepare import jobs_of, start_from, steering_of
from danqing.pipelines.reading import read
from danqing.pipelines.request import (
    check_given,
    check_mask,
    check_request,
    check_task,
    inside,
    settled,
)
from danqing.pipelines.rewriting import rewritten
from danqing.pipelines.steering import check_controls
from danqing.weights.layouts import CheckpointInfo

DEFAULT_STRENGTH = 0.6
"""How far picture to picture goes; with a mask, what is white is drawn from pure noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """What a user asks for, from the CLI, the server or Python; None takes the checkpoint's own value."""

    prompt: str
    negative_prompt: str | None = None
    size: tuple[int, int] | None = None
    """Width and height in pixels; by default the checkpoint's own, in the aspect of `image`."""
    steps: int | None = None
    """Length of the schedule; with `image`, the share `strength` of it is drawn."""
    guidance: float | None = None
    """Strength of classifier-free guidance; 1 turns it off."""
    seed: int | None = None
    """Seed of the first picture; further ones count up. None draws a fresh one."""
    count: int = 1
    solver: str = "euler"
    image: GivenPicture | None = None
    """A picture to start from."""
    mask: GivenPicture | None = None
    """White where `image` is drawn anew; the rest is kept."""
    strength: float | None = None
    """How much of `image` is noise at the start: 1 draws from nothing. 0.6, or 1 with a mask."""
    controls: tuple[Control, ...] = ()
    """Pictures that a ControlNet reads; without `image` the first one's aspect is drawn."""
    enhance: bool = False
    """Have the conditioner write a longer prompt first."""
    wish: str | None = None
    """What the user said, where `prompt` is its rewrite; filled in with `enhance`."""

    def __post_init__(self) -> None:
        check_request(self, example="a red apple on a blue table")
        if self.image is not None:
            check_given("image", self.image)
        elif self.mask is not None or self.strength is not None:
            name = "strength" if self.mask is None else "mask"
            raise RequestError(f"{name}: expected an image to start from, found none")
        if not isinstance(self.controls, tuple) or not all(isinstance(c, Control) for c in self.controls):
            raise RequestError(f"controls: expected a tuple of Control, found {self.controls!r}")
        if self.mask is not None and self.image is not None:
            check_mask(self.mask, self.image)

    def resolved(self, info: CheckpointInfo) -> "GenerateRequest":
        """Return the request with the checkpoint's values filled in and its limits checked."""
        check_task(info, "generate")
        if self.enhance:
            check_task(info, "enhance")
        given = self.image or (self.controls[0].picture if self.controls else None)
        if given is None:
            return settled(self, info, size=info.size)
        fitted = fitted_size(given.image.size, info.size[0] * info.size[1], info.multiple)
        if self.image is None:
            return settled(self, info, size=inside(fitted, info))
        strength = DEFAULT_STRENGTH if self.mask is None else 1.0
        request = replace(self, strength=strength if self.strength is None else self.strength)
        return settled(request, info, size=inside(fitted, info))


def generate(components: Components, requests: Sequence[GenerateRequest]) -> Iterator[Progress]:
    """Draw every picture of every request, yielding each denoising step.

    Pictures of equal size, steps and guidance are denoised together, `components.batch_size` at a time; what
    a picture looks like does not depend on its neighbours.
    """
    with components.hold("text_encoder"):
        told = [enhanced(components, request) for request in requests]
        resolved = [request.resolved(components.info) for request in told]
        for request in resolved:
            check_controls(components.controlnet, request.controls)
        # What the denoiser reads: the prompt, and what guidance leads away from.
        texts = components.at_once("text_encoder", (read(components, request) for request in resolved))
    yield from draw(components, _jobs(components, resolved, texts))


def enhanced(components: Components, request: GenerateRequest) -> GenerateRequest:
    """Return the request with its prompt rewritten where it asks for that.

    Where neither a size nor a picture speaks for the shape of what is drawn, the rewrite may.
    """
    free = request.image is None and not request.controls
    return rewritten(components, request, resize=free)


def _jobs(
    components: Components, requests: Sequence[GenerateRequest], texts: Iterable[Conditioning]
) -> Iterator[Job]:
    for index, (request, txt) in enumerate(zip(requests, texts, strict=True)):
        assert request.size is not None
        # 1. What it starts from: noise, or a picture.
        start = None
        if request.image is not None:
            start = start_from(components, request.image.image, request.size, request.mask)
        # 2. What steers it: control pictures.
        controls = [steering_of(components, control, request.size) for control in request.controls]
        # 3. A job for each seed.
        yield from jobs_of(components, index, request, txt, start=start, controls=controls)
