"""Between two steps nothing waits for the device, and nothing is made that is the same at every step."""

import dataclasses

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import danqing
from danqing.models.mmdit import MMDiT
from danqing.pipelines import draw as drawing
from danqing.sampling.denoise import denoise
from tests.editor import half, noisy, write_editor
from tests.layering import write_blockwise, write_controlnet
from tests.tiny import TRANSFORMER, randomized, with_batch

WAITING = {"_local_scalar_dense", "nonzero", "equal", "masked_select"}
MAKING = {
    "arange",
    "linspace",
    "lift_fresh",
    "lift_fresh_copy",
    "meshgrid",
    "cos",
    "sin",
    "repeat_interleave",
}


class Listening(TorchDispatchMode):
    """Collects the names of all operations."""

    def __init__(self):
        super().__init__()
        self.heard = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.heard.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def heard(monkeypatch):
    """Return what is heard in every step but the first, which may prepare something."""
    listening = Listening()

    def listened(*args, **options):
        steps = denoise(*args, **options)
        yield next(steps)
        while True:
            with listening:
                step = next(steps, None)
            if step is None:
                return
            yield step

    monkeypatch.setattr(drawing, "denoise", listened)
    return listening.heard


@pytest.fixture(scope="module")
def editor(tmp_path_factory, tiny_folder):
    return danqing.load(write_editor(tiny_folder, tmp_path_factory.mktemp("e") / "editor"), device="cpu")


def check(heard):
    assert {"native_layer_norm", "addmm"} & heard  # the network ran
    assert not heard & WAITING
    assert not heard & MAKING


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_drawing(tiny, heard, solver):
    with_batch(tiny, 2).generate("a red apple", seed=1, steps=3, solver=solver, count=2)
    check(heard)


def test_drawing_with_21(tiny21, heard):
    with_batch(tiny21, 2).generate("a red apple", seed=1, steps=3, guidance=2.0, count=2)
    check(heard)


def test_editing(editor, heard):
    pictures = [noisy(64, 48), noisy(48, 64, seed=1)]
    editor.edit(pictures, "greener", seed=1, steps=4, mask=half(48, 64), strength=0.8)
    check(heard)


def test_editing_where_references_are_modulated_as_noise_free(editor, heard):
    config = dataclasses.replace(TRANSFORMER, zero_cond_t=True)
    parts = dataclasses.replace(editor.components, transformer=randomized(MMDiT(config), 1), identities={})
    danqing.Model(parts).edit([noisy(64, 48)], "greener", seed=1, steps=3)
    check(heard)


@pytest.mark.parametrize("write", [write_controlnet, write_blockwise])
def test_drawing_with_a_controlnet(tiny_folder, tmp_path, heard, write):
    model = danqing.load(tiny_folder, controlnet=write(tmp_path), device="cpu", precision="fp32")
    model.generate("a red apple", seed=1, steps=3, controls=noisy(64, 48))
    check(heard)


def test_the_listener_hears_what_waits():
    with Listening() as listening:
        torch.ones(2).sum().item()
        torch.tensor([1, 2])
        torch.arange(3)
    assert listening.heard >= {"_local_scalar_dense", "lift_fresh", "arange"}
