"""A memory plan: what of a checkpoint is in memory, when, and what that will take at most."""

from dataclasses import dataclass
from typing import Literal

Format = Literal["plain", "int8", "int4"]
"""Plain weights are in the precision of the computation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where the weights of one part are while the checkpoint is used."""

    blocks: int | None = None
    """Blocks that stay in memory; the others are read from disk each time they run. None: all of them."""
    kept: bool = True
    """Whether the part stays in memory when its stage is over, or is read again for the next picture."""
    format: Format = "plain"
    """Number format of its large matrices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What one stage of drawing holds at most; bytes."""

    name: str
    weights: int
    working: int
    """Activations, buffers of reading, results of earlier stages."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.working


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """How a checkpoint is held so that drawing stays within a budget."""

    budget: int
    """Bytes that may be used."""
    transformer: Placement = Placement()
    text_encoder: Placement = Placement()
    vae: Placement = Placement()
    modulation_kept: bool = True
    """Whether the layers that make the modulation table stay in host memory, or are read for each table."""
    vae_tile: int | None = None
    """Side of the tiles a picture is decoded in, in latents; None decodes it whole."""
    base: int = 0
    """What the process holds before anything is loaded."""
    stages: tuple[Stage, ...] = ()

    @property
    def quantised(self) -> Format | None:
        """The format that large weights are quantised to; None where all are plain."""
        found = {self.transformer.format, self.text_encoder.format}
        return "int4" if "int4" in found else "int8" if "int8" in found else None

    @property
    def peak(self) -> int:
        """Predicted peak of the whole process; bytes."""
        return self.base + max((stage.total for stage in self.stages), default=0)
