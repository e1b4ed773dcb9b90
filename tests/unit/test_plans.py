"""Drawing by a memory plan: the same pictures, and parts in memory in their own stage alone."""

import dataclasses
import json
import logging

import numpy as np
import pytest
import torch

import danqing
from danqing.conditioning.given import open_mask, open_picture, open_transparent
from danqing.errors import RequestError
from danqing.model import Model, load_describer
from danqing.models.lora import LowRank
from danqing.pipelines.adapting import AdapterFiles, with_adapters
from danqing.pipelines.components import load_components
from danqing.pipelines.describe import DescribeRequest, describe
from danqing.pipelines.describe import load_describer as load_by_plan
from danqing.pipelines.edit import EditRequest, edit
from danqing.pipelines.generate import GenerateRequest, generate
from danqing.weights.adapters import save_adapter
from danqing.weights.layouts import Folder
from danqing.weights.plan import MemoryPlan, Placement
from tests.editor import half, noisy, write_editor
from tests.layering import write_layered
from tests.tiny21 import ORDER, WISH

CPU = torch.device("cpu")
NOTHING = Placement(blocks=0, kept=False)
PLANS = {
    "nothing stays": MemoryPlan(
        budget=0, transformer=NOTHING, text_encoder=NOTHING, vae=Placement(kept=False), modulation_kept=False
    ),
    "some stays": MemoryPlan(
        budget=0, transformer=Placement(blocks=1), text_encoder=Placement(kept=False), vae=Placement()
    ),
}
CLEAR = open_transparent(noisy(60, 44, "RGBA"), name="clear.png")


def planned(folder, plan, **options):
    return Model(load_components(Folder(folder), device=CPU, dtype=torch.float32, plan=plan, **options))


def pictures(run):
    return [np.asarray(one.image) for progress in run for one in progress.drawn]


def same(found, expected):
    return len(found) == len(expected) and all(
        np.array_equal(a, b) for a, b in zip(found, expected, strict=True)
    )


def in_memory(model):
    """Return the parts of which any large tensor is in memory now."""
    parts = {"transformer": model.components.transformer, "vae": model.components.vae}
    parts["text_encoder"] = model.components.vlm
    return {
        name
        for name, part in parts.items()
        if any(not tensor.is_meta and tensor.dim() > 1 for tensor in part.parameters())
    }


@pytest.fixture(scope="module", params=PLANS)
def plan(request):
    return PLANS[request.param]


@pytest.fixture(scope="module", params=["1.x", "2.1"])
def both(request, plan, tiny_folder, tiny21_folder, tmp_path_factory):
    """A checkpoint that edits, held by a plan, and the same one in memory."""
    folder = tiny21_folder
    if request.param == "1.x":
        folder = write_editor(tiny_folder, tmp_path_factory.mktemp("planned") / "editor")
    return planned(folder, plan), danqing.load(folder, device="cpu", precision="fp32")


def test_pictures_are_those_of_a_checkpoint_in_memory(both):
    requests = [
        GenerateRequest(prompt="a red apple", seed=1, count=2),
        GenerateRequest(prompt="a blue table", seed=5, guidance=2.0),
        GenerateRequest(prompt="a red apple", image=CLEAR, mask=open_mask(half(60, 44)), seed=2),
    ]
    found, expected = (pictures(generate(model.components, requests)) for model in both)
    assert len(found) == 4
    assert same(found, expected)


def test_edits_are_those_of_a_checkpoint_in_memory(both):
    requests = [
        EditRequest(pictures=(CLEAR,), prompt="make it green", seed=1),
        EditRequest(pictures=(CLEAR, CLEAR), prompt="more", strength=0.7, seed=2),
    ]
    found, expected = (pictures(edit(model.components, requests)) for model in both)
    assert same(found, expected)


def test_each_part_is_in_memory_in_its_stage_alone(tiny_folder):
    model = planned(tiny_folder, PLANS["nothing stays"])
    assert in_memory(model) == set()
    seen = []
    requests = [GenerateRequest(prompt="an apple", seed=seed) for seed in (1, 2)]
    for progress in generate(model.components, requests):
        seen.append(in_memory(model))
        progress.preview()
    assert seen == 2 * [{"transformer"}, {"transformer"}, set()]
    assert in_memory(model) == set()


def test_an_abandoned_picture_leaves_nothing_in_memory(tiny_folder):
    model = planned(tiny_folder, PLANS["nothing stays"])
    run = generate(model.components, [GenerateRequest(prompt="an apple", seed=1)])
    next(run)
    assert in_memory(model) == {"transformer"}
    run.close()
    assert in_memory(model) == set()


def test_all_prompts_are_read_before_a_part_that_does_not_stay_is_dropped(tiny_folder, monkeypatch):
    model = planned(tiny_folder, PLANS["nothing stays"])
    conditioner = model.components.residencies["text_encoder"]
    loads = []
    true_load = type(conditioner)._load
    monkeypatch.setattr(
        type(conditioner), "_load", lambda self, unit: (loads.append(self), true_load(self, unit))[1]
    )
    list(generate(model.components, [GenerateRequest(prompt=f"apple {n}", seed=n) for n in range(3)]))
    assert loads.count(conditioner) == 1
    assert loads.count(model.components.residencies["transformer"]) == 3


def test_tiles_are_those_of_the_plan(tiny_folder, tiny):
    tiled = planned(tiny_folder, dataclasses.replace(PLANS["nothing stays"], vae_tile=3))
    found, expected = (np.asarray(model.generate("an apple", seed=1)).astype(int) for model in (tiled, tiny))
    assert np.abs(found - expected).max() <= 1


def test_layers_and_their_caption_by_a_plan(plan, tiny_folder, tmp_path):
    folder = write_layered(tiny_folder, tmp_path / "layered")
    found, expected = (
        [np.asarray(layer) for layer in model.layers(noisy(60, 44), seed=1, count=2, steps=2)]
        for model in (planned(folder, plan), danqing.load(folder, device="cpu", precision="fp32"))
    )
    assert same(found, expected)


def test_descriptions_by_a_plan(plan, tiny_folder, tmp_path):
    folder = write_layered(tiny_folder, tmp_path / "seeing")
    own = folder / "danqing.json"
    own.write_text(json.dumps({**json.loads(own.read_text()), "tasks": ["describe"]}))
    request = DescribeRequest(pictures=(open_picture(noisy(40, 60)),), max_tokens=8)
    whole = load_describer(folder, device="cpu", precision="fp32")
    by_plan = load_by_plan(Folder(folder), device=CPU, dtype=torch.float32, plan=plan)
    assert "".join(describe(by_plan, request)) == "".join(describe(whole, request))
    assert planned(folder, plan).describe([noisy(40, 60)], max_tokens=8) == "".join(describe(whole, request))


def test_rewrites_by_a_plan(plan, tiny21, tiny21_folder, caplog):
    model = planned(tiny21_folder, plan)
    with caplog.at_level(logging.ERROR):
        for asked in ({"prompt": WISH}, {"instruction": ORDER, "pictures": noisy(60, 44)}):
            run = model.edit if "instruction" in asked else model.generate
            expected = tiny21.edit if "instruction" in asked else tiny21.generate
            options = {**asked, "seed": 3, "enhance": True}
            assert np.array_equal(run(**options), expected(**options))


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_smaller_numbers_streamed_are_those_that_stay(kind, tiny_folder, tiny):
    small = Placement(format=kind)
    stays = planned(tiny_folder, MemoryPlan(budget=0, transformer=small, text_encoder=small))
    streamed = dataclasses.replace(small, blocks=0, kept=False)
    comes = planned(
        tiny_folder,
        MemoryPlan(budget=0, transformer=streamed, text_encoder=streamed, modulation_kept=False),
    )
    drawn = [np.asarray(model.generate("an apple", seed=1)) for model in (stays, comes, tiny)]
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    kept = {tensor.dtype for tensor in comes.components.transformer.transformer_blocks.parameters()}
    assert (torch.int8 if kind == "int8" else torch.uint8) in kept


def test_adapters_by_a_plan(plan, tiny_folder, tiny, tmp_path):
    generator = torch.Generator().manual_seed(0)
    down, up = torch.randn(2, 32, generator=generator), torch.randn(32, 2, generator=generator)
    file = tmp_path / "style.safetensors"
    save_adapter(file, {"transformer_blocks.1.attn.to_q": LowRank(down, up)})
    model = planned(tiny_folder, plan)
    adapted = Model(with_adapters(model.components, AdapterFiles(loras=((file, 1.0),))))
    expected = danqing.load(tiny_folder, loras=[file], device="cpu", precision="fp32")
    drawn = [np.asarray(one.generate("an apple", seed=1)) for one in (adapted, expected, tiny)]
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    with pytest.raises(RequestError, match="attach the adapters instead"):
        with_adapters(model.components, AdapterFiles(loras=((file, 1.0),), merged=True))
