"""How programs spell the tensors of one part in a single file, and the names of the released checkpoints.

ComfyUI keeps the released names of the denoiser under a prefix, has the autoencoder in the spelling of Wan
and the conditioner in that of transformers 4; llama.cpp has a spelling of its own, and a file for the eyes.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

Part = Literal["transformer", "vae", "text_encoder"]
PREFIXES: dict[Part, re.Pattern[str]] = {
    "transformer": re.compile(r"(?:model\.)?diffusion_model\.|transformer\."),
    "vae": re.compile(r"first_stage_model\.|vae\."),
    "text_encoder": re.compile(r"text_encoders\.[^.]+\.(?:transformer\.)?|text_encoder\.|cond_stage_model\."),
}
"""What stands before the names of a part, in files that hold several and in some that hold one."""
ZERO_COND = "__index_timestep_zero__"
"""An empty tensor by which ComfyUI's files tell Edit-2511."""
_MARKERS = {ZERO_COND, "__x0__", "__32x32__", "scaled_fp8"}
SCALES = ("scale_weight", "weight_scale")
"""Ends of the names of fp8 scales, where the weight ends in `weight`."""
_EXTRAS = (*SCALES, "scale_input", "input_scale", "comfy_quant")

_RESIDUAL = {"residual.0": "norm1", "residual.2": "conv1", "residual.3": "norm2", "residual.6": "conv2"}
_RESIDUAL |= {"shortcut": "conv_shortcut"}
_WAN = {
    "conv1": "quant_conv",
    "conv2": "post_quant_conv",
    "encoder.conv1": "encoder.conv_in",
    "decoder.conv1": "decoder.conv_in",
    "middle.0": "mid_block.resnets.0",
    "middle.1": "mid_block.attentions.0",
    "middle.2": "mid_block.resnets.1",
    "head.0": "norm_out",
    "head.2": "conv_out",
}
_LLAMA = {
    "token_embd": "embed_tokens",
    "output_norm": "norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_EYES = {
    "ln1": "norm1",
    "ln2": "norm2",
    "attn_qkv": "attn.qkv",
    "attn_out": "attn.proj",
    "norm": "norm",
    "fc1": "linear_fc1",
    "fc2": "linear_fc2",
}
_EYES_25 = _EYES | {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
_EYES_3 = _EYES | {"ffn_up": "mlp.linear_fc1", "ffn_down": "mlp.linear_fc2"}
_MERGER_25 = {"v.post_ln": "merger.ln_q", "mm.0": "merger.mlp.0", "mm.2": "merger.mlp.2"}
_MERGER_3 = {"v.post_ln": "merger.norm", "mm.0": "merger.linear_fc1", "mm.2": "merger.linear_fc2"}


class Piece(NamedTuple):
    """How a released tensor comes out of stored ones: as it is, joined in rows, two taps, or a half."""

    sources: tuple[str, ...]
    how: Literal["one", "rows", "taps", "first", "second"] = "one"


def own_names(names: Iterable[str], part: Part) -> dict[str, str]:
    """Return the names of a part without their prefix, each with the name it is stored under.

    A file without prefixes holds one part; in one that has some, a part is what stands under its own.
    """
    listed = list(names)
    found = {name[match.end() :]: name for name in listed if (match := PREFIXES[part].match(name))}
    if found or any(pattern.match(name) for name in listed for pattern in PREFIXES.values()):
        return found
    return {name: name for name in listed}


def released(names: Mapping[str, str], part: Part) -> dict[str, Piece]:
    """Return what the stored names of `own_names` stand for by released name, without scales and markers."""
    kept = {own: name for own, name in names.items() if not is_extra(own)}
    if part == "vae":
        return {_vae_name(own, kept): Piece((name,)) for own, name in kept.items()}
    if part == "text_encoder":
        return _encoder_pieces(kept)
    pieces = {}
    for own, name in kept.items():
        if own.endswith(".img_mlp.gate_up.weight"):  # 2.1: two layers in one, the gate first
            pieces[own.replace("gate_up", "gate_layer")] = Piece((name,), "first")
            pieces[own.replace("gate_up", "proj")] = Piece((name,), "second")
        else:
            pieces[own] = Piece((name,))
    return pieces


def is_extra(own: str) -> bool:
    """Tell whether a tensor is no weight but says something about one, or about the file."""
    last = own.rpartition(".")[2]
    return last in _MARKERS or last in _EXTRAS


def _vae_name(own: str, names: Mapping[str, str]) -> str:
    if "encoder.conv1.weight" not in names and "decoder.conv1.weight" not in names:
        return own
    stem, _, leaf = own.rpartition(".")
    if stem in _WAN:
        return f"{_WAN[stem]}.{leaf}"
    side, _, inner = stem.partition(".")
    if found := re.match(r"(?:down|up)samples\.(\d+)\.(?:down|up)samples\.(\d+)\.(.+)", inner):
        block = f"{side}.{'down' if side == 'encoder' else 'up'}_blocks.{found[1]}"
        if found[3] in _RESIDUAL:
            return f"{block}.resnets.{found[2]}.{_RESIDUAL[found[3]]}.{leaf}"
        return f"{block}.{'downsampler' if side == 'encoder' else 'upsampler'}.{found[3]}.{leaf}"
    if found := re.match(r"downsamples\.(\d+)\.(.+)", inner):
        return f"{side}.down_blocks.{found[1]}.{_RESIDUAL.get(found[2], found[2])}.{leaf}"
    if found := re.match(r"upsamples\.(\d+)\.(.+)", inner):
        return f"{side}.{_flat_up(int(found[1]), names)}.{_RESIDUAL.get(found[2], found[2])}.{leaf}"
    for old, new in _WAN.items():
        if inner == old:
            return f"{side}.{new}.{leaf}"
        if inner.startswith(old + "."):
            rest = inner[len(old) + 1 :]
            return f"{side}.{new}.{_RESIDUAL.get(rest, rest)}.{leaf}"
    return own


def _flat_up(number: int, names: Mapping[str, str]) -> str:
    """Return the block of a decoder whose layers are counted through: each upsampler ends a level."""
    ends = sorted(
        index for index in range(number + 1) if f"decoder.upsamples.{index}.resample.1.weight" in names
    )
    level = sum(end < number for end in ends)
    if number in ends:
        return f"up_blocks.{level}.upsamplers.0"
    return f"up_blocks.{level}.resnets.{number - (ends[level - 1] + 1 if level else 0)}"


def _encoder_pieces(names: Mapping[str, str]) -> dict[str, Piece]:
    third = any("q_norm" in own or "deepstack" in own or own == "v.position_embd.weight" for own in names)
    language, eyes = ("model.language_model.", "model.visual.") if third else ("model.", "visual.")
    pieces: dict[str, Piece] = {}
    for own, name in names.items():
        if own.startswith(("v.", "mm.")):
            pieces |= _eye_pieces(own, name, names, eyes, third=third)
        elif own == "lm_head.weight" or own == "output.weight":
            pieces["lm_head.weight"] = Piece((name,))
        elif found := re.match(r"(?:model\.)?visual\.(.+)", own):
            pieces[eyes + found[1]] = Piece((name,))
        elif found := re.match(r"(?:(?:model\.)?language_model\.(?:model\.)?|model\.)(.+)", own):
            pieces[language + found[1]] = Piece((name,))
        else:
            pieces[_llama_name(own, language)] = Piece((name,))
    return pieces


def _llama_name(own: str, language: str) -> str:
    stem, _, leaf = own.rpartition(".")
    found = re.fullmatch(r"blk\.(\d+)\.(.+)", stem)
    if found and found[2] in _LLAMA:
        return f"{language}layers.{found[1]}.{_LLAMA[found[2]]}.{leaf}"
    return f"{language}{_LLAMA[stem]}.{leaf}" if stem in _LLAMA else own


def _eye_pieces(own: str, name: str, names: Mapping[str, str], eyes: str, *, third: bool) -> dict[str, Piece]:
    """Return the pieces of a tensor of the eyes, whose parts llama.cpp writes one by one."""
    merger, layers = (_MERGER_3, _EYES_3) if third else (_MERGER_25, _EYES_25)
    stem, _, leaf = own.rpartition(".")
    if own == "v.patch_embd.weight":
        second = names.get("v.patch_embd.weight.1")
        taps = Piece((name, second), "taps") if second else Piece((name,))
        return {f"{eyes}patch_embed.proj.weight": taps}
    if own == "v.patch_embd.weight.1":
        return {}
    if own == "v.patch_embd.bias":
        return {f"{eyes}patch_embed.proj.bias": Piece((name,))}
    if own == "v.position_embd.weight":
        return {f"{eyes}pos_embed.weight": Piece((name,))}
    if stem in merger:
        return {f"{eyes}{merger[stem]}.{leaf}": Piece((name,))}
    found = re.fullmatch(r"v\.(blk|deepstack)\.(\d+)\.(.+)", stem)
    if found is None:
        return {own: Piece((name,))}
    block, layer = ("blocks" if found[1] == "blk" else "deepstack_merger_list"), found[3]
    if layer in ("attn_q", "attn_k", "attn_v"):
        three = tuple(f"v.blk.{found[2]}.attn_{one}.{leaf}" for one in "qkv")
        if layer != "attn_q" or any(one not in names for one in three):
            return {}
        return {f"{eyes}blocks.{found[2]}.attn.qkv.{leaf}": Piece(tuple(names[one] for one in three), "rows")}
    return {f"{eyes}{block}.{found[2]}.{layers.get(layer, layer)}.{leaf}": Piece((name,))}
