"""Adapters: small changes to linear layers, kept beside them or added to their weights.

A delta is the change of one layer; an adapter is a mapping of layer names to deltas. Attached adapters can be
weighed anew and taken off without a trace; merged ones cost nothing to run.

Sources: LoRA: Hu et al. (arXiv 2106.09685), section 4.1; rank-stabilised scale: Kalajdzievski (arXiv
2312.03732); LoHa and LoKr: Yeh et al. (arXiv 2309.14859), section 3.3, after Hyeon-Woo et al. (arXiv
2108.06098).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from danqing.errors import ConfigError, RequestError
from danqing.models.quantised import QuantisedLinear


class LowRank(nn.Module):
    """LoRA: scale * up(down(x)) + bias."""

    def __init__(
        self,
        down: Float[Tensor, "rank dim_in"],
        up: Float[Tensor, "dim_out rank"],
        *,
        scale: float = 1.0,
        bias: Float[Tensor, " dim_out"] | None = None,
    ) -> None:
        super().__init__()
        self.down = nn.Parameter(down)
        self.up = nn.Parameter(up)
        self.bias = None if bias is None else nn.Parameter(bias)
        self.scale = scale

    @property
    def shape(self) -> tuple[int, int]:
        """Size of the weight that is changed."""
        return self.up.shape[0], self.down.shape[1]

    def forward(self, x: Float[Tensor, "*batch dim_in"]) -> Float[Tensor, "*batch dim_out"]:
        """Return what the layer's output changes by."""
        change = self.scale * F.linear(F.linear(x, self.down), self.up)
        return change if self.bias is None else change + self.bias

    def weight(self) -> Float[Tensor, "dim_out dim_in"]:
        """Return what the layer's weight changes by; fp32."""
        return self.scale * (self.up.float() @ self.down.float())


class Kronecker(nn.Module):
    """LoKr: the change is scale times the Kronecker product of two small matrices."""

    def __init__(
        self,
        first: Float[Tensor, "out1 in1"],
        second: Float[Tensor, "out2 in2"],
        *,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.first = nn.Parameter(first)
        self.second = nn.Parameter(second)
        self.bias = None
        self.scale = scale

    @property
    def shape(self) -> tuple[int, int]:
        """Size of the weight that is changed."""
        return self.first.shape[0] * self.second.shape[0], self.first.shape[1] * self.second.shape[1]

    def forward(self, x: Float[Tensor, "*batch dim_in"]) -> Float[Tensor, "*batch dim_out"]:
        """Return what the layer's output changes by, without building the product."""
        grid = F.linear(x.unflatten(-1, (self.first.shape[1], self.second.shape[1])), self.second)
        mixed = F.linear(grid.transpose(-1, -2), self.first).transpose(-1, -2)
        return self.scale * mixed.flatten(-2)

    def weight(self) -> Float[Tensor, "dim_out dim_in"]:
        """Return what the layer's weight changes by; fp32."""
        return self.scale * torch.kron(self.first.detach().float(), self.second.detach().float())


class Hadamard(nn.Module):
    """LoHa: the change is scale times the elementwise product of two low-rank matrices."""

    def __init__(
        self,
        ups: tuple[Float[Tensor, "dim_out rank"], Float[Tensor, "dim_out rank"]],
        downs: tuple[Float[Tensor, "rank dim_in"], Float[Tensor, "rank dim_in"]],
        *,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.ups = nn.ParameterList(ups)
        self.downs = nn.ParameterList(downs)
        self.bias = None
        self.scale = scale

    @property
    def shape(self) -> tuple[int, int]:
        """Size of the weight that is changed."""
        return self.ups[0].shape[0], self.downs[0].shape[1]

    def forward(self, x: Float[Tensor, "*batch dim_in"]) -> Float[Tensor, "*batch dim_out"]:
        """Return what the layer's output changes by; the product is built for it and dropped."""
        first, second = (up @ down for up, down in zip(self.ups, self.downs, strict=True))
        return F.linear(x, self.scale * first * second)

    def weight(self) -> Float[Tensor, "dim_out dim_in"]:
        """Return what the layer's weight changes by; fp32."""
        first, second = (u.float() @ d.float() for u, d in zip(self.ups, self.downs, strict=True))
        return self.scale * first * second


class Difference(nn.Module):
    """A whole matrix that is added to the weight."""

    def __init__(
        self, full: Float[Tensor, "dim_out dim_in"], *, bias: Float[Tensor, " dim_out"] | None = None
    ) -> None:
        super().__init__()
        self.full = nn.Parameter(full)
        self.bias = None if bias is None else nn.Parameter(bias)

    @property
    def shape(self) -> tuple[int, int]:
        """Size of the weight that is changed."""
        return self.full.shape[0], self.full.shape[1]

    def forward(self, x: Float[Tensor, "*batch dim_in"]) -> Float[Tensor, "*batch dim_out"]:
        """Return what the layer's output changes by."""
        return F.linear(x, self.full, self.bias)

    def weight(self) -> Float[Tensor, "dim_out dim_in"]:
        """Return what the layer's weight changes by; fp32."""
        return self.full.detach().float()


Delta = LowRank | Kronecker | Hadamard | Difference
Adapter = Mapping[str, Delta]
"""The deltas of one file or one training run, by the name of the layer they change."""


class Adapted(nn.Module):
    """A linear layer with deltas beside it, in its place and under its parameter names."""

    base: nn.Linear | QuantisedLinear
    weight: Tensor
    bias: Tensor | None

    def __init__(self, base: nn.Linear | QuantisedLinear) -> None:
        super().__init__()
        # The layer keeps its tensors in the same dictionaries, so their names stay those of the checkpoint,
        # whatever moves or replaces them does so for both, and taking the deltas off is putting it back.
        object.__setattr__(self, "base", base)
        self._parameters = base._parameters
        self._buffers = base._buffers
        self.in_features, self.out_features = base.in_features, base.out_features
        self.strengths: dict[str, float] = {}
        self.deltas = nn.ModuleList()

    def forward(self, x: Float[Tensor, "*batch dim_in"]) -> Float[Tensor, "*batch dim_out"]:
        """Return the layer's output and, times its strength, what each delta adds in its own precision."""
        out = self.base(x)
        for strength, delta in zip(self.strengths.values(), self.deltas, strict=True):
            if strength:
                own = next(delta.parameters()).dtype
                out = out + (strength * delta(x.to(own))).to(out.dtype)
        return out


Layer = nn.Linear | QuantisedLinear | Adapted


def linears(model: nn.Module) -> dict[str, Layer]:
    """Return the layers of a model that an adapter can change, by name."""
    return {name: part for name, part in model.named_modules() if isinstance(part, Layer)}


def attach(model: nn.Module, adapter: Adapter, *, name: str, strength: float = 1.0) -> list[str]:
    """Put the deltas of an adapter beside their layers; return the names of these layers.

    Deltas move to their layer's device (those of a layer whose weights are not in memory stay where they
    are), keep their precision, and train if they require gradients. Raises RequestError for a name that is
    taken, ConfigError where a delta does not fit.
    """
    if name in strengths(model):
        raise RequestError(f"adapter {name}: expected a name of its own, found it attached already")
    found = linears(model)
    for place, delta in adapter.items():
        _check_fits(found, place, delta)
    for place, delta in adapter.items():
        layer = found[place]
        if not isinstance(layer, Adapted):
            layer = Adapted(layer)
            model.set_submodule(place, layer)
        layer.deltas.append(delta if layer.weight.is_meta else delta.to(layer.weight.device))
        layer.strengths[name] = strength
    return list(adapter)


def detach(model: nn.Module, name: str) -> None:
    """Take an adapter off; the last one leaves the model as it was, bit for bit."""
    _check_attached(model, name)
    for place, layer in _adapted(model).items():
        if name not in layer.strengths:
            continue
        del layer.deltas[list(layer.strengths).index(name)]
        del layer.strengths[name]
        if not layer.strengths:
            model.set_submodule(place, layer.base)


def set_strength(model: nn.Module, name: str, strength: float) -> None:
    """Weigh an attached adapter anew; 0 switches it off."""
    _check_attached(model, name)
    for layer in _adapted(model).values():
        if name in layer.strengths:
            layer.strengths[name] = strength


def strengths(model: nn.Module) -> dict[str, float]:
    """Return the attached adapters by name, in the order of their attachment."""
    found: dict[str, float] = {}
    for layer in _adapted(model).values():
        found |= layer.strengths
    return found


@torch.no_grad()
def merge(model: nn.Module, adapters: Sequence[tuple[Adapter, float]]) -> None:
    """Add adapters times their strengths to the weights: all of a layer's in fp32, rounded once.

    Raises ConfigError where a delta does not fit, or has a bias and its layer none, or where the layer's
    weights are quantised.
    """
    found = linears(model)
    for adapter, _ in adapters:
        for place, delta in adapter.items():
            _check_fits(found, place, delta)
            _check_plain(found[place], place)
            if delta.bias is not None and found[place].bias is None:
                raise ConfigError(f"{place}: expected a layer with a bias to merge into; attach instead")
    for place in dict.fromkeys(place for adapter, _ in adapters for place in adapter):
        mine = [(adapter[place], strength) for adapter, strength in adapters if place in adapter]
        weight, bias = found[place].weight, found[place].bias
        total = weight.float()
        for delta, strength in mine:
            total = total + strength * delta.weight().to(weight.device)
        weight.copy_(total)
        for delta, strength in mine:
            if delta.bias is not None and bias is not None:
                bias.copy_(bias.float() + strength * delta.bias.float().to(bias.device))


ATTENTION = tuple(
    f"attn.{name}"
    for name in ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
)
"""The projections of attention; those of the text stream exist in 1.x alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoRAConfig:
    """What a new LoRA changes, and how freely."""

    rank: int = 16
    alpha: float | None = None
    """Scale times rank; None is the rank itself, so the scale is 1."""
    rank_stabilised: bool = False
    """The scale is alpha / sqrt(rank) instead of alpha / rank."""
    targets: tuple[str, ...] = ATTENTION
    """Ends of layer names; of the default ones a model needs to have some, of others all."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"LoRA: expected a rank of at least 1, found {self.rank}")
        if not self.targets:
            raise ConfigError("LoRA: expected names of layers to change, found none")

    @property
    def scale(self) -> float:
        """What the product of the two matrices is multiplied by."""
        alpha = self.rank if self.alpha is None else self.alpha
        return alpha / (math.sqrt(self.rank) if self.rank_stabilised else self.rank)


def new_adapter(
    model: nn.Module, config: LoRAConfig, generator: torch.Generator, *, dtype: torch.dtype = torch.float32
) -> dict[str, Delta]:
    """Return a trainable LoRA that changes nothing yet: down is Kaiming-uniform, up is zero.

    Draws come from a CPU generator in the order of the model's layers. Raises ConfigError for targets
    that are no layers of the model.
    """
    found = linears(model)
    hits = {end: [n for n in found if n == end or n.endswith("." + end)] for end in config.targets}
    missed = [end for end, names in hits.items() if not names]
    if missed and (config.targets != ATTENTION or len(missed) == len(hits)):
        raise ConfigError(
            f"LoRA: expected targets among the layers of the model, found {', '.join(missed)}; "
            f"its layers end like {', '.join(sorted({name.split('.')[-1] for name in found}))}"
        )
    chosen = {name for names in hits.values() for name in names}
    adapter: dict[str, Delta] = {}
    for name in filter(chosen.__contains__, found):
        layer = found[name]
        bound = 1 / math.sqrt(layer.in_features)  # kaiming_uniform_ with a = sqrt(5), as for a linear layer
        down = torch.empty(config.rank, layer.in_features).uniform_(-bound, bound, generator=generator)
        up = torch.zeros(layer.out_features, config.rank)
        adapter[name] = LowRank(down.to(dtype), up.to(dtype), scale=config.scale)
    return adapter


def attach_new(
    model: nn.Module, config: LoRAConfig, generator: torch.Generator, *, name: str = "default"
) -> list[str]:
    """Attach a new trainable LoRA; return the names of the layers it changes."""
    return attach(model, new_adapter(model, config, generator), name=name)


def attached(model: nn.Module, name: str) -> dict[str, Delta]:
    """Return an attached adapter, its deltas being the very modules in the model."""
    _check_attached(model, name)
    found: dict[str, Delta] = {}
    for place, layer in _adapted(model).items():
        if name in layer.strengths:
            delta = layer.deltas[list(layer.strengths).index(name)]
            assert isinstance(delta, Delta)
            found[place] = delta
    return found


def adapter_state_dict(model: nn.Module, name: str = "default") -> dict[str, Tensor]:
    """Return the parameters of an attached adapter by layer and factor, for a training checkpoint."""
    return {
        f"{place}.{factor}": tensor
        for place, delta in attached(model, name).items()
        for factor, tensor in delta.state_dict().items()
    }


def load_adapter_state_dict(model: nn.Module, state: Mapping[str, Tensor], name: str = "default") -> None:
    """Fill an attached adapter from `adapter_state_dict`; missing or unknown names raise ConfigError."""
    mine = adapter_state_dict(model, name)
    if state.keys() != mine.keys():
        other = sorted(state.keys() ^ mine.keys())
        raise ConfigError(
            f"adapter {name}: expected the tensors of the attached one, found {len(other)} others "
            f"or missing ({', '.join(other[:3])})"
        )
    with torch.no_grad():
        for key, tensor in mine.items():
            tensor.copy_(state[key])


def _adapted(model: nn.Module) -> dict[str, Adapted]:
    return {name: module for name, module in model.named_modules() if isinstance(module, Adapted)}


def _check_attached(model: nn.Module, name: str) -> None:
    if name not in (known := strengths(model)):
        raise RequestError(
            f"adapter {name}: expected one that is attached, found none; known: {', '.join(known) or 'none'}"
        )


def _check_plain(layer: Layer, place: str) -> None:
    kept = layer.base if isinstance(layer, Adapted) else layer
    if isinstance(kept, QuantisedLinear):
        raise ConfigError(
            f"{place}: expected plain weights to merge into, found {kept.bits}-bit ones; attach the adapter "
            "instead, or merge before the weights are quantised"
        )


def _check_fits(found: Mapping[str, Layer], place: str, delta: Delta) -> None:
    layer = found.get(place)
    if layer is None:
        raise ConfigError(f"{place}: expected a linear layer of the model to adapt, found none")
    if delta.shape != (layer.out_features, layer.in_features):
        raise ConfigError(
            f"{place}: expected a delta of {[layer.out_features, layer.in_features]}, "
            f"found {list(delta.shape)}"
        )
