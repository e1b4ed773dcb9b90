"""What a file is, from its header: kinds and releases, and nothing guessed."""

import json
import struct
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import save_file

from danqing.cli.file_info import describe_tensor_file, tensor_file_table
from danqing.errors import CheckpointError, RequestError
from danqing.models.controlnet import ControlNet, ControlNetConfig
from danqing.models.mmdit import MMDiT, MMDiTConfig
from danqing.models.single_stream import SingleStream, SingleStreamConfig
from danqing.models.vae import VAE, VAEConfig, unfold
from danqing.models.vae21 import VAE21, VAE21Config
from danqing.models.vlm import VLM
from danqing.models.vlm_config import VLMConfig
from danqing.weights.headers import read_header
from danqing.weights.layouts import RELEASES
from danqing.weights.releases import LICENCES, PIPELINES, check_release, identify, zero_cond_of

MARK = "__index_timestep_zero__"
SAME = ("Qwen-Image", "Qwen-Image-2512", "Qwen-Image-Edit", "Qwen-Image-Edit-2509", "Qwen-Image-Edit-2511")


def state_of(make):
    with torch.device("meta"):
        return make().state_dict()


def sparse(path, state, *, prefix="", metadata=None, kind="BF16", extra=None):
    """Write a file with the header of a state dict and no data that would take room."""
    header, place = ({"__metadata__": metadata} if metadata else {}), 0
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()} | (extra or {})
    for name, shape in shapes.items():
        size = 2 * torch.Size(shape).numel()
        offsets = [place, place + size]
        header[prefix + name] = {"dtype": kind, "shape": list(shape), "data_offsets": offsets}
        place += size
    raw = json.dumps(header).encode()
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(raw)) + raw)
        stream.truncate(8 + len(raw) + place)
    return path


DENOISER = MMDiTConfig(num_layers=1)
LAYERED = MMDiTConfig(num_layers=1, use_additional_t_cond=True, use_layer3d_rope=True)
CASES = {
    "1.x": (lambda: MMDiT(DENOISER), {}, {}, "transformer", SAME),
    "2511 by its mark": (lambda: MMDiT(DENOISER), {MARK: (0,)}, {}, "transformer", SAME[4:]),
    "2511 by metadata": (
        lambda: MMDiT(DENOISER),
        {},
        {"config": '{"transformer": {"zero_cond_t": true}}'},
        "transformer",
        SAME[4:],
    ),
    "not 2511": (lambda: MMDiT(DENOISER), {}, {"config": '{"zero_cond_t": false}'}, "transformer", SAME[:4]),
    "2509 by its title": (
        lambda: MMDiT(DENOISER),
        {},
        {"modelspec.title": "Qwen_Image_Edit_2509"},
        "transformer",
        SAME[3:4],
    ),
    "a title of a derivative": (
        lambda: MMDiT(DENOISER),
        {},
        {"modelspec.title": "My mix of Qwen-Image-Edit"},
        "transformer",
        SAME,
    ),
    "Layered": (lambda: MMDiT(LAYERED), {}, {}, "transformer", ("Qwen-Image-Layered",)),
    "2.1": (
        lambda: SingleStream(SingleStreamConfig(num_layers=1)),
        {},
        {},
        "transformer",
        ("Qwen-Image-2.1", "Qwen-Image-2.1-Turbo"),
    ),
    "VAE": (lambda: VAE(VAEConfig()), {}, {}, "vae", SAME),
    "VAE of Layered": (lambda: VAE(VAEConfig(input_channels=4)), {}, {}, "vae", ("Qwen-Image-Layered",)),
    "VAE of 2.1": (lambda: VAE21(VAE21Config()), {}, {}, "vae", ("Qwen-Image-2.1", "Qwen-Image-2.1-Turbo")),
    "conditioner": (
        lambda: VLM(VLMConfig(num_layers=1)),
        {},
        {},
        "text_encoder",
        (*SAME, "Qwen-Image-Layered"),
    ),
    "ControlNet": (lambda: ControlNet(ControlNetConfig(num_layers=1)), {}, {}, "controlnet", SAME),
    "nothing of ours": (lambda: torch.nn.Linear(2, 2), {}, {}, "unknown", ()),
}


@pytest.mark.parametrize(("make", "extra", "metadata", "kind", "releases"), CASES.values(), ids=CASES)
def test_what_a_file_is(tmp_path, make, extra, metadata, kind, releases):
    path, state = tmp_path / "x.safetensors", state_of(make)
    for prefix in ("", "model.diffusion_model.") if kind == "transformer" else ("",):
        sparse(path, state, extra=extra, metadata=metadata, prefix=prefix)
        found = identify(read_header(path))
        assert (found.kind, found.releases) == (kind, releases)


@pytest.mark.parametrize(
    ("name", "releases"),
    [
        ("transformer_blocks.0.attn.add_q_proj.lora_A.weight", 6),
        ("lora_unet_transformer_blocks_0_img_mod_1.lora_down.weight", 6),
        ("diffusion_model.transformer_blocks.0.img_mlp.gate_layer.lokr_w1", 2),
        ("transformer_blocks.0.attn.to_q.lora_A.weight", 8),
    ],
)
def test_adapters(tmp_path, name, releases):
    save_file({name: torch.ones(2, 2)}, tmp_path / "x.safetensors")
    found = identify(read_header(tmp_path / "x.safetensors"))
    assert (found.kind, len(found.releases)) == ("adapter", releases)


def test_the_switch_that_tensors_do_not_show(tmp_path):
    plain = read_header(sparse(tmp_path / "x.safetensors", state_of(lambda: MMDiT(DENOISER))))
    assert zero_cond_of(plain, None) is None
    assert zero_cond_of(plain, "Qwen-Image-Edit-2511") is True
    assert zero_cond_of(plain, "Qwen-Image-Edit-2509") is False
    with pytest.raises(RequestError, match=r"expected one of Qwen-Image, .*found '2511'"):
        check_release("2511")


def test_licences_are_those_of_the_releases():
    assert {RELEASES[PIPELINES[name]].licence == licence for name, licence in LICENCES.items()} == {True}
    assert LICENCES.keys() == PIPELINES.keys()


def test_forty_gigabytes_are_described_within_a_second(tmp_path):
    state = state_of(lambda: MMDiT(MMDiTConfig()))
    path = sparse(tmp_path / "qwen_image_bf16.safetensors", state, prefix="model.diffusion_model.")
    start = time.perf_counter()
    said = describe_tensor_file(path)
    assert time.perf_counter() - start < 1
    assert said["bytes"] > 40 * 10**9
    assert said["parameters"] == sum(tensor.numel() for tensor in state.values())
    assert (said["format"], said["precisions"], said["licence"]) == ("safetensors", ["bf16"], "Apache-2.0")
    assert said["release"] is None
    assert any(need.startswith("--release NAME") for need in said["needs"])
    lines = tensor_file_table(said)
    assert "parameters 20.43 B in 1933 tensors" in lines
    assert "precision  bf16" in lines


def test_scales_are_looked_at(tmp_path):
    path = tmp_path / "x.safetensors"
    state = {"a.weight": torch.ones(2, 2).to(torch.float8_e4m3fn), "a.scale_weight": torch.tensor(0.5)}
    save_file(state, path)
    said = describe_tensor_file(path)
    assert (said["precisions"], said["parameters"], said["tensors"]) == (["fp8 with scales"], 4, 1)
    save_file(state | {"a.scale_weight": torch.tensor(torch.nan)}, path)
    with pytest.raises(CheckpointError, match="expected finite scales"):
        describe_tensor_file(path)


def test_nothing_heavy_is_loaded_to_describe_a_file(tmp_path):
    small = VAEConfig(base_dim=4)
    save_file(unfold(small, VAE(small).state_dict()), tmp_path / "v.safetensors")
    code = "import sys; from danqing.cli.main import main; sys.argv = ['danqing', 'info', 'v.safetensors']\n"
    code += "try: main()\nexcept SystemExit: pass\nprint('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False False", done.stderr
    assert "holds      vae – RGB; that of Wan 2.1 has the same tensors" in done.stdout.splitlines()
