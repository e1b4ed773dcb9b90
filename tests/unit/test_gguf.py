"""GGUF files, written here by the library itself: every type, both parts, broken numbers."""

import numpy as np
import pytest
import torch

from danqing.errors import CheckpointError
from danqing.models.mmdit import MMDiT
from danqing.models.qwen3_vl import Qwen3VL
from danqing.models.vlm import VLM
from danqing.weights.build import build
from danqing.weights.gguf_file import PLAIN, QUANTISED
from danqing.weights.headers import read_header
from danqing.weights.releases import read_mark
from danqing.weights.single_file import PartFiles
from tests.tiny import TRANSFORMER, randomized, text_encoder
from tests.unit.test_qwen3_vl import CONFIG as QWEN3

gguf = pytest.importorskip("gguf")
KINDS = gguf.GGMLQuantizationType
CPU = torch.device("cpu")


def fails(message):
    """Expect a CheckpointError of one line that matches `message`."""
    return pytest.raises(CheckpointError, match=rf"(?s)\A(?=.*{message})[^\n]+\Z")


def write(path, tensors, metadata=None, arch="qwen_image"):
    """Write (values or packed bytes, type) by name."""
    writer = gguf.GGUFWriter(path, arch)
    for key, value in (metadata or {}).items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    for name, (values, kind) in tensors.items():
        packed = values if values.dtype == np.uint8 else gguf.quantize(values, kind)
        writer.add_tensor(name, packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def plain(state):
    return {name: (tensor.numpy().astype(np.float32), KINDS.F32) for name, tensor in state.items()}


def opened(path, part="transformer", dtype=torch.float32):
    return PartFiles.open(path if isinstance(path, list) else [path], part, dtype=dtype)


def packed_rows(kind):
    """Return rows of random packed bytes whose scales are small finite numbers."""
    width = gguf.GGML_QUANT_SIZES[kind][1]
    generator = np.random.default_rng(0)
    for _ in range(200):
        raw = generator.integers(0, 256, (5, 3 * width), dtype=np.uint8)
        with np.errstate(all="ignore"):
            if np.isfinite(gguf.dequantize(raw, kind)).all():
                return raw
        raw = raw % 60  # fp16 scales below infinity
        with np.errstate(all="ignore"):
            if np.isfinite(gguf.dequantize(raw, kind)).all():
                return raw
    raise AssertionError(kind)


@pytest.mark.parametrize("name", sorted(QUANTISED))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_type_is_unpacked_as_the_library_does(tmp_path, name, dtype):
    kind = KINDS[name]
    raw = packed_rows(kind)
    source = opened(write(tmp_path / "x.gguf", {"a.weight": (raw, kind)}), dtype=dtype)
    (_, found), *_ = source.read(["a.weight"])
    with np.errstate(all="ignore"):
        expected = torch.from_numpy(np.array(gguf.dequantize(raw, kind)))
    assert source.tensors["a.weight"].shape == tuple(expected.shape)
    assert torch.equal(found, expected.to(dtype))


def test_the_library_unpacks_no_other_type():
    for kind in gguf.GGML_QUANT_SIZES:
        width = gguf.GGML_QUANT_SIZES[kind][1]
        try:
            gguf.dequantize(np.zeros((1, width), np.uint8), kind)
        except NotImplementedError:
            assert kind.name not in QUANTISED
        else:
            assert kind.name in QUANTISED | PLAIN.keys()


@pytest.mark.parametrize("name", ["F32", "F16", "BF16"])
def test_types_that_need_no_library(tmp_path, name):
    values = np.linspace(-2, 2, 64, dtype=np.float32).reshape(2, 32)
    source = opened(write(tmp_path / "x.gguf", {"a": (values, KINDS[name])}))
    (_, found), *_ = source.read(["a"])
    assert torch.equal(found, torch.from_numpy(values).to(PLAIN[name]).float())


def test_large_tensors_are_unpacked_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("danqing.weights.gguf_file._AT_ONCE", 100)
    values = np.random.default_rng(0).normal(size=(7, 64)).astype(np.float32)
    source = opened(write(tmp_path / "x.gguf", {"a": (values, KINDS.Q4_0)}))
    (_, found), *_ = source.read(["a"])
    packed = gguf.quantize(values, KINDS.Q4_0)
    assert torch.equal(found, torch.from_numpy(gguf.dequantize(packed, KINDS.Q4_0)))


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_a_denoiser(tmp_path, prefix):
    state = randomized(MMDiT(TRANSFORMER), 1).state_dict()
    kept = {prefix + name: value for name, value in plain(state).items()}
    name = prefix + "transformer_blocks.0.img_mlp.net.0.proj.weight"
    packed = gguf.quantize(kept[name][0], KINDS.Q8_0)
    kept[name] = (packed, KINDS.Q8_0)
    source = opened(write(tmp_path / "x.gguf", kept))
    built = build(lambda: MMDiT(TRANSFORMER), source, device=CPU, dtype=torch.float32).state_dict()
    expected = torch.from_numpy(gguf.dequantize(packed, KINDS.Q8_0))
    assert torch.equal(built.pop(name.removeprefix(prefix)), expected)
    assert all(torch.equal(built[one], state[one]) for one in built)
    assert len(built) == len(state) - 1


def test_a_flattened_tensor_has_its_shape_in_the_metadata(tmp_path):
    values = np.arange(64, dtype=np.float32)
    key = "comfy.gguf.orig_shape.a"
    source = opened(write(tmp_path / "x.gguf", {"a": (values, KINDS.F32)}, {key: [2, 4, 8]}))
    assert source.tensors["a"].shape == (2, 4, 8)
    assert next(source.read(["a"]))[1].shape == (2, 4, 8)
    with fails("expected a shape of 64 values, found"):
        opened(write(tmp_path / "x.gguf", {"a": (values, KINDS.F32)}, {key: [2, 4, 9]}))


LANGUAGE = {
    "embed_tokens": "token_embd",
    "norm": "output_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
EYES = {
    "merger.ln_q": "v.post_ln",
    "merger.norm": "v.post_ln",
    "merger.mlp.0": "mm.0",
    "merger.mlp.2": "mm.2",
    "merger.linear_fc1": "mm.0",
    "merger.linear_fc2": "mm.2",
    "pos_embed": "v.position_embd",
    "norm1": "ln1",
    "norm2": "ln2",
    "attn.proj": "attn_out",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.linear_fc1": "ffn_up",
    "mlp.linear_fc2": "ffn_down",
    "attn.qkv": "attn_qkv",
    "norm": "norm",
    "linear_fc1": "fc1",
    "linear_fc2": "fc2",
}


def llama(state, *, split):
    """Return the tensors of the two files that llama.cpp makes of a conditioner."""
    words, eyes = {}, {}
    for name, tensor in state.items():
        stem, _, leaf = name.replace("language_model.", "").rpartition(".")
        stem = stem.removeprefix("model.")
        parts = stem.split(".", 2)
        if name == "lm_head.weight":
            words["output.weight"] = tensor
        elif parts[0] == "layers":
            words[f"blk.{parts[1]}.{LANGUAGE[parts[2]]}.{leaf}"] = tensor
        elif not stem.startswith("visual."):
            words[f"{LANGUAGE[stem]}.{leaf}"] = tensor
        else:
            eyes |= eye(stem.removeprefix("visual."), leaf, tensor, split=split)
    return words, eyes


def eye(stem, leaf, tensor, *, split):
    if stem == "patch_embed.proj":
        if leaf == "bias":
            return {"v.patch_embd.bias": tensor}
        return {"v.patch_embd.weight": tensor[:, :, 0], "v.patch_embd.weight.1": tensor[:, :, 1]}
    if stem in EYES:
        return {f"{EYES[stem]}.{leaf}": tensor}
    kind, number, layer = stem.split(".", 2)
    place = f"v.{'blk' if kind == 'blocks' else 'deepstack'}.{number}"
    if layer == "attn.qkv" and split:
        return {f"{place}.attn_{one}.{leaf}": part for one, part in zip("qkv", tensor.chunk(3), strict=True)}
    return {f"{place}.{EYES[layer]}.{leaf}": tensor}


@pytest.mark.parametrize("third", [False, True], ids=["Qwen2.5-VL", "Qwen3-VL"])
def test_a_conditioner_and_its_eyes(tmp_path, third):
    config = text_encoder(90, {})

    def make():
        return Qwen3VL(QWEN3, vision=True, head=True) if third else VLM(config, vision=True, head=True)

    state = randomized(make(), 3).state_dict()
    words, eyes = llama(state, split=not third)
    files = [
        write(tmp_path / "words.gguf", plain(words), arch="qwen2vl"),
        write(tmp_path / "mmproj.gguf", plain(eyes), arch="clip"),
    ]
    built = build(make, opened(files, "text_encoder"), device=CPU, dtype=torch.float32)
    found = built.state_dict()
    assert all(torch.equal(found[name], state[name]) for name in state)
    alone = opened(files[0], "text_encoder")
    assert not any("visual" in name for name in alone.tensors)


def test_numbers_that_are_not_finite(tmp_path):
    raw = gguf.quantize(np.ones((1, 64), np.float32), KINDS.Q8_0)
    raw[0, :2] = np.frombuffer(np.float16(np.nan).tobytes(), np.uint8)
    source = opened(write(tmp_path / "x.gguf", {"a": (raw, KINDS.Q8_0)}))
    with fails("a: expected finite numbers"):
        list(source.read(["a"]))


def test_types_of_activations_are_no_weights(tmp_path):
    raw = np.zeros((2, 40), np.uint8)
    source = opened(write(tmp_path / "x.gguf", {"img_in.weight": (raw, KINDS.Q8_1)}))
    assert source.tensors["img_in.weight"].dtype == "Q8_1"
    with fails("expected weights that can be unpacked, found Q8_1"):
        list(source.read(["img_in.weight"]))


def test_a_switch_in_the_metadata(tmp_path):
    values = {"a": (np.ones(1, np.float32), KINDS.F32)}
    assert read_mark(read_header(write(tmp_path / "x.gguf", values)), "zero_cond_t") is None
    for said in (True, False):
        file = write(tmp_path / "x.gguf", values, {"qwen_image.zero_cond_t": said})
        assert read_mark(read_header(file), "zero_cond_t") is said
