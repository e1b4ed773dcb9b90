"""What a training stage is told: a frozen value, overridden by typed `--set stage.key=value`."""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from danqing.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Settings of one run of the training loop; steps and learning rates follow warm-up, stable, decay."""

    steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int = 200
    decay_fraction: float = 0.3
    """Share of the steps, at the end, over which the learning rate falls linearly to `final_fraction`."""
    final_fraction: float = 0.05
    optimizer: str = "adamw"
    """`adamw`, or `muon` for the matrices of the blocks (and AdamW for everything else)."""
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    precision: str = "bf16"
    """`bf16` computes under autocast with fp32 master weights; `fp32` computes in fp32."""
    seed: int = 0
    log_every: int = 50
    evaluate_every: int = 500
    save_every: int = 250

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "log_every", "evaluate_every", "save_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"training: expected {name} of at least 1, found {getattr(self, name)}")
        if self.optimizer not in ("adamw", "muon"):
            raise ConfigError(f"training: expected optimizer adamw or muon, found {self.optimizer!r}")
        if self.precision not in ("fp32", "bf16"):
            raise ConfigError(f"training: expected precision fp32 or bf16, found {self.precision!r}")
        for name in ("decay_fraction", "final_fraction", "ema_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"training: expected {name} in [0, 1], found {getattr(self, name)}")
        if self.warmup_steps < 0:
            raise ConfigError(f"training: expected warmup_steps of at least 0, found {self.warmup_steps}")
        if not self.learning_rate > 0:
            raise ConfigError(f"training: expected learning_rate above 0, found {self.learning_rate}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"training: expected two betas from 0 to below 1, found {self.betas}")


def learning_rate_factor(config: TrainConfig, step: int) -> float:
    """Return the share of the peak learning rate at `step`: warm-up, stable, linear decay."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    decay_steps = round(config.steps * config.decay_fraction)
    remaining = config.steps - step
    if remaining >= decay_steps:
        return 1.0
    return config.final_fraction + (1 - config.final_fraction) * remaining / decay_steps


def override(stages: Mapping[str, TrainConfig], settings: Iterable[str]) -> dict[str, TrainConfig]:
    """Return the stages with `stage.key=value` settings applied, each converted to its field's type."""
    result = dict(stages)
    for setting in settings:
        target, _, text = setting.partition("=")
        stage, _, key = target.partition(".")
        if not text or not key:
            raise ConfigError(f"--set: expected stage.key=value, found {setting!r}")
        if stage not in result:
            raise ConfigError(f"--set: {_unknown('stage', stage, result)}")
        fields = {field.name: field for field in dataclasses.fields(TrainConfig)}
        if key not in fields:
            raise ConfigError(f"--set: {_unknown('key', key, fields)}")
        result[stage] = dataclasses.replace(result[stage], **{key: _parse(setting, fields[key].type, text)})
    return result


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f"unknown {what} {name!r}; " + (
        f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
    )


def _parse(setting: str, kind: Any, text: str) -> Any:
    try:
        if kind is int:
            if not float(text).is_integer():
                raise ValueError
            return int(float(text))
        if kind is float:
            return float(text)
        if kind is str:
            return text
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        name = kind.__name__ if kind in (int, float) else kind
        raise ConfigError(f"--set: expected a value of type {name}, found {setting!r}") from None
