"""A picture to draw, as every task hands it to the one loop."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from danqing.models.rope import GridShape
from danqing.pipelines.control import Window
from danqing.pipelines.request import DrawRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What pictures that are denoised together have in common."""

    shape: GridShape
    """Size of the picture in tokens."""
    steps: int
    """Length of the whole schedule."""
    guidance: float
    solver: str
    rescale: bool = True
    """Guided velocities keep the length of the conditional ones."""
    mu: float | None = None
    """Shift of the schedule where the task, not the checkpoint's config, decides it."""
    skipped: int = 0
    """Steps left out at its noisy end, where drawing starts from a picture."""
    references: tuple[GridShape, ...] = ()
    """Sizes of the frames behind the first: further layers that are drawn with it, then what is looked at."""
    controls: tuple[Window, ...] = ()
    started: bool = False
    masked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Job:
    """One picture to draw: all that the loop needs, whatever the task."""

    index: int
    """Place of its request in the call."""
    request: DrawRequest
    """Resolved; its seed is the picture's own and its count 1."""
    seed: int
    settings: Settings
    cond: Float[Tensor, "txt_seq dim"]
    uncond: Float[Tensor, "txt_seq dim"] | None
    before: tuple[int, ...] = ()
    """In 2.1, tokens of the text before each reference; the same with the prompt and without."""
    noise: Float[Tensor, "1 seq channels"]
    known: Float[Tensor, "1 seq channels"] | None = None
    """Latents of a picture to start from."""
    mask: Float[Tensor, "1 seq channels"] | None = None
    """1 where to draw; elsewhere the picture stays `known`."""
    references: Float[Tensor, "1 ref_seq channels"] | None = None
    """Latents of the pictures to look at."""
    controls: tuple[Float[Tensor, "1 seq control_channels"], ...] = ()
    """What a ControlNet reads, in the order of the settings' windows."""
