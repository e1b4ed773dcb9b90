"""Three-axis rotary positions (MSRoPE: Qwen-Image technical report, section 2.4 and figure 8).

A position is (frame, height, width) in tokens. Pictures are centred: rows run from -(h - h // 2) to h // 2 -
1. Text uses one number on all three axes.

In 1.x the i-th picture of a sequence has frame i and the text starts past every picture. In 2.1 text and
pictures are one document: a cursor advances by one a text token; a picture stands with its frame at the
cursor and moves it on by its longer side.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from danqing.models.layers import RMSNorm


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
        grids.append(_grid(first, GridShape(frames, height, width)))
    return torch.cat(grids)


def text_positions(
    length: int, shapes: Sequence[GridShape], *, layered: bool = False
) -> Int[Tensor, "txt_seq 3"]:
    """Return the positions of text tokens; they start at the largest half side of any picture."""
    start = max(max(shape.height // 2, shape.width // 2) for shape in shapes)
    if layered:
        start = max(start, len(shapes) - 1)
    return _line(start, length)


def document_positions(
    length: int, shapes: Sequence[GridShape], before: Sequence[int]
) -> Int[Tensor, "seq 3"]:
    """Return the positions of `length` text tokens with pictures among them (2.1).

    Picture i stands where `before[i]` text tokens have passed.
    """
    runs, passed, cursor = [], 0, 0
    for shape, count in zip(shapes, before, strict=True):
        runs += [_line(cursor, count - passed), _grid(cursor + count - passed, shape)]
        cursor += count - passed + max(shape.height, shape.width)
        passed = count
    return torch.cat((*runs, _line(cursor, length - passed)))


def document_end(length: int, shapes: Sequence[GridShape]) -> int:
    """Return the cursor after `length` text tokens and some pictures: the frame of the target (2.1)."""
    return length + sum(max(shape.height, shape.width) for shape in shapes)


def target_positions(shape: GridShape, frames: Sequence[int]) -> Int[Tensor, "rows img_seq 3"]:
    """Return the positions of one picture that follows documents with these ends (2.1)."""
    return torch.stack([_grid(frame, shape) for frame in frames])


def _line(start: int, length: int) -> Int[Tensor, "seq 3"]:
    return (start + torch.arange(length)).unsqueeze(1).expand(length, 3)


def _grid(frame: int, shape: GridShape) -> Int[Tensor, "seq 3"]:
    frames, height, width = shape
    axes = (
        torch.arange(frame, frame + frames),
        torch.arange(height) - (height - height // 2),
        torch.arange(width) - (width - width // 2),
    )
    return torch.cartesian_prod(*axes)


def rotation(
    positions: Int[Tensor, "*rows seq 3"], axes_dims: Sequence[int], *, theta: float = 10000.0
) -> Float[Tensor, "*rows seq half_dim 2"]:
    """Return cosines and sines, fp32; each axis turns its own share `axes_dims` of the head channels."""
    angles = []
    for axis, dim in enumerate(axes_dims):
        frequencies = 1.0 / torch.pow(theta, torch.arange(0, dim, 2, device=positions.device).float() / dim)
        angles.append(positions[..., axis, None].float() * frequencies)
    angle = torch.cat(angles, dim=-1)
    return torch.stack((angle.cos(), angle.sin()), dim=-1)


def turned(
    heads: Float[Tensor, "batch seq heads head_dim"],
    norm: RMSNorm,
    table: Float[Tensor, "*rows seq half_dim 2"],
) -> Float[Tensor, "batch heads seq head_dim"]:
    """Return normalised heads, neighbouring channels turned by the table's angles: queries or keys.

    All of it is fp32 and rounded once. A table may have a row per entry of the batch.
    """
    wide = heads.float()
    squares = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square()
    scale = torch.rsqrt(squares / heads.shape[-1] + norm.eps)
    # Where no gradient is wanted, what is ours is overwritten: in bf16 the fp32 copies are the largest
    # tensors of attention.
    multiply = Tensor.mul if torch.is_grad_enabled() else Tensor.mul_
    wide = wide * scale if wide is heads else multiply(wide, scale)
    wide = multiply(wide, norm.weight.float())
    pairs, turn = wide.unflatten(-1, (-1, 2)), table.unsqueeze(-3)
    if torch.compiler.is_compiling():  # the compiler fuses real numbers, eager code is fast with complex ones
        (even, odd), (cos, sin) = pairs.unbind(-1), turn.unbind(-1)
        pairs = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    else:
        pairs = torch.view_as_real(multiply(torch.view_as_complex(pairs), torch.view_as_complex(turn)))
    return pairs.flatten(-2).to(heads.dtype).transpose(1, 2)
