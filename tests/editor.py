"""The tiny checkpoint as one that edits, and pictures to hand to it."""

import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image


def write_editor(tiny_folder: Path, folder: Path, **changes: object) -> Path:
    """Copy the tiny checkpoint with the ability to edit small pictures."""
    shutil.copytree(tiny_folder, folder)
    own = folder / "danqing.json"
    ability = {"tasks": ["generate", "edit"], "reference_area": 64 * 48, "vision_area": 64 * 64}
    told = {**json.loads(own.read_text()), "name": "editor", "max_references": 2, **ability, **changes}
    own.write_text(json.dumps(told))
    return folder


def noisy(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Return a picture of random numbers."""
    channels = len(Image.new(mode, (1, 1)).getbands())
    values = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(values.squeeze())


def half(width: int, height: int) -> Image.Image:
    """Return a mask whose right half is white."""
    mask = Image.new("L", (width, height), 0)
    mask.paste(255, (width // 2, 0, width, height))
    return mask
