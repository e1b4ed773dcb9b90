"""Files with layers of 8 and 4 bits: ours, ComfyUI's, and what is wrong with some."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from danqing.errors import CheckpointError, ConfigError
from danqing.models.mmdit import MMDiT
from danqing.models.quantised import Int4Linear, Int8Linear, dequantise_int8, quantise_int8, rotated
from danqing.weights.build import build
from danqing.weights.layouts import Folder
from danqing.weights.quantise import (
    Kept,
    Quantised,
    chosen_layers,
    quantised_tensors,
    stored_layers,
    with_quantised,
)
from danqing.weights.single_file import PartFiles
from danqing.weights.store import Shards, write_shards
from tests.tiny import TRANSFORMER, randomized, write_tiny

BOTH = pytest.mark.parametrize("format", ["int8", "int4"])
CPU = torch.device("cpu")
LAYER = "transformer_blocks.0.img_mlp.net.2"
PREFIX = "model.diffusion_model."


def fails(message):
    """Expect a CheckpointError of one line that matches `message`."""
    return pytest.raises(CheckpointError, match=rf"(?s)\A(?=.*{message})[^\n]+\Z")


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def state():
    return randomized(MMDiT(TRANSFORMER), 1).state_dict()


def converted(tensors, layers, format):
    """Return a state dict with some layers as a file keeps them."""
    out = {}
    for name, tensor in tensors.items():
        layer = name.removesuffix(".weight")
        out |= quantised_tensors(layer, tensor, format) if layer in layers else {name: tensor}
    return out


def shards(folder, tensors):
    write_shards(folder, "model", tensors)
    return Shards.open(folder)


def part(file, tensors, metadata=None, dtype=torch.float32):
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, metadata)
    return PartFiles.open([file], "transformer", dtype=dtype)


def note(**said):
    return torch.tensor(list(json.dumps(said).encode()), dtype=torch.uint8)


def all_of(source):
    return dict(source.read(source.tensors))


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


@BOTH
def test_what_is_quantised_when_it_is_read_is_what_is_written(tmp_path, format):
    tensors = state()
    plain = shards(tmp_path / "plain", tensors)
    layers = chosen_layers(plain, format)
    assert LAYER in layers
    assert "img_in" not in layers
    assert not chosen_layers(plain, "plain")
    stored = shards(tmp_path / "small", converted(tensors, layers, format))
    assert stored_layers(stored) == layers == chosen_layers(stored, "plain")
    on_the_way, as_it_is = Quantised(plain, layers), Quantised(stored, layers)
    infos = [{name: info[1:3] for name, info in one.tensors.items()} for one in (on_the_way, as_it_is)]
    assert infos[0] == infos[1]
    same(all_of(on_the_way), all_of(as_it_is))
    assert {name: (tuple(t.shape), t.dtype) for name, t in all_of(as_it_is).items()} == {
        name: (tuple(t.shape), t.dtype)
        for name, t in with_quantised(MMDiT(TRANSFORMER), layers).state_dict().items()
    }


@BOTH
def test_a_module_is_built_from_either(tmp_path, format):
    tensors = state()
    plain = shards(tmp_path / "plain", tensors)
    layers = chosen_layers(plain, format)
    stored = shards(tmp_path / "small", converted(tensors, layers, format))

    def make():
        return with_quantised(MMDiT(TRANSFORMER), layers)

    built = [
        build(make, Quantised(source, layers), device=CPU, dtype=torch.bfloat16) for source in (plain, stored)
    ]
    same(built[0].state_dict(), built[1].state_dict())
    kept = built[0].get_submodule(LAYER)
    assert isinstance(kept, Int8Linear if format == "int8" else Int4Linear)
    assert kept.bias.dtype == torch.bfloat16
    assert kept.weight_scale.dtype == (torch.float32 if format == "int8" else torch.float16)
    back = build(lambda: MMDiT(TRANSFORMER), Quantised(stored, {}), device=CPU, dtype=torch.float32)
    torch.testing.assert_close(back.get_submodule(LAYER).weight, kept.plain_weight())


def test_layers_are_kept_in_fewer_bits_than_asked_for(tmp_path):
    layers = [f"model.layers.{index}.mlp.up_proj" for index in range(3)]
    tensors = {f"{layer}.weight": draw(16, 64, seed=index) for index, layer in enumerate(layers)}
    mixed = {f"{layers[0]}.weight": tensors[f"{layers[0]}.weight"]}
    mixed |= quantised_tensors(layers[1], tensors[f"{layers[1]}.weight"], "int8")
    mixed |= quantised_tensors(layers[2], tensors[f"{layers[2]}.weight"], "int4")
    source = shards(tmp_path, mixed)
    formats = {
        wanted: [found[layer].format if layer in found else None for layer in layers]
        for wanted in ("plain", "int8", "int4")
        for found in [chosen_layers(source, wanted)]
    }
    assert formats == {
        "plain": [None, "int8", "int4"],
        "int8": ["int8", "int8", "int4"],
        "int4": ["int4", "int4", "int4"],
    }
    again = all_of(Quantised(source, chosen_layers(source, "int4")))
    assert again[f"{layers[1]}.weight"].dtype == torch.uint8


@BOTH
@pytest.mark.parametrize("kept", [True, False])
def test_tensors_are_read_into_memory_and_by_rows(tmp_path, format, kept):
    weights = {"model.layers.0.mlp.up_proj.weight": draw(32, 64), "model.norm.weight": draw(7, seed=1)}
    stored = shards(tmp_path, converted(weights, ["model.layers.0.mlp.up_proj"], format))
    source = Quantised(stored, stored_layers(stored) if kept else {})
    expected = all_of(source)
    targets = {name: torch.empty_like(tensor) for name, tensor in expected.items()}
    source.read_into(targets)
    same(targets, expected)
    if not kept:
        rows = source.read_rows("model.layers.0.mlp.up_proj.weight", [5, 0, 31])
        assert torch.equal(rows, expected["model.layers.0.mlp.up_proj.weight"][[5, 0, 31]])
    assert torch.equal(source.read_rows("model.norm.weight", [3]), expected["model.norm.weight"][[3]])


@pytest.mark.parametrize("prefix", ["", PREFIX])
@pytest.mark.parametrize("in_metadata", [False, True])
@pytest.mark.parametrize("kind", ["convrot", "rows", "tensor", "older"])
def test_the_forms_of_comfyui(tmp_path, prefix, in_metadata, kind):
    weight = draw(48, 64)
    block = 16 if kind in ("convrot", "older") else 1
    values, scale = quantise_int8(weight, block)
    if kind == "tensor":
        scale = weight.abs().max() / 127
        values = (weight / scale).round().to(torch.int8)
    said = {"format": "int8_tensorwise"} if kind != "older" else {"per_row": True}
    if block > 1:
        said |= {"convrot": True, "convrot_groupsize": block}
    tensors = {f"{LAYER}.weight": values, f"{LAYER}.weight_scale": scale, f"{LAYER}.bias": draw(48)}
    tensors = {prefix + name: tensor for name, tensor in tensors.items()}
    metadata = {"_quantization_metadata": json.dumps({"layers": {prefix + LAYER: said}})}
    if not in_metadata:
        metadata, tensors[f"{prefix}{LAYER}.comfy_quant"] = None, note(**said)
    source = part(tmp_path / "x.safetensors", tensors, metadata, dtype=torch.bfloat16)
    assert stored_layers(source) == {LAYER: Kept("int8", block)} == chosen_layers(source, "int8")
    found = all_of(Quantised(source, stored_layers(source)))
    same({LAYER: found[f"{LAYER}.weight"]}, {LAYER: values})
    assert torch.equal(found[f"{LAYER}.weight_scale"], scale.reshape(-1, 1).expand(48, 1))
    assert found[f"{LAYER}.bias"].dtype == torch.bfloat16
    plain = all_of(Quantised(source, {}))
    torch.testing.assert_close(plain[f"{LAYER}.weight"], rotated(values * scale, block))
    targets = {name: torch.empty_like(tensor) for name, tensor in found.items()}
    Quantised(source, stored_layers(source)).read_into(targets)
    same(targets, found)


def test_two_layers_in_one_are_cut(tmp_path):
    both, name = draw(64, 32), "transformer_blocks.0.img_mlp."
    source = part(tmp_path / "x.safetensors", quantised_tensors(f"{name}gate_up", both, "int8"))
    assert stored_layers(source).keys() == {f"{name}gate_layer", f"{name}proj"}
    found = all_of(Quantised(source, {}))
    assert torch.equal(
        torch.cat([found[f"{name}gate_layer.weight"], found[f"{name}proj.weight"]]),
        dequantise_int8(*quantise_int8(both, 16), 16),
    )


def test_a_quantised_table_gives_rows(tmp_path):
    tensors = quantised_tensors("model.embed_tokens", draw(40, 64), "int8")
    source = Quantised(shards(tmp_path, tensors), {})
    whole = all_of(source)["model.embed_tokens.weight"]
    assert torch.equal(source.read_rows("model.embed_tokens.weight", [39, 2]), whole[[39, 2]])


@pytest.mark.parametrize("format", ["int8", "int4"])
def test_a_checkpoint_folder_with_quantised_layers_opens(tmp_path, format):
    folder = write_tiny(tmp_path)
    plain = Folder(folder).transformer(CPU, torch.float32)
    source = Shards.open(folder / "transformer")
    layers = chosen_layers(source, format)
    (file,) = {info.file for info in source.tensors.values()}
    tensors = converted(all_of(source), layers, format)
    file.unlink()
    save_file(tensors, file)
    found = Folder(folder).transformer(CPU, torch.float32)
    assert {name for name, one in found.named_modules() if isinstance(one, Int8Linear | Int4Linear)} == set(
        layers
    )
    weight = plain.get_submodule(LAYER).weight
    assert (found.get_submodule(LAYER).plain_weight() - weight).norm() < 0.12 * weight.norm()
    assert torch.equal(found.img_in.weight, plain.img_in.weight)


WEIGHT, SCALE = torch.ones(4, 16, dtype=torch.int8), torch.ones(4, 1)
SAID = {"format": "int8_tensorwise"}
FOUR = {"format": "danqing_int4"}
REFUSED = {
    "no number": (WEIGHT, SCALE * torch.nan, SAID, "expected finite scales"),
    "a row too few": (WEIGHT, torch.ones(3, 1), SAID, r"a scale for each row, found F32 \[3, 1\]"),
    "whole scales": (WEIGHT, torch.ones(4, dtype=torch.int32), SAID, r"for each row, found I32 \[4\]"),
    "groups": (WEIGHT.to(torch.uint8), SCALE.half().expand(4, 3), FOUR, r"for each row, found F16 \[4, 3\]"),
    "plain weights": (WEIGHT.float(), SCALE, SAID, "expected a matrix of I8 in blocks"),
    "bytes": (WEIGHT.to(torch.uint8), SCALE, SAID, r"found U8 \[4, 16\]"),
    "a cube": (WEIGHT[None], SCALE, SAID, "expected a matrix of I8"),
    "a wide rotation": (WEIGHT, SCALE, SAID | {"convrot": True}, r"found I8 \[4, 16\] and 256"),
    "a rotation of 8": (WEIGHT, SCALE, SAID | {"convrot": True, "convrot_groupsize": 8}, "and 8"),
    "endless": (WEIGHT, SCALE, SAID | {"convrot": True, "convrot_groupsize": float("inf")}, "in JSON"),
    "none": (WEIGHT, SCALE, SAID | {"convrot": True, "convrot_groupsize": None}, "in JSON"),
    "another format": (WEIGHT, SCALE, {"format": "nvfp4"}, "found 'nvfp4'; take"),
    "a list": (WEIGHT, SCALE, {"format": ["int8_tensorwise"]}, "expected one of"),
    "no format": (WEIGHT, SCALE, {"per_row": True}, "found None"),
}


@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize(("weight", "scale", "said", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_is_refused(tmp_path, single, weight, scale, said, message):
    tensors = {
        f"{LAYER}.weight": weight,
        f"{LAYER}.weight_scale": scale,
        f"{LAYER}.comfy_quant": note(**said),
    }
    with fails(message):
        all_of(Quantised(opened(tmp_path, single, tensors), {}))


@pytest.mark.parametrize("single", [True, False])
def test_what_is_missing_is_told(tmp_path, single):
    whole = quantised_tensors(LAYER, draw(8, 16), "int8")
    for end in ("weight", "weight_scale"):
        tensors = {name: tensor for name, tensor in whole.items() if name != f"{LAYER}.{end}"}
        with fails("expected (a weight and its scale|tensors of a transformer|every tensor once)"):
            all_of(Quantised(opened(tmp_path, single, tensors), {}))
    tensors = {name: tensor for name, tensor in whole.items() if not name.endswith("comfy_quant")}
    with fails("expected (floating-point weights|the scale of an fp8 weight)"):
        source = Quantised(opened(tmp_path, single, tensors), {})
        build(lambda: module_of(source), source, device=CPU, dtype=torch.float32)


def module_of(source):
    """Return an empty module with parameters under the names of a source, of any type."""
    module = nn.Module()
    for name, info in source.tensors.items():
        owner, (*path, leaf) = module, name.split(".")
        for step in path:
            if not hasattr(owner, step):
                owner.add_module(step, nn.Module())
            owner = getattr(owner, step)
        owner.register_parameter(leaf, nn.Parameter(torch.empty(info.shape)))
    return module


def opened(folder, single, tensors):
    if single:
        return part(folder / "x.safetensors", tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "x.safetensors")
    return Shards.open(folder)


def test_only_linear_layers_are_replaced():
    model = nn.Sequential(nn.Linear(16, 16), nn.LayerNorm(16))
    with pytest.raises(ConfigError, match="1: expected a linear layer to quantise, found LayerNorm"):
        with_quantised(model, {"1": "int8"})
    with_quantised(model, {"eyes.0": "int8", "0": "plain"})
    assert isinstance(model[0], nn.Linear)


def test_comfy_kitchen_has_the_same_numbers():
    tensor = pytest.importorskip("comfy_kitchen.tensor")
    layout = tensor.TensorWiseINT8Layout
    weight, x = draw(48, 512), draw(9, 512, seed=1)
    values, params = layout.quantize(weight, per_channel=True, convrot=True, convrot_groupsize=256)
    ours = quantised_tensors("layer", weight, "int8")
    assert json.loads(bytes(ours["layer.comfy_quant"].tolist())) == {
        "format": "int8_tensorwise",
        "convrot": True,
        "convrot_groupsize": 256,
    }
    assert (ours["layer.weight"].int() - values.int()).abs().max() <= 1  # where a number lies on a half
    assert (ours["layer.weight"] != values).float().mean() < 1e-3
    torch.testing.assert_close(ours["layer.weight_scale"], params.scale)
    plain = layout.dequantize(ours["layer.weight"], params)
    torch.testing.assert_close(dequantise_int8(ours["layer.weight"], params.scale, 256), plain)
    layer = Int8Linear(512, 48, bias=False)
    layer.weight.data, layer.weight_scale.data = values, params.scale
    theirs = pytest.importorskip("comfy_kitchen").int8_linear(
        x, values, params.scale, None, torch.float32, convrot=True, convrot_groupsize=256
    )
    torch.testing.assert_close(layer(x), theirs, rtol=0, atol=2e-3 * theirs.abs().max().item())
