"""Files of other programs become the tensors of the released checkpoint."""

import json

import pytest
import torch
from safetensors.torch import save_file

from danqing.errors import CheckpointError
from danqing.models.mmdit import MMDiT
from danqing.models.vae import VAE, fold
from danqing.models.vae import unfold as unfold_1
from danqing.models.vae21 import VAE21, unfold
from danqing.weights.build import build
from danqing.weights.single_file import PartFiles
from tests.tiny import AUTOENCODER, TRANSFORMER, randomized
from tests.tiny21 import AUTOENCODER as AUTOENCODER_21

CPU = torch.device("cpu")


def fails(message):
    """Expect a CheckpointError of one line that matches `message`."""
    return pytest.raises(CheckpointError, match=rf"(?s)\A(?=.*{message})[^\n]+\Z")


def denoiser():
    return randomized(MMDiT(TRANSFORMER), 1).state_dict()


def opened(path, part, tensors, metadata=None, dtype=torch.float32):
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
    return PartFiles.open([path], part, dtype=dtype)


def same(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model.", "transformer."])
def test_a_denoiser_under_a_prefix(tmp_path, prefix):
    state = denoiser()
    marked = {prefix + name: tensor for name, tensor in state.items()}
    marked[prefix + "__index_timestep_zero__"] = torch.empty(0)
    source = opened(tmp_path / "x.safetensors", "transformer", marked)
    built = build(lambda: MMDiT(TRANSFORMER), source, device=CPU, dtype=torch.float32)
    same(built.state_dict(), state)


def test_three_parts_in_one_file(tmp_path):
    state = {"model.diffusion_model.a": torch.ones(1), "first_stage_model.b": torch.ones(2)}
    state["text_encoders.qwen25_7b.transformer.model.norm.weight"] = torch.ones(3)
    path = tmp_path / "x.safetensors"
    assert opened(path, "transformer", state).tensors.keys() == {"a"}
    assert PartFiles.open([path], "vae").tensors.keys() == {"b"}
    assert PartFiles.open([path], "text_encoder").tensors.keys() == {"model.norm.weight"}
    with fails("expected tensors of a vae, found none"):
        opened(path, "vae", {"model.diffusion_model.a": torch.ones(1)})


def wan(name):
    """Return the name that Wan gives to a layer of an autoencoder with one residual block a level."""
    for ours, theirs in (
        ("post_quant_conv.", "conv2."),
        ("quant_conv.", "conv1."),
        ("conv_in.", "conv1."),
        ("mid_block.resnets.0.", "middle.0."),
        ("mid_block.attentions.0.", "middle.1."),
        ("mid_block.resnets.1.", "middle.2."),
        ("norm_out.", "head.0."),
        ("conv_out.", "head.2."),
        ("conv_shortcut.", "shortcut."),
        ("norm1.", "residual.0."),
        ("conv1.", "residual.2.") if "block" in name else ("conv1.", "conv1."),
        ("norm2.", "residual.3."),
        ("conv2.", "residual.6.") if "block" in name else ("conv2.", "conv2."),
        ("encoder.down_blocks.", "encoder.downsamples."),
    ):
        if ours in name and not (ours == "quant_conv." and "post" in name):
            name = name.replace(ours, theirs)
    for level in range(4):  # two residual blocks and an upsampler a level
        for block in (0, 1):
            name = name.replace(f"up_blocks.{level}.resnets.{block}.", f"upsamples.{3 * level + block}.")
        name = name.replace(f"up_blocks.{level}.upsamplers.0.", f"upsamples.{3 * level + 2}.")
    return name


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_an_autoencoder_in_the_spelling_of_wan(tmp_path, prefix):
    state = randomized(VAE(AUTOENCODER), 2).state_dict()
    stored = {prefix + wan(name): tensor for name, tensor in unfold_1(AUTOENCODER, state).items()}
    assert prefix + "decoder.upsamples.11.residual.0.gamma" not in stored
    assert prefix + "decoder.upsamples.3.shortcut.weight" in stored
    assert prefix + "decoder.head.0.gamma" in stored
    source = opened(tmp_path / "x.safetensors", "vae", stored)
    built = build(lambda: VAE(AUTOENCODER), source, device=CPU, dtype=torch.float32, adapt=fold)
    same(built.state_dict(), state)


def wan22(name):
    """Return the name in the nested spelling: a level has its blocks, then what changes the size."""
    name = name.replace("downsampler.", "resnets.1.").replace("upsampler.", "resnets.2.")
    name = name.replace(".resnets.", ".upsamples.") if "up_blocks" in name else name
    name = name.replace(".resnets.", ".downsamples.") if "down_blocks" in name else name
    return wan(name).replace("up_blocks.", "upsamples.")


def test_an_autoencoder_of_21_in_the_nested_spelling(tmp_path):
    state = randomized(VAE21(AUTOENCODER_21), 2).state_dict()
    stored = {wan22(name): tensor for name, tensor in unfold(AUTOENCODER_21, state).items()}
    assert "decoder.upsamples.0.upsamples.0.residual.2.weight" in stored
    source = opened(tmp_path / "x.safetensors", "vae", stored)
    built = build(lambda: VAE21(AUTOENCODER_21), source, device=CPU, dtype=torch.float32, adapt=fold)
    same(built.state_dict(), state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("end", ["scale_weight", "weight_scale"])
@pytest.mark.parametrize("rows", [False, True])
def test_scaled_fp8(tmp_path, dtype, kind, end, rows):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 4, generator=generator)
    scale = weight.abs().amax(1, keepdim=True) / 400 if rows else torch.tensor(0.0123)
    packed = (weight / scale).to(kind)
    stored = {"layer.weight": packed, f"layer.{end}": scale, "layer.bias": torch.ones(6)}
    stored |= {"layer.input_scale": torch.ones(()), "scaled_fp8": torch.empty(0, dtype=kind)}
    note = json.dumps({"format": "float8_e4m3fn"}).encode()
    stored["layer.comfy_quant"] = torch.tensor(list(note), dtype=torch.uint8)
    source = opened(tmp_path / "x.safetensors", "transformer", stored, dtype=dtype)
    found = dict(source.read(source.tensors))
    same(found, {"layer.weight": (packed.float() * scale).to(dtype), "layer.bias": torch.ones(6).to(dtype)})


def test_plain_fp8(tmp_path):
    weight = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).to(torch.float8_e4m3fn)
    source = opened(tmp_path / "x.safetensors", "transformer", {"a.weight": weight})
    same(dict(source.read(["a.weight"])), {"a.weight": weight.float()})


FP8 = torch.ones(2, 2).to(torch.float8_e4m3fn)
QUANTISED = {"format_version": "1.0", "layers": {"a": {"format": "nvfp4"}}}
REFUSED = {
    "a missing scale": (
        {"a.weight": FP8, "scaled_fp8": torch.empty(0)},
        None,
        "expected an fp8 weight with its scale, found none",
    ),
    "NaN": ({"a.weight": FP8, "a.scale_weight": torch.tensor(torch.nan)}, None, "expected finite scales"),
    "infinity": ({"a.weight": FP8, "a.scale_weight": torch.tensor([torch.inf])}, None, "finite scales"),
    "bf16 NaN": (
        {"a.weight": FP8, "a.weight_scale": torch.tensor(torch.nan, dtype=torch.bfloat16)},
        None,
        "finite scales",
    ),
    "blocks": ({"a.weight": FP8, "a.weight_scale": torch.ones(7)}, None, "expected one number or 2"),
    "a scale of whole numbers": (
        {"a.weight": FP8, "a.weight_scale": torch.ones(1, dtype=torch.int8)},
        None,
        r"found I8 \[1\]",
    ),
    "a scale of plain weights": (
        {"a.weight": torch.ones(2, 2), "a.weight_scale": torch.tensor(2.0)},
        None,
        "expected the scale of an fp8 weight, found one of F32",
    ),
    "nvfp4": ({"a.weight": FP8}, {"_quantization_metadata": json.dumps(QUANTISED)}, "found 'nvfp4'"),
    "broken metadata": ({"a.weight": FP8}, {"_quantization_metadata": "[1"}, "expected formats of layers"),
    "a broken note": ({"a.weight": FP8, "a.comfy_quant": torch.zeros(3, dtype=torch.uint8)}, None, "in JSON"),
}


@pytest.mark.parametrize(("tensors", "metadata", "message"), REFUSED.values(), ids=REFUSED)
def test_what_would_be_wrong_in_silence(tmp_path, tensors, metadata, message):
    with fails(f"x.safetensors: .*{message}"):
        opened(tmp_path / "x.safetensors", "transformer", tensors, metadata)


def test_whole_numbers_are_no_weights(tmp_path):
    state = denoiser() | {"img_in.weight": torch.ones(32, 64, dtype=torch.int8)}
    source = opened(tmp_path / "x.safetensors", "transformer", state)
    with fails("expected floating-point weights.*, found 1 others"):
        build(lambda: MMDiT(TRANSFORMER), source, device=CPU, dtype=torch.float32)


def test_a_fused_feed_forward_layer_of_21(tmp_path):
    both = torch.arange(12.0).view(6, 2)
    name = "transformer_blocks.0.img_mlp.{}.weight"
    source = opened(tmp_path / "x.safetensors", "transformer", {name.format("gate_up"): both})
    expected = {name.format("gate_layer"): both[:3], name.format("proj"): both[3:]}
    assert {one: info.shape for one, info in source.tensors.items()} == dict.fromkeys(expected, (3, 2))
    same(dict(source.read(expected)), expected)


@pytest.mark.parametrize("spelling", ["model.{}", "model.language_model.{}", "language_model.model.{}"])
def test_the_conditioner_in_newer_spellings(tmp_path, spelling):
    state = {spelling.format("norm.weight"): torch.ones(2), "lm_head.weight": torch.ones(3, 2)}
    state["model.visual.merger.ln_q.weight"] = torch.ones(2)
    source = opened(tmp_path / "x.safetensors", "text_encoder", state)
    assert source.tensors.keys() == {"model.norm.weight", "lm_head.weight", "visual.merger.ln_q.weight"}


def test_two_spellings_of_one_tensor(tmp_path):
    state = {"model.norm.weight": torch.ones(2), "model.language_model.norm.weight": torch.zeros(2)}
    with fails("expected every tensor once and whole, found model.*norm.weight beside another spelling"):
        opened(tmp_path / "x.safetensors", "text_encoder", state)
    with fails("found v.blk.0.attn_q.weight .*without its other parts"):
        opened(tmp_path / "x.safetensors", "text_encoder", {"v.blk.0.attn_q.weight": torch.ones(2, 2)})
