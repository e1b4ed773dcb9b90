"""Converted checkpoints and adapters in the reference: whole pictures, fp32."""

import numpy as np
import pytest
import torch

from danqing.weights.convert import carry_out, plan_file
from danqing.weights.convert_adapter import plan_adapter
from danqing.weights.convert_folder import plan_folder
from danqing.weights.convert_gguf import plan_gguf
from danqing.weights.convert_source import PARTS, file_origin, folder_origin
from danqing.weights.layouts import Folder
from danqing.weights.parts import GivenParts
from tests.parity.test_generate import SHORT, assert_same, draw, draw_reference, open_both
from tests.parity.test_lora import DIALECTS, difference
from tests.parity.test_lora import drawn as drawn_with

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("peft")

pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute")

SAME = {"size": (64, 48), "seeds": [4]}


@pytest.fixture(scope="module")
def source(peers):
    return peers.checkpoint("qwen-image")


@pytest.fixture(scope="module")
def both(source):
    return open_both(source)


def test_files_become_a_folder_that_the_reference_opens(both, source, tmp_path):
    folder = Folder(source)
    files = {}
    for part in PARTS:
        plan = plan_file(folder_origin(folder), tmp_path / f"{part}.safetensors", parts=[part])
        carry_out(plan)
        files[part] = plan.target
    given = GivenParts(
        transformer=files["transformer"], vae=files["vae"], text_encoder=(files["text_encoder"],)
    )
    new = plan_folder(folder_origin(Folder(source, given)), tmp_path / "new", max_shard_bytes=40_000)
    carry_out(new)
    assert len(list((tmp_path / "new/transformer").glob("*.safetensors"))) > 2
    pipeline, model = open_both(tmp_path / "new")
    first = draw(both[1], [SHORT], **SAME)
    assert np.array_equal(np.asarray(draw(model, [SHORT], **SAME)[0]), np.asarray(first[0]))
    assert_same(first, draw_reference(pipeline, [SHORT], **SAME))
    assert_same(first, draw_reference(both[0], [SHORT], **SAME))


def test_the_reference_reads_our_gguf(source, tmp_path):
    pytest.importorskip("gguf")
    plan = plan_gguf(folder_origin(Folder(source)), tmp_path / "x.gguf", precision="q8_0")
    carry_out(plan)
    assert plan.files[0].kinds["Q8_0"] > 3
    theirs = diffusers.QwenImageTransformer2DModel.from_single_file(
        tmp_path / "x.gguf",
        quantization_config=diffusers.GGUFQuantizationConfig(compute_dtype=torch.float32),
        dtype=torch.float32,
        config=str(source),
        subfolder="transformer",
    )
    pipeline, _ = open_both(source)
    pipeline.transformer = theirs
    carry_out(
        plan_folder(
            file_origin(tmp_path / "x.gguf", like=Folder(source), release=None),
            tmp_path / "new",
            precision="fp32",
        )
    )
    _, ours = open_both(tmp_path / "new")
    assert_same(draw(ours, [SHORT], **SAME), draw_reference(pipeline, [SHORT], **SAME))


@pytest.mark.parametrize("there", ["diffusers", "comfyui", "kohya"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_adapter_in_another_dialect_is_the_same_picture(both, peers, source, tmp_path, dialect, there):
    pipeline, model = both
    before = peers.checkpoint("loras") / f"{dialect}.safetensors"
    plan = plan_adapter(before, tmp_path / "new.safetensors", there, like=Folder(source))
    carry_out(plan)
    expected = drawn_with(model, [(before, 1.0)], **SAME)
    assert difference(expected, draw(model, [SHORT], **SAME)) > 20
    found = drawn_with(model, [(plan.target, 1.0)], **SAME)
    assert_same(found, expected)
    pipeline.load_lora_weights(tmp_path, weight_name="new.safetensors")
    theirs = draw_reference(pipeline, [SHORT], **SAME)
    pipeline.unload_lora_weights()
    assert_same(found, theirs)
