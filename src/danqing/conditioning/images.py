"""Pictures as users have them (PIL, 8-bit arrays) and as models see them (pixels in [-1, 1])."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor


def to_pixels(pictures: UInt8[np.ndarray, "batch height width channels"]) -> Float[Tensor, "batch channels height width"]:
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
