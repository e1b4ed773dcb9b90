"""Pictures as users have them (PIL, 8-bit arrays) and as models see them (pixels in [-1, 1])."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor


def to_pixels(
    pictures: UInt8[np.ndarray, "batch height width channels"],
) -> Float[Tensor, "batch channels height width"]:
    """Return 8-bit pictures as pixels in [-1, 1], fp32."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pictures(pixels: Float[Tensor, "batch channels height width"]) -> list[Image.Image]:
    """Return PIL pictures; values are rounded the way the reference rounds them, (x / 2 + 0.5) * 255."""
    scaled = (pixels.float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).mul(255).round()
    return [Image.fromarray(picture) for picture in scaled.to(torch.uint8).cpu().numpy()]


def sheet(pixels: Float[Tensor, "batch channels height width"], *, columns: int, gap: int = 2) -> Image.Image:
    """Return one picture with all pictures in rows of `columns`, for looking at."""
    pictures = to_pictures(pixels)
    width, height = pictures[0].size
    rows = -(-len(pictures) // columns)
    page = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        page.paste(picture, (column * (width + gap), row * (height + gap)))
    return page


class LabelledPicture(Image.Image):
    """A picture that carries its parameters into the PNG files it is saved as."""

    def save(self, fp: Any, format: str | None = None, **params: Any) -> None:
        """Save like PIL, with the parameters as PNG text: `danqing` (JSON) and `parameters` (A1111 text)."""
        chosen = format or (Path(fp).suffix[1:] if isinstance(fp, str | Path) else "")
        if chosen.lower() == "png" and "pnginfo" not in params:
            params["pnginfo"] = PngInfo()
            for key in ("danqing", "parameters"):
                params["pnginfo"].add_itxt(key, self.info[key])
        super().save(fp, format, **params)


def describe_picture(picture: Image.Image, parameters: dict[str, Any]) -> Image.Image:
    """Return the picture with the parameters that drew it in its `info`, and in every PNG it is saved as."""
    labelled = picture.copy()
    labelled.__class__ = LabelledPicture
    labelled.info["danqing"] = json.dumps(parameters, ensure_ascii=False)
    labelled.info["parameters"] = a1111_text(parameters)
    return labelled


def a1111_text(parameters: dict[str, Any]) -> str:
    """Return the parameters the way the AUTOMATIC1111 web UI writes them, which many picture tools read."""
    lines = [parameters["prompt"]]
    if (parameters.get("negative_prompt") or "").strip():
        lines.append(f"Negative prompt: {parameters['negative_prompt']}")
    width, height = parameters["size"]
    lines.append(
        f"Steps: {parameters['steps']}, Sampler: {parameters['solver'].capitalize()}, "
        f"CFG scale: {parameters['guidance']:g}, Seed: {parameters['seed']}, Size: {width}x{height}, "
        f"Model: {parameters['model']}"
    )
    return "\n".join(lines)
