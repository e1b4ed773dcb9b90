"""Adapted pictures: the reference's pipeline and ours over one checkpoint and one adapter file, fp32."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import danqing
from danqing.models.lora import (
    LoRAConfig,
    LowRank,
    attach,
    detach,
    linears,
    merge,
    new_adapter,
    set_strength,
    strengths,
)
from danqing.weights.adapters import adapt, load_adapter, save_adapter
from tests.parity.test_generate import LONG, SHORT, assert_same, draw, draw_reference, open_both
from tests.tiny import with_batch

diffusers = pytest.importorskip("diffusers")
peft = pytest.importorskip("peft")

pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute")

DIALECTS = ["diffusers", "diffusion_model", "comfy_lightning", "kohya", "peft_default"]
SAME = {"size": (64, 48), "seeds": [7]}


@pytest.fixture(scope="module")
def loras(peers):
    return peers.checkpoint("loras")


@pytest.fixture(scope="module")
def pair(peers):
    return open_both(peers.checkpoint("qwen-image"))


@pytest.fixture
def both(pair):
    """Both sides, without adapters before and after."""
    yield pair
    pair[0].unload_lora_weights()
    for name in strengths(pair[1].components.transformer):
        detach(pair[1].components.transformer, name)


def drawn(model, files, prompts=(SHORT,), **same):
    """Draw with adapters attached, and take them off again."""
    network = model.components.transformer
    names = adapt(network, files)
    pictures = draw(model, list(prompts), **same)
    for name in names:
        detach(network, name)
    return pictures


def random_adapter(model, seed, rank, targets, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    config = LoRAConfig(rank=rank, alpha=scale * rank, targets=targets)
    adapter = new_adapter(model, config, generator)
    for delta in adapter.values():
        delta.up.data.normal_(generator=generator).div_(math.sqrt(rank))
    return adapter


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_dialect_gives_the_reference_picture(both, loras, dialect):
    pipeline, model = both
    plain = draw(model, [SHORT], **SAME)
    pipeline.load_lora_weights(loras, weight_name=f"{dialect}.safetensors")
    expected = draw_reference(pipeline, [SHORT], **SAME)
    found = drawn(model, [(loras / f"{dialect}.safetensors", 1.0)], **SAME)
    assert_same(found, expected)
    assert difference(found, plain) > 20
    assert difference(draw(model, [SHORT], **SAME), plain) == 0


def difference(ours, others):
    a, b = np.asarray(ours[0]).astype(int), np.asarray(others[0]).astype(int)
    return np.abs(a - b).max()


def test_two_adapters_of_different_strength_and_prompts(both, loras, tmp_path):
    pipeline, model = both
    network = model.components.transformer
    second = random_adapter(network, 3, 2, ("attn.add_v_proj", "txt_mlp.net.0.proj", "txt_mod.1", "img_in"))
    save_adapter(tmp_path / "second.safetensors", second)
    files = [(loras / "kohya.safetensors", 0.6), (tmp_path / "second.safetensors", -1.3)]
    for (path, _), name in zip(files, "ab", strict=True):
        pipeline.load_lora_weights(path.parent, weight_name=path.name, adapter_name=name)
    pipeline.set_adapters(["a", "b"], [0.6, -1.3])
    same = {"size": (64, 48), "seeds": [3, 5]}
    expected = draw_reference(pipeline, [SHORT, LONG], **same)
    for batch_size in (1, 2):
        assert_same(drawn(with_batch(model, batch_size), files, [SHORT, LONG], **same), expected)


def test_strengths_change_without_loading_again(both, loras):
    pipeline, model = both
    network = model.components.transformer
    pipeline.load_lora_weights(loras, weight_name="diffusers.safetensors", adapter_name="a")
    (name,) = adapt(network, [(loras / "diffusers.safetensors", 1.0)])
    for strength in (0.5, 0.0, 1.5):
        set_strength(network, name, strength)
        pipeline.set_adapters(["a"], [strength])
        assert_same(draw(model, [SHORT], **SAME), draw_reference(pipeline, [SHORT], **SAME))


@pytest.mark.parametrize("rank_stabilised", [False, True])
def test_ranks_and_alphas_of_each_layer_in_a_header(both, tmp_path, rank_stabilised):
    pipeline, model = both
    network = model.components.transformer
    small = random_adapter(network, 1, 2, ("attn.to_q", "img_mod.1"))
    large = random_adapter(network, 2, 5, ("transformer_blocks.0.attn.to_k",))
    tensors = {}
    for layer, delta in {**small, **large}.items():
        tensors[f"transformer.{layer}.lora_A.weight"] = delta.down.detach()
        tensors[f"transformer.{layer}.lora_B.weight"] = delta.up.detach()
    config = peft.LoraConfig(
        r=2,
        lora_alpha=3,
        rank_pattern={"^transformer_blocks.0.attn.to_k": 5},
        alpha_pattern={"attn.to_q": 1, "transformer_blocks.0.attn.to_k": 4.0},
        target_modules=sorted({**small, **large}),
        use_rslora=rank_stabilised,
    ).to_dict()
    told = {f"transformer.{key}": list(v) if isinstance(v, set) else v for key, v in config.items()}
    header = {"format": "pt", "lora_adapter_metadata": json.dumps(told, default=str)}
    save_file(tensors, tmp_path / "lora.safetensors", header)
    pipeline.load_lora_weights(tmp_path, weight_name="lora.safetensors")
    expected = draw_reference(pipeline, [SHORT], **SAME)
    assert_same(drawn(model, [(tmp_path / "lora.safetensors", 1.0)], **SAME), expected)


@pytest.mark.parametrize("dialect", ["diffusers", "comfyui", "kohya"])
def test_the_reference_draws_with_what_we_write(both, tmp_path, dialect):
    pipeline, model = both
    network = model.components.transformer
    adapter = random_adapter(network, 4, 3, tuple(linears(network)), scale=0.7)
    save_adapter(tmp_path / "ours.safetensors", adapter, dialect)
    pipeline.load_lora_weights(tmp_path, weight_name="ours.safetensors")
    expected = draw_reference(pipeline, [SHORT], **SAME)
    attach(network, adapter, name="ours")
    assert_same(draw(model, [SHORT], **SAME), expected)
    detach(network, "ours")
    assert_same(drawn(model, [(tmp_path / "ours.safetensors", 1.0)], **SAME), expected)


def test_a_biased_lora(both, tmp_path):
    pipeline, model = both
    network = model.components.transformer
    adapter = random_adapter(network, 6, 2, ("attn.to_out.0", "txt_mod.1"), scale=2.0)
    biased = {
        layer: LowRank(one.down.detach(), one.up.detach(), scale=2.0, bias=torch.randn(len(one.up)))
        for layer, one in adapter.items()
    }
    save_adapter(tmp_path / "biased.safetensors", biased)
    pipeline.load_lora_weights(tmp_path, weight_name="biased.safetensors", adapter_name="a")
    pipeline.set_adapters(["a"], [0.5])
    expected = draw_reference(pipeline, [SHORT], **SAME)
    assert_same(drawn(model, [(tmp_path / "biased.safetensors", 0.5)], **SAME), expected)
    plain = drawn(model, [], **SAME)
    assert difference(plain, expected) > 20


def test_merging_is_attaching(peers, loras, tmp_path):
    """diffusers' fuse_lora, and ours; tokens within 1e-5."""
    pipeline, model = open_both(peers.checkpoint("qwen-image"))
    network = model.components.transformer
    second = random_adapter(network, 5, 2, ("attn.to_q", "txt_mlp.net.2", "proj_out"), scale=0.5)
    save_adapter(tmp_path / "second.safetensors", second)
    files = [(loras / "kohya.safetensors", 0.6), (tmp_path / "second.safetensors", -0.8)]
    attached = drawn(model, files, **SAME)
    for (path, _), name in zip(files, "ab", strict=True):
        pipeline.load_lora_weights(path.parent, weight_name=path.name, adapter_name=name)
    pipeline.set_adapters(["a", "b"], [0.6, -0.8])
    pipeline.fuse_lora(adapter_names=["a", "b"])
    pipeline.unload_lora_weights()
    merge(network, [(load_adapter(path, network), strength) for path, strength in files])
    reference = dict(pipeline.transformer.named_parameters())
    for name, ours in network.named_parameters():
        torch.testing.assert_close(ours, reference[name], rtol=0, atol=1e-5)
    merged = draw(model, [SHORT], **SAME)
    assert_same(merged, draw_reference(pipeline, [SHORT], **SAME))
    assert difference(merged, attached) <= 1


@pytest.mark.parametrize("merge_loras", [False, True])
@pytest.mark.parametrize("steps", [4, 8])
def test_lightning(peers, tmp_path, steps, merge_loras):
    """As its model card has it: the adapter, a scheduler of its own, and no guidance."""
    folder = peers.checkpoint("qwen-image")
    path = tmp_path / f"Qwen-Image-Lightning-{steps}steps-V1.0-bf16.safetensors"
    model = danqing.load(folder, device="cpu", precision="fp32")
    network = model.components.transformer
    adapter = random_adapter(network, 12, 4, ("attn.to_q", "img_mlp.net.2", "img_mod.1"), scale=8 / 64)
    tensors = {}
    for layer, delta in adapter.items():  # its names: no prefix, and an alpha for each layer
        tensors[f"{layer}.lora_down.weight"] = delta.down.detach()
        tensors[f"{layer}.lora_up.weight"] = 8 * delta.up.detach()
        tensors[f"{layer}.alpha"] = torch.tensor(0.5)
    save_file(tensors, path)
    model = danqing.load(folder, lightning=path, merge_loras=merge_loras, device="cpu", precision="fp32")
    assert (model.info.steps, model.info.guidance) == (steps, 1.0)
    small = danqing.Model(
        dataclasses.replace(model.components, info=dataclasses.replace(model.info, min_side=32))
    )
    pipeline, _ = open_both(folder)
    pipeline.scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_config(
        {
            "base_image_seq_len": 256,
            "base_shift": math.log(3),
            "max_image_seq_len": 8192,
            "max_shift": math.log(3),
            "num_train_timesteps": 1000,
            "shift": 1.0,
            "shift_terminal": None,
            "time_shift_type": "exponential",
            "use_dynamic_shifting": True,
        }
    )
    pipeline.load_lora_weights(tmp_path, weight_name=path.name)
    ours = [small.generate(LONG, size=(96, 64), seed=7)]
    assert_same(ours, draw_reference(pipeline, [LONG], size=(96, 64), seeds=[7], steps=steps, guidance=1.0))
