"""Noise levels: the descending grid a picture is drawn on, and the draws a model is trained on.

The released checkpoints describe their grid in `scheduler/scheduler_config.json` (the flow-matching Euler
scheduler of diffusers); `ScheduleConfig` reads it. Time shift: Esser et al. (arXiv 2403.03206), equation 23.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from danqing.errors import ConfigError, RequestError


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleConfig:
    """How a checkpoint spaces its noise levels; the defaults are those of Qwen-Image."""

    num_train_timesteps: int = 1000
    shift: float = 1.0
    use_dynamic_shifting: bool = True
    base_shift: float = 0.5
    max_shift: float = 0.9
    base_image_seq_len: int = 256
    max_image_seq_len: int = 8192
    shift_terminal: float | None = 0.02
    time_shift_type: str = "exponential"
    sample_sigmas: tuple[float, ...] | None = None
    """Levels that a distilled release was made for, without the final 0; its steps are as many as these."""

    def __post_init__(self) -> None:
        if self.time_shift_type not in ("exponential", "linear"):
            raise ConfigError(
                f"schedule: expected time_shift_type exponential or linear, found {self.time_shift_type!r}"
            )
        levels = self.sample_sigmas
        if levels is not None and not (levels and _falls((1.0, *levels, 0.0))):
            raise ConfigError(
                f"schedule: expected sample_sigmas to fall from at most 1 to above 0, found {levels}"
            )


def _falls(levels: tuple[float, ...]) -> bool:
    first, *rest = levels
    return first >= rest[0] and all(high > low for high, low in pairwise(rest))


LIGHTNING = ScheduleConfig(base_shift=math.log(3), max_shift=math.log(3), shift_terminal=None)
"""The grid of the Qwen-Image-Lightning adapters (4 or 8 steps, no guidance)."""

TURBO = ScheduleConfig(
    use_dynamic_shifting=False,
    shift_terminal=None,
    sample_sigmas=(1.0, 0.978453, 0.95418, 0.926626, 0.89508, 0.845148, 0.704534, 0.414568),
)
"""The grid of Qwen-Image-2.1-Turbo (8 steps, no guidance)."""


def sigma_grid(
    config: ScheduleConfig, steps: int, num_tokens: int, *, mu: float | None = None
) -> Float[Tensor, " points"]:
    """Return `steps` descending noise levels from 1, and a final 0; fp32.

    `num_tokens` counts the target's tokens: dynamic shifting moves larger pictures towards more noise, by the
    config's line over them or by `mu`.
    """
    if steps < 1:
        raise RequestError(f"steps: expected at least 1, found {steps}")
    if config.sample_sigmas is None:
        sigmas = torch.linspace(1.0, 1.0 / steps, steps, dtype=torch.float64).float()
    elif steps == len(config.sample_sigmas):
        sigmas = torch.tensor(config.sample_sigmas)
    else:
        raise RequestError(
            f"steps: this checkpoint was made for {len(config.sample_sigmas)}, found {steps}; leave steps out"
        )
    if config.use_dynamic_shifting:
        slope = (config.max_shift - config.base_shift) / (
            config.max_image_seq_len - config.base_image_seq_len
        )
        if mu is None:
            mu = config.base_shift + slope * (num_tokens - config.base_image_seq_len)
        sigmas = shifted(sigmas, math.exp(mu) if config.time_shift_type == "exponential" else mu)
    else:
        sigmas = shifted(sigmas, config.shift)
    if config.shift_terminal:
        sigmas = 1 - (1 - sigmas) * (1 - config.shift_terminal) / (1 - sigmas[-1]) if steps > 1 else sigmas
    return torch.cat((sigmas, torch.zeros(1)))


def shifted(sigmas: Float[Tensor, " points"], factor: float) -> Float[Tensor, " points"]:
    """Return sigmas moved towards noise: factor * s / (1 + (factor - 1) * s)."""
    return factor * sigmas / (1 + (factor - 1) * sigmas)


def training_sigmas(
    count: int,
    generator: torch.Generator,
    *,
    mean: float = 0.0,
    spread: float = 1.0,
    shift: float,
    uniform: float,
) -> Float[Tensor, " count"]:
    """Draw noise levels for training: logit-normal, a share `uniform` of them uniform, all moved by `shift`.

    Logit-normal draws: Esser et al. (arXiv 2403.03206), section 3.1. At low resolution a picture survives
    more noise, so a shift above 1 is needed before the prompt is used where sampling starts.
    """
    normal = torch.sigmoid(mean + spread * torch.randn(count, generator=generator))
    flat = torch.rand(count, generator=generator)
    chosen = torch.rand(count, generator=generator) < uniform
    return shifted(torch.where(chosen, flat, normal), shift)
