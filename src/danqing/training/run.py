"""What the command line tells a recipe."""

from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One call of `danqing train`: where to keep state, how long to work and what to change."""

    run_dir: Path
    """Everything a run makes lies here; calling again with the same folder resumes it."""
    max_seconds: float | None = None
    """Stop, saved, after about this long; None works until the recipe is finished."""
    device: torch.device
    settings: tuple[str, ...] = ()
    """`stage.key=value` settings."""
    stages: tuple[str, ...] = ()
    """Names of the stages to run; empty for all."""
    atlas: Path | None = None
    """Sprite atlas made by `danqing data build`; None takes the small one in the package."""
    init: str | None = None
    """A shipped model or checkpoint folder to start from; None starts from nothing."""
