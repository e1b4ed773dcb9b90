"""Requests whose prompt the conditioner of the checkpoint rewrites before anything is drawn."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

from danqing.conditioning.enhance import lost_words
from danqing.conditioning.given import GivenPicture
from danqing.log import logger
from danqing.pipelines.components import Components
from danqing.pipelines.enhance import enhance
from danqing.pipelines.reading import seen_by_conditioner
from danqing.pipelines.request import DrawRequest, check_task, size_of_aspect
from danqing.rng import fresh_seed


class WishRequest(DrawRequest, Protocol):
    """A request that may ask for a rewrite."""

    @property
    def enhance(self) -> bool:
        """Whether the prompt is still to be rewritten."""

    @property
    def wish(self) -> str | None:
        """The prompt before it was rewritten."""


R = TypeVar("R", bound=WishRequest)


def rewritten(
    components: Components, request: R, pictures: Sequence[GivenPicture] = (), *, resize: bool = False
) -> R:
    """Return the request with its prompt rewritten where it asks for that; `wish` keeps the user's own words.

    The seed of the picture is that of the rewrite, so the same request gives the same picture, and so does
    the returned one without a rewrite. With `resize` a size that is left open follows the ratio that the
    rewrite asks for. Warns of words to be written in the picture that the rewrite lost.
    """
    if not request.enhance:
        return request
    check_task(components.info, "enhance")
    seed = fresh_seed() if request.seed is None else request.seed
    with components.stage("text_encoder"):
        found = enhance(
            components.vlm,
            components.tokenizer,
            request.prompt,
            seen_by_conditioner(components, [picture.image for picture in pictures]),
            seed=seed,
            system=components.system_prompt,
        )
    if lost := lost_words(request.prompt, found.prompt):
        shown = ", ".join(f"“{words}”" for words in lost)
        logger.warning("the rewritten prompt lost the words %s; draw without --enhance to keep them", shown)
    size = request.size
    if resize and size is None and found.ratio is not None:
        size = size_of_aspect(components.info, found.ratio)
    return replace(request, prompt=found.prompt, wish=request.prompt, enhance=False, seed=seed, size=size)
