"""Broken files, thousands of them: every one is read or refused in one line, at once and in little memory."""

import struct
import time
import tracemalloc

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from danqing.errors import CheckpointError
from danqing.weights.headers import read_header
from danqing.weights.releases import identify, zero_cond_of
from danqing.weights.single_file import PartFiles

gguf = pytest.importorskip("gguf")
PARTS = ("transformer", "vae", "text_encoder")
EXTREMES = (0, 1, 7, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
WORDS = (b"[", b"{", b"}", b'"', b"-", b"1e999", b"NaN", b"null", b"F32", b"I8", b"\xff\xfe", b"9" * 30)
MOST_SECONDS, MOST_BYTES = 1.0, 4 * 2**20


def small_safetensors(path):
    layer = "model.diffusion_model.transformer_blocks.0.attn.add_q_proj"
    encoder = "text_encoders.qwen25_7b.transformer"
    state = {
        "model.diffusion_model.txt_norm.weight": torch.ones(4),
        f"{layer}.weight": torch.ones(4, 4).to(torch.float8_e4m3fn),
        f"{layer}.scale_weight": torch.tensor(0.5),
        "first_stage_model.decoder.conv1.weight": torch.ones(2, 2, 3, 3, 3),
        "first_stage_model.decoder.upsamples.0.resample.1.weight": torch.ones(2, 2, 3, 3),
        f"{encoder}.model.embed_tokens.weight": torch.ones(4, 2),
        f"{encoder}.blk.0.attn_q.weight": torch.ones(2, 2, dtype=torch.bfloat16),
    }
    save_file(state, path, {"title": "small", "config": '{"zero_cond_t": true}'})


def small_gguf(path):
    writer = gguf.GGUFWriter(path, "qwen_image")
    writer.add_name("Qwen-Image")
    writer.add_bool("zero_cond_t", True)
    writer.add_array("tokens", ["one", "two", "three"])
    writer.add_array("comfy.gguf.orig_shape.blk.0.attn_q.weight", [2, 32])
    kinds = gguf.GGMLQuantizationType
    for name, kind in (
        ("blk.0.attn_q.weight", kinds.Q8_0),
        ("token_embd.weight", kinds.Q4_0),
        ("v.blk.0.attn_q.weight", kinds.BF16),
        ("v.blk.0.attn_k.weight", kinds.F32),
        ("v.blk.0.attn_v.weight", kinds.F16),
        ("v.patch_embd.weight", kinds.F32),
        ("v.patch_embd.weight.1", kinds.F32),
    ):
        writer.add_tensor(name, gguf.quantize(np.ones((2, 32), np.float32), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def mutated(raw: bytes, random: np.random.Generator) -> bytes:
    """Return the file with one to three changes, mostly in its header."""
    data = bytearray(raw)
    for _ in range(random.integers(1, 4)):
        end = len(data) if random.random() < 0.2 else min(len(data), 1200)
        place = int(random.integers(0, max(end, 1)))
        match int(random.integers(0, 7)):
            case 0:
                data[place : place + 1] = bytes([random.integers(0, 256)])
            case 1:
                data[place : place + 8] = struct.pack("<Q", int(EXTREMES[random.integers(len(EXTREMES))]))
            case 2:
                data[place : place + 4] = struct.pack("<Q", int(EXTREMES[random.integers(len(EXTREMES))]))[:4]
            case 3:
                del data[place:]
            case 4:
                del data[place : place + int(random.integers(1, 40))]
            case 5:
                data[place:place] = WORDS[random.integers(len(WORDS))]
            case _:
                other = int(random.integers(0, len(data) + 1))
                data[place:place] = data[other : other + 60]
    return bytes(data)


def refusals(path) -> list[str]:
    """Return what opening the file and reading all of it was refused with."""
    messages = []
    try:
        header = read_header(path)
        identify(header)
        zero_cond_of(header, None)
    except CheckpointError as error:
        return [str(error)]
    for part in PARTS:
        try:
            source = PartFiles.open([path], part)
        except CheckpointError as error:
            messages.append(str(error))
            continue
        for name in source.tensors:
            try:
                ((_, tensor),) = source.read([name])
            except CheckpointError as error:
                messages.append(str(error))
                continue
            assert tensor.shape == source.tensors[name].shape
    return messages


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("write", [small_safetensors, small_gguf])
def test_no_broken_file_is_more_than_refused(tmp_path, write, count):
    path = tmp_path / "small"
    write(path)
    whole, random = path.read_bytes(), np.random.default_rng(0)
    assert not [message for message in refusals(path) if "found none" not in message]
    headers, longest = 0, 0.0
    tracemalloc.start()
    for _ in range(count):
        path.write_bytes(mutated(whole, random))
        start = time.perf_counter()
        messages = refusals(path)
        longest = max(longest, time.perf_counter() - start)
        assert not any("\n" in message for message in messages)
        headers += any("found a broken one" in message for message in messages)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count / 4 < headers < count  # the changes are neither all fatal nor all harmless
    assert longest < MOST_SECONDS
    assert peak < MOST_BYTES
