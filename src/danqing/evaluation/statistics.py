"""How sure a share is."""

import math
from dataclasses import dataclass
from typing import Self

from danqing.errors import DataError

_Z95 = 1.959964  # two-sided 95 % of the normal distribution


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A share of successes with its 95 % Wilson interval (Wilson 1927)."""

    successes: int
    total: int
    share: float
    low: float
    high: float

    @classmethod
    def of(cls, successes: int, total: int) -> Self:
        """Return the rate of `successes` in `total` trials."""
        if not 0 <= successes <= total or total < 1:
            raise DataError(f"expected 0 <= successes <= total and total >= 1, found {successes} of {total}")
        share = successes / total
        middle = share + _Z95**2 / (2 * total)
        spread = _Z95 * math.sqrt(share * (1 - share) / total + _Z95**2 / (4 * total**2))
        scale = 1 + _Z95**2 / total
        return cls(
            successes=successes,
            total=total,
            share=share,
            low=max(0.0, (middle - spread) / scale),
            high=min(1.0, (middle + spread) / scale),
        )

    def __str__(self) -> str:
        return f"{self.share:.3f} [{self.low:.3f}, {self.high:.3f}]  {self.successes}/{self.total}"
