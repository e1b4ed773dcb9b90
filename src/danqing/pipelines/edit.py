"""Pictures and an instruction to a picture; with a mask, only what is white changes."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from PIL import Image

from danqing.conditioning.given import GivenPicture
from danqing.conditioning.pictures import fitted_size
from danqing.conditioning.text import Conditioning
from danqing.errors import RequestError
from danqing.pipelines.components import Components
from danqing.pipelines.draw import Progress, draw
from danqing.pipelines.job import Job
from danqing.pipelines.prepare import jobs_of, reference_of, start_from
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
from danqing.weights.layouts import CheckpointInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class EditRequest:
    """What a user asks for, from the CLI, the server or Python; None takes the checkpoint's own value."""

    pictures: tuple[GivenPicture, ...]
    """The references, in the order the instruction counts them."""
    prompt: str
    """The instruction."""
    negative_prompt: str | None = None
    size: tuple[int, int] | None = None
    """Width and height in pixels; by default the checkpoint's area in the aspect of the last picture."""
    steps: int | None = None
    """Length of the schedule; the share `strength` of it is drawn."""
    guidance: float | None = None
    """Strength of classifier-free guidance; 1 turns it off."""
    seed: int | None = None
    """Seed of the first picture; further ones count up. None draws a fresh one."""
    count: int = 1
    solver: str = "euler"
    mask: GivenPicture | None = None
    """White where the last picture is drawn anew; the rest of it is kept."""
    strength: float | None = None
    """How much of the last picture is noise at the start. None, and 1 without a mask, draw from nothing."""
    enhance: bool = False
    """Have the conditioner make the instruction precise first."""
    wish: str | None = None
    """What the user said, where `prompt` is its rewrite; filled in with `enhance`."""

    def __post_init__(self) -> None:
        check_request(self, example="make the apple green")
        if not isinstance(self.pictures, tuple) or not self.pictures:
            raise RequestError("pictures: expected one or more pictures to edit, found none")
        for picture in self.pictures:
            check_given("pictures", picture)
        if self.mask is not None:
            check_mask(self.mask, self.pictures[-1])

    def resolved(self, info: CheckpointInfo) -> "EditRequest":
        """Return the request with the checkpoint's values filled in and its limits checked."""
        check_task(info, "edit")
        if self.enhance:
            check_task(info, "enhance")
        if len(self.pictures) > info.max_references:
            raise RequestError(
                f"pictures: {info.name} edits with up to {info.max_references}, found {len(self.pictures)}"
            )
        fitted = fitted_size(self.pictures[-1].image.size, info.reference_area)
        strength = 1.0 if self.strength is None and self.mask is not None else self.strength
        return settled(replace(self, strength=strength), info, size=inside(fitted, info))


def edit(components: Components, requests: Sequence[EditRequest]) -> Iterator[Progress]:
    """Draw every picture of every request, yielding each denoising step.

    Pictures of equal size and settings are denoised together, `components.batch_size` at a time; what a
    picture looks like does not depend on its neighbours.
    """
    with components.hold("text_encoder"):
        told = [enhanced(components, request) for request in requests]
        resolved = [request.resolved(components.info) for request in told]
        # What the denoiser reads: the instruction, as the conditioner understands it seeing the pictures.
        read_texts = (read(components, request, _images(request)) for request in resolved)
        texts = components.at_once("text_encoder", read_texts)
    yield from draw(components, _jobs(components, resolved, texts))


def enhanced(components: Components, request: EditRequest) -> EditRequest:
    """Return the request with its instruction made precise where it asks for that."""
    return rewritten(components, request, request.pictures)


def _images(request: EditRequest) -> list[Image.Image]:
    return [picture.image for picture in request.pictures]


def _jobs(
    components: Components, requests: Sequence[EditRequest], texts: Iterable[Conditioning]
) -> Iterator[Job]:
    for index, (request, txt) in enumerate(zip(requests, texts, strict=True)):
        assert request.size is not None
        pictures = _images(request)
        # 1. What it looks at: the latents of every picture, as further frames.
        area = components.info.reference_area
        references = [reference_of(components, picture, area) for picture in pictures]
        # 2. What it starts from: noise, or the last picture.
        start = None
        if request.strength is not None:
            start = start_from(components, pictures[-1], request.size, request.mask)
        # 3. A job for each seed.
        yield from jobs_of(components, index, request, txt, references=references, start=start)
