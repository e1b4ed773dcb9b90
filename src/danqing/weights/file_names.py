"""How programs spell the tensors of one part in a single file, and the names of the released checkpoints.

ComfyUI keeps the released names of the denoiser under a prefix, has the autoencoder in the spelling of Wan
and the conditioner in that of transformers 4; llama.cpp has a spelling of its own, and a file for the eyes.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from danqing.errors import CheckpointError

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


# ------------------------------------------------------------------------------------ the other way round


class Cut(NamedTuple):
    """How a stored tensor is made of released ones: as it is, joined in rows, a third of the rows, a tap."""

    sources: tuple[str, ...]
    how: Literal["one", "rows", "third", "tap"] = "one"
    number: int = 0


Spelling = Literal["released", "comfyui", "llama"]
_FLAT_WAN = {ours: theirs for theirs, ours in _WAN.items()}
_FLAT_RESIDUAL = {ours: theirs for theirs, ours in _RESIDUAL.items()}
_FLAT_LLAMA = {ours: theirs for theirs, ours in _LLAMA.items()}
_WORDS, _EYE = re.compile(r"model\.(?:language_model\.)?(.+)"), re.compile(r"(?:model\.)?visual\.(.+)")
_DOWN = re.compile(r"down_blocks\.(\d+)\.(?!resnets|downsampler\.)(.+)")
_UP = re.compile(r"up_blocks\.(\d+)\.(?:resnets\.(\d+)|upsamplers\.0)\.(.+)")
_NESTED = re.compile(r"(down|up)_blocks\.(\d+)\.(?:resnets\.(\d+)|(?:down|up)sampler)\.(.+)")


def stored(names: Iterable[str], part: Part, spelling: Spelling) -> dict[str, Cut]:
    """Return what a file in a spelling holds, by the names it stores; the inverse of `released`.

    Raises CheckpointError where the names of a part cannot be said in it.
    """
    listed = list(names)
    if spelling == "released":
        return {name: Cut((name,)) for name in listed}
    if part == "vae":
        cuts = _stored_vae(listed)
    elif part == "text_encoder":
        cuts = _stored_words(listed) if spelling == "comfyui" else _stored_llama(listed)
    else:
        cuts = _stored_denoiser(listed)
    files = ([n for n in cuts if not n.startswith(_EYES_FILE)], [n for n in cuts if n.startswith(_EYES_FILE)])
    read = {name for one in files for name in released({name: name for name in one}, part)}
    if read != set(listed):
        unknown = ", ".join(sorted(read ^ set(listed))[:3])
        raise CheckpointError(
            f"expected tensors of a {part} that files of {spelling} have names for, found others ({unknown})"
        )
    return cuts


_EYES_FILE = ("v.", "mm.")
"""How names in the second file of a conditioner start, in the spelling of llama.cpp."""


def is_eye(stored_name: str) -> bool:
    """Tell whether llama.cpp keeps a tensor in the file of the eyes."""
    return stored_name.startswith(_EYES_FILE)


def _stored_denoiser(names: list[str]) -> dict[str, Cut]:
    known, cuts = set(names), {}
    for name in names:
        gate, up = (name.replace(".img_mlp.proj.", f".img_mlp.{one}.") for one in ("gate_layer", "gate_up"))
        if name.endswith(".img_mlp.gate_layer.weight") and name.replace("gate_layer", "proj") in known:
            continue
        fused = name.endswith(".img_mlp.proj.weight") and gate in known
        cuts[up if fused else name] = Cut((gate, name), "rows") if fused else Cut((name,))
    return cuts


def _stored_words(names: list[str]) -> dict[str, Cut]:
    return {name.replace("model.language_model.", "model.", 1): Cut((name,)) for name in names}


def _stored_vae(names: list[str]) -> dict[str, Cut]:
    nested = any(re.search(r"\.down_blocks\.\d+\.resnets\.", name) for name in names)
    sizes: dict[tuple[str, int], int] = {}  # residual blocks of a level
    for name in names:
        if found := re.match(r"(\w+)\.(?:down|up)_blocks\.(\d+)\.resnets\.(\d+)\.", name):
            level = (found[1], int(found[2]))
            sizes[level] = max(sizes.get(level, 0), int(found[3]) + 1)
    return {_wan_name(name, sizes, nested=nested): Cut((name,)) for name in names}


def _wan_name(name: str, sizes: Mapping[tuple[str, int], int], *, nested: bool) -> str:
    stem, _, leaf = name.rpartition(".")
    if stem in _FLAT_WAN:
        return f"{_FLAT_WAN[stem]}.{leaf}"
    side, inner = stem.partition(".")[::2]
    if found := _NESTED.fullmatch(inner) if nested else None:
        way, level = f"{found[1]}samples", int(found[2])
        block = sizes.get((side, level), 0) if found[3] is None else int(found[3])
        layer = found[4] if found[3] is None else _FLAT_RESIDUAL.get(found[4], found[4])
        return f"{side}.{way}.{level}.{way}.{block}.{layer}.{leaf}"
    if found := _DOWN.fullmatch(inner):
        return f"{side}.downsamples.{found[1]}.{_FLAT_RESIDUAL.get(found[2], found[2])}.{leaf}"
    if found := _UP.fullmatch(inner):
        level = int(found[1])
        before = sum(sizes.get((side, lower), 0) + 1 for lower in range(level))  # an upsampler ends a level
        block = sizes.get((side, level), 0) if found[2] is None else int(found[2])
        layer = found[3] if found[2] is None else _FLAT_RESIDUAL.get(found[3], found[3])
        return f"{side}.upsamples.{before + block}.{layer}.{leaf}"
    for ours, theirs in _FLAT_WAN.items():
        if inner == ours:
            return f"{side}.{theirs}.{leaf}"
        if inner.startswith(ours + "."):
            rest = inner[len(ours) + 1 :]
            return f"{side}.{theirs}.{_FLAT_RESIDUAL.get(rest, rest)}.{leaf}"
    return name


def _stored_llama(names: list[str]) -> dict[str, Cut]:
    third = any("q_norm" in name or "deepstack" in name for name in names)
    cuts: dict[str, Cut] = {}
    for name in names:
        if found := _EYE.fullmatch(name):
            cuts |= _stored_eye(found[1], name, third=third)
        elif name == "lm_head.weight":
            cuts["output.weight"] = Cut((name,))
        elif found := _WORDS.fullmatch(name):
            stem, _, leaf = found[1].rpartition(".")
            block, layer = m.groups() if (m := re.fullmatch(r"layers\.(\d+)\.(.+)", stem)) else (None, stem)
            said = _FLAT_LLAMA.get(layer, layer)
            cuts[f"{said}.{leaf}" if block is None else f"blk.{block}.{said}.{leaf}"] = Cut((name,))
        else:
            cuts[name] = Cut((name,))
    return cuts


def _stored_eye(inner: str, name: str, *, third: bool) -> dict[str, Cut]:
    merger, layers = (_MERGER_3, _EYES_3) if third else (_MERGER_25, _EYES_25)
    stem, _, leaf = inner.rpartition(".")
    if inner == "patch_embed.proj.weight":  # llama.cpp has two 2-D convolutions in place of a 3-D one
        ends = ("v.patch_embd.weight", "v.patch_embd.weight.1")
        return {end: Cut((name,), "tap", index) for index, end in enumerate(ends)}
    if inner == "patch_embed.proj.bias":
        return {"v.patch_embd.bias": Cut((name,))}
    if inner == "pos_embed.weight":
        return {"v.position_embd.weight": Cut((name,))}
    for theirs, ours in merger.items():
        if stem == ours:
            return {f"{theirs}.{leaf}": Cut((name,))}
    found = re.fullmatch(r"(blocks|deepstack_merger_list)\.(\d+)\.(.+)", stem)
    if found is None:
        return {name: Cut((name,))}
    place = f"v.{'blk' if found[1] == 'blocks' else 'deepstack'}.{found[2]}"
    if found[3] == "attn.qkv" and not third:
        return {f"{place}.attn_{q}.{leaf}": Cut((name,), "third", index) for index, q in enumerate("qkv")}
    # Blocks and mergers have layers of other names; where two names mean one layer, either may be read.
    known = _EYES_BLOCK if found[1] == "blocks" else _EYES_MERGER
    said = next((theirs for theirs, ours in layers.items() if ours == found[3] and theirs in known), found[3])
    return {f"{place}.{said}.{leaf}": Cut((name,))}


_EYES_BLOCK = {"ln1", "ln2", "attn_qkv", "attn_out", "ffn_gate", "ffn_up", "ffn_down"}
_EYES_MERGER = {"norm", "fc1", "fc2"}
