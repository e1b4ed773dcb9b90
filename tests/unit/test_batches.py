"""Batches made by other processes: those of every objective that goes there are the same as here."""

from collections.abc import Callable

import pytest
import torch

from danqing.data.atlas import packaged_atlas
from danqing.data.pictures import PictureSource
from danqing.training.batches import batches
from danqing.training.objectives.autoencoder import Autoencoding
from danqing.training.objectives.describing import Seeing
from danqing.training.objectives.language import Language
from tests.tiny import AUTOENCODER

OBJECTIVES: dict[str, Callable] = {
    "language": lambda tiny: Language(packaged_atlas(), tiny.tokenizer, batch_size=4, seed=0),
    "seeing": lambda tiny: Seeing(
        packaged_atlas(), tiny.tokenizer, tiny.vlm.config.vision, batch_size=2, seed=0
    ),
    "autoencoding": lambda tiny: Autoencoding(
        PictureSource(packaged_atlas(), size=24), AUTOENCODER, batch_size=2, crop=16, seed=0
    ),
}


def tensors(value):
    """Return all tensors of nested tuples, lists and mappings."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    return [one for part in value for one in tensors(part)] if hasattr(value, "__iter__") else []


@pytest.mark.parametrize("name", OBJECTIVES)
def test_other_processes_make_the_same_batches(tiny, name):
    objective = OBJECTIVES[name](tiny.components)
    coming = batches(objective, 3, workers=1)
    for step in (3, 4):
        expected, found = tensors(objective.batch(step)), tensors(next(coming))
        assert expected
        assert all(torch.equal(*pair) for pair in zip(expected, found, strict=True))
    coming.close()
