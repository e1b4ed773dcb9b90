"""The one training loop. What is learned lives in an objective, what trains in the model it is given."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from danqing.device import keep_freed_memory
from danqing.errors import DataError
from danqing.training.batches import batches
from danqing.training.config import TrainConfig, learning_rate_factor
from danqing.training.metrics import RunLog
from danqing.training.optim import EMA, build_optimizers
from danqing.training.state import load_state, save_state


class Objective(Protocol):
    """What a stage learns. Batches depend on the step alone, so a resumed run sees the same ones."""

    def batch(self, step: int) -> Any:
        """Return the batch of optimizer step `step`."""

    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, float]]:
        """Return the scalar loss and numbers for the log."""

    def flops(self, model: nn.Module, batch: Any) -> float:
        """Return an estimate of the floating-point operations of forward and backward on this batch."""

    def evaluate(self, model: nn.Module, folder: Path, step: int) -> dict[str, float]:
        """Return metrics on fixed held-out items; write sample sheets into `folder`."""


def train(
    objective: Objective,
    model: nn.Module,
    config: TrainConfig,
    *,
    stage: str,
    run_dir: Path,
    deadline: float | None = None,
    device: torch.device | str = "cpu",
    workers: int = 0,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Train until `config.steps` or the deadline (`time.monotonic()` seconds), resuming what `run_dir` holds.

    With `workers`, so many other processes make the batches; the objective is copied to each of them.
    Interrupted or told to end (SIGINT, SIGTERM), it finishes its step, saves, and raises KeyboardInterrupt.
    Returns the averaged weights and the progress (steps, items, flops, seconds, finished).
    """
    if torch.device(device).type == "cpu":
        keep_freed_memory()
    model.to(device).train()
    folder = run_dir / stage
    log = RunLog(folder, stage=stage, total_steps=config.steps)
    ema, optimizers = EMA(model, config.ema_decay), build_optimizers(model, config)
    progress = load_state(folder, model=model, ema=ema, optimizers=optimizers) or {
        "step": 0, "items": 0, "flops": 0.0, "seconds": 0.0,
    }  # fmt: skip
    log.rewind(progress["step"])
    started, before = time.monotonic(), progress["seconds"]

    def checkpoint() -> None:
        progress["seconds"] = before + time.monotonic() - started
        save_state(folder, model=model, ema=ema, optimizers=optimizers, progress=progress)

    def in_time() -> bool:
        return deadline is None or time.monotonic() < deadline

    with _signals() as signals, closing(batches(objective, progress["step"], workers=workers)) as coming:
        while progress["step"] < config.steps and in_time() and not signals:
            step = progress["step"]
            batch = next(coming)
            metrics = _optimizer_step(objective, model, batch, config, optimizers, step)
            ema.update(model, step)
            progress["step"] = step + 1
            progress["items"] += config.batch_size
            progress["flops"] += objective.flops(model, batch)
            if progress["step"] % config.log_every == 0:
                log.write(
                    progress["step"], {**metrics, "items": progress["items"], "flops": progress["flops"]}
                )
            if progress["step"] % config.save_every == 0:
                checkpoint()
            if progress["step"] % config.evaluate_every == 0 or progress["step"] == config.steps:
                log.write(progress["step"], evaluate_average(objective, model, ema, folder, progress["step"]))
        checkpoint()
    if signals:
        log.interrupted(progress["step"])
        raise KeyboardInterrupt
    progress["finished"] = progress["step"] >= config.steps
    return ema.state_dict(model), progress


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect the first SIGINT or SIGTERM, so that a step can end and be saved; the second acts as ever."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # only that one is told of signals
        yield caught
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def catch(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        restore()

    for number in before:
        signal.signal(number, catch)
    try:
        yield caught
    finally:
        restore()


def evaluate_average(
    objective: Objective, model: nn.Module, ema: EMA, folder: Path, step: int
) -> dict[str, float]:
    """Evaluate with the averaged weights in place, then put the trained ones back."""
    live = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(ema.state_dict(model))
    model.eval()
    with torch.no_grad():
        metrics = objective.evaluate(model, folder, step)
    model.load_state_dict(live)
    model.train()
    return metrics


def _optimizer_step(
    objective: Objective,
    model: nn.Module,
    batch: Any,
    config: TrainConfig,
    optimizers: list[torch.optim.Optimizer],
    step: int,
) -> dict[str, float]:
    rate = config.learning_rate * learning_rate_factor(config, step)
    device = next(model.parameters()).device
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16"):
        loss, metrics = objective.loss(model, batch)
    if not torch.isfinite(loss):
        raise DataError(
            f"training: expected a finite loss at step {step}, found {loss.item()}; lower the learning rate"
        )
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
    if not torch.isfinite(norm):
        raise DataError(
            f"training: expected finite gradients at step {step}, found {norm.item()}; lower learning_rate"
        )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return {"loss": loss.item(), **metrics, "gradient_norm": norm.item(), "learning_rate": rate}
