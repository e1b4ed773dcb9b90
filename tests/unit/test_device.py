"""Devices, precisions and memory."""

import json
import platform
import subprocess
import sys

import pytest
import torch

from danqing import device as module
from danqing.device import memory_report, resolve_device, resolve_precision
from danqing.errors import RequestError, ResourceError

CPU = torch.device("cpu")
GIB = 2**30


def test_auto_prefers_cuda_then_mps_then_cpu(monkeypatch):
    def here(cuda: bool, mps: bool) -> str:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: int(cuda))
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        return resolve_device("auto").type

    assert [here(True, True), here(False, True), here(False, False)] == ["cuda", "mps", "cpu"]


def test_a_numbered_cuda_device_must_be_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(ResourceError, match="cuda:2 needs CUDA device 2, found 2 of them"):
        resolve_device("cuda:2")


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_missing_accelerator_is_not_replaced_silently(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ResourceError, match="--device auto"):
        resolve_device(name)


@pytest.mark.parametrize("name", ["gpu", "", "cpu:1", "cuda:x", "cuda:-1", "mps:0", "auto:0"])
def test_an_unknown_device_names_the_known_ones(name):
    with pytest.raises(RequestError, match="auto, cpu, cuda, mps"):
        resolve_device(name)


def test_precision_by_name_and_by_hardware(monkeypatch):
    assert resolve_precision("fp32", CPU) == torch.float32
    assert resolve_precision("bf16", CPU) == torch.bfloat16
    assert resolve_precision("auto", CPU) == torch.float32
    for capability, expected in (((7, 5), torch.float32), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device, found=capability: found)
        assert resolve_precision("auto", torch.device("cuda")) == expected


@pytest.mark.parametrize("name", ["fp16", "float32", ""])
def test_an_unknown_precision_names_the_known_ones(name):
    with pytest.raises(RequestError, match="auto, fp32, bf16"):
        resolve_precision(name, CPU)


GROWTH = """
import json, torch
from danqing.device import memory_report
before = memory_report()
block = torch.ones(64 * 2**20)  # 256 MiB that are really touched
after = memory_report()
print(json.dumps([before.used, before.total, after.used, after.total, after.peak, after.available]))
"""


def test_host_memory_follows_an_allocation():
    """In a process of its own: here the allocator may reuse what other tests freed."""
    done = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, check=True)
    used_before, total_before, used, total, peak, available = json.loads(done.stdout)
    assert 200 * 2**20 < used - used_before < 400 * 2**20
    assert peak >= used > 256 * 2**20
    assert 0 < available < total == total_before
    assert memory_report().device == CPU


def _container(root, limit: int | str, use: int, cache: int):
    (root / "memory.max").write_text(f"{limit}\n")
    (root / "memory.current").write_text(f"{use}\n")
    (root / "memory.stat").write_text(f"anon 1\ninactive_file {cache}\n")
    return root


def test_a_container_limit_lowers_total_and_available(tmp_path):
    root = _container(tmp_path, 8 * GIB, 5 * GIB, 2 * GIB)  # 2 of the 5 are file cache
    assert module._within_container(64 * GIB, 60 * GIB, root) == (8 * GIB, 5 * GIB)
    assert module._within_container(64 * GIB, 1 * GIB, root) == (8 * GIB, 1 * GIB)


def test_an_older_kernel_keeps_its_limit_elsewhere(tmp_path):
    folder = tmp_path / "memory"
    folder.mkdir()
    (folder / "memory.limit_in_bytes").write_text(str(4 * GIB))
    (folder / "memory.usage_in_bytes").write_text(str(1 * GIB))
    (folder / "memory.stat").write_text("cache 1\ntotal_inactive_file 0\n")
    assert module._within_container(64 * GIB, 60 * GIB, tmp_path) == (4 * GIB, 3 * GIB)


@pytest.mark.parametrize("limit", ["max", 2**63 - 4096])
def test_no_container_limit_leaves_the_host_numbers(tmp_path, limit):
    assert module._within_container(64, 60, _container(tmp_path, limit, 5, 0)) == (64, 60)


@pytest.mark.gpu
def test_cuda_memory_follows_an_allocation():
    device = resolve_device("cuda")
    before = memory_report(device)
    block = torch.ones(64 * 2**20, device=device)
    after = memory_report(device)
    assert after.used - before.used >= block.numel() * 4
    assert after.available <= after.total == before.total


def test_glibc_can_be_told_to_keep_freed_memory():
    assert module.keep_freed_memory() == (platform.libc_ver()[0] == "glibc")
