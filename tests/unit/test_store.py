"""Tensors and JSON on disk: what is broken is told in one line."""

import json
from contextlib import nullcontext

import pytest
import torch

from danqing.errors import CheckpointError
from danqing.files import read_json, write_json
from danqing.weights import store
from danqing.weights.store import DTYPES, Shards, open_safetensors, write_shards

TENSORS = {
    "a": torch.arange(6.0).view(2, 3),
    "b": torch.ones(5),
    "c": torch.zeros(2, 2, dtype=torch.bfloat16),
}


def fails(message):
    """Expect a CheckpointError of one line that matches `message`."""
    return pytest.raises(CheckpointError, match=rf"(?s)\A(?=.*{message})[^\n]+\Z")


def read(folder):
    shards = Shards.open(folder)
    return dict(shards.read(shards.tensors))


@pytest.mark.parametrize("max_shard_bytes", [10**9, 30, 1])
def test_what_is_written_is_read(tmp_path, max_shard_bytes):
    write_shards(tmp_path, "model", TENSORS, max_shard_bytes=max_shard_bytes)
    found = read(tmp_path)
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)
    assert all(found[name].dtype == TENSORS[name].dtype for name in TENSORS)
    shards = Shards.open(tmp_path)
    assert shards.num_parameters == 15
    assert shards.tensors["a"].shape == (2, 3)
    assert shards.tensors["c"].dtype == "BF16"
    assert (tmp_path / "model.safetensors.index.json").exists() == (max_shard_bytes < 10**9)
    assert not list(tmp_path.glob("*.part"))


def test_only_what_is_asked_for_is_read(tmp_path):
    write_shards(tmp_path, "model", TENSORS, max_shard_bytes=1)
    assert [name for name, _ in Shards.open(tmp_path).read(["c", "a"])] == ["c", "a"]


def test_tensors_are_read_into_memory_of_ones_own(tmp_path):
    write_shards(tmp_path, "model", TENSORS, max_shard_bytes=30)
    targets = {"c": torch.ones(2, 2, dtype=torch.bfloat16), "a": torch.zeros(2, 3, dtype=torch.bfloat16)}
    Shards.open(tmp_path).read_into(targets)
    assert torch.equal(targets["c"], TENSORS["c"])
    assert torch.equal(targets["a"], TENSORS["a"].bfloat16())


@pytest.mark.parametrize("dtype", sorted(set(DTYPES.values()), key=str))
def test_every_type_is_read(tmp_path, dtype):
    values = torch.arange(6).view(2, 3).to(dtype)
    write_shards(tmp_path, "model", {"matrix": values, "number": values[1, 2].clone(), "none": values[:0]})
    found = read(tmp_path)
    assert {tensor.dtype for tensor in found.values()} == {dtype}
    assert raw(found["matrix"]) == raw(values)
    assert (found["number"].shape, found["none"].shape) == ((), (0, 3))
    assert raw(found["number"]) == raw(values[1, 2])
    rows = Shards.open(tmp_path).read_rows("matrix", [1, 0, 1])
    assert raw(rows) == raw(torch.stack((values[1], values[0], values[1])))


def raw(tensor):
    return tensor.reshape(-1).view(torch.uint8).tolist()


def test_rows_alone_are_read(tmp_path, monkeypatch):
    write_shards(tmp_path, "model", {"matrix": torch.arange(40.0).view(10, 4)})
    read_bytes, sizes = store.read_bytes, []
    monkeypatch.setattr(
        store, "read_bytes", lambda *found: (sizes.append(found[2].nbytes), read_bytes(*found))[1]
    )
    assert Shards.open(tmp_path).read_rows("matrix", [7]).tolist() == [[28.0, 29.0, 30.0, 31.0]]
    assert sizes == [16]


@pytest.mark.parametrize("left", [0, 1, 30])
def test_a_file_that_shrinks_after_its_header_was_read(tmp_path, left):
    write_shards(tmp_path, "model", TENSORS)
    shards = Shards.open(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[: shards.tensors["b"].start + left])
    with fails("truncated since it was opened; download it again") if left < 20 else nullcontext():
        dict(shards.read(["b"]))
    file.unlink()
    with fails("expected a safetensors file, found none"):
        dict(shards.read(["b"]))


def test_no_file_and_two_files(tmp_path):
    with fails("expected one .safetensors file or an index of several, found none"):
        Shards.open(tmp_path)
    with fails("found none"):
        Shards.open(tmp_path / "missing")
    for stem in ("one", "two"):
        write_shards(tmp_path, stem, TENSORS)
    with fails("found one.safetensors, two.safetensors"):
        Shards.open(tmp_path)


@pytest.mark.parametrize("length", [0, 4, 8, 60, -1])
def test_a_truncated_file(tmp_path, length):
    write_shards(tmp_path, "model", TENSORS)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:length])
    with fails("expected a whole safetensors file, found a broken one"):
        Shards.open(tmp_path)


@pytest.mark.parametrize("content", [b"\xff" * 100, b"PK\x03\x04" * 30, b"\x80\x02}q\x00." * 20])
def test_a_file_of_another_kind(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    with fails("model.safetensors: expected a whole safetensors file"):
        Shards.open(tmp_path)


def test_a_folder_in_place_of_a_file(tmp_path):
    (tmp_path / "model.safetensors").mkdir()
    with fails("model.safetensors: expected a"):
        Shards.open(tmp_path)


def test_a_missing_shard(tmp_path):
    write_shards(tmp_path, "model", TENSORS, max_shard_bytes=1)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with fails("model-00002-of-00003.safetensors: expected a safetensors file, found none"):
        Shards.open(tmp_path)
    with fails("found none"):
        open_safetensors(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize(
    "name",
    ["../model.safetensors", "/etc/model.safetensors", "sub/model.safetensors", "model.bin", "..", "", 5],
)
def test_an_index_cannot_point_elsewhere(tmp_path, name):
    inside = tmp_path / "inside"
    write_shards(tmp_path, "model", TENSORS)
    write_json(inside / "model.safetensors.index.json", {"weight_map": {"a": name}})
    with fails("expected safetensors files of this folder"):
        Shards.open(inside)


@pytest.mark.parametrize("content", [{}, {"weight_map": {}}, {"weight_map": []}, {"weight_map": "x"}])
def test_an_index_without_a_map(tmp_path, content):
    write_json(tmp_path / "model.safetensors.index.json", content)
    with fails("expected a weight_map of tensor names to files, found none"):
        Shards.open(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"3", b"\xff\xfe", b'"text"', b"[" * 100_000, b"\n\n{x"], ids=range(8)
)
def test_json_of_another_kind(tmp_path, content):
    file = tmp_path / "config.json"
    file.write_bytes(content)
    with fails("config.json: expected (a JSON object|text in UTF-8), found"):
        read_json(file)


def test_json_that_is_missing_too_large_or_a_folder(tmp_path, monkeypatch):
    with fails("expected a file, found none"):
        read_json(tmp_path / "config.json")
    with fails("expected text in UTF-8, found"):
        read_json(tmp_path)
    write_json(tmp_path / "config.json", {"text": "x" * 100})
    monkeypatch.setattr("danqing.files.MAX_TEXT_BYTES", 100)
    with fails("expected at most 100 bytes"):
        read_json(tmp_path / "config.json")


def test_json_round_trip(tmp_path):
    value = {"名": "丹青", "size": [1, 2.5], "none": None}
    write_json(tmp_path / "deep" / "config.json", value)
    assert read_json(tmp_path / "deep" / "config.json") == value
    assert "丹青" in (tmp_path / "deep" / "config.json").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "deep" / "config.json").read_bytes()) == value


def test_files_have_the_mode_of_any_new_file(tmp_path):
    write_shards(tmp_path, "model", {"weight": torch.zeros(2)})
    (tmp_path / "other").touch()
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode
