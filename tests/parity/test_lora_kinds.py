"""Adapters layer by layer: PEFT's folders, LyCORIS's modules, and 2.1's names, fp32 within 1e-5."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from danqing.models.lora import detach, linears
from danqing.models.mmdit import MMDiT
from danqing.models.single_stream import SingleStream, SingleStreamConfig
from danqing.weights.adapters import adapt, load_adapter, save_adapter
from tests.parity import peer_parts as parts
from tests.parity.test_lora import random_adapter
from tests.parity.test_single_stream import DOCUMENTS, inputs, run_ours, run_reference
from tests.tiny import TRANSFORMER, randomized

diffusers = pytest.importorskip("diffusers")
peft = pytest.importorskip("peft")

LAYER = "transformer_blocks.0.attn.to_q"


def network():
    return randomized(MMDiT(TRANSFORMER), 1)


@pytest.fixture(scope="module")
def pair21():
    reference = parts.randomize(diffusers.QwenImage21Transformer2DModel(**parts.DIT21), 34)
    ours = SingleStream(SingleStreamConfig(**parts.DIT21)).eval()
    ours.load_state_dict(reference.state_dict())
    return reference, ours


@pytest.mark.parametrize("name", ["text", "two"])
def test_every_layer_of_21(pair21, tmp_path, name):
    reference, ours = pair21
    document, given = DOCUMENTS[name], inputs(DOCUMENTS[name])
    adapter = random_adapter(ours, 8, 3, tuple(linears(ours)), scale=0.5)
    save_adapter(tmp_path / "lora.safetensors", adapter)
    reference.load_lora_adapter(tmp_path, weight_name="lora.safetensors", adapter_name="a")
    expected = run_reference(reference, document, given)
    reference.delete_adapters("a")
    for dialect in ("diffusers", "comfyui", "kohya"):
        path = tmp_path / f"{dialect}.safetensors"
        save_adapter(path, adapter, dialect)
        (told,) = adapt(ours, [(path, 1.0)])
        torch.testing.assert_close(run_ours(ours, document, given), expected, rtol=0, atol=1e-5)
        detach(ours, told)
    assert (expected - run_ours(ours, document, given)).abs().max() > 0.1


def peft_layers(folder, make_config, save):
    """Train nothing, but give PEFT's adapter random values; return its model and the folder it saves."""
    made = peft.get_peft_model(network(), make_config)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.normal_(generator=generator).mul_(0.3)
    save(made, folder)
    return made.base_model.model


PEFT_CONFIGS = {
    "lora": lambda: peft.LoraConfig(r=4, lora_alpha=6, target_modules=["to_q", "img_mod.1", "to_out.0"]),
    "rs-lora": lambda: peft.LoraConfig(r=4, lora_alpha=6, use_rslora=True, target_modules=["to_q"]),
    "patterns": lambda: peft.LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=["to_q", "to_k", "proj"],
        rank_pattern={"0.attn.to_k": 2},
        alpha_pattern={"to_k": 3},
    ),
    "lokr": lambda: peft.LoKrConfig(r=2, alpha=3, target_modules=["to_q", "net.2"], decompose_both=True),
    "lokr-whole": lambda: peft.LoKrConfig(r=64, alpha=3, target_modules=["to_q", "net.2"]),
    "loha": lambda: peft.LoHaConfig(r=3, alpha=2, target_modules=["to_q", "net.2", "linear_1"]),
}


@pytest.mark.parametrize("name", PEFT_CONFIGS)
def test_a_folder_that_peft_saved(name, tmp_path):
    theirs = peft_layers(tmp_path, PEFT_CONFIGS[name](), lambda made, folder: made.save_pretrained(folder))
    ours = network()
    adapter = load_adapter(tmp_path, ours)
    assert adapter
    adapt(ours, [(tmp_path, 1.0)])
    for layer in adapter:
        x = torch.randn(2, 5, ours.get_submodule(layer).in_features)
        expected = theirs.get_submodule(layer)(x)
        torch.testing.assert_close(ours.get_submodule(layer)(x), expected, rtol=0, atol=1e-5)
        assert (expected - ours.get_submodule(layer).base(x)).abs().max() > 0.05


LYCORIS = {
    "lokr": ("LokrModule", {"lora_dim": 2, "alpha": 5}),
    "lokr both halves": ("LokrModule", {"lora_dim": 1, "alpha": 3, "decompose_both": True, "factor": 4}),
    "lokr whole": ("LokrModule", {"lora_dim": 100_000, "alpha": 7}),
    "lokr full matrix": ("LokrModule", {"lora_dim": 4, "alpha": 3, "full_matrix": True, "factor": 8}),
    "lokr unbalanced": ("LokrModule", {"lora_dim": 2, "alpha": 5, "unbalanced_factorization": True}),
    "lokr rank-stabilised": ("LokrModule", {"lora_dim": 2, "alpha": 5, "rs_lora": True}),
    "loha": ("LohaModule", {"lora_dim": 3, "alpha": 2}),
    "locon": ("LoConModule", {"lora_dim": 3, "alpha": 2}),
    "full": ("FullModule", {"lora_dim": 3, "alpha": 2}),
}


@pytest.mark.parametrize("prefix", ["lycoris_", "lora_unet_", "diffusion_model."])
@pytest.mark.parametrize("name", LYCORIS)
def test_a_module_of_lycoris(name, prefix, tmp_path):
    """Its forward, which it trains with; its get_diff_weight multiplies by the scale twice."""
    modules = pytest.importorskip("lycoris.modules")
    kind, options = LYCORIS[name]
    ours = network()
    for layer in ("transformer_blocks.1.img_mlp.net.0.proj", LAYER):
        linear = ours.get_submodule(layer)
        own = nn.Linear(linear.in_features, linear.out_features)
        own.load_state_dict(linear.state_dict())
        theirs = getattr(modules, kind)(layer, own, **options)
        generator = torch.Generator().manual_seed(9)
        with torch.no_grad():
            for parameter in theirs.parameters():
                parameter.normal_(generator=generator).mul_(0.3)
        theirs.apply_to()
        spelt = layer if prefix.endswith(".") else layer.replace(".", "_")
        tensors = {f"{prefix}{spelt}.{key}": value.contiguous() for key, value in theirs.state_dict().items()}
        path = tmp_path / f"{spelt}.safetensors"
        save_file(tensors, path)
        (told,) = adapt(ours, [(path, 0.8)])
        theirs.multiplier = 0.8
        x = torch.randn(2, 5, linear.in_features)
        expected = theirs(x)
        torch.testing.assert_close(ours.get_submodule(layer)(x), expected, rtol=0, atol=2e-5)
        assert (expected - linear(x)).abs().max() > 0.05
        detach(ours, told)
