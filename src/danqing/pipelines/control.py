"""Control pictures: what a user says of them."""

from dataclasses import dataclass
from typing import NamedTuple

from danqing.conditioning.given import GivenPicture
from danqing.errors import RequestError

MAX_SCALE = 10.0


class Window(NamedTuple):
    """How strongly a control steers, and from which to which share of the schedule."""

    scale: float
    start: float
    end: float

    def covers(self, step: int, steps: int) -> bool:
        """Return whether step `step`, counted from 0, of a schedule of `steps` lies inside."""
        return self.start <= step / steps and (step + 1) / steps <= self.end


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """A picture that steers where things are: edges, depth, a pose, or a picture with a hole."""

    picture: GivenPicture
    mask: GivenPicture | None = None
    """White where the picture is to be drawn anew; for a ControlNet that inpaints."""
    scale: float = 1.0
    """How strongly."""
    start: float = 0.0
    end: float = 1.0
    """Share of the schedule from which, and up to which, it steers."""

    def __post_init__(self) -> None:
        for name, low, high in (("scale", 0.0, MAX_SCALE), ("start", 0.0, 1.0), ("end", 0.0, 1.0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise RequestError(f"control: expected {name} from {low:g} to {high:g}, found {value!r}")
        if self.start >= self.end:
            raise RequestError(
                f"control: expected its start before its end, found {self.start:g} and {self.end:g}"
            )

    @property
    def window(self) -> Window:
        """When, and how strongly, it steers."""
        return Window(self.scale, self.start, self.end)
