"""Three-axis rotary positions of the MMDiT (MSRoPE: Qwen-Image technical report, section 2.4 and figure 8).

A position is (frame, height, width) in tokens. Pictures are centred: rows run from -(h - h // 2) to h // 2 -
1. The i-th picture of a sequence has frame i. Text uses one number on all three axes, starting past every
picture.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class GridShape(NamedTuple):
    """Size of one picture in tokens."""

    frames: int
    height: int
    width: int


def image_positions(shapes: Sequence[GridShape], *, layered: bool = False) -> Int[Tensor, "img_seq 3"]:
    """Return the positions of all picture tokens, picture after picture, rows before columns.

    `layered`: picture i is layer i of one document; the last one, the condition, gets frame -1.
    """
    grids = []
    for index, (frames, height, width) in enumerate(shapes):
        first = -1 if layered and index == len(shapes) - 1 else index
        axes = (
            torch.arange(first, first + frames),
            torch.arange(height) - (height - height // 2),
            torch.arange(width) - (width - width // 2),
        )
        grids.append(torch.cartesian_prod(*axes))
    return torch.cat(grids)


def text_positions(
    length: int, shapes: Sequence[GridShape], *, layered: bool = False
) -> Int[Tensor, "txt_seq 3"]:
    """Return the positions of text tokens; they start at the largest half side of any picture."""
    start = max(max(shape.height // 2, shape.width // 2) for shape in shapes)
    if layered:
        start = max(start, len(shapes) - 1)
    return (start + torch.arange(length)).unsqueeze(1).expand(length, 3)


def rotation(
    positions: Int[Tensor, "seq 3"], axes_dims: Sequence[int], *, theta: float = 10000.0
) -> Float[Tensor, "2 seq half_dim"]:
    """Return cosines and sines, fp32; each axis turns its own share `axes_dims` of the head channels."""
    angles = []
    for axis, dim in enumerate(axes_dims):
        frequencies = 1.0 / torch.pow(theta, torch.arange(0, dim, 2, device=positions.device).float() / dim)
        angles.append(torch.outer(positions[:, axis].float(), frequencies))
    angle = torch.cat(angles, dim=1)
    return torch.stack((angle.cos(), angle.sin()))


def rotate(
    heads: Float[Tensor, "batch seq heads head_dim"], table: Float[Tensor, "2 seq half_dim"]
) -> Float[Tensor, "batch seq heads head_dim"]:
    """Turn neighbouring channel pairs by the table's angles, in fp32."""
    cos, sin = table.unsqueeze(2)
    even, odd = heads.float().unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return turned.flatten(-2).to(heads.dtype)
