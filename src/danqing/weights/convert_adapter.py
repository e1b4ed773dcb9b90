"""Adapter files in another dialect: names change, numbers stay wherever the dialect lets them.

Between ComfyUI and kohya every factor and every alpha is copied as it is. diffusers has no alpha: a scale
goes into the up matrix, rounded once. ComfyUI has two layers of 2.1 as one: what changes it is taken apart
for the others, and what changes either of the two is put together for it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from danqing.errors import CheckpointError, RequestError
from danqing.models.mmdit import MMDiT, MMDiTConfig
from danqing.models.single_stream import SingleStream, SingleStreamConfig
from danqing.weights.adapter_layouts import Change, adapter_file, changes_of, scale_of
from danqing.weights.adapter_names import FACTORS, FUSED, TEXT_ENCODER_PREFIXES, WRITTEN
from danqing.weights.adapters import (
    Dialect,
    delta_of,
    lightning_steps,
    split_delta,
    written_layer,
    written_tensors,
)
from danqing.weights.convert import NewFile, Plan
from danqing.weights.headers import Header, read_safetensors_header
from danqing.weights.layouts import Folder
from danqing.weights.packing import KINDS, Item, Made, Precision, Slot, cast, check_precision, kept_kind
from danqing.weights.releases import PIPELINES, check_release, identify
from danqing.weights.store import Shards, TensorInfo, open_safetensors

_ENDS = {factor: end for end, factor in FACTORS.items() if not end.startswith("lora")}
_STALE = re.compile(r"lora_adapter_metadata|sshs_\w+_hash|modelspec\.hash.*")  # of other names or bytes
_CLASS_21 = "QwenImage21Pipeline"


def plan_adapter(
    path: Path,
    target: Path,
    dialect: Dialect,
    *,
    like: Folder | None = None,
    release: str | None = None,
    precision: Precision = "keep",
) -> Plan:
    """Plan an adapter file in `dialect`; `path` is a file in any dialect, or a folder of PEFT.

    Its layers are checked against the denoiser of `like`, or of the release that its names are of. Raises
    CheckpointError for an adapter that fits none, RequestError for what the dialect cannot say.
    """
    check_precision("lora", precision)
    check_release(release)
    if dialect not in WRITTEN:
        raise RequestError(f"dialect: expected one of {', '.join(WRITTEN)}, found {dialect!r}")
    file, config = adapter_file(path)
    header = read_safetensors_header(file)
    with open_safetensors(file) as handle:
        for model in (models := list(_models(header, like, release))):
            try:
                changes = changes_of(file, handle, config, model)
                break
            except CheckpointError as error:
                if model is models[-1]:
                    hint = "" if like else "; name a checkpoint it was made for with --like"
                    raise CheckpointError(f"{error}{hint}") from None
        alphas = {
            change.layers: _finite(file, one.key, handle.get_tensor(one.key))
            for change in changes
            if (one := change.factors.get("alpha")) is not None
        }
    scaled = [(change, scale_of(change, alphas.get(change.layers))) for change in changes]
    fuse = dialect == "comfyui" and isinstance(model, SingleStream)
    items = [
        item
        for group in (_fused(scaled) if fuse else [[one] for one in scaled])
        for item in _items(file, group, dialect, precision)
    ]
    texts = sum(key.startswith(TEXT_ENCODER_PREFIXES) for key in header.tensors)
    note = f"{texts} tensors for the text encoder are left out, which nobody uses with Qwen-Image"
    source = Shards(
        {name: TensorInfo(file, one.shape, one.dtype, one.start) for name, one in header.tensors.items()}
    )
    new = NewFile(path=target, items=tuple(items), source=source, metadata=_metadata(path, header))
    return Plan(target=target, files=(new,), notes=(note,) if texts else ())


def _models(header: Header, like: Folder | None, release: str | None) -> Iterator[nn.Module]:
    """Yield the denoisers that an adapter may be for, without memory."""
    releases = identify(header).releases if release is None else (release,)
    families = {PIPELINES[one] == _CLASS_21 for one in releases} or {False, True}
    with torch.device("meta"):
        if like is not None:
            yield like.new_transformer()
        else:
            if False in families:
                yield MMDiT(MMDiTConfig())
            if True in families:
                yield SingleStream(SingleStreamConfig())


_Scaled = tuple[Change, float]


def _fused(scaled: Sequence[_Scaled]) -> list[list[_Scaled]]:
    """Return the changes with those of layers that ComfyUI keeps as one side by side."""
    groups: dict[str, list[_Scaled]] = {}
    for change, scale in scaled:
        groups.setdefault(_whole(change.layers[0]), []).append((change, scale))
    return list(groups.values())


def _whole(layer: str) -> str:
    """Return the layer of ComfyUI that one of ours is a part of."""
    for fused, parts in FUSED.items():
        for part in parts:
            if layer.endswith("." + part):
                return layer.removesuffix(part) + fused
    return layer


def _items(file: Path, group: Sequence[_Scaled], dialect: Dialect, precision: Precision) -> Iterator[Item]:
    change, scale = group[0]
    kinds = [kept_kind(one.dtype) for name, one in change.factors.items() if name != "alpha"]
    kind = KINDS.get(precision, kinds[0])
    layer, fused = change.layers[0], _whole(change.layers[0])
    whole = len(change.layers) > 1 and dialect == "comfyui"
    if dialect == "comfyui" and fused != layer and not whole:
        yield _joined(file, fused, group, kind)
        return
    rank = change.sizes.get("r") or change.sizes.get("s")
    unsaid = rank is None and scale != 1
    if (
        dialect == "diffusers"
        or (len(change.layers) > 1 and not whole)
        or "up_bias" in change.factors
        or unsaid
    ):
        yield _rewritten(file, change, scale, dialect, kind)
        return
    start = written_layer(fused if whole else layer, dialect)
    ends = _ENDS | {name: WRITTEN[dialect][name] for name in ("down", "up")}
    for name, one in change.factors.items():
        if name != "alpha":
            slot = Slot(f"{start}.{ends[name]}", KINDS.get(precision, kept_kind(one.dtype)), one.shape)
            yield _copied(file, one.key, slot)
    if "alpha" in change.factors:
        alpha = change.factors["alpha"]
        yield _copied(file, alpha.key, Slot(f"{start}.alpha", "F32", alpha.shape))
    elif rank is not None:
        value = torch.tensor(scale * rank)
        yield Item((), (Slot(f"{start}.alpha", "F32", ()),), lambda _: [value])


def _joined(file: Path, fused: str, group: Sequence[_Scaled], kind: str) -> Item:
    """Return LoRAs of one or both halves of a layer as one of the whole: ranks add up, each in its rows."""
    stem = fused.removesuffix("img_mlp.gate_up")
    halves = [stem + part for part in FUSED["img_mlp.gate_up"]]
    changed = {change.layers[0]: (change, scale) for change, scale in group}
    if len(changed) < len(group) or any(set(c.factors) - {"alpha"} != {"down", "up"} for c, _ in group):
        raise RequestError(
            f"{file}: {fused}: expected LoRAs without bias, found others; ComfyUI has two layers as one here"
        )
    rows, columns = group[0][0].sizes["o"], group[0][0].sizes["i"]
    rank = sum(change.sizes["r"] for change, _ in group)
    scales = {scale for _, scale in group}
    start = written_layer(fused, "comfyui")
    ends = WRITTEN["comfyui"]
    slots = (
        Slot(f"{start}.{ends['down']}", kind, (rank, columns)),
        Slot(f"{start}.{ends['up']}", kind, (len(halves) * rows, rank)),
        Slot(f"{start}.alpha", "F32", ()),
    )
    kept = [(place, *changed[half]) for place, half in enumerate(halves) if half in changed]
    keys = tuple(change.factors[name].key for _, change, _ in kept for name in ("down", "up"))

    def make(tensors: Sequence[Tensor]) -> Made:
        given = [_finite(file, key, tensor).float() for key, tensor in zip(keys, tensors, strict=True)]
        up, before = torch.zeros(slots[1].shape), 0
        for (place, change, scale), part in zip(kept, given[1::2], strict=True):
            after = before + change.sizes["r"]
            up[place * rows : (place + 1) * rows, before:after] = part if len(scales) == 1 else scale * part
            before = after
        alpha = torch.tensor(rank * (scales.copy().pop() if len(scales) == 1 else 1.0))
        made = (torch.cat(given[::2]), up, alpha)
        return [cast(slot.name, one, slot.kind) for slot, one in zip(slots, made, strict=True)]

    return Item(keys, slots, make)


def _copied(file: Path, key: str, slot: Slot) -> Item:
    def make(tensors: Sequence[Tensor]) -> Made:
        return [cast(f"{file}: {key}", _finite(file, key, tensors[0]), slot.kind)]

    return Item((key,), (slot,), make)


def _rewritten(file: Path, change: Change, scale: float, dialect: Dialect, kind: str) -> Item:
    """Return the layers of a change computed anew from its factors."""
    factors = {name: one for name, one in change.factors.items() if name != "alpha"}

    def written(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        parts = split_delta(file, delta_of(tensors, scale), len(change.layers))
        return {
            f"{written_layer(layer, dialect)}.{end}": tensor.detach()
            for layer, part in zip(change.layers, parts, strict=True)
            for end, tensor in written_tensors(file, part, dialect).items()
        }

    empty = {name: torch.empty(one.shape, device="meta") for name, one in factors.items()}
    slots = tuple(
        Slot(name, "F32" if name.endswith(".alpha") else kind, tuple(tensor.shape))
        for name, tensor in written(empty).items()
    )

    def make(tensors: Sequence[Tensor]) -> Made:
        named = zip(factors.items(), tensors, strict=True)
        found = written({name: _finite(file, one.key, tensor).float() for (name, one), tensor in named})
        return [cast(slot.name, found[slot.name], slot.kind) for slot in slots]

    return Item(tuple(one.key for one in factors.values()), slots, make)


def _metadata(path: Path, header: Header) -> dict[str, str]:
    """Return the metadata of an adapter; a distilled one goes on saying its steps."""
    said = {key: str(value) for key, value in header.metadata.items() if not _STALE.fullmatch(key)}
    said |= {"format": "pt", "danqing.source": path.name}
    steps = lightning_steps(path)
    return said if steps is None else said | {"num_inference_steps": str(steps)}


def _finite(file: Path, key: str, tensor: Tensor) -> Tensor:
    if not tensor.float().isfinite().all():
        raise CheckpointError(f"{file}: {key}: expected finite numbers, found others; the file is broken")
    return tensor
