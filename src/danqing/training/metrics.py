"""A run's numbers: one JSON line per log step in the run folder, one readable line on stderr."""

import json
import sys
import time
from pathlib import Path
from typing import Any


class RunLog:
    """Append metrics to `metrics.jsonl` and print rate and remaining time."""

    def __init__(self, folder: Path, *, stage: str, total_steps: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "metrics.jsonl"
        self.stage = stage
        self.total_steps = total_steps
        self._started: tuple[int, float] | None = None

    def rewind(self, step: int) -> None:
        """Forget what a crashed run wrote after `step`, which will be written again."""
        if not self.path.exists():
            return
        lines = self.path.read_text().splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("}\n") and json.loads(line)["step"] <= step]
        if kept != lines:
            self.path.write_text("".join(kept))

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Record `values` at `step`; rate and ETA count from the first call of this process."""
        now = time.monotonic()
        if self._started is None:
            self._started = (step, now)
        first, since = self._started
        rate = (step - first) / (now - since) if step > first else 0.0
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        eta = f"{(self.total_steps - step) / rate / 60:.0f} min left" if rate else "…"
        numbers = "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items())
        print(
            f"{self.stage} {step}/{self.total_steps}  {numbers}  {rate:.2f} steps/s  {eta}",
            file=sys.stderr,
            flush=True,
        )

    def interrupted(self, step: int) -> None:
        """Tell that the run stopped before its end, and how it goes on."""
        print(
            f"{self.stage} {step}/{self.total_steps}  interrupted and saved; the same command goes on",
            file=sys.stderr,
            flush=True,
        )
