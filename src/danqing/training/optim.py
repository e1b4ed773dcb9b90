"""Optimizers by parameter kind, and the exponential moving average of the weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from danqing.training.config import TrainConfig


def build_optimizers(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Return one AdamW, or Muon for the block matrices plus AdamW for the rest.

    Muon orthogonalises the update of a matrix (Jordan et al., 2024); its step is scaled to the RMS of an Adam
    step (Liu et al., arXiv 2502.16982), so that both share one learning rate.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    matrices = [p for name, p in trained.items() if config.optimizer == "muon" and _is_block_matrix(name, p)]
    chosen = {id(p) for p in matrices}
    rest = [p for p in trained.values() if id(p) not in chosen]
    rate, decay = config.learning_rate, config.weight_decay
    adamw = torch.optim.AdamW(rest, lr=rate, betas=config.betas, eps=1e-8, weight_decay=decay)
    if not matrices:
        return [adamw]
    muon = torch.optim.Muon(
        matrices, lr=rate, weight_decay=decay, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    return [adamw, muon]


def _is_block_matrix(name: str, parameter: nn.Parameter) -> bool:
    # Modulation is left out: a third of the parameters, read once a picture, and not worth Muon's iterations.
    in_block = any(part in name for part in ("transformer_blocks.", "model.layers.", "visual.blocks."))
    return parameter.dim() == 2 and in_block and "_mod." not in name


class EMA:
    """Moving average of every trained parameter, in fp32, with a warm-up of its decay."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards the weights after optimizer step `step` (counted from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        live = dict(model.named_parameters())
        torch._foreach_lerp_(
            list(self.weights.values()), [live[name].detach() for name in self.weights], 1 - decay
        )

    def state_dict(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the model's state dict with the averaged weights in place of the trained ones."""
        return {**model.state_dict(), **self.weights}


@contextmanager
def short_attention(device: torch.device) -> Iterator[None]:
    """Choose the attention that trains fastest on sequences of about a hundred tokens.

    On a CPU that is the plain matrix product: backwards the fused kernel takes several times as long.
    """
    if device.type != "cpu":
        yield
        return
    with sdpa_kernel([SDPBackend.MATH]):
        yield
