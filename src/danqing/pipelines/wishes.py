"""What of requests memory and time depend on."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from danqing.conditioning.pictures import fitted_size
from danqing.pipelines.edit import EditRequest
from danqing.pipelines.generate import GenerateRequest
from danqing.pipelines.layered import CAPTION_TOKENS, LayersRequest
from danqing.weights.layouts import CheckpointInfo

_BYTES_A_TOKEN = 3  # at least, of prompts in most languages


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What will be drawn, as far as memory and time depend on it."""

    size: tuple[int, int]
    """Width and height in pixels."""
    steps: int
    guided: bool
    tasks: tuple[str, ...] = ("generate",)
    """What the checkpoint is loaded for."""
    count: int = 1
    """Pictures of these settings."""
    prompt_tokens: int = 256
    """Of the longer of the two prompts."""
    references: tuple[tuple[int, int], ...] = ()
    """Sizes in pixels of the pictures that the denoiser looks at."""
    seen: tuple[tuple[int, int], ...] = ()
    """Sizes in pixels of the pictures that the conditioner looks at."""
    layers: int = 0
    """Layers that are drawn beside the whole picture."""
    starts: bool = False
    """Whether drawing starts from a picture."""
    controls: int = 0
    """Pictures that a ControlNet reads."""

    @property
    def draws(self) -> bool:
        """Whether anything is drawn, or pictures are only spoken of."""
        return not {"generate", "edit", "layers"}.isdisjoint(self.tasks)

    @property
    def writes(self) -> bool:
        """Whether the conditioner writes text."""
        return not {"describe", "enhance", "layers"}.isdisjoint(self.tasks)

    @property
    def frames(self) -> int:
        """Pictures of the asked size that are denoised as one."""
        return 1 + self.layers


def wishes_of(
    requests: Sequence[GenerateRequest | EditRequest | LayersRequest],
    info: CheckpointInfo,
    *,
    tasks: Sequence[str] | None = None,
) -> Wishes:
    """Return what resolved requests ask for, of each option the most.

    `tasks` are those that the checkpoint is loaded for, by default all it can do.
    """
    pictures = max((_pictures(one) for one in requests), key=lambda sizes: sum(map(prod, sizes)))
    return Wishes(
        size=max((one.size or info.size for one in requests), key=prod),
        steps=max(one.steps or info.steps for one in requests),
        guided=any((info.guidance if one.guidance is None else one.guidance) > 1 for one in requests),
        tasks=tuple(info.tasks if tasks is None else tasks),
        count=sum(1 if isinstance(one, LayersRequest) else one.count for one in requests),
        prompt_tokens=min(max(_tokens(one) for one in requests), info.max_length),
        references=tuple(fitted_size(size, info.reference_area) for size in pictures),
        seen=tuple(fitted_size(size, info.vision_area) for size in pictures),
        layers=max(one.count if isinstance(one, LayersRequest) else 0 for one in requests),
        starts=any(getattr(one, "image", None) is not None or one.strength is not None for one in requests),
        controls=max(len(getattr(one, "controls", ())) for one in requests),
    )


def usual_wishes(info: CheckpointInfo, *, tasks: Sequence[str] | None = None) -> Wishes:
    """Return what a checkpoint is asked for where no request is known yet: a picture of its own size."""
    wanted = tuple(info.tasks if tasks is None else tasks)
    picture = () if "generate" in wanted else (info.size,)
    return Wishes(
        size=info.size,
        steps=info.steps,
        guided=info.guidance > 1,
        tasks=wanted,
        references=picture,
        seen=tuple(fitted_size(size, info.vision_area) for size in picture),
        layers=4 if "layers" in wanted else 0,
    )


def _pictures(request: GenerateRequest | EditRequest | LayersRequest) -> tuple[tuple[int, int], ...]:
    if isinstance(request, EditRequest):
        return tuple(given.image.size for given in request.pictures)
    if isinstance(request, LayersRequest):
        return (request.size or request.picture.image.size,)
    return ()


def _tokens(request: GenerateRequest | EditRequest | LayersRequest) -> int:
    if isinstance(request, LayersRequest) and not request.prompt.strip():
        return CAPTION_TOKENS  # which the conditioner writes
    texts = (request.prompt, request.negative_prompt or "")
    return 8 + max(len(text.encode()) for text in texts) // _BYTES_A_TOKEN
