"""ControlNets at work: what they add to the denoiser at each noise level."""

from collections.abc import Callable, Sequence
from functools import reduce

import torch
from jaxtyping import Float
from torch import Tensor

from danqing.conditioning.text import Conditioning
from danqing.errors import RequestError
from danqing.models.controlnet import BlockwiseControlNet, ControlNet, Residuals
from danqing.models.mmdit import MMDiT, ResidualFn
from danqing.pipelines.control import Control
from danqing.pipelines.job import Job

AnyControlNet = ControlNet | BlockwiseControlNet


def check_controls(net: AnyControlNet | None, controls: Sequence[Control]) -> None:
    """Raise RequestError where there is no ControlNet for the controls, or one that reads other pictures."""
    if not controls:
        return
    if net is None:
        raise RequestError(
            "control: expected a ControlNet that reads the picture, found none; load one with the checkpoint"
        )
    for control in controls:
        if net.config.masked != (control.mask is not None):
            wanted, found = ("a mask", "none") if net.config.masked else ("no mask", "one")
            raise RequestError(
                f"control: expected {wanted} with a picture for this ControlNet, found {found}"
            )


Steer = Callable[[Tensor, int], ResidualFn | None]
"""Noised latents and the index of their noise level → what is added to the denoiser's blocks, if anything."""


def steering(
    net: AnyControlNet | None,
    model: MMDiT,
    jobs: Sequence[Job],
    sigmas: Float[Tensor, " points"],
    text: Conditioning,
) -> Steer | None:
    """Return how the controls of jobs steer `model`; `text` holds their rows, then those without the prompt.

    A ControlNet reads the prompt's rows alone and steers both branches of guidance alike, as in the
    reference; a blockwise one reads each branch's own stream.
    """
    settings = jobs[0].settings
    if net is None or not settings.controls:
        return None
    device, dtype = model.img_in.weight.device, model.img_in.weight.dtype
    tokens = [
        torch.cat(parts).to(device, dtype) for parts in zip(*(job.controls for job in jobs), strict=True)
    ]
    if isinstance(net, BlockwiseControlNet):
        contribute = _blockwise(net, tokens, len(text.lengths) // len(jobs))
    else:
        contribute = _copied(net, model, jobs, sigmas, text, tokens)

    def steer(latents: Tensor, index: int) -> ResidualFn | None:
        step = index + settings.skipped
        active = [
            (place, window.scale)
            for place, window in enumerate(settings.controls)
            if window.scale and window.covers(step, settings.steps)
        ]
        return contribute(latents, index, active) if active else None

    return steer


_Contribute = Callable[[Tensor, int, list[tuple[int, float]]], ResidualFn]


def _copied(
    net: ControlNet,
    model: MMDiT,
    jobs: Sequence[Job],
    sigmas: Tensor,
    text: Conditioning,
    tokens: Sequence[Tensor],
) -> _Contribute:
    device, dtype = tokens[0].device, tokens[0].dtype
    txt, lengths = text.txt[: len(jobs)].to(dtype), text.lengths[: len(jobs)]
    table = net.modulation_table(sigmas[:-1]).to(device)
    layout = net.layout([jobs[0].settings.shape], txt.shape[1], lengths, device=device)

    def contribute(latents: Tensor, index: int, active: list[tuple[int, float]]) -> ResidualFn:
        total: list[Tensor] = []
        for place, scale in active:
            found = net(latents.to(dtype), txt, tokens[place], table.at(index), layout=layout)
            scaled = [scale * part for part in found]
            total = [a + b for a, b in zip(total, scaled, strict=True)] if total else scaled
        return Residuals(total, model.config.num_layers)

    return contribute


def _blockwise(net: BlockwiseControlNet, tokens: Sequence[Tensor], copies: int) -> _Contribute:
    read = [net(part).repeat(copies, 1, 1) for part in tokens]

    def contribute(_latents: Tensor, _index: int, active: list[tuple[int, float]]) -> ResidualFn:
        def residual(index: int, img: Tensor) -> Tensor:
            parts = [scale * net.residual(index, img, read[place]) for place, scale in active]
            return reduce(torch.add, parts)

        return residual

    return contribute
