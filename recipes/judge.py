"""Make the judge: a detector that reads pictures of the world, trained on scenes alone.

    danqing train recipes/judge.py --run-dir runs/judge --atlas atlas.safetensors

The atlas should hold all concepts (`danqing data build --concepts all`). A third of the pictures it learns
from went through the autoencoder of the checkpoint given by `--init` (nano by default), so that it also knows
what decoded pictures look like. Every stage resumes where it stopped.
"""

import time
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from danqing.conditioning.images import to_pictures, to_pixels
from danqing.data.atlas import Atlas
from danqing.data.concepts import concepts, core_codes
from danqing.data.world import Scene, render, sample_scene
from danqing.evaluation.reconstruction import restore
from danqing.model import find_checkpoint
from danqing.scoring.detector import SIDE, Detector, DetectorConfig, write_detector
from danqing.training.config import TrainConfig, override
from danqing.training.objectives.detection import Detection
from danqing.training.run import Run
from danqing.training.state import load_average
from danqing.training.trainer import train as train_stage
from danqing.weights.store import write_safetensors

RESTORED = 6144  # pictures that went through the autoencoder, the last 96 for measuring
CHUNK = 256

STAGES = {
    "detect": TrainConfig(
        steps=12_000, batch_size=32, learning_rate=2e-3, decay_fraction=0.35, ema_decay=0.998,
        weight_decay=0.02, log_every=50, evaluate_every=1000, save_every=500, seed=7,
    ),
}  # fmt: skip


def train(run: Run) -> None:
    """Restore pictures, train the detector and write it."""
    stages = override(STAGES, run.settings)
    deadline = None if run.max_seconds is None else time.monotonic() + run.max_seconds
    atlas = Atlas.load(run.atlas)
    if not restore_pictures(run, atlas, deadline):
        return
    codes = tuple(concepts())
    objective = Detection(
        atlas,
        codes,
        core_codes(),
        batch_size=stages["detect"].batch_size,
        seed=stages["detect"].seed,
        restored=lambda number: (scene(atlas, number), picture(run.run_dir / "restored", number)),
        restored_count=RESTORED - 96,
    )
    torch.manual_seed(stages["detect"].seed)
    model = Detector(DetectorConfig(concepts=codes)).to(memory_format=torch.channels_last)
    _, progress = train_stage(
        objective, model, stages["detect"], stage="detect", run_dir=run.run_dir, deadline=deadline,
        device=run.device,
    )  # fmt: skip
    if progress["finished"]:
        write_detector(run.run_dir / "detector.safetensors", model.config, load_average(run.run_dir / "detect"))


def restore_pictures(run: Run, atlas: Atlas, deadline: float | None) -> bool:
    """Put scenes through the autoencoder, in files of 256; return whether all are there."""
    vae = find_checkpoint(run.init or "nano").vae(run.device, torch.float32)
    for first in range(0, RESTORED, CHUNK):
        path = _chunk(run.run_dir / "restored", first)
        if path.exists():
            continue
        if deadline is not None and time.monotonic() > deadline:
            return False
        drawn = [render(scene(atlas, first + at), atlas, SIDE) for at in range(CHUNK)]
        pictures = to_pictures(restore(vae, to_pixels(np.stack(drawn))))
        stacked = torch.from_numpy(np.stack([np.asarray(one) for one in pictures]))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_safetensors(path, {"pictures": stacked}, {})
    return True


def scene(atlas: Atlas, number: int) -> Scene:
    """Return the scene of a restored picture."""
    rng = np.random.default_rng([99, number])
    codes = core_codes() if rng.random() < 0.6 else None
    return sample_scene(rng, atlas, "held_out" if rng.random() < 0.2 else "train", codes=codes)


def picture(folder: Path, number: int) -> np.ndarray:
    """Return a restored picture."""
    array: np.ndarray = _pictures(_chunk(folder, number - number % CHUNK))[number % CHUNK]
    return array


@lru_cache(maxsize=None)
def _pictures(path: Path) -> np.ndarray:
    return load_file(path)["pictures"].numpy()


def _chunk(folder: Path, first: int) -> Path:
    return folder / f"{first:06d}.safetensors"
