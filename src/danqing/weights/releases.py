"""What a file of tensors is, told from names, shapes and metadata; and what they cannot tell.

Releases of 1.x have the same tensors and differ in how they are used, one of them (Edit-2511) in a switch
inside the network. Where the file does not say which it is, nothing is guessed: the candidates are named.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from danqing.errors import RequestError
from danqing.weights.file_names import ZERO_COND, own_names
from danqing.weights.headers import Header

Kind = Literal[
    "transformer", "vae", "text_encoder", "vision", "controlnet", "adapter", "checkpoint", "unknown"
]
PIPELINES = {
    "Qwen-Image": "QwenImagePipeline",
    "Qwen-Image-2512": "QwenImagePipeline",
    "Qwen-Image-Edit": "QwenImageEditPipeline",
    "Qwen-Image-Edit-2509": "QwenImageEditPlusPipeline",
    "Qwen-Image-Edit-2511": "QwenImageEditPlusPipeline",
    "Qwen-Image-Layered": "QwenImageLayeredPipeline",
    "Qwen-Image-2.1": "QwenImage21Pipeline",
    "Qwen-Image-2.1-Turbo": "QwenImage21Pipeline",
}
"""Releases and the pipelines of their folders."""
LICENCES = dict.fromkeys(tuple(PIPELINES)[:6], "Apache-2.0")
LICENCES |= dict.fromkeys(tuple(PIPELINES)[6:], "Qwen Research License")
ZERO_COND_RELEASE = "Qwen-Image-Edit-2511"
OWN_RELEASE = "danqing.release"
"""Metadata of a file that danqing wrote: the release it is of, without a doubt."""
_UNKNOWN = "its tensors do not show which: say --release"
_SAME_TENSORS = tuple(PIPELINES)[:5]
_21 = ("Qwen-Image-2.1", "Qwen-Image-2.1-Turbo")
_ALL_1X = tuple(PIPELINES)[:6]
_ADAPTER = re.compile(r"(?:lora_(?:A|B|up|down)|lora\.(?:up|down)|lokr_w[12]|hada_w[12]|diff(?:_b)?$|alpha$)")
_LAYERS_21 = ("img_mlp_gate", "img_mlp_proj", "img_mlp_out")
_LAYERS_1X = ("add_q", "add_k", "add_v", "to_add_out", "txt_m", "img_m")
_TITLES = (
    "general.name",
    "general.basename",
    "modelspec.title",
    "ss_base_model_version",
    "base_model",
    "modelspec.architecture",
    "ss_sd_model_name",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a file is."""

    kind: Kind
    releases: tuple[str, ...] = ()
    """Releases it may be of or belong to; the one, where the file says so."""
    about: str = ""
    """What is special about it."""

    @property
    def release(self) -> str | None:
        """The release, where it is certain."""
        return self.releases[0] if len(self.releases) == 1 else None


def check_release(name: str | None) -> None:
    """Raise RequestError for a release that nobody knows."""
    if name is not None and name not in PIPELINES:
        raise RequestError(f"release: expected one of {', '.join(PIPELINES)}, found {name!r}")


def identify(header: Header) -> Found:
    """Tell what a file is from its header alone; one that danqing converted says its release."""
    found, said = _identified(header), header.metadata.get(OWN_RELEASE)
    if not isinstance(said, str) or said not in found.releases:
        return found
    return replace(found, releases=(said,), about="" if found.about == _UNKNOWN else found.about)


def _identified(header: Header) -> Found:
    names = header.tensors.keys()
    if any(_ADAPTER.search(name) for name in names):
        return _adapter(header)
    parts = [own_names(names, "transformer"), own_names(names, "vae"), own_names(names, "text_encoder")]
    if sum(bool(part) and len(part) < len(header.tensors) for part in parts) > 1:
        inside = _network(header, parts[0])
        return Found(kind="checkpoint", releases=inside.releases, about="several parts in one file")
    own = next((part for part in parts if part), {})
    return _controlnet(header, own) or _network(header, own)


def zero_cond_of(header: Header, release: str | None) -> bool | None:
    """Return whether a denoiser of 1.x modulates references as noise-free; None where nothing tells."""
    if release is not None:
        return release == ZERO_COND_RELEASE
    if ZERO_COND in own_names(header.tensors, "transformer"):
        return True
    if (mark := read_mark(header, "zero_cond_t")) is not None:
        return mark
    config = _config(header)
    if "zero_cond_t" in config:
        return bool(config["zero_cond_t"])
    titled = _titled(header, _SAME_TENSORS)
    return titled[0] == ZERO_COND_RELEASE if len(titled) == 1 else None


def read_mark(header: Header, key: str) -> bool | None:
    """Return a switch of the metadata, whatever is before its name; None where nobody set it."""
    for name, value in header.metadata.items():
        if re.fullmatch(rf"(?:.*\.)?{re.escape(key)}", name) and isinstance(value, bool | int):
            return bool(value)
    return None


def _network(header: Header, own: Mapping[str, str]) -> Found:
    shape = {name: header.tensors[stored].shape for name, stored in own.items()}
    if "txt_in.text_norm.weight" in own:
        return Found(kind="transformer", releases=_titled(header, _21))
    if "txt_norm.weight" in own and "transformer_blocks.0.attn.add_q_proj.weight" in own:
        if "time_text_embed.addition_t_embedding.weight" in own:
            return Found(kind="transformer", releases=("Qwen-Image-Layered",))
        zero = zero_cond_of(header, None)
        if zero:
            return Found(kind="transformer", releases=(ZERO_COND_RELEASE,), about="zero_cond_t is set")
        named = _titled(header, _SAME_TENSORS)
        if zero is False:
            named = tuple(one for one in named if one != ZERO_COND_RELEASE)
        about = "" if len(named) == 1 else _UNKNOWN
        return Found(kind="transformer", releases=named, about=about)
    for first in ("encoder.conv1.weight", "encoder.conv_in.weight"):
        if first in own and any(one.startswith("decoder.") for one in own):
            return _autoencoder(shape, first)
    if "token_embd.weight" in own or any(name.endswith("embed_tokens.weight") for name in own):
        third = any("q_norm" in name for name in own)
        about = "Qwen3-VL" if third else "Qwen2.5-VL"
        if not any("visual" in name for name in own):
            about += ", without its eyes"
        return Found(kind="text_encoder", releases=_21 if third else _ALL_1X, about=about)
    if "v.patch_embd.weight" in own:
        third = "v.position_embd.weight" in own
        about = f"the eyes of {'Qwen3-VL' if third else 'Qwen2.5-VL'}"
        return Found(kind="vision", releases=_21 if third else _ALL_1X, about=about)
    return Found(kind="unknown", about="no part of a Qwen-Image checkpoint")


def _autoencoder(shape: Mapping[str, tuple[int, ...]], first: str) -> Found:
    latents = next((shape[one] for one in ("conv2.weight", "post_quant_conv.weight") if one in shape), ())
    channels, inputs = (latents[0] if latents else 0), (shape[first][1] if len(shape[first]) > 1 else 0)
    if channels == 64:
        return Found(kind="vae", releases=_21, about="RGBA")
    if channels != 16:
        return Found(kind="unknown", about=f"an autoencoder of {channels} latent channels")
    if inputs == 4:
        return Found(kind="vae", releases=("Qwen-Image-Layered",), about="RGBA")
    return Found(kind="vae", releases=_SAME_TENSORS, about="RGB; that of Wan 2.1 has the same tensors")


def _controlnet(header: Header, own: Mapping[str, str]) -> Found | None:
    if not any(name.startswith(("controlnet_blocks.", "controlnet_x_embedder.")) for name in own):
        return None
    if "controlnet_x_embedder.weight" not in own:
        return Found(kind="controlnet", releases=_SAME_TENSORS, about="blockwise")
    shape = header.tensors[own["controlnet_x_embedder.weight"]].shape
    about = "inpainting" if shape and shape[-1] > 64 else "union"
    return Found(kind="controlnet", releases=_SAME_TENSORS, about=about)


def _adapter(header: Header) -> Found:
    flat = [re.sub(r"\W", "_", name) for name in header.tensors]
    kind = "LoRA"
    if any("lokr" in name for name in flat):
        kind = "LoKr"
    elif any("hada" in name for name in flat):
        kind = "LoHa"
    blocks = [name for name in flat if "transformer_blocks_" in name]
    for layers, releases in ((_LAYERS_21, _21), (_LAYERS_1X, _ALL_1X)):
        if any(layer in name for name in blocks for layer in layers):
            return Found(kind="adapter", releases=_titled(header, releases), about=kind)
    return Found(kind="adapter", releases=tuple(PIPELINES) if blocks else (), about=kind)


def _titled(header: Header, candidates: tuple[str, ...]) -> tuple[str, ...]:
    """Return the release among the candidates that the metadata names, or all of them.

    Many files are called after a release they were made from; only one with a number is told by its number.
    """
    said = [header.metadata[key] for key in _TITLES if isinstance(header.metadata.get(key), str)]
    flat = [_flat(str(text)) for text in said]
    fits = {
        one: _flat(one)
        for one in candidates
        if any(_flat(one) in text if one[-1].isdigit() else _flat(one) == text for text in flat)
    }
    fits = {one: said for one, said in fits.items() if one != "Qwen-Image"}
    longest = [one for one in fits if not any(fits[one] in more != fits[one] for more in fits.values())]
    return (longest[0],) if len(longest) == 1 else candidates


def _flat(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "", text.lower())


def _config(header: Header) -> Mapping[str, object]:
    said = header.metadata.get("config")
    try:
        values = json.loads(said) if isinstance(said, str) else {}
    except (ValueError, RecursionError):
        return {}
    values = values.get("transformer", values) if isinstance(values, dict) else {}
    return values if isinstance(values, dict) else {}
