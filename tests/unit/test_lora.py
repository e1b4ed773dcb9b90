"""Adapters beside linear layers: what they add, and that they leave no trace."""

import copy

import pytest
import torch

from danqing.errors import ConfigError, RequestError
from danqing.models.lora import (
    Adapted,
    Difference,
    Hadamard,
    Kronecker,
    LoRAConfig,
    LowRank,
    adapter_state_dict,
    attach,
    attach_new,
    attached,
    detach,
    linears,
    load_adapter_state_dict,
    merge,
    new_adapter,
    set_strength,
    strengths,
)
from danqing.models.mmdit import MMDiT
from danqing.models.rope import GridShape
from tests.tiny import TRANSFORMER, randomized

LAYER, MODULATION = "transformer_blocks.0.attn.to_q", "transformer_blocks.1.img_mod.1"
GENERATOR = torch.Generator().manual_seed(3)


def draw(*shape):
    return torch.randn(shape, generator=GENERATOR)


def deltas(dim_in, dim_out):
    """One of each kind for a layer of this size, both divisible by 4."""
    return {
        "low rank": LowRank(draw(3, dim_in), draw(dim_out, 3), scale=0.5, bias=draw(dim_out)),
        "kronecker": Kronecker(draw(4, 2), draw(dim_out // 4, dim_in // 2), scale=0.5),
        "hadamard": Hadamard(
            (draw(dim_out, 2), draw(dim_out, 2)), (draw(2, dim_in), draw(2, dim_in)), scale=2.0
        ),
        "difference": Difference(draw(dim_out, dim_in), bias=draw(dim_out)),
    }


@pytest.fixture
def model():
    return randomized(MMDiT(TRANSFORMER), 1)


@torch.no_grad()
def velocity(model):
    img, txt = torch.ones(1, 4, 64), torch.ones(1, 3, 32)
    table = model.modulation_table(torch.tensor([0.7]))
    return model(img, txt, table, shapes=[GridShape(1, 2, 2)])


@pytest.mark.parametrize("kind", deltas(4, 4))
def test_the_branch_is_the_weight_it_stands_for(kind):
    delta = deltas(12, 20)[kind]
    x = draw(2, 5, 12)
    bias = 0 if delta.bias is None else delta.bias
    assert delta.shape == tuple(delta.weight().shape) == (20, 12)
    torch.testing.assert_close(delta(x), x @ delta.weight().T + bias, rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", deltas(4, 4))
def test_merging_is_attaching(model, kind):
    adapter = {LAYER: deltas(32, 32)[kind], MODULATION: deltas(32, 192)[kind]}
    other = {LAYER: deltas(32, 32)["low rank"]}
    merged = copy.deepcopy(model)
    merge(merged, [(adapter, 0.1), (other, -0.2)])
    plain = velocity(model)
    attach(model, adapter, name="a", strength=0.1)
    attach(model, other, name="b", strength=-0.2)
    torch.testing.assert_close(velocity(model), velocity(merged), rtol=0, atol=1e-5)
    assert (velocity(model) - plain).abs().max() > 0.01


def test_adapters_reach_the_modulation_table(model):
    before = model.modulation_table(torch.tensor([0.7, 0.2]))
    attach(model, {MODULATION: deltas(32, 192)["low rank"]}, name="a", strength=0.5)
    after = model.modulation_table(torch.tensor([0.7, 0.2]))
    changed = (after.img - before.img).abs().amax(dim=(0, 2, 3))
    assert changed[0] == 0
    assert changed[1] > 0.1


def test_detaching_leaves_no_trace(model):
    names, modules = list(model.state_dict()), dict(model.named_modules())
    plain = velocity(model)
    attach(model, {LAYER: deltas(32, 32)["kronecker"], MODULATION: deltas(32, 192)["hadamard"]}, name="a")
    attach(model, {LAYER: deltas(32, 32)["low rank"]}, name="b")
    both = velocity(model)
    assert set(names) < set(model.state_dict())  # the checkpoint's names stay
    detach(model, "a")
    assert strengths(model) == {"b": 1.0}
    attach(model, {LAYER: deltas(32, 32)["difference"]}, name="c", strength=0.0)
    assert not torch.equal(velocity(model), both)
    detach(model, "b")
    assert torch.equal(velocity(model), plain)
    detach(model, "c")
    assert list(model.state_dict()) == names
    assert dict(model.named_modules()) == modules
    assert torch.equal(velocity(model), plain)


def test_strengths_switch(model):
    plain = velocity(model)
    attach(model, {LAYER: deltas(32, 32)["low rank"]}, name="a", strength=0.5)
    half = velocity(model)
    set_strength(model, "a", 0.0)
    assert torch.equal(velocity(model), plain)
    set_strength(model, "a", 0.5)
    assert torch.equal(velocity(model), half)


def test_adapted_layers_move_and_cast_with_their_model(model):
    attach(model, {LAYER: deltas(32, 32)["low rank"]}, name="a")
    model.to(torch.bfloat16)
    layer = model.get_submodule(LAYER)
    assert layer.base.weight is layer.weight
    assert layer(torch.ones(1, 32, dtype=torch.bfloat16)).dtype == torch.bfloat16
    model.load_state_dict({f"{LAYER}.weight": torch.zeros(32, 32)}, strict=False)
    assert not layer.base.weight.any()


def test_a_new_lora_changes_nothing_and_trains_alone(model):
    plain = velocity(model)
    config = LoRAConfig(rank=4, alpha=8.0, targets=("attn.to_q", "img_mod.1"))
    names = attach_new(model, config, torch.Generator().manual_seed(0))
    assert names == [name for name in linears(model) if name.endswith(("attn.to_q", "img_mod.1"))]
    assert torch.equal(velocity(model), plain)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * len(names)
    assert all(".deltas.0." in name for name in trained)
    modulation = model.modulate(torch.tensor([0.7]))
    img, txt = torch.ones(1, 4, 64), torch.ones(1, 3, 32)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(img, txt, modulation, shapes=[GridShape(1, 2, 2)]).square().mean().backward()
    optimizer.step()
    assert not torch.equal(velocity(model), plain)
    assert attached(model, "default")[LAYER].scale == 2.0


def test_training_goes_on_from_a_state(model):
    other = copy.deepcopy(model)
    for one, seed in ((model, 0), (other, 1)):
        attach_new(one, LoRAConfig(rank=2), torch.Generator().manual_seed(seed))
    state = adapter_state_dict(model)
    assert set(state) == {f"{n}.{half}" for n in attached(model, "default") for half in ("down", "up")}
    for tensor in state.values():
        tensor.normal_(generator=GENERATOR)
    load_adapter_state_dict(other, state)
    assert torch.equal(velocity(model), velocity(other))
    state.pop(f"{LAYER}.up")
    with pytest.raises(ConfigError, match=r"found 1 others or missing \(transformer_blocks.0.attn.to_q.up\)"):
        load_adapter_state_dict(other, state)


def test_the_same_seed_gives_the_same_lora(model):
    config = LoRAConfig(rank=8, rank_stabilised=True)
    first, again = (new_adapter(model, config, torch.Generator().manual_seed(4)) for _ in range(2))
    assert all(torch.equal(first[name].down, again[name].down) for name in first)
    assert first[LAYER].down.abs().max() <= 32**-0.5
    assert first[LAYER].scale == pytest.approx(8**0.5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda m: LoRAConfig(rank=0), "LoRA: expected a rank of at least 1, found 0"),
        (lambda m: LoRAConfig(targets=()), "LoRA: expected names of layers"),
        (
            lambda m: new_adapter(m, LoRAConfig(targets=("to_q", "to_quark")), GENERATOR),
            "LoRA: expected targets among the layers of the model, found to_quark; its layers end like",
        ),
        (lambda m: attach(m, {LAYER: Difference(draw(3, 32))}, name="b"), r"of \[32, 32\], found \[3, 32\]"),
        (lambda m: attach(m, {"nowhere": Difference(draw(3, 32))}, name="b"), "nowhere: expected a linear"),
        (lambda m: attach(m, {}, name="a"), "adapter a: expected a name of its own, found it attached"),
        (lambda m: detach(m, "b"), "adapter b: expected one that is attached, found none; known: a"),
        (lambda m: set_strength(m, "b", 1.0), "adapter b: expected one that is attached"),
    ],
)
def test_mistakes_are_one_line(model, wrong, message):
    attach(model, {LAYER: deltas(32, 32)["low rank"]}, name="a")
    with pytest.raises((ConfigError, RequestError), match=message) as caught:
        wrong(model)
    assert "\n" not in str(caught.value)
    assert isinstance(model.get_submodule(LAYER), Adapted)


def test_a_bias_needs_a_bias_to_merge_into():
    model = torch.nn.Sequential(torch.nn.Linear(4, 4, bias=False))
    adapter = {"0": deltas(4, 4)["low rank"]}
    attach(model, adapter, name="a")
    detach(model, "a")
    with pytest.raises(ConfigError, match="0: expected a layer with a bias to merge into; attach instead"):
        merge(model, [(adapter, 1.0)])
