"""Adapters from every dialect to every other: the same change, the same numbers where there is a place."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from danqing.errors import CheckpointError, RequestError
from danqing.models.mmdit import MMDiT, MMDiTConfig
from danqing.models.single_stream import SingleStream
from danqing.weights.adapters import Dialect, lightning_steps, load_adapter
from danqing.weights.convert import carry_out
from danqing.weights.convert_adapter import plan_adapter
from danqing.weights.layouts import Folder
from tests.tiny import TRANSFORMER, randomized
from tests.tiny21 import TRANSFORMER as TRANSFORMER_21
from tests.unit.test_adapters import DOWN, FLAT, LAYER, SPELLINGS, UP, draw

DIALECTS = ("diffusers", "comfyui", "kohya")
OTHER = "transformer_blocks.1.img_mlp.net.2"
ENDS = {"down": "lora_down.weight", "up": "lora_up.weight"}


@pytest.fixture(scope="module")
def model():
    return randomized(MMDiT(TRANSFORMER), 1)


@pytest.fixture
def convert(tiny_folder, tmp_path):
    """Write tensors as an adapter file, convert it, and return the new file."""

    def run(tensors, dialect: Dialect, metadata=None, name="old.safetensors", **options):
        save_file({key: value.clone() for key, value in tensors.items()}, tmp_path / name, metadata)
        options.setdefault("like", Folder(tiny_folder))
        plan = plan_adapter(tmp_path / name, tmp_path / f"{dialect}.safetensors", dialect, **options)
        carry_out(plan, overwrite=True)
        assert plan.target.stat().st_size == plan.size
        return plan.target

    return run


def metadata(file):
    with safe_open(file, framework="pt") as handle:
        return handle.metadata()


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("program", SPELLINGS)
def test_every_spelling_becomes_every_dialect(convert, model, program, dialect):
    down, up, alpha = SPELLINGS[program]
    layer = FLAT if down.startswith(("lora_", "lycoris_")) else LAYER
    tensors = {down.format(layer): DOWN.bfloat16(), up.format(layer): UP.bfloat16()}
    if alpha is not None:
        tensors[alpha.format(layer)] = torch.tensor(2.0)
    new = convert(tensors, dialect)
    found = load_adapter(new, model)[LAYER]
    scale = 1.0 if alpha is None else 0.5
    assert torch.equal(found.weight(), scale * UP.bfloat16().float() @ DOWN.bfloat16().float())
    stored = load_file(new)
    assert {t.dtype for name, t in stored.items() if not name.endswith("alpha")} == {torch.bfloat16}
    if dialect == "diffusers":
        assert stored.keys() == {f"transformer.{LAYER}.lora_{one}.weight" for one in "AB"}
    else:
        start = f"diffusion_model.{LAYER}" if dialect == "comfyui" else f"lora_unet_{FLAT}"
        assert stored.keys() == {f"{start}.{end}" for end in (*ENDS.values(), "alpha")}
        assert stored[f"{start}.alpha"] == 4 * scale


KINDS = {
    "LoKr of parts": {"lokr_w1_a": (8, 2), "lokr_w1_b": (2, 4), "lokr_w2_a": (4, 2), "lokr_w2_b": (2, 8)},
    "LoKr": {"lokr_w1": (8, 4), "lokr_w2_a": (4, 2), "lokr_w2_b": (2, 8), "alpha": ()},
    "whole LoKr": {"lokr_w1": (8, 4), "lokr_w2": (4, 8), "alpha": ()},
    "LoHa": {
        "hada_w1_a": (32, 2),
        "hada_w1_b": (2, 32),
        "hada_w2_a": (32, 2),
        "hada_w2_b": (2, 32),
        "alpha": (),
    },
    "difference": {"diff": (32, 32), "diff_b": (32,)},
    "biased": {"lora_down.weight": (2, 32), "lora_up.weight": (32, 2), "alpha": (), "diff_b": (32,)},
}


@pytest.mark.parametrize("kind", KINDS)
def test_factors_and_alphas_are_copied_as_they_are(convert, kind):
    ends = {end: draw(*shape).abs() for end, shape in KINDS[kind].items()}
    first = {f"lora_unet_{FLAT}.{end}": tensor for end, tensor in ends.items()}
    there = load_file(convert(first, "comfyui"))
    back = load_file(convert(there, "kohya"))
    if kind == "LoKr of parts":  # nothing said alpha, so it is the rank: a scale of one
        first[f"lora_unet_{FLAT}.alpha"] = torch.tensor(2.0)
    assert back.keys() == first.keys()
    assert all(torch.equal(back[name], first[name]) for name in first)


@pytest.mark.parametrize("kind", KINDS)
def test_diffusers_loads_lora_alone(convert, model, kind):
    ends = {end: draw(*shape).abs() for end, shape in KINDS[kind].items()}
    tensors = {f"lora_unet_{FLAT}.{end}": tensor for end, tensor in ends.items()}
    if kind != "biased":
        with pytest.raises(RequestError, match="expected a LoRA, which is all that diffusers loads"):
            convert(tensors, "diffusers")
        return
    found = load_adapter(convert(tensors, "diffusers"), model)[LAYER]
    scale = ends["alpha"] / 2
    expected = scale * ends["lora_up.weight"] @ ends["lora_down.weight"]
    torch.testing.assert_close(found.weight(), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(found.bias, ends["diff_b"])


def test_alphas_of_each_layer_in_a_header(convert, model):
    """What PEFT says by pattern becomes an alpha for each layer, and is said once."""
    shapes = {LAYER: (32, 32), OTHER: (32, 128)}
    tensors = {}
    for layer, (rows, columns) in shapes.items():
        tensors |= {f"transformer.{layer}.lora_A.weight": draw(4, columns)}
        tensors |= {f"transformer.{layer}.lora_B.weight": draw(rows, 4)}
    config = {"r": 4, "lora_alpha": 8, "alpha_pattern": {OTHER: 1}, "use_rslora": True}
    said = {f"transformer.{key}": value for key, value in config.items()}
    before = {"lora_adapter_metadata": json.dumps(said), "author": "someone", "format": "pt"}
    expected = load_adapter(convert(tensors, "diffusers", before).with_name("old.safetensors"), model)
    assert {layer: delta.scale for layer, delta in expected.items()} == {LAYER: 4.0, OTHER: 0.5}
    for dialect in DIALECTS:
        new = convert(tensors, dialect, before)
        found = load_adapter(new, model)
        for layer in shapes:
            torch.testing.assert_close(found[layer].weight(), expected[layer].weight(), rtol=1e-6, atol=1e-6)
        assert metadata(new) == {"author": "someone", "format": "pt", "danqing.source": "old.safetensors"}


def test_a_scale_without_a_rank(convert, model):
    """PEFT scales whole Kronecker factors, for which others have no alpha."""
    tensors = {
        f"base_model.model.{LAYER}.lokr_w1": draw(8, 4),
        f"base_model.model.{LAYER}.lokr_w2": draw(4, 8),
    }
    config = {"transformer.peft_type": "LOKR", "transformer.r": 4, "transformer.alpha": 2}
    new = convert(tensors, "comfyui", {"lora_adapter_metadata": json.dumps(config)})
    expected = 0.5 * torch.kron(*tensors.values())
    torch.testing.assert_close(load_adapter(new, model)[LAYER].weight(), expected)


GATE, PROJ, BOTH = (f"transformer_blocks.0.img_mlp.{name}" for name in ("gate_layer", "proj", "gate_up"))


@pytest.fixture(scope="module")
def single():
    return randomized(SingleStream(TRANSFORMER_21), 1)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_fused_layer_is_taken_apart_where_it_is_two(convert, single, tiny21_folder, dialect):
    gate, start = single.get_submodule(GATE), f"diffusion_model.{BOTH}"
    tensors = {f"{start}.lora_down.weight": draw(2, gate.in_features), f"{start}.alpha": torch.tensor(1.0)}
    tensors[f"{start}.lora_up.weight"] = draw(2 * gate.out_features, 2)
    new = convert(tensors, dialect, like=Folder(tiny21_folder))
    found, expected = load_adapter(new, single), load_adapter(new.with_name("old.safetensors"), single)
    assert list(found) == [GATE, PROJ]
    for layer, delta in found.items():
        torch.testing.assert_close(delta.weight(), expected[layer].weight())
    if dialect == "comfyui":
        stored = load_file(new)
        assert all(torch.equal(stored[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("alphas", [(2.0, 3.0), (2.0, 0.5)], ids=["one scale", "two scales"])
@pytest.mark.parametrize("layers", [(GATE,), (PROJ,), (GATE, PROJ)], ids=["gate", "proj", "both"])
def test_two_layers_become_the_one_that_comfyui_has(convert, single, tiny21_folder, layers, alphas):
    tensors = {}
    for layer, rank, alpha in zip(layers, (2, 3), alphas, strict=False):
        module = single.get_submodule(layer)
        tensors[f"transformer.{layer}.lora_A.weight"] = draw(rank, module.in_features)
        tensors[f"transformer.{layer}.lora_B.weight"] = draw(module.out_features, rank)
        tensors[f"transformer.{layer}.alpha"] = torch.tensor(alpha)
    new = convert(tensors, "comfyui", like=Folder(tiny21_folder))
    ends = ("lora_down.weight", "lora_up.weight", "alpha")
    assert load_file(new).keys() == {f"diffusion_model.{BOTH}.{end}" for end in ends}
    found, expected = load_adapter(new, single), load_adapter(new.with_name("old.safetensors"), single)
    for layer in (GATE, PROJ):
        wanted = expected[layer].weight() if layer in layers else torch.zeros(found[layer].shape)
        torch.testing.assert_close(found[layer].weight(), wanted)


def test_a_lokr_of_half_a_layer_of_comfyui(convert, single, tiny21_folder):
    module = single.get_submodule(GATE)
    tensors = {
        f"{GATE}.lokr_w1": draw(2, 2),
        f"{GATE}.lokr_w2": draw(module.out_features // 2, module.in_features // 2),
    }
    assert convert(tensors, "kohya", like=Folder(tiny21_folder)).exists()
    with pytest.raises(
        RequestError, match="gate_up: expected LoRAs without bias, found others; ComfyUI has two"
    ):
        convert(tensors, "comfyui", like=Folder(tiny21_folder))


def test_a_distilled_adapter_goes_on_saying_its_steps(convert):
    tensors = {f"{LAYER}.lora_down.weight": DOWN, f"{LAYER}.lora_up.weight": UP}
    new = convert(tensors, "diffusers", name="Lightning-8steps-V1.0.safetensors")
    assert lightning_steps(new) == 8


def test_precision(convert):
    tensors = {
        f"{LAYER}.lora_down.weight": DOWN,
        f"{LAYER}.lora_up.weight": UP,
        f"{LAYER}.alpha": torch.tensor(0.3),
    }
    stored = load_file(convert(tensors, "kohya", precision="fp16"))
    assert torch.equal(stored[f"lora_unet_{FLAT}.lora_up.weight"], UP.half())
    assert stored[f"lora_unet_{FLAT}.alpha"] == torch.tensor(0.3)


def test_an_adapter_of_a_release_needs_no_folder(tmp_path):
    """Names alone do not tell 1.x from 2.1 here; sizes do."""
    for width, name in ((3072, "1x"), (4096, "21")):
        layer = "transformer_blocks.3.attn.to_q"
        save_file(
            {f"{layer}.lora_A.weight": draw(2, width), f"{layer}.lora_B.weight": draw(width, 2)},
            tmp_path / name,
        )
        (tmp_path / name).rename(tmp_path / f"{name}.safetensors")
        plan = plan_adapter(tmp_path / f"{name}.safetensors", tmp_path / f"{name}-new.safetensors", "kohya")
        carry_out(plan)
        assert load_file(plan.target).keys() == {
            f"lora_unet_transformer_blocks_3_attn_to_q.{end}" for end in (*ENDS.values(), "alpha")
        }
    save_file({f"{LAYER}.lora_A.weight": DOWN, f"{LAYER}.lora_B.weight": UP}, tmp_path / "small.safetensors")
    with pytest.raises(
        CheckpointError, match=r"expected down of .*; name a checkpoint it was made for with --like"
    ):
        plan_adapter(tmp_path / "small.safetensors", tmp_path / "x.safetensors", "kohya")
    assert MMDiTConfig().dim == 3072


def test_nothing_is_left_out_in_silence(convert, tiny_folder, tmp_path):
    tensors = {
        f"{LAYER}.lora_A.weight": DOWN,
        f"{LAYER}.lora_B.weight": UP,
        "lora_te_x.lora_down.weight": DOWN.clone(),
    }
    save_file(tensors, tmp_path / "both.safetensors")
    plan = plan_adapter(tmp_path / "both.safetensors", tmp_path / "x", "kohya", like=Folder(tiny_folder))
    assert plan.notes == ("1 tensors for the text encoder are left out, which nobody uses with Qwen-Image",)
    with pytest.raises(CheckpointError, match="found 1 tensors that fit none"):
        convert({f"{LAYER}.lora_A.weight": DOWN, "other.layer.lora_A.weight": DOWN}, "kohya")
    with pytest.raises(CheckpointError, match=r"lora_B.weight: expected finite numbers"):
        convert({f"{LAYER}.lora_A.weight": DOWN, f"{LAYER}.lora_B.weight": UP / 0}, "kohya")
