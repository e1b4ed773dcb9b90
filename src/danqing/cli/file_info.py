"""What `danqing info` says about a file of tensors, from its header alone; no torch is loaded for it."""

import math
from pathlib import Path
from typing import Any

from danqing.cli.inventory import NAMES, megabytes, shortened
from danqing.weights.file_names import is_extra
from danqing.weights.headers import Header, read_header
from danqing.weights.releases import LICENCES, PIPELINES, ZERO_COND_RELEASE, Found, identify
from danqing.weights.scales import FP8, check_scales

SUFFIXES = (".safetensors", ".gguf")
_PLAIN = ("F64", "F32", "F16", "BF16")
_LOADED = ("transformer", "vae", "text_encoder", "vision", "checkpoint")
_USED = {
    "transformer": "--model FOLDER --transformer FILE: a folder for the other parts",
    "vae": "--model FOLDER --vae FILE: a folder for the other parts",
    "text_encoder": "--model FOLDER --text-encoder FILE: a folder for the other parts",
    "vision": "--model FOLDER --text-encoder WORDS.gguf --text-encoder FILE: it goes with another file",
    "checkpoint": "--model FOLDER --transformer FILE --vae FILE --text-encoder FILE: a folder for the rest",
    "adapter": "--lora FILE, with a checkpoint it was made for",
    "controlnet": "--controlnet FOLDER, with its config.json beside it",
}


def describe_tensor_file(path: Path) -> dict[str, Any]:
    """Return what a safetensors or GGUF file is; raises CheckpointError for a broken one."""
    header = read_header(path)
    check_scales(header, {name: name for name in header.tensors})
    found = identify(header)
    weights = {name: entry for name, entry in header.tensors.items() if not is_extra(name)}
    count = sum(math.prod(entry.shape) for entry in weights.values())
    licences = {LICENCES[one] for one in found.releases} if found.kind in _LOADED else set()
    return {
        "path": str(path),
        "format": header.format,
        "kind": found.kind,
        "release": found.release,
        "releases": list(found.releases),
        "about": found.about,
        "precisions": _precisions(header),
        "parameters": count,
        "tensors": len(weights),
        "bytes": header.size,
        "licence": licences.pop() if len(licences) == 1 else None,
        "memory": {"fp32": 4 * count, "bf16": 2 * count} if found.kind in _LOADED else None,
        "needs": _needs(header, found),
    }


def tensor_file_table(values: dict[str, Any]) -> list[str]:
    """Return the same for people."""
    release = values["release"] or " or ".join(values["releases"]) or "unknown"
    if len(values["releases"]) == len(PIPELINES):
        release = "any"
    facts = {
        "format": values["format"],
        "holds": " – ".join(filter(None, (values["kind"].replace("_", " "), values["about"]))),
        "release": release,
        "licence": values["licence"],
        "precision": ", ".join(values["precisions"]),
        "parameters": f"{shortened(values['parameters'])} in {values['tensors']} tensors",
        "size": megabytes(values["bytes"]),
    }
    if values["memory"]:
        facts["memory"] = " or ".join(
            f"{megabytes(size)} in {name}" for name, size in values["memory"].items()
        )
    lines = [values["path"], *(f"{name:<10} {said}" for name, said in facts.items() if said)]
    return lines + [f"{'use' if not place else '':<10} {need}" for place, need in enumerate(values["needs"])]


def _precisions(header: Header) -> list[str]:
    """Return the number formats, that of most numbers first."""
    counts: dict[str, int] = {}
    scaled = any(name.endswith(("scale_weight", "weight_scale")) for name in header.tensors)
    for name, entry in header.tensors.items():
        if is_extra(name):
            continue
        label = NAMES.get(entry.dtype, entry.dtype if header.format == "gguf" else entry.dtype.lower())
        label += " with scales" if scaled and entry.dtype in FP8 else ""
        counts[label] = counts.get(label, 0) + math.prod(entry.shape)
    return sorted(counts, key=lambda label: -counts[label])


def _needs(header: Header, found: Found) -> list[str]:
    needs = [_USED[found.kind]] if found.kind in _USED else []
    draws = found.kind in ("transformer", "checkpoint")
    if draws and found.release is None and ZERO_COND_RELEASE in found.releases:
        needs.append(f"--release NAME where pictures are edited: {', '.join(found.releases)}")
    if header.format == "gguf" and any(entry.dtype not in _PLAIN for entry in header.tensors.values()):
        needs.append("pip install 'danqing[gguf]'")
    return needs
