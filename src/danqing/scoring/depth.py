"""How near each pixel is: MiDaS in DPT (Ranftl et al. 2021) or Depth Anything (Yang et al. 2024)."""

from typing import Final

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from danqing.scoring.pretrained import Source, open_model, open_pictures

_FAMILIES: Final = ("dpt", "depth_anything")


class DepthModel:
    """Estimates depth from one picture; larger is nearer."""

    def __init__(self, source: Source, *, eight_bit: bool = False) -> None:
        """`eight_bit` keeps depth as T2I-CompBench's code does.

        That is 0 to 255 between the farthest and the nearest of the picture, rounded down, brought to the
        picture's size with corners on corners.
        """
        self._loaded = open_model(source, "AutoModelForDepthEstimation", _FAMILIES)
        self._pictures = open_pictures(source)
        self._eight_bit = eight_bit
        kind = getattr(self._loaded.model.config, "depth_estimation_type", "relative")
        self._sign = -1.0 if kind == "metric" else 1.0  # metres grow with distance
        self.name = self._loaded.name
        self.version = f"{self._loaded.version}{' eight bit' if eight_bit else ''} 1"

    @torch.inference_mode()
    def depth(self, picture: Image.Image) -> np.ndarray:
        """Return (height, width) float32; larger is nearer, the unit is the picture's own."""
        inputs = self._pictures(images=picture.convert("RGB"), return_tensors="pt")
        outputs = self._loaded.model(**self._loaded.held({"pixel_values": inputs["pixel_values"]}))
        size = (picture.height, picture.width)
        if not self._eight_bit:
            (found,) = self._pictures.post_process_depth_estimation(outputs, target_sizes=[size])
            near: np.ndarray = (self._sign * found["predicted_depth"].float()).cpu().numpy()
            return near
        near_map = self._sign * outputs.predicted_depth.float()
        span = (near_map.max() - near_map.min()).clamp_min(torch.finfo(torch.float32).tiny)
        share = (near_map - near_map.min()) / span
        large = F.interpolate(share[:, None], size=size, mode="bilinear", align_corners=True)
        levels: np.ndarray = (255 * large[0, 0]).clamp(0, 255).cpu().numpy()
        return np.floor(levels).astype(np.float32)
