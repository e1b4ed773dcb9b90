"""Make the judge: a detector that reads pictures of the world, trained on scenes alone.

    danqing train recipes/judge.py --run-dir runs/judge --atlas atlas.safetensors

The atlas should hold all concepts (`danqing data build --concepts all`). A third of the pictures it learns
from went through the autoencoder of the checkpoint given by `--init` (nano by default), so that it also knows
what decoded pictures look like. Every stage resumes where it stopped.
"""

import hashlib
import json
import time
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from danqing.conditioning.images import to_pictures, to_pixels
from danqing.data.atlas import Atlas
from danqing.data.concepts import concepts, core_codes
from danqing.data.world import Scene, render, sample_scene
from danqing.errors import ConfigError
from danqing.evaluation.world.reconstruction import restore
from danqing.model import find_checkpoint
from danqing.scoring.detector import SIDE, Detector, DetectorConfig, write_detector
from danqing.training.config import TrainConfig, override
from danqing.training.objectives.detection import Detection, Part
from danqing.training.run import Run
from danqing.training.state import load_average
from danqing.training.trainer import train as train_stage
from danqing.weights.store import write_safetensors

RESTORED = 1792  # pictures that went through the autoencoder, the last 96 for measuring
CHUNK = 256
NAMED = ("animals", "food", "travel", "activities", "objects", "shapes")
"""Groups of the concepts that are told apart: all nouns, no faces and people."""

STAGES = {
    "find": TrainConfig(
        steps=3000, batch_size=12, learning_rate=2e-3, warmup_steps=100, decay_fraction=0.4, ema_decay=0.998,
        weight_decay=0.02, log_every=50, evaluate_every=500, save_every=250, seed=7,
    ),
    "name": TrainConfig(
        steps=8500, batch_size=24, learning_rate=3e-3, warmup_steps=100, decay_fraction=0.5, ema_decay=0.998,
        weight_decay=0.02, log_every=50, evaluate_every=500, save_every=250, seed=8,
    ),
}  # fmt: skip


def train(run: Run) -> None:
    """Restore pictures, train both parts of the detector, or one, and write it when both are done."""
    stages = override(STAGES, run.settings)
    if unknown := set(run.stages) - set(stages):
        raise ConfigError(f"--stage: expected some of {', '.join(stages)}, found {sorted(unknown)[0]!r}")
    deadline = None if run.max_seconds is None else time.monotonic() + run.max_seconds
    atlas = Atlas.load(run.atlas)
    if not restore_pictures(run, atlas, deadline):
        return
    named = tuple(code for code, concept in concepts().items() if concept.group in NAMED)
    config = DetectorConfig(concepts=named)
    for part in run.stages or tuple(stages):
        train_part(run, atlas, config, stages[part], part, deadline)
    if all(_steps(run.run_dir / part) >= settings.steps for part, settings in stages.items()):
        weights = load_average(run.run_dir / "find")
        names = load_average(run.run_dir / "name")
        weights |= {key: tensor for key, tensor in names.items() if key.startswith("namer.")}
        write_detector(run.run_dir / "detector.safetensors", config, weights)


def train_part(
    run: Run, atlas: Atlas, config: DetectorConfig, settings: TrainConfig, part: Part, deadline: float | None
) -> None:
    """Train the finder or the namer."""
    objective = Detection(
        atlas,
        config.concepts,
        core_codes(),
        part=part,
        batch_size=settings.batch_size,
        seed=settings.seed,
        restored=lambda number: (scene(atlas, number), picture(run.run_dir / "restored", number)),
        restored_count=RESTORED - 96,
    )
    torch.manual_seed(settings.seed)
    model = Detector(config).to(memory_format=torch.channels_last)
    train_stage(
        objective, model, settings, stage=part, run_dir=run.run_dir, deadline=deadline, device=run.device
    )


def restore_pictures(run: Run, atlas: Atlas, deadline: float | None) -> bool:
    """Put scenes through the autoencoder, in files of 256; return whether all are there."""
    vae = find_checkpoint(run.init or "nano").vae(run.device, torch.float32)
    for first in range(0, RESTORED, CHUNK):
        path = _chunk(run.run_dir / "restored", first)
        scenes = [scene(atlas, first + at) for at in range(CHUNK)]
        made_of = hashlib.sha256(repr(scenes).encode()).hexdigest()
        if path.exists() and _made_of(path) == made_of:
            continue  # an older world draws other scenes for the same numbers
        if deadline is not None and time.monotonic() > deadline:
            return False
        drawn = [render(one, atlas, SIDE) for one in scenes]
        pictures = to_pictures(restore(vae, to_pixels(np.stack(drawn))))
        stacked = torch.from_numpy(np.stack([np.asarray(one) for one in pictures]))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_safetensors(path, {"pictures": stacked}, {"scenes": made_of})
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


def _steps(folder: Path) -> int:
    file = folder / "progress.json"
    return int(json.loads(file.read_text())["step"]) if file.exists() else 0


def _made_of(path: Path) -> str | None:
    with safe_open(path, "pt") as file:
        return (file.metadata() or {}).get("scenes")


@cache
def _pictures(path: Path) -> np.ndarray:
    return load_file(path)["pictures"].numpy()


def _chunk(folder: Path, first: int) -> Path:
    return folder / f"{first:06d}.safetensors"
