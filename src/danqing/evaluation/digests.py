"""What tells one set of weights, or of sprites, from another."""

import hashlib
from typing import Final

import torch

from danqing.data.atlas import Atlas
from danqing.model import Model

_SAMPLED: Final = 16  # values of each tensor that tell one set of weights from another


def weights_digest(model: Model) -> str:
    """Return twelve hexadecimal digits that change when the weights do, from a few values of each tensor."""
    parts = model.components
    return _digest(parts.transformer, parts.vae, parts.vlm)


def vae_digest(vae: torch.nn.Module) -> str:
    """Return the same for an autoencoder alone."""
    return _digest(vae)


def atlas_digest(atlas: Atlas) -> str:
    """Return twelve hexadecimal digits that change when the sprites do, from one of each concept."""
    digest = hashlib.sha256()
    for code in atlas.codes:
        for style in atlas.styles_of(code)[:1]:
            digest.update(f"{code}{style}".encode())
            digest.update(atlas.sprite(code, style).tobytes())
    return digest.hexdigest()[:12]


def _digest(*parts: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for part in parts:
        for name, tensor in part.state_dict().items():
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            digest.update(tensor.flatten()[:_SAMPLED].to("cpu", torch.float32).numpy().tobytes())
    return digest.hexdigest()[:12]
