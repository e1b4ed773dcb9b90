"""From tensors on disk to a module: types that are kept, cast and refused."""

import pytest
import torch
from torch import nn

from danqing.errors import CheckpointError
from danqing.weights.build import build
from danqing.weights.store import write_shards

CPU = torch.device("cpu")


class Packed(nn.Module):
    """A layer of whole numbers and their scale, beside a bias in the precision of the computation."""

    stored_dtypes = {"weight": torch.int8, "scale": torch.float32}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(2, 3, dtype=torch.int8), requires_grad=False)
        self.scale = nn.Parameter(torch.empty(2))
        self.bias = nn.Parameter(torch.empty(2))


STORED = {"0.weight": torch.ones(2, 3, dtype=torch.int8), "0.scale": torch.tensor([0.1, 0.2])}
STORED |= {"0.bias": torch.ones(2), "1.weight": torch.ones(4, 2), "1.bias": torch.ones(4)}


def made():
    return nn.Sequential(Packed(), nn.Linear(2, 4))


def test_types_that_a_layer_keeps_are_not_cast(tmp_path):
    write_shards(tmp_path, "model", STORED)
    module = build(made, tmp_path, device=CPU, dtype=torch.bfloat16)
    found = {name: tensor.dtype for name, tensor in module.named_parameters()}
    assert found.pop("0.weight") == torch.int8
    assert found.pop("0.scale") == torch.float32
    assert set(found.values()) == {torch.bfloat16}
    assert torch.equal(module[0].scale, STORED["0.scale"])
    assert not any(tensor.requires_grad for tensor in module.parameters())


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("1.weight", torch.ones(4, 2, dtype=torch.int8)),  # quantised, and nobody has its scale
        ("0.weight", torch.ones(2, 3)),
        ("0.weight", torch.ones(2, 3, dtype=torch.uint8)),
        ("0.scale", torch.ones(2, dtype=torch.int32)),
    ],
)
def test_whole_numbers_are_taken_where_they_are_wanted_alone(tmp_path, name, stored):
    write_shards(tmp_path, "model", STORED | {name: stored})
    with pytest.raises(CheckpointError, match=f"found 1 others \\({name} ") as caught:
        build(made, tmp_path, device=CPU, dtype=torch.float32)
    assert "\n" not in str(caught.value)
