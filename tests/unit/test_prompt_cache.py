"""A text is read once: the same words, pictures and weights give the same features, from memory or disk."""

import dataclasses

import pytest
import torch

import danqing
from danqing.pipelines import prompt_memory
from danqing.pipelines.edit import EditRequest
from danqing.pipelines.generate import GenerateRequest, generate
from danqing.pipelines.reading import read
from danqing.weights.result_cache import ResultCache
from tests.editor import noisy, write_editor


@pytest.fixture
def folder(tmp_path, tiny_folder):
    return write_editor(tiny_folder, tmp_path / "editor")


@pytest.fixture
def load(folder, tmp_path, monkeypatch):
    """Return a function that loads the checkpoint anew, with a count of the texts its conditioner reads."""
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path / "cache"))

    def new(**options):
        model = danqing.load(folder, device="cpu", precision="fp32", **options)
        reads = []
        features = model.components.vlm.features
        object.__setattr__(
            model.components.vlm, "features", lambda *a, **k: (reads.append(1), features(*a, **k))[1]
        )
        return model.components, reads

    return new


def request(components, prompt="a red apple", **options):
    return GenerateRequest(prompt=prompt, seed=0, **options).resolved(components.info)


def same(one, other):
    return torch.equal(one.txt, other.txt) and (one.lengths, one.before) == (other.lengths, other.before)


def test_a_prompt_is_read_once(load):
    components, reads = load()
    first = read(components, request(components))
    assert len(reads) == 2  # the prompt and what guidance leads away from
    assert same(read(components, request(components)), first)
    assert len(reads) == 2
    read(components, request(components, "a blue apple"))
    assert len(reads) == 3
    fresh = dataclasses.replace(components, cache=None)
    assert same(read(fresh, request(components)), first)
    assert len(reads) == 5


def test_requests_of_a_batch_share_their_prompts(load):
    components, reads = load()
    requests = [GenerateRequest(prompt="x", seed=seed, steps=1) for seed in range(3)]
    assert len(list(generate(components, requests))) == 3
    assert len(reads) == 2


def test_pictures_are_part_of_what_was_read(load):
    components, reads = load()
    seen, other = noisy(64, 48, seed=1), noisy(64, 48, seed=2)
    edit = EditRequest(
        pictures=danqing.model._opened("pictures", [seen]), prompt="greener", seed=0, guidance=1.0
    ).resolved(components.info)
    first = read(components, edit, [seen])
    assert same(read(components, edit, [seen.copy()]), first)
    assert len(reads) == 1
    assert not same(read(components, edit, [other]), first)
    assert not same(read(components, edit, [seen, other]), first)
    assert len(reads) == 3


def test_changed_weights_are_read_with_anew(load):
    components, reads = load()
    before = read(components, request(components))
    with torch.no_grad():
        next(components.vlm.parameters()).mul_(1.5)
    assert not torch.equal(read(components, request(components)).txt, before.txt)
    assert len(reads) == 4


def test_a_large_conditioner_is_not_asked_again_by_the_next_program(load, monkeypatch):
    monkeypatch.setattr(prompt_memory, "LARGE", 1)
    components, reads = load()
    first = read(components, request(components))
    again, unread = load()
    assert same(read(again, request(again)), first)
    assert len(reads) == 2
    assert not unread


def test_other_files_are_read_anew(load, folder, monkeypatch):
    monkeypatch.setattr(prompt_memory, "LARGE", 1)
    components, _ = load()
    read(components, request(components))
    (weights,) = (folder / "text_encoder").glob("*.safetensors")
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 64  # a number; the header and the size stay
    weights.write_bytes(changed)
    components, reads = load()
    read(components, request(components))
    assert len(reads) == 2


@pytest.mark.parametrize("by", ["variable", "argument"])
def test_nothing_is_kept_where_nothing_may_be(load, tmp_path, monkeypatch, by):
    monkeypatch.setattr(prompt_memory, "LARGE", 1)
    if by == "variable":
        monkeypatch.setenv("DANQING_CACHE", "off")
    components, reads = load()
    if by == "argument":
        components = dataclasses.replace(components, cache=None)
    first = read(components, request(components))
    assert same(read(components, request(components)), first)
    assert len(reads) == 4
    assert not (tmp_path / "cache").exists()


def test_what_was_not_asked_for_longest_is_forgotten_first(tmp_path):
    cache = ResultCache(tmp_path, memory_bytes=100)
    for name in "abc":
        cache.remember("prompts", name, {"txt": torch.zeros(10)})
        cache.recall("prompts", "a")
    assert cache.recall("prompts", "a") is not None
    assert cache.recall("prompts", "b") is None
    assert cache.recall("prompts", "c") is not None
    cache.remember("prompts", "large", {"txt": torch.zeros(100)})
    assert cache.recall("prompts", "large") is None
    assert cache.recall("prompts", "a") is not None
