"""Pictures as users have them (PIL, 8-bit arrays) and as models see them (pixels in [-1, 1])."""

import json
from collections.abc import Mapping
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
    """A picture that carries its parameters into the files it is saved as."""

    def save(self, fp: Any, format: str | None = None, **params: Any) -> None:
        """Save like PIL, with the parameters inside.

        PNG holds them as text, `danqing` (JSON) and `parameters` (A1111 text); JPEG and WebP hold the A1111
        text as EXIF user comment.
        """
        name = fp if isinstance(fp, str | Path) else getattr(fp, "name", "")
        chosen = (format or Path(name if isinstance(name, str | Path) else "").suffix[1:]).lower()
        if chosen == "png" and "pnginfo" not in params:
            params["pnginfo"] = PngInfo()
            for key in ("danqing", "parameters"):
                if key in self.info:
                    params["pnginfo"].add_itxt(key, self.info[key])
        elif chosen in ("jpg", "jpeg", "webp") and "exif" not in params and "parameters" in self.info:
            params["exif"] = _exif_comment(self.info["parameters"])
        super().save(fp, format, **params)


_EXIF_FOLDER, _USER_COMMENT, _UNICODE = 0x8769, 0x9286, b"UNICODE\0"
_MAX_COMMENT = 30_000  # UTF-16 units; an EXIF block ends at 64 KiB


def _exif_comment(text: str) -> Image.Exif:
    encoded = text.encode("utf-16-be")
    if len(encoded) > 2 * _MAX_COMMENT:  # a longer text keeps its end, which holds the numbers
        encoded = encoded[:_MAX_COMMENT] + " … ".encode("utf-16-be") + encoded[-_MAX_COMMENT + 6 :]
    exif = Image.Exif()
    exif[_EXIF_FOLDER] = {_USER_COMMENT: _UNICODE + encoded}
    return exif


def picture_parameters(picture: Image.Image) -> Mapping[str, str]:
    """Return what an opened file was drawn with: `danqing` (JSON), `parameters` (A1111 text), or nothing."""
    texts = {
        key: picture.info[key] for key in ("danqing", "parameters") if isinstance(picture.info.get(key), str)
    }
    comment = picture.getexif().get_ifd(_EXIF_FOLDER).get(_USER_COMMENT)
    if not texts and isinstance(comment, bytes) and comment.startswith(_UNICODE):
        texts["parameters"] = comment.removeprefix(_UNICODE).decode("utf-16-be", errors="replace")
    return texts


def describe_picture(picture: Image.Image, parameters: dict[str, Any]) -> Image.Image:
    """Return the picture with the parameters that drew it in its `info`, and in every file it is saved as."""
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
