"""Seeds and the noise they stand for.

One seed is one picture. Noise is drawn on the CPU in fp32, one generator a sample, so that neither the
device, the precision nor the batch a sample travels in changes it. It is the stream diffusers draws for
`generator=torch.Generator("cpu").manual_seed(seed)`; like there, only the low 32 bits of a seed count.
"""

import operator
import secrets
from collections.abc import Sequence

import torch
from torch import Tensor

from danqing.errors import RequestError

MAX_SEED = 2**63 - 1


def check_seed(seed: int) -> int:
    """Return `seed` as an int in [0, 2**63 - 1] or raise RequestError."""
    try:
        value = operator.index(seed)
    except TypeError:
        raise RequestError(f"a seed is a whole number, found {seed!r}; try --seed 7") from None
    if isinstance(seed, bool) or not 0 <= value <= MAX_SEED:
        raise RequestError(f"a seed is a whole number from 0 to 2**63 - 1, found {seed!r}; try --seed 7")
    return value


def fresh_seed() -> int:
    """Return an unpredictable seed below 2**32: short in a file name, and no two give the same noise."""
    return secrets.randbelow(2**32)


def seeded(seed: int) -> torch.Generator:
    """Return a new CPU generator at the start of the stream of `seed`."""
    return torch.Generator("cpu").manual_seed(check_seed(seed))


def sample_noise(shape: Sequence[int], seed: int) -> Tensor:
    """Return the Gaussian fp32 noise of one sample, on the CPU: a function of `shape` and `seed` alone."""
    return torch.randn(tuple(shape), generator=seeded(seed), dtype=torch.float32, device="cpu")
