"""CLIP (Radford et al. 2021): how alike a picture and a text are.

Texts and pictures are encoded one by one, so a score does not depend on its neighbours; what was encoded is
kept, since benchmarks ask the same names again.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from danqing.scoring.pretrained import LastPicture, Source, open_model, open_pictures, open_tokenizer

_KEPT: Final = 4096  # texts
CLIP_SCORE_PREFIX: Final = "A photo depicts "
"""What CLIPScore puts before a caption (Hessel et al. 2021)."""


class Clip:
    """Compares pictures with texts."""

    def __init__(self, source: Source, *, prefix: str = "") -> None:
        """`prefix` is put before every text of `similarity`; T2I-CompBench has none."""
        self._loaded = open_model(source, "CLIPModel", ("clip",))
        self._pictures = open_pictures(source)
        self._tokenizer = open_tokenizer(source)
        self._longest = self._loaded.model.config.text_config.max_position_embeddings
        self._prefix = prefix
        self.name = self._loaded.name
        self.version = f"{self._loaded.version}{f' prefix={prefix!r}' if prefix else ''} 1"
        self._last = LastPicture()
        self._text = lru_cache(maxsize=_KEPT)(self._encoded)

    def similarity(self, picture: Image.Image, texts: Sequence[str]) -> list[float]:
        """Return the cosine of the picture and each text, -1 to 1; texts are cut at CLIP's 77 tokens."""
        seen = self._seen(picture)
        return [float(seen @ self._text(self._prefix + text)) for text in texts]

    def class_similarity(self, picture: Image.Image, wordings: Sequence[Sequence[str]]) -> list[float]:
        """Return the cosine of the picture and each class, the mean direction of its wordings."""
        seen = self._seen(picture)
        return [
            float(seen @ F.normalize(torch.stack([self._text(text) for text in one]).mean(0), dim=-1))
            for one in wordings
        ]

    @property
    def resize(self) -> str:
        """How pictures are brought to the size that the network sees."""
        prepare = self._pictures
        size = prepare.size.get("shortest_edge") or f"{prepare.size['width']}x{prepare.size['height']}"
        how = Image.Resampling(prepare.resample).name.lower() if prepare.do_resize else "not resized"
        cut = f", middle {prepare.crop_size['height']}" if prepare.do_center_crop else ""
        return f"{how} to {size}{cut}"

    def picture_vector(self, picture: Image.Image) -> np.ndarray:
        """Return the embedding of a picture (size,) float32, of length 1."""
        return np.asarray(self._seen(picture).cpu().numpy())

    def text_vector(self, text: str) -> np.ndarray:
        """Return the embedding of a text as it stands (size,) float32, of length 1."""
        return np.asarray(self._text(text).cpu().numpy())

    def _seen(self, picture: Image.Image) -> Tensor:
        found: Tensor = self._last.get(picture, self._looked)
        return found

    @torch.inference_mode()
    def _looked(self, picture: Image.Image) -> Tensor:
        inputs = self._pictures(images=picture.convert("RGB"), return_tensors="pt")
        pixels = self._loaded.held({"pixel_values": inputs["pixel_values"]})
        found = self._loaded.model.get_image_features(**pixels).pooler_output
        return F.normalize(found[0].float(), dim=-1)

    @torch.inference_mode()
    def _encoded(self, text: str) -> Tensor:
        inputs = self._tokenizer(text, truncation=True, max_length=self._longest, return_tensors="pt")
        found = self._loaded.model.get_text_features(**self._loaded.held(inputs)).pooler_output
        return F.normalize(found[0].float(), dim=-1)


def clip_score(cosine: float) -> float:
    """Return 2.5 times the cosine, at least 0 (CLIPScore of Hessel et al. 2021)."""
    return 2.5 * max(cosine, 0.0)
