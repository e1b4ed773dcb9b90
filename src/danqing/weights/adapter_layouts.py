"""What the header of an adapter file says: which layers it changes, by which factors, how strongly.

Nothing here reads a tensor. How programs spell names is in `danqing.weights.adapter_names`.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from danqing.errors import CheckpointError
from danqing.files import read_json
from danqing.models.lora import Layer, linears
from danqing.weights.adapter_names import (
    FACTORS,
    FLAT_PREFIXES,
    FUSED,
    NAMED_PARTS,
    OTHER_METHODS,
    PREFIXES,
    TEXT_ENCODER_PREFIXES,
)

_MAX_NAME = 300  # characters
_NAMED = 8  # tensors named in an error
_PEFT_FILE, _PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PEFT_KINDS = ("LORA", "LOKR", "LOHA")
# Axes of each factor: o and i are the layer's sizes, r and s ranks, a x c and b x d the Kronecker factors.
_AXES = {
    "down": "r i",
    "up": "o r",
    "up_bias": "o",
    "bias": "o",
    "diff": "o i",
    "w1": "a c",
    "w1_a": "a s",
    "w1_b": "s c",
    "w2": "b d",
    "w2_a": "b r",
    "w2_b": "r d",
    "t2": "r r",
    "h1_a": "o r",
    "h1_b": "r i",
    "h2_a": "o r",
    "h2_b": "r i",
}
_FIRST = (frozenset({"w1"}), frozenset({"w1_a", "w1_b"}))
_SECOND = (frozenset({"w2"}), frozenset({"w2_a", "w2_b"}), frozenset({"w2_a", "w2_b", "t2"}))
_LOW_RANK, _HADAMARD = frozenset({"down", "up"}), frozenset({"h1_a", "h1_b", "h2_a", "h2_b"})
_KINDS = {_LOW_RANK, _HADAMARD, frozenset({"diff"})} | {one | two for one in _FIRST for two in _SECOND}
_REGULAR = re.compile(r"[\\*+?()|\[\]{}^$]")


class Factor(NamedTuple):
    """A tensor as the header describes it."""

    key: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PeftConfig:
    """What PEFT writes about an adapter; files of other programs say it with alpha tensors."""

    rank: int
    alpha: float
    rank_stabilised: bool = False
    ranks: Mapping[str, int] = field(default_factory=dict)
    """By the ends of layer names; with ^ in front, by whole names."""
    alphas: Mapping[str, float] = field(default_factory=dict)


class Change(NamedTuple):
    """How one layer is changed, or several that the file fuses."""

    layers: tuple[str, ...]
    factors: Mapping[str, Factor]
    sizes: Mapping[str, int]
    """Length of each axis of the factors, see _AXES."""
    config: PeftConfig | None


def adapter_file(path: Path) -> tuple[Path, PeftConfig | None]:
    """Return the file to read, and PEFT's config beside it."""
    if path.is_dir():
        files = sorted(path.glob("*.safetensors"))
        if len(files) != 1:
            shown = ", ".join(file.name for file in files) or "none"
            raise CheckpointError(f"{path}: expected one adapter in the folder, found {shown}; name the file")
        path = files[0]
    if path.suffix.lower() != ".safetensors" and path.exists():
        raise CheckpointError(f"{path}: expected a .safetensors file, found another; no other format is read")
    beside = path.with_name(_PEFT_CONFIG)
    if path.name != _PEFT_FILE or not beside.is_file():
        return path, None
    return path, _config(beside, read_json(beside))


def changes_of(file: Path, handle: Any, config: PeftConfig | None, model: nn.Module) -> list[Change]:
    """Return what an opened adapter file changes in `model`, checked from its header alone.

    Without a `config` beside the file the one in its header counts, if there is one. Raises CheckpointError;
    tensors for the text encoder are left out.
    """
    config = config or _header_config(file, handle.metadata() or {})
    stored = []
    for key in handle.keys():  # noqa: SIM118 - the handle is no mapping
        if not key.isprintable() or len(key) > _MAX_NAME:
            raise CheckpointError(f"{file}: expected names of tensors in one line, found {key!a:.80}")
        view = handle.get_slice(key)
        stored.append(Factor(key, tuple(view.get_shape()), view.get_dtype()))
    found = linears(model)
    changes, problems = [], []
    for layers, factors in _by_layer(file, stored, found).items():
        sizes = {"o": sum(found[name].out_features for name in layers), "i": found[layers[0]].in_features}
        problem = _problem(factors, sizes) or _rank_problem(layers[0], sizes, config)
        if problem:
            problems.append(f"{' and '.join(layers)}: {problem}")
        changes.append(Change(layers, factors, sizes, config))
    if problems:
        more = f"; {len(problems) - 1} more layers are wrong" if len(problems) > 1 else ""
        raise CheckpointError(f"{file}: {problems[0]}{more}")
    return changes


def scale_of(change: Change, alpha: Tensor | None) -> float:
    """Return alpha / rank; 1 where nothing says alpha, or where no factor has a rank.

    Where both Kronecker factors are whole, LyCORIS ignores alpha; PEFT divides by the rank of its config.
    """
    config, rank = change.config, change.sizes.get("r") or change.sizes.get("s")
    if alpha is not None:
        return alpha.item() / rank if rank else 1.0
    if config is None:
        return 1.0
    rank = int(_matching(config.ranks, change.layers[0], config.rank))
    said = _matching(config.alphas, change.layers[0], config.alpha)
    return said / (math.sqrt(rank) if config.rank_stabilised else rank)


def _header_config(file: Path, metadata: Mapping[str, str]) -> PeftConfig | None:
    """Return the config that diffusers writes into the header, for the denoiser."""
    said = metadata.get("lora_adapter_metadata")
    if said is None:
        return None
    try:
        values = json.loads(said)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: expected JSON in lora_adapter_metadata ({error})") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{file}: expected an object in lora_adapter_metadata, found {values!r:.80}")
    mine = {
        key.removeprefix("transformer."): v for key, v in values.items() if key.startswith("transformer.")
    }
    return _config(file, mine) if mine else None


def _config(file: Path, values: Mapping[str, Any]) -> PeftConfig:
    kind = str(values.get("peft_type", "LORA")).removeprefix("PeftType.").upper()
    if kind not in _PEFT_KINDS:
        raise CheckpointError(f"{file}: expected peft_type {' or '.join(_PEFT_KINDS)}, found {kind!r:.80}")
    if values.get("use_dora"):
        raise _other_method(file, "DoRA")
    alpha = values.get("lora_alpha" if kind == "LORA" else "alpha", 8)
    return PeftConfig(
        rank=int(_number(file, "r", values.get("r", 8), low=1)),
        alpha=_number(file, "lora_alpha", alpha),
        rank_stabilised=bool(values.get("use_rslora")),
        ranks={k: int(_number(file, k, v, low=1)) for k, v in _patterns(file, values, "rank_pattern")},
        alphas={k: _number(file, k, v) for k, v in _patterns(file, values, "alpha_pattern")},
    )


def _number(file: Path, name: str, value: object, *, low: float = -math.inf) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or value < low
    ):
        raise CheckpointError(f"{file}: {name!r:.80}: expected a number, found {value!r:.80}")
    return float(value)


def _patterns(file: Path, values: Mapping[str, Any], name: str) -> Iterable[tuple[str, Any]]:
    found = values.get(name) or {}
    if not isinstance(found, dict):
        raise CheckpointError(f"{file}: {name}: expected an object, found {found!r:.80}")
    for key, value in found.items():
        # A file's regular expressions are not run: they may take for ever. PEFT escapes or omits the dots.
        plain = key.replace("\\.", ".")
        if _REGULAR.search(plain.removeprefix("^")):
            raise CheckpointError(f"{file}: {name}: expected names of layers, found the pattern {key!r:.80}")
        yield plain, value


def _by_layer(
    file: Path, stored: Iterable[Factor], found: Mapping[str, Layer]
) -> dict[tuple[str, ...], dict[str, Factor]]:
    """Sort tensors by the layers they change; raise for the first method that is none of ours."""
    dotted, flat = _places(found)
    layers: dict[tuple[str, ...], dict[str, Factor]] = {}
    unmatched: list[str] = []
    texts = 0
    for one in stored:
        if one.key.startswith(TEXT_ENCODER_PREFIXES):
            texts += 1
            continue
        for part, method in OTHER_METHODS.items():
            if part in one.key:
                raise _other_method(file, method)
        layer, factor = _told_apart(one.key)
        targets = _resolved(layer, dotted, flat)
        if targets is None or not factor:
            unmatched.append(f"{one.key} {list(one.shape)}")
        elif factor in layers.setdefault(targets, {}):
            twice = layers[targets][factor].key
            raise CheckpointError(f"{file}: expected one adapter, found two: {twice} and {one.key}")
        else:
            layers[targets][factor] = one
    _check_all_used(file, unmatched, texts, len(layers))
    return layers


def _check_all_used(file: Path, unmatched: list[str], texts: int, layers: int) -> None:
    """Raise where tensors of a file are left over, or nothing but the text encoder's share of an adapter."""
    if unmatched:
        shown = ", ".join(unmatched[:_NAMED]) + (", …" if len(unmatched) > _NAMED else "")
        raise CheckpointError(
            f"{file}: expected changes of layers of this model, found {len(unmatched)} tensors that fit none "
            f"({shown}); the adapter was made for another model"
        )
    if not layers:
        also = f", only {texts} tensors for the text encoder" if texts else ""
        raise CheckpointError(f"{file}: expected an adapter of the denoiser, found none{also}")


def _told_apart(key: str) -> tuple[str, str]:
    """Return the layer and the factor of a name; the factor is empty where nobody writes such an end."""
    parts = key.split(".")
    for place in range(len(parts) - 1):
        if parts[place].startswith(NAMED_PARTS) and parts[place + 1] not in ("weight", "bias"):
            del parts[place + 1]
            break
    plain = ".".join(parts)
    for end in sorted(FACTORS, key=len, reverse=True):
        if plain.endswith("." + end):
            return plain.removesuffix("." + end), FACTORS[end]
    return plain, ""


_Places = dict[str, tuple[str, ...]]


def _places(layers: Iterable[str]) -> tuple[_Places, _Places]:
    """Return what names mean: with dots, and with underscores."""
    dotted: _Places = {name: (name,) for name in layers}
    for fused, parts in FUSED.items():
        for name in [name for name in dotted if name.endswith("." + parts[0])]:
            stem = name.removesuffix(parts[0])
            dotted[stem + fused] = tuple(stem + part for part in parts)
    return dotted, {name.replace(".", "_"): targets for name, targets in dotted.items()}


def _resolved(layer: str, dotted: _Places, flat: _Places) -> tuple[str, ...] | None:
    while layer not in dotted:
        prefix = next((prefix for prefix in PREFIXES if layer.startswith(prefix)), None)
        if prefix is None:
            break
        layer = layer.removeprefix(prefix)
    if layer in dotted:
        return dotted[layer]
    for prefix in FLAT_PREFIXES:
        if layer.startswith(prefix):
            return flat.get(layer.removeprefix(prefix))
    return None


def _problem(factors: Mapping[str, Factor], sizes: dict[str, int]) -> str | None:
    """Return what is wrong with the factors of one layer; fill in the sizes that shapes tell."""
    own = frozenset(factors) - {"alpha", "bias", "up_bias"}
    if own not in _KINDS or ("up_bias" in factors and own != _LOW_RANK):
        found = ", ".join(sorted(factors))
        return f"expected the two halves of a LoRA, or all factors of a LoKr or LoHa, found {found}"
    if "bias" in factors and own & (_HADAMARD | {"w1", "w1_a"}):
        return "expected no bias beside a LoKr or LoHa, found one"
    for name, one in factors.items():
        if name == "alpha":
            if math.prod(one.shape) != 1:
                return f"expected one number as alpha, found {list(one.shape)}"
            continue
        if not one.dtype.startswith(("F", "BF")):
            return f"expected floating-point numbers, found {one.dtype} in {one.key}"
        axes = ("r b" if name == "w2_a" and "t2" in factors else _AXES[name]).split()
        fits = len(axes) == len(one.shape)
        for axis, size in zip(axes, one.shape, strict=False):
            fits = fits and size > 0 and sizes.setdefault(axis, size) == size
        if not fits:
            wanted = ", ".join(str(sizes.get(axis, "rank")) for axis in axes)
            return f"expected {name} of [{wanted}], found {list(one.shape)}"
    if "a" in sizes:
        product = [sizes["a"] * sizes["b"], sizes["c"] * sizes["d"]]
        if product != [sizes["o"], sizes["i"]]:
            return f"expected Kronecker factors of [{sizes['o']}, {sizes['i']}], found factors of {product}"
    return None


def _rank_problem(layer: str, sizes: Mapping[str, int], config: PeftConfig | None) -> str | None:
    if config is None or "r" not in sizes or "a" in sizes:
        return None
    rank = _matching(config.ranks, layer, config.rank)
    return None if rank == sizes["r"] else f"expected rank {rank} as the config says, found {sizes['r']}"


def _matching(patterns: Mapping[str, float], place: str, otherwise: float) -> float:
    """Return the value for a layer whose name is, or ends like, a pattern; ^ asks for the whole name."""
    for pattern, value in patterns.items():
        whole = pattern.removeprefix("^")
        if place == whole or (whole == pattern and place.endswith("." + pattern)):
            return value
    return otherwise


def _other_method(file: Path, method: str) -> CheckpointError:
    return CheckpointError(
        f"{file}: expected a LoRA, LoKr or LoHa, found {method}, which danqing cannot apply"
    )
