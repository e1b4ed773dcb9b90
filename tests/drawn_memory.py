"""Draw once by a memory plan in a process of its own; print what was predicted and what was held.

python -m tests.drawn_memory FOLDER WIDTHxHEIGHT STEPS fp32|bf16 BUDGET GUIDANCE
"""

import json
import sys
import threading
import time
from pathlib import Path

import torch

from danqing.device import PRECISIONS
from danqing.pipelines.components import load_components
from danqing.pipelines.generate import GenerateRequest, generate
from danqing.pipelines.memory import anonymous_bytes, plan_memory
from danqing.pipelines.wishes import wishes_of
from danqing.weights.layouts import Folder
from danqing.weights.plan import MemoryPlan


def main(folder: str, size: str, steps: str, precision: str, budget: str, guidance: str) -> None:
    """Plan, load, draw."""
    torch.set_num_threads(1)
    opened, device, dtype = Folder(Path(folder)), torch.device("cpu"), PRECISIONS[precision]
    width, height = map(int, size.split("x"))
    asked = GenerateRequest(
        prompt="a red apple", size=(width, height), steps=int(steps), seed=1, guidance=float(guidance)
    ).resolved(opened.info())
    wishes = wishes_of([asked], opened.info(), tasks=("generate",))
    plan = plan_memory(opened, wishes, budget=int(float(budget)), device=device, dtype=dtype)
    peak, ended, stage_peaks = [0], threading.Event(), []

    def watch() -> None:
        while not ended.wait(0.002):
            peak[0] = max(peak[0], anonymous_bytes())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    began = time.process_time()
    components = load_components(
        opened, device=device, dtype=dtype, tasks=("generate",), plan=plan, cache=False
    )
    stage_peaks.append(peak[0])
    peak[0] = 0
    for progress in generate(components, [asked]):
        stage_peaks.append(peak[0])
        peak[0] = 0
        assert progress.steps == asked.steps
    stage_peaks.append(peak[0])
    ended.set()
    watcher.join()
    found = {
        "predicted": plan.peak,
        "measured": max(stage_peaks),
        "stages": {stage.name: plan.base + stage.total for stage in plan.stages},
        "after_each": stage_peaks,
        "measure": measure(plan),
        "plan": [(part.kept, part.blocks) for part in (plan.transformer, plan.text_encoder, plan.vae)]
        + [plan.modulation_kept, plan.vae_tile],
        "base": plan.base,
        "cpu": time.process_time() - began,
    }
    print(json.dumps(found))


def measure(plan: MemoryPlan) -> str:
    """Return the strongest measure that a plan takes."""
    if plan.vae_tile is not None:
        return "tiled"
    if plan.transformer.blocks is not None or plan.text_encoder.blocks is not None:
        return "streamed"
    return "none" if plan.transformer.kept and plan.text_encoder.kept else "dropped"


if __name__ == "__main__":
    main(*sys.argv[1:])
