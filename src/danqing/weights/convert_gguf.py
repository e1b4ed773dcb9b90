"""GGUF files as stable-diffusion.cpp and ComfyUI read them: a denoiser, or a conditioner's words and eyes."""

import re
from pathlib import Path

from danqing.errors import RequestError
from danqing.weights.convert import NewFile, Parts, Plan, Value, part_tensors, release_notes
from danqing.weights.convert_source import Origin, PartSource
from danqing.weights.file_names import ZERO_COND, Part, is_eye
from danqing.weights.packing import Item, Precision, check_precision, gguf_items, import_gguf, marker
from danqing.weights.releases import OWN_RELEASE

_QUANTISED_NAME = re.compile(r"[-_]q[0-9]_[a-z0-9_]{1,8}$", re.IGNORECASE)
_FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7, "BF16": 32}  # what llama.cpp calls a whole file
_SIZES = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}


def plan_gguf(
    origin: Origin, target: Path, *, part: Part | None = None, precision: Precision = "keep"
) -> Plan:
    """Plan a GGUF file of a denoiser, or the two of a conditioner; the eyes are named `...-mmproj.gguf`.

    A conditioner has no vocabulary inside, which drawing does not need and llama.cpp does. Raises
    RequestError for an autoencoder, whose kernels have more dimensions than the format has, and ResourceError
    without the library.
    """
    check_precision("gguf", precision)
    import_gguf()
    chosen: Part = part or ("transformer" if origin.folder is not None else origin.parts[0])
    if chosen == "vae":
        raise RequestError(
            f"{target}: expected a denoiser or a conditioner, found an autoencoder, whose kernels have more "
            "dimensions than GGUF; write a .safetensors file"
        )
    found = origin.part(chosen)
    if chosen == "transformer":
        return Plan(
            target=target, files=(_denoiser(origin, target, found, precision),), notes=release_notes(origin)
        )
    return Plan(target=target, files=_conditioner(origin, target, found, precision))


def _denoiser(origin: Origin, target: Path, found: PartSource, precision: Precision) -> NewFile:
    is_21 = "txt_in.text_norm.weight" in found.kinds
    arch = "qwen_image21" if is_21 else "qwen_image"
    items = gguf_items(part_tensors("transformer", found, "comfyui"), precision)
    said: dict[str, Value] = {}
    if origin.zero_cond is not None and not is_21:
        said[f"{arch}.zero_cond_t"] = origin.zero_cond
    if origin.zero_cond:
        items.insert(0, marker(ZERO_COND))
    metadata = _metadata(origin, items, precision) | said
    source = Parts({"transformer": found})
    return NewFile(path=target, items=tuple(items), source=source, metadata=metadata, arch=arch)


def _conditioner(
    origin: Origin, target: Path, found: PartSource, precision: Precision
) -> tuple[NewFile, ...]:
    third = any("q_norm" in name for name in found.kinds)
    arch, source = "qwen3vl" if third else "qwen2vl", Parts({"text_encoder": found})
    tensors = part_tensors("text_encoder", found, "llama")
    words = gguf_items({name: one for name, one in tensors.items() if not is_eye(name)}, precision)
    metadata = _metadata(origin, words, precision) | _sizes(origin, arch)
    files = [NewFile(path=target, items=tuple(words), source=source, metadata=metadata, arch=arch)]
    if eyes := gguf_items({name: one for name, one in tensors.items() if is_eye(name)}, precision):
        projector: dict[str, Value] = {
            "general.type": "mmproj",
            "clip.has_vision_encoder": True,
            "clip.projector_type": "qwen3vl_merger" if third else "qwen2.5vl_merger",
        }
        beside = target.with_name(_QUANTISED_NAME.sub("", target.stem) + "-mmproj.gguf")
        said = _metadata(origin, eyes, precision) | projector
        files.append(NewFile(path=beside, items=tuple(eyes), source=source, metadata=said, arch="clip"))
    return tuple(files)


def _metadata(origin: Origin, items: list[Item], precision: str) -> dict[str, Value]:
    sizes: dict[str, int] = {}
    for slot in (slot for item in items for slot in item.slots):
        sizes[slot.kind] = sizes.get(slot.kind, 0) + slot.size
    main = max(sizes, key=lambda kind: sizes[kind])
    said: dict[str, Value] = {"general.file_type": _FILE_TYPES[main], "danqing.source": origin.name}
    name = origin.release or (origin.folder.info().name if origin.folder is not None else None)
    if name is not None:
        said["general.name"] = name
    if origin.release is not None:
        said[OWN_RELEASE] = origin.release
    if origin.licence is not None:
        said["general.license"] = origin.licence
    return said | {"danqing.precision": precision}


def _sizes(origin: Origin, arch: str) -> dict[str, Value]:
    """Return what llama.cpp keeps in the metadata of a language model, as far as a config says it."""
    if origin.folder is None:
        return {}
    config = origin.folder.config("text_encoder")
    text = {**config, **(config.get("text_config") or {})}
    said: dict[str, Value] = {
        f"{arch}.{theirs}": text[ours] for theirs, ours in _SIZES.items() if ours in text
    }
    rope = {**(text.get("rope_parameters") or {}), **(text.get("rope_scaling") or {})}
    base = rope.get("rope_theta", text.get("rope_theta"))
    if base is not None:
        said[f"{arch}.rope.freq_base"] = float(base)
    if "mrope_section" in rope:
        said[f"{arch}.rope.dimension_sections"] = (*map(int, rope["mrope_section"]), 0)
    return said
