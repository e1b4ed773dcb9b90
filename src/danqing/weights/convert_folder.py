"""Folders in the released layout: weights in shards of a size, configs and tokenizer beside them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from danqing.errors import CheckpointError, RequestError
from danqing.models import vae as vae1
from danqing.models.config import config_to_json
from danqing.models.mmdit import MMDiT, MMDiTConfig
from danqing.models.qwen3_vl import Qwen3VL, Qwen3VLConfig
from danqing.models.single_stream import SingleStream, SingleStreamConfig
from danqing.models.vae import VAE, VAEConfig
from danqing.models.vae21 import VAE21
from danqing.models.vlm import VLM, VLMConfig
from danqing.weights.convert import NewFile, Parts, Plan, part_tensors
from danqing.weights.convert_source import PARTS, Origin, PartSource
from danqing.weights.file_names import Part
from danqing.weights.layouts import COMPONENTS, COMPONENTS_21, Folder
from danqing.weights.packing import PACKED, Item, Precision, check_precision, safetensors_items
from danqing.weights.releases import PIPELINES, ZERO_COND_RELEASE, check_release

SHARD = 5 * 10**9
_STEMS: dict[Part, str] = {"text_encoder": "model"}
_COPIED = (".json", ".txt", ".md", ".jinja", "")
_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_NAMED = 3  # tensors named in an error


def plan_folder(
    origin: Origin, target: Path, *, precision: Precision = "keep", max_shard_bytes: int = SHARD
) -> Plan:
    """Plan a whole checkpoint as released, which diffusers opens too (but not in int8 and int4).

    Configs, tokenizer and parts that no file holds are those of the origin's folder. A denoiser alone whose
    release is known becomes a folder of it: its `transformer` with a config. Raises RequestError where
    configs are missing, CheckpointError for parts that do not fit them.
    """
    check_precision("folder", precision)
    if origin.folder is None:
        return _plan_denoiser(origin, target, precision=precision, max_shard_bytes=max_shard_bytes)
    folder, files = origin.folder, list[NewFile]()
    texts: dict[str, Mapping[str, Any]] = {}
    for part in PARTS:
        found = origin.part(part)
        _check_fits(folder, part, found)
        made, index = _shards(origin, part, found, precision, max_shard_bytes)
        files += made
        texts |= index
        texts[f"{part}/config.json"] = _config(folder, part, precision)
    copies = {name: file for name, file in _others(folder) if name not in texts}
    notes = (f"diffusers does not read {precision}; danqing does",) if precision in PACKED else ()
    return Plan(target=target, files=tuple(files), is_folder=True, texts=texts, copies=copies, notes=notes)


def shard_bytes(text: str) -> int:
    """Return the bytes of a text like 5GB or 500MB; raise RequestError for another."""
    units = {"KB": 10**3, "MB": 10**6, "GB": 10**9}
    number, unit = text.strip().upper()[:-2], text.strip().upper()[-2:]
    try:
        size = int(float(number) * units[unit])
    except (KeyError, ValueError, OverflowError):
        size = 0
    if size < 1:
        raise RequestError(f"max-shard-size: expected a size like 5GB or 500MB, found {text!r}")
    return size


def _plan_denoiser(origin: Origin, target: Path, *, precision: Precision, max_shard_bytes: int) -> Plan:
    if origin.parts != ("transformer",) or origin.release is None:
        kind = "release" if origin.parts == ("transformer",) else "folder"
        more = " or --release NAME" if kind == "release" else ""
        raise RequestError(
            f"{origin.name}: expected configs for a folder, found a single file of unknown {kind}; "
            f"add --like FOLDER{more}"
        )
    check_release(origin.release)
    found, release = origin.part("transformer"), origin.release
    model, config = _denoiser_of(release)
    _compare(origin.name, model, found.shapes)
    files, texts = _shards(origin, "transformer", found, precision, max_shard_bytes)
    classes = COMPONENTS_21 if PIPELINES[release] == "QwenImage21Pipeline" else COMPONENTS
    said = {"transformer/config.json": config_to_json(config, class_name=classes["transformer"][1])}
    note = f"only the transformer of {release} is written; put it in the place of that of a whole folder"
    return Plan(target=target, files=tuple(files), is_folder=True, texts=texts | said, notes=(note,))


def _denoiser_of(release: str) -> tuple[nn.Module, MMDiTConfig | SingleStreamConfig]:
    """Return the denoiser of a release without memory, and its config."""
    with torch.device("meta"):
        if PIPELINES[release] == "QwenImage21Pipeline":
            single = SingleStreamConfig()
            return SingleStream(single), single
        layered = release == "Qwen-Image-Layered"
        config = MMDiTConfig(
            zero_cond_t=release == ZERO_COND_RELEASE, use_additional_t_cond=layered, use_layer3d_rope=layered
        )
        return MMDiT(config), config


def _shards(
    origin: Origin, part: Part, found: PartSource, precision: Precision, max_bytes: int
) -> tuple[list[NewFile], dict[str, Mapping[str, Any]]]:
    """Return the files of a part, and the index that says which tensor is where if there are several."""
    chosen = "keep" if part == "vae" and precision in PACKED else precision
    groups: list[list[Item]] = [[]]
    room = max_bytes
    for item in safetensors_items(part_tensors(part, found, "released"), chosen):
        size = sum(slot.size for slot in item.slots)
        if size > room and groups[-1]:
            groups.append([])
            room = max_bytes
        groups[-1].append(item)
        room -= size
    stem = _STEMS.get(part, "diffusion_pytorch_model")
    count = len(groups)
    names = [f"{stem}-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
    said = {"format": "pt", "danqing.source": origin.name}
    if origin.licence is not None:
        said["modelspec.license"] = origin.licence
    files = [
        NewFile(path=Path(part) / name, items=tuple(items), source=Parts({part: found}), metadata=said)
        for name, items in zip(names if count > 1 else [f"{stem}.safetensors"], groups, strict=True)
    ]
    if count == 1:
        return files, {}
    slots = {slot.name: (file.path.name, slot.size) for file in files for i in file.items for slot in i.slots}
    index = {
        "metadata": {"total_size": sum(size for _, size in slots.values())},
        "weight_map": {name: place for name, (place, _) in sorted(slots.items())},
    }
    return files, {f"{part}/{stem}.safetensors.index.json": index}


def _config(folder: Folder, part: Part, precision: Precision) -> dict[str, Any]:
    config = folder.config(part)
    if part == "transformer":
        config |= folder.given.switches(str(folder.index.get("_class_name")))
    for key in ("torch_dtype", "dtype"):
        if key in config and precision in _DTYPES:
            config[key] = _DTYPES[precision]
    return config


def _others(folder: Folder) -> Iterator[tuple[str, Path]]:
    """Yield the files of a folder that are no weights: configs, tokenizer, texts."""
    for file in sorted(folder.path.rglob("*")):
        place = file.relative_to(folder.path)
        hidden = any(name.startswith((".", "__")) for name in place.parts)
        if hidden or not file.is_file() or file.name.endswith(".safetensors.index.json"):
            continue
        if file.suffix.lower() in _COPIED:
            yield place.as_posix(), file


def _check_fits(folder: Folder, part: Part, found: PartSource) -> None:
    """Raise CheckpointError where the tensors of a part are not those that its config asks for."""
    with torch.device("meta"):
        module = _MAKE[part](folder)
    shapes = dict[str, tuple[int, ...]]()
    for name, shape in found.shapes.items():
        own = vae1.fold(name, torch.empty(shape, device="meta")) if part == "vae" else None
        if part != "vae":
            shapes[name] = shape
        elif own is not None:
            shapes[name] = tuple(own.shape)
    _compare(f"{folder.path}: {part}", module, shapes)


def _vlm(folder: Folder) -> nn.Module:
    config = folder.config("text_encoder")
    return Qwen3VL(Qwen3VLConfig.from_dict(config)) if folder.is_21 else VLM(VLMConfig.from_dict(config))


def _vae(folder: Folder) -> nn.Module:
    config = folder.vae_config()
    return VAE(config) if isinstance(config, VAEConfig) else VAE21(config)


_MAKE: dict[Part, Callable[[Folder], nn.Module]] = {
    "transformer": Folder.new_transformer,
    "vae": _vae,
    "text_encoder": _vlm,
}


def _compare(where: str, module: nn.Module, shapes: Mapping[str, Sequence[int]]) -> None:
    both: list[tuple[str, Tensor]] = [*module.named_parameters(), *module.named_buffers()]
    expected = {name: tuple(tensor.shape) for name, tensor in both}
    wrong = [name for name in {**expected, **shapes} if expected.get(name) != shapes.get(name)]
    if wrong:
        shown = "; ".join(
            f"{name}: expected {list(expected[name]) if name in expected else 'none'}, "
            f"found {list(shapes[name]) if name in shapes else 'none'}"
            for name in wrong[:_NAMED]
        )
        raise CheckpointError(f"{where}: the tensors do not fit the config, {len(wrong)} are wrong ({shown})")
