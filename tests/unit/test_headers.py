"""Headers of files from strangers: what is whole is read, anything else is refused in one line."""

import json
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from danqing.errors import CheckpointError
from danqing.files import write_json
from danqing.weights.headers import GGUF_TYPES, SAFETENSORS_BITS, read_header
from danqing.weights.store import Shards, write_safetensors, write_shards

gguf = pytest.importorskip("gguf")


def fails(message):
    """Expect a CheckpointError of one line that matches `message`."""
    return pytest.raises(CheckpointError, match=rf"(?s)\A(?=.*{message})[^\n]+\Z")


def safetensors(header, data=b"", length=None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def one(**changes):
    return {"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16], **changes}}


def two(first, second):
    kind = {"dtype": "U8"}
    return {
        name: kind | {"shape": [end - start], "data_offsets": [start, end]}
        for name, (start, end) in (("a", first), ("b", second))
    }


def test_a_whole_safetensors_file(tmp_path):
    tensors = {"a": torch.ones(2, 3), "marker": torch.empty(0), "c": torch.ones(4, dtype=torch.bfloat16)}
    write_safetensors(tmp_path / "x.safetensors", tensors, {"title": "x"})
    header = read_header(tmp_path / "x.safetensors")
    assert header.format == "safetensors"
    assert header.metadata == {"title": "x"}
    assert header.tensors["a"][:2] == ((2, 3), "F32")
    assert header.tensors["c"].dtype == "BF16"
    assert header.tensors["a"].end - header.tensors["a"].start == 24


BROKEN = {
    "empty": (b"", "0 bytes"),
    "a huge length": (safetensors({}, length=2**63), "header of 9223372036854775808 bytes"),
    "a length past the end": (safetensors({}, length=3), "header of 3 bytes"),
    "no JSON": (safetensors(b"{]"), "no JSON"),
    "deep JSON": (safetensors(b"[" * 100_000), "no JSON"),
    "a list": (safetensors([]), "no JSON object"),
    "NaN": (safetensors(b'{"__metadata__": {"a": NaN}}'), "NaN in place of a number"),
    "metadata of numbers": (safetensors({"__metadata__": {"a": 1}}), "metadata that are no texts"),
    "a name twice": (safetensors(b'{"a": 1, "a": 2}'), "twice"),
    "no entry": (safetensors({"a": 1}), "without dtype"),
    "an unknown type": (safetensors(one(dtype="Q9"), bytes(16)), "unknown type 'Q9'"),
    "a type of no text": (safetensors(one(dtype=["F32"]), bytes(16)), "unknown type"),
    "a negative side": (safetensors(one(shape=[-2, -2]), bytes(16)), "of shape"),
    "a side of no number": (safetensors(one(shape=[2, True, 2]), bytes(16)), "of shape"),
    "a huge side": (safetensors(one(shape=[2**62, 4]), bytes(16)), "of shape"),
    "many sides": (safetensors(one(shape=[1] * 50 + [4]), bytes(16)), "of shape"),
    "a shape of other bytes": (safetensors(one(shape=[3, 3]), bytes(16)), "takes 36 bytes, found 16"),
    "reversed offsets": (safetensors(one(data_offsets=[16, 0]), bytes(16)), "found -16"),
    "an overlap": (safetensors(two((0, 8), (4, 12)), bytes(12)), "'b' overlaps"),
    "a hole": (safetensors(two((0, 4), (8, 12)), bytes(12)), "'b' leaves a hole"),
    "truncated": (safetensors(one(), bytes(12)), "truncated"),
    "bytes after the end": (safetensors(one(), bytes(20)), "belong to no tensor"),
    "a name of lines": (safetensors({"a\nb\x1b[2J": 1}), "'a b\\?\\[2J'"),
}


@pytest.mark.parametrize(("raw", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_safetensors_file(tmp_path, raw, message):
    file = tmp_path / "x.safetensors"
    file.write_bytes(raw)
    with fails(f"x.safetensors: expected a whole safetensors file, found a broken one .*{message}"):
        read_header(file)


def gguf_file(path: Path, **tensors) -> Path:
    writer = gguf.GGUFWriter(path, "qwen_image")
    writer.add_name("small")
    writer.add_array("tokenizer.ggml.tokens", ["one", "two"])
    writer.add_array("sides", [3, 5])
    for name, (data, kind) in tensors.items():
        writer.add_tensor(name, gguf.quantize(data, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


KINDS = gguf.GGMLQuantizationType
SMALL = {"a": (np.ones((3, 64), np.float32), KINDS.Q8_0), "b": (np.ones(5, np.float32), KINDS.F32)}


def test_a_whole_gguf_file(tmp_path):
    header = read_header(gguf_file(tmp_path / "x.gguf", **SMALL))
    assert header.format == "gguf"
    assert header.metadata["general.name"] == "small"
    assert header.metadata["sides"] == (3, 5)
    assert "tokenizer.ggml.tokens" not in header.metadata
    assert header.tensors["a"][:2] == ((3, 64), "Q8_0")
    reader = gguf.GGUFReader(tmp_path / "x.gguf")
    assert {one.name: one.data_offset for one in reader.tensors} == {
        name: entry.start for name, entry in header.tensors.items()
    }


def test_sizes_are_those_of_the_gguf_library():
    theirs = {int(kind): (kind.name, *sizes) for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    assert theirs == GGUF_TYPES


def test_every_type_of_torch_is_known(tmp_path):
    kinds = [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu, torch.int8, torch.uint16]
    kinds += [torch.bool, torch.float16, torch.float64, torch.complex64, torch.int64]
    for kind in kinds:
        write_safetensors(tmp_path / "x.safetensors", {"a": torch.zeros(3, dtype=kind)}, {})
        entry = read_header(tmp_path / "x.safetensors").tensors["a"]
        assert SAFETENSORS_BITS[entry.dtype] == 8 * kind.itemsize


def patched(raw: bytes, old: bytes, new: bytes) -> bytes:
    assert raw.count(old) == 1
    assert len(old) == len(new)
    return raw.replace(old, new)


def listed(name: str, rank: int) -> bytes:
    return struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", rank)


GGUF_CHANGES = {
    "version 1": (lambda raw: raw[:4] + struct.pack("<I", 1) + raw[8:], "version 1"),
    "big-endian": (lambda raw: raw[:4] + struct.pack(">I", 3) + raw[8:], "big-endian"),
    "many tensors": (
        lambda raw: raw[:8] + struct.pack("<Q", 2**60) + raw[16:],
        "1152921504606846976 tensors",
    ),
    "much metadata": (lambda raw: raw[:16] + struct.pack("<Q", 2**30) + raw[24:], "entries of metadata"),
    "a huge name": (lambda raw: raw[:24] + struct.pack("<Q", 2**62) + raw[32:], "header longer"),
    "truncated data": (lambda raw: raw[:-64], "truncated"),
    "truncated header": (lambda raw: raw[:100], "found a broken one"),
    "a name twice": (lambda raw: patched(raw, listed("b", 1), listed("a", 1)), "'a' twice"),
    "many dimensions": (lambda raw: patched(raw, listed("a", 2), listed("a", 200)), "200 dimensions"),
    "a broken block": (
        lambda raw: patched(
            raw, listed("a", 2) + struct.pack("<Q", 64), listed("a", 2) + struct.pack("<Q", 63)
        ),
        "blocks of 32",
    ),
    "a huge side": (
        lambda raw: patched(raw, struct.pack("<QQ", 64, 3), struct.pack("<QQ", 2**40, 2**40)),
        "of shape",
    ),
    "an unknown type": (
        lambda raw: patched(raw, struct.pack("<QIQ", 3, 8, 0), struct.pack("<QIQ", 3, 5, 0)),
        "type 5",
    ),
    "an odd offset": (
        lambda raw: patched(raw, struct.pack("<QIQ", 3, 8, 0), struct.pack("<QIQ", 3, 8, 7)),
        "no multiple of 32",
    ),
    "an overlap": (
        lambda raw: patched(raw, struct.pack("<QIQ", 5, 0, 224), struct.pack("<QIQ", 5, 0, 32)),
        "overlaps",
    ),
    "an offset out of the file": (
        lambda raw: patched(raw, struct.pack("<QIQ", 5, 0, 224), struct.pack("<QIQ", 5, 0, 2**50)),
        "truncated",
    ),
    "no UTF-8": (lambda raw: patched(raw, b"small", b"\xff\xfesma"), "no UTF-8"),
}


@pytest.mark.parametrize(("change", "message"), GGUF_CHANGES.values(), ids=GGUF_CHANGES)
def test_a_broken_gguf_file(tmp_path, change, message):
    file = gguf_file(tmp_path / "x.gguf", **SMALL)
    file.write_bytes(change(file.read_bytes()))
    with fails(message):
        read_header(file)


def test_no_file_and_other_things(tmp_path):
    with fails("found none"):
        read_header(tmp_path / "none.safetensors")
    with fails("a folder"):
        read_header(tmp_path)
    with fails("cannot open"):
        read_header(Path("a\0b"))


def test_forty_gigabytes_are_read_at_once(tmp_path):
    side = 100_000
    entry = {"dtype": "F32", "shape": [side, side], "data_offsets": [0, 4 * side * side]}
    raw = safetensors({"a": entry})
    file = tmp_path / "huge.safetensors"
    with file.open("wb") as stream:
        stream.write(raw)
        stream.truncate(len(raw) + 4 * side * side)  # sparse: it takes no room on the disk
    start = time.perf_counter()
    assert read_header(file).size > 40 * 10**9
    assert time.perf_counter() - start < 0.1


def test_a_stale_shard_and_a_link_out_of_the_folder(tmp_path):
    shards = tmp_path / "shards"
    write_shards(shards, "model", {"a": torch.ones(3), "b": torch.ones(3)}, max_shard_bytes=12)
    second = shards / "model-00002-of-00002.safetensors"
    content = second.read_bytes()
    write_safetensors(second, {"a": torch.ones(3)}, {})
    with fails("found a in model-00001-of-00002.safetensors and model-00002-of-00002.safetensors"):
        Shards.open(shards)
    (tmp_path / "elsewhere.safetensors").write_bytes(content)
    second.unlink()
    second.symlink_to(tmp_path / "elsewhere.safetensors")
    with fails("a link that leads out of it"):
        Shards.open(shards)


@pytest.mark.parametrize("home", ["models--a--b/blobs", "blobs/di"])
def test_links_inside_a_hub_cache_are_followed(tmp_path, home):
    part, blobs = tmp_path / "models--a--b" / "snapshots" / "abc" / "vae", tmp_path / home
    write_shards(part, "model", {"a": torch.ones(3), "b": torch.ones(3)}, max_shard_bytes=12)
    blobs.mkdir(parents=True)
    for number, file in enumerate(sorted(part.glob("*.safetensors"))):
        file.rename(blobs / f"digest{number}")
        file.symlink_to(blobs / f"digest{number}")
    assert Shards.open(part).tensors.keys() == {"a", "b"}
    write_json(part / "model.safetensors.index.json", {"weight_map": {"a": "a\\b.safetensors"}})
    with fails("expected safetensors files of this folder"):
        Shards.open(part)
