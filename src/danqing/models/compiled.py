"""Blocks of denoisers through torch.compile: each model's blocks share one graph, whatever the sizes."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from danqing.errors import RequestError, ResourceError
from danqing.models.controlnet import ControlNet
from danqing.models.mmdit import Block, Layout, MMDiT
from danqing.models.quantised import QuantisedLinear
from danqing.models.single_stream import SingleStream, Span

_COMPILERS = ("g++", "clang++", "c++", "cl")
Forward = Callable[..., Any]


def compile_blocks(
    model: MMDiT | SingleStream | ControlNet,
    *,
    device: torch.device | None = None,
    backend: str | Callable[..., Any] = "inductor",
) -> None:
    """Have the blocks of a model compiled when they first run; results differ by rounding.

    Compiling takes about a minute. One graph serves all blocks and steps, all lengths of prompts and all
    sizes of pictures; of 1.x there is a second one where no text of a batch is shorter than others, where
    references have a noise level of their own and a second size is drawn, and for another number of pictures
    in a batch. What reads the prompt of 2.1, once a picture, is not compiled.

    `device` is where they will run, by default where they are. Raises ResourceError where there is no
    compiler for it, RequestError for layers of 8 or 4 bits, which have kernels of their own.
    """
    check_compiler(device or model.img_in.weight.device)
    if any(isinstance(part, QuantisedLinear) for part in model.modules()):
        raise RequestError(
            "compile: expected plain weights, found layers of 8 or 4 bits, which have kernels of their own; "
            "leave --compile out"
        )
    for block in model.transformer_blocks:
        compiled = torch.compile(block.forward, backend=backend)
        if isinstance(block, Block):
            block.last = False  # a graph of its own would cost more than the text that nobody reads
            block.forward = _joint(compiled)  # type: ignore[method-assign]
        else:
            block.forward = _steps_alone(compiled, block.forward)


def check_compiler(device: torch.device) -> None:
    """Raise ResourceError where nothing compiles for a device."""
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise ResourceError("compile: expected triton, found none; install it, or leave --compile out")
    named = os.environ.get("CXX")
    if device.type == "cpu" and not any(map(shutil.which, (named,) if named else _COMPILERS)):
        wanted = f"the C++ compiler {named} that $CXX names" if named else "a C++ compiler (g++ or clang++)"
        raise ResourceError(f"compile: expected {wanted}, found none; install one, or leave --compile out")


def _joint(compiled: Forward) -> Forward:
    """Return the forward of a block of 1.x, told which sides of its arguments vary."""

    def forward(img: Tensor, txt: Tensor, img_mod: Tensor, txt_mod: Tensor, layout: Layout) -> Any:
        # A graph knows of what its arguments are views, and where those lie; other blocks would not fit it.
        img, txt, img_mod, txt_mod = img.detach(), txt.detach(), img_mod.clone(), txt_mod.clone()
        _vary((img, 1), (txt, 1), (layout.img_turn, 0), (layout.txt_turn, 0), (layout.mask, 3))
        return compiled(img, txt, img_mod, txt_mod, layout)

    return forward


def _steps_alone(compiled: Forward, plain: Forward) -> Forward:
    """Return the forward of a block of 2.1 that is compiled where it follows a prefix."""

    def forward(
        tokens: Tensor, modulation: Any, turn: Tensor, spans: Sequence[Span] | None, past: Any
    ) -> Any:
        if past is None or spans is None:
            return plain(tokens, modulation, turn, spans, past)
        ((_, _, mask),) = spans
        tokens = tokens.detach()
        _vary((tokens, 1), (turn, 1), (mask, 3), *((part, 2) for part in past))
        return compiled(tokens, modulation, turn, [Span(0, sys.maxsize, mask)], past)

    return forward


def _vary(*sides: tuple[Tensor | None, int]) -> None:
    for tensor, side in sides:
        if tensor is not None:
            torch._dynamo.maybe_mark_dynamic(tensor, side)
