"""Memory that loading and streaming take, as the kernel counts it: a model of 200 MB in its own process."""

import json
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.system() != "Linux", reason="reads /proc")
MB = 2**20
MEASURE = """
import json, sys
from pathlib import Path

import torch

from danqing.models.rope import GridShape
from danqing.models.single_stream import SingleStream, SingleStreamConfig
from danqing.weights.build import build
from danqing.weights.plan import Placement
from danqing.weights.residency import resident
from danqing.weights.store import write_shards

CPU = torch.device("cpu")
CONFIG = SingleStreamConfig(num_layers=15, num_attention_heads=4, context_in_dim=64)


def make():
    return SingleStream(CONFIG)


def memory(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(key)).split()[1])


def peak_of(task):
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
    before = memory("VmRSS")
    task()
    return memory("VmHWM") - before


def use(module, dtype):
    with torch.no_grad():
        table = module.modulation_table(torch.linspace(1, 0, 3))
        prefix = module.prefix(torch.ones(1, 4, 64, dtype=dtype), table)
        module(torch.ones(1, 16, 64, dtype=dtype), prefix, table.at(0), shape=GridShape(1, 4, 4))


folder = Path(sys.argv[1])
with torch.device("meta"):
    shapes = {name: tensor.shape for name, tensor in make().state_dict().items()}
    block = sum(tensor.numel() for tensor in make().transformer_blocks[0].parameters())
    largest = max(shape.numel() for shape in shapes.values())
write_shards(folder, "model", {name: torch.full(shape, 0.01) for name, shape in shapes.items()})


def measured(dtype):
    module, residency = resident(make, folder, Placement(blocks=0, kept=False), device=CPU, dtype=dtype)

    def stream():
        with residency.stage():
            use(module, dtype)

    stream()  # what libraries allocate at first is not ours
    anonymous = memory("RssAnon")
    found = {"streamed": peak_of(stream), "left": memory("RssAnon") - anonymous}
    found["loaded"] = peak_of(lambda: build(make, folder, device=CPU, dtype=dtype))
    found["whole"] = sum(shape.numel() for shape in shapes.values()) * dtype.itemsize
    return found | {"block": block * dtype.itemsize}


found = {str(dtype): measured(dtype) for dtype in (torch.float32, torch.bfloat16)}
print(json.dumps(found | {"largest": 4 * largest}))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    command = [sys.executable, "-c", MEASURE, str(tmp_path_factory.mktemp("stored"))]
    return json.loads(subprocess.run(command, capture_output=True, check=True, timeout=300).stdout)


@pytest.mark.parametrize("dtype", ["torch.float32", "torch.bfloat16"])
def test_two_blocks_are_in_memory_and_nothing_after(found, dtype):
    one, margin = found[dtype], 12 * MB  # what the interpreter and kernels take varies
    cast = 0 if dtype == "torch.float32" else found["largest"]  # a tensor as it is stored
    rest = one["whole"] - 15 * one["block"]
    assert one["streamed"] < 2 * one["block"] + rest + cast + margin
    assert one["streamed"] < one["whole"] / 3
    assert one["left"] < margin
    assert one["whole"] <= one["loaded"] + margin
    assert one["loaded"] < one["whole"] + cast + margin
