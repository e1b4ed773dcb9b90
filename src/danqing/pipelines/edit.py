"""Pictures and an instruction to a picture; with a mask, only what is white changes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from danqing.conditioning.given import GivenPicture
from danqing.conditioning.pictures import fitted_size, picture_pixels, resized
from danqing.conditioning.templates import EDIT, EDIT_PLUS, Template
from danqing.conditioning.text import encode_edit_prompts
from danqing.errors import CheckpointError, RequestError
from danqing.pipelines.components import Components
from danqing.pipelines.draw import Progress, draw
from danqing.pipelines.job import Job
from danqing.pipelines.prepare import jobs_of, reference_of, start_from
from danqing.pipelines.request import (
    check_given,
    check_mask,
    check_request,
    check_task,
    inside,
    settled,
)
from danqing.weights.layouts import CheckpointInfo

TEMPLATES = {"edit": EDIT, "edit_plus": EDIT_PLUS}


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
    resolved = [request.resolved(components.info) for request in requests]
    yield from draw(components, _jobs(components, resolved))


def _jobs(components: Components, requests: Sequence[EditRequest]) -> Iterator[Job]:
    info = components.info
    for index, request in enumerate(requests):
        assert request.guidance is not None
        assert request.size is not None
        pictures = [picture.image for picture in request.pictures]
        # 1. What the denoiser reads: the instruction, as the conditioner understands it seeing the pictures.
        seen = [
            picture_pixels(
                resized(picture, fitted_size(picture.size, info.vision_area)),
                components.vlm.config.vision,
                components.picture_limits,
            )
            for picture in pictures
        ]
        texts = [request.prompt] + ([request.negative_prompt or ""] if request.guidance > 1 else [])
        txt = encode_edit_prompts(components.vlm, components.tokenizer, texts, seen, template=_template(info))
        # 2. What it looks at: the latents of every picture, as further frames.
        references = [reference_of(components, picture, info.reference_area) for picture in pictures]
        # 3. What it starts from: noise, or the last picture.
        start = None
        if request.strength is not None:
            start = start_from(components, pictures[-1], request.size, request.mask)
        # 4. A job for each seed.
        yield from jobs_of(components, index, request, txt, references=references, start=start)


def _template(info: CheckpointInfo) -> Template:
    if info.edit_template not in TEMPLATES:
        raise CheckpointError(
            f"{info.name}: expected edit_template {' or '.join(TEMPLATES)}, found {info.edit_template!r}"
        )
    return TEMPLATES[info.edit_template]
