"""A large modulation table is made once: kept by schedule, files and adapters, checked when it is found."""

import dataclasses
import logging
import os

import pytest
import torch

import danqing
from danqing.models.lora import LowRank, attach, merge, set_strength
from danqing.models.mmdit import MMDiT
from danqing.pipelines import modulation
from danqing.pipelines.modulation import modulation_table
from danqing.weights.result_cache import ResultCache, cache_folder

SIGMAS = torch.tensor([1.0, 0.7, 0.2])
LAYER = "transformer_blocks.0.img_mod.1"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Return the folder of results; tables of any size are kept."""
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(modulation, "LARGE", 1)
    return tmp_path / "cache"


@pytest.fixture
def tables(monkeypatch):
    """Return a list that grows with each table that is made."""
    made = []
    make = MMDiT.modulation_table
    monkeypatch.setattr(MMDiT, "modulation_table", lambda *args: (made.append(1), make(*args))[1])
    return made


def load(folder, **options):
    return danqing.load(folder, device="cpu", precision="fp32", **options).components


def table(components, sigmas=SIGMAS, additional=None):
    return modulation_table(components, components.transformer, sigmas, additional)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def lora(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return LowRank(torch.randn(2, 32, generator=generator), torch.randn(192, 2, generator=generator))


def test_the_next_program_finds_the_very_table(cache, tables, tiny_folder):
    first = table(load(tiny_folder))
    assert same(table(load(tiny_folder)), first)
    assert len(tables) == 1
    assert same(load(tiny_folder).transformer.modulation_table(SIGMAS), first)


def test_a_found_table_needs_no_modulation_layers(cache, tiny_folder):
    first = table(load(tiny_folder))
    components = load(tiny_folder)
    for block in components.transformer.transformer_blocks:
        for layer in (block.img_mod[1], block.txt_mod[1]):
            layer.forward = None
    assert same(table(components), first)


def test_pictures_are_the_same(cache, tables, tiny_folder):
    drawn = [
        danqing.load(tiny_folder, device="cpu", precision="fp32").generate("x", seed=1).tobytes()
        for _ in range(2)
    ]
    assert drawn[0] == drawn[1] == _without(tiny_folder)
    assert len(tables) == 2  # the first, and the one of the model that keeps nothing


def _without(folder):
    model = danqing.load(folder, device="cpu", precision="fp32")
    return type(model)(dataclasses.replace(model.components, cache=None)).generate("x", seed=1).tobytes()


def test_another_schedule_has_another_table(cache, tables, tiny_folder):
    components = load(tiny_folder)
    table(components)
    assert not same(table(components, torch.tensor([1.0, 0.7, 0.1])), table(components))
    assert len(tables) == 2


def test_adapters_on_modulation_layers_are_part_of_it(cache, tables, tiny_folder):
    components = load(tiny_folder)
    plain = table(components)
    attach(components.transformer, {LAYER: lora()}, name="one")
    one = table(components)
    assert not same(one, plain)
    set_strength(components.transformer, "one", 0.5)
    half = table(components)
    assert not same(half, one)
    set_strength(components.transformer, "one", 0.0)
    assert same(table(components), plain)
    assert len(tables) == 3
    again = load(tiny_folder)
    attach(again.transformer, {LAYER: lora()}, name="the same by another name")
    assert same(table(again), one)
    assert len(tables) == 3
    other = load(tiny_folder)
    attach(other.transformer, {LAYER: lora(seed=1)}, name="one")
    assert not same(table(other), one)
    assert len(tables) == 4


def test_an_adapter_elsewhere_is_not(cache, tables, tiny_folder):
    components = load(tiny_folder)
    plain = table(components)
    down, up = torch.ones(2, 32), torch.ones(32, 2)
    attach(components.transformer, {"transformer_blocks.0.attn.to_q": LowRank(down, up)}, name="one")
    assert same(table(components), plain)
    assert len(tables) == 1


def test_changed_weights_have_no_table_on_disk(cache, tables, tiny_folder):
    components = load(tiny_folder)
    plain = table(components)
    merge(components.transformer, [({LAYER: lora()}, 1.0)])
    assert not same(table(components), plain)
    table(components)
    assert len(tables) == 3
    assert same(table(load(tiny_folder)), plain)


@pytest.mark.parametrize("harm", ["truncated", "one bit", "empty", "no tensors"])
def test_a_broken_file_is_made_again(cache, tables, tiny_folder, caplog, harm):
    first = table(load(tiny_folder))
    (file,) = cache.rglob("*.safetensors")
    whole = file.read_bytes()
    broken = {
        "truncated": whole[:-7],
        "one bit": whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:],
        "empty": b"",
        "no tensors": b"\x02\0\0\0\0\0\0\0{}",
    }
    file.write_bytes(broken[harm])
    with caplog.at_level(logging.WARNING, logger="danqing"):
        assert same(table(load(tiny_folder)), first)
    assert "computed again" in caplog.text
    assert file.read_bytes() == whole
    assert len(tables) == 2


def test_a_small_model_keeps_none(tmp_path, monkeypatch, tiny_folder):
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path / "cache"))
    table(load(tiny_folder))
    assert not (tmp_path / "cache").exists()


def test_the_files_stay_within_bounds(tmp_path):
    cache = ResultCache(tmp_path, disk_bytes=5000)
    tensors = {"img": torch.zeros(500)}  # 2 kB and a header
    for age, name in enumerate(("old", "used", "new")):
        cache.store("modulation", name, tensors)
        os.utime(tmp_path / "modulation" / f"{name}.safetensors", (age, age))
        if name == "used":
            assert cache.load("modulation", "used") is not None
    left = {file.stem for file in tmp_path.rglob("*") if file.is_file()}
    assert left == {"used", "new"}
    cache.store("modulation", "too large", {"img": torch.zeros(5000)})
    assert cache.load("modulation", "too large") is None


def test_what_cannot_be_kept_is_said_and_costs_nothing_else(cache, tables, tiny_folder, caplog):
    cache.write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING, logger="danqing"):
        first = table(load(tiny_folder))
    assert "DANQING_CACHE" in caplog.text
    assert same(first, load(tiny_folder).transformer.modulation_table(SIGMAS))


def test_where_results_are_kept(monkeypatch, tmp_path):
    monkeypatch.delenv("DANQING_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    assert cache_folder() == tmp_path / "danqing" / "results"
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.setenv("DANQING_CACHE", "off")
    assert cache_folder() is None
