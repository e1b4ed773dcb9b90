"""Checkpoint folders: building strictly, configs, and writing what opens again."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import danqing
from danqing.errors import CheckpointError, ConfigError
from danqing.models.config import config_from_json, config_to_json
from danqing.models.mmdit import MMDiT, MMDiTConfig
from danqing.models.vae import VAEConfig
from danqing.sampling.schedule import ScheduleConfig
from danqing.weights.build import build
from danqing.weights.layouts import CheckpointInfo, Folder
from tests.tiny import AUTOENCODER, INFO, TRANSFORMER, write_tiny

CPU = torch.device("cpu")


@pytest.fixture
def folder(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "copy")


def edit(path, **changes):
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, **changes}), encoding="utf-8")


def make():
    return nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4, bias=False))


STATE = {"0.weight": torch.ones(3, 2), "0.bias": torch.zeros(3), "1.weight": torch.ones(4, 3)}


def build_from(tmp_path, state, **options):
    save_file(state, tmp_path / "model.safetensors")
    return build(make, tmp_path, device=CPU, dtype=torch.float32, **options)


def test_build_fills_every_parameter(tmp_path):
    module = build_from(tmp_path, {name: value.to(torch.bfloat16) for name, value in STATE.items()})
    assert not module.training
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter, STATE[name])
        assert parameter.dtype == torch.float32
        assert not parameter.requires_grad


def test_build_leaves_what_is_unused_and_adapts_the_rest(tmp_path):
    state = {**STATE, "head.weight": torch.ones(9), "0.time": torch.ones(1), "1.weight": torch.ones(4, 3, 7)}

    def adapt(name, tensor):
        return None if name.endswith("time") else tensor[..., -1] if tensor.dim() == 3 else tensor

    module = build_from(tmp_path, state, unused=("head.",), adapt=adapt)
    assert module[1].weight.shape == (4, 3)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"1.weight": STATE["1.weight"]}, r"2 missing \(0.weight \[3, 2\], 0.bias \[3\]\)"),
        ({**STATE, "2.bias": torch.ones(7)}, r"1 unexpected \(2.bias \[7\]\)"),
        (
            {**STATE, **{f"x{k}": torch.ones(k) for k in range(1, 6)}},
            r"5 unexpected \(x1 \[1\], x2 \[2\], x3 \[3\], …\)",
        ),
        (
            {**STATE, "0.weight": torch.ones(2, 3)},
            r"1 of another shape \(0.weight: expected \[3, 2\], found \[2, 3\]\)",
        ),
        (
            {**STATE, "0.weight": torch.ones(3, 2, dtype=torch.int64)},
            r"whole numbers in quantised layers alone, found 1 others \(0.weight I64\)",
        ),
        ({**STATE, "0.bias": torch.ones(3, dtype=torch.bool)}, r"found 1 others \(0.bias BOOL\)"),
        ({"2.bias": torch.ones(7)}, r"3 missing \(.*\); 1 unexpected \(2.bias"),
    ],
)
def test_build_names_what_does_not_fit(tmp_path, state, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        build_from(tmp_path, state)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (MMDiTConfig, {"num_layer": 2}, "MMDiTConfig: unknown key 'num_layer'; did you mean 'num_layers'"),
        (MMDiTConfig, {"zzz": 2}, "unknown key 'zzz'$"),
        (MMDiTConfig, {"num_layers": "60"}, "num_layers: expected int, found '60'"),
        (MMDiTConfig, {"num_layers": None}, "num_layers: expected int, found None"),
        (MMDiTConfig, {"zero_cond_t": 1}, "zero_cond_t: expected bool, found 1"),
        (MMDiTConfig, {"axes_dims_rope": [16, 56]}, "axes_dims_rope: expected"),
        (MMDiTConfig, {"axes_dims_rope": 16}, "axes_dims_rope: expected"),
        (MMDiTConfig, {"axes_dims_rope": [16, 56, "56"]}, "axes_dims_rope: expected"),
        (MMDiTConfig, {"axes_dims_rope": [16, 56, 55]}, "expected axes_dims_rope to add up"),
        (MMDiTConfig, {"guidance_embeds": True}, "expected guidance_embeds false"),
        (VAEConfig, {"dim_mult": [1, 2.5]}, "dim_mult: expected"),
        (ScheduleConfig, {"shift_terminal": "0.02"}, "shift_terminal: expected"),
        (CheckpointInfo, {"name": "x"}, "expected keys licence, found only name"),
    ],
)
def test_config_errors(cls, values, message):
    with pytest.raises(ConfigError, match=message):
        config_from_json(cls, values)


def test_configs_survive_json():
    for config in (TRANSFORMER, AUTOENCODER, ScheduleConfig(shift_terminal=None), INFO):
        values = json.loads(json.dumps(config_to_json(config, class_name="X")))
        assert config_from_json(type(config), values) == config
    assert config_from_json(ScheduleConfig, {"shift": 3}).shift == 3  # a whole number is a number
    assert config_from_json(MMDiTConfig, {"_name": 1, "old": 2}, ignored=frozenset({"old"})) == MMDiTConfig()


def test_a_folder_tells_how_it_wants_to_be_used(folder):
    assert Folder(folder).info() == INFO
    (folder / "danqing.json").unlink()
    released = Folder(folder).info()
    assert (released.name, released.size, released.steps) == ("copy", (1328, 1328), 50)
    edit(folder / "model_index.json", _class_name="FluxPipeline")
    with pytest.raises(CheckpointError, match="expected a QwenImagePipeline checkpoint, found FluxPipeline"):
        Folder(folder).info()


def test_a_missing_part_is_one_line(folder):
    shutil.rmtree(folder / "vae")
    with pytest.raises(
        CheckpointError, match=r"vae: expected one .safetensors file or an index of several, found none"
    ):
        danqing.load(folder)
    with pytest.raises(CheckpointError, match=r"expected a checkpoint folder with model_index.json"):
        danqing.load(folder / "transformer")


def test_a_config_that_does_not_fit_the_weights(folder):
    edit(folder / "transformer" / "config.json", num_layers=3)
    with pytest.raises(CheckpointError, match=r"32 missing \(transformer_blocks.2.img_mod.1.weight"):
        danqing.load(folder)


@pytest.mark.parametrize(
    "flag",
    [
        "use_karras_sigmas",
        "use_beta_sigmas",
        "use_exponential_sigmas",
        "invert_sigmas",
        "stochastic_sampling",
    ],
)
def test_a_schedule_flag_that_would_change_pictures_is_refused(folder, flag):
    file = folder / "scheduler" / "scheduler_config.json"
    edit(file, **{flag: False})
    assert Folder(folder).schedule() == ScheduleConfig()
    edit(file, **{flag: True})
    with pytest.raises(ConfigError, match=f"expected {flag} false"):
        Folder(folder).schedule()


@pytest.mark.parametrize("folded_vae", [False, True], ids=["released", "folded"])
def test_a_written_folder_draws_the_same_picture(tiny, tmp_path, folded_vae):
    written = write_tiny(tmp_path / "tiny", folded_vae=folded_vae)
    again = danqing.load(written, device="cpu", precision="fp32")
    assert again.info == tiny.info
    expected = tiny.generate("a red apple", seed=1)
    assert again.generate("a red apple", seed=1).tobytes() == expected.tobytes()
    kernel = load_file(written / "vae" / "diffusion_pytorch_model.safetensors")["decoder.conv_in.weight"]
    assert kernel.dim() == (4 if folded_vae else 5)


def test_a_checkpoint_opens_in_bf16(tiny_folder, tiny):
    low = danqing.load(tiny_folder, device="cpu", precision="bf16")
    assert low.components.transformer.img_in.weight.dtype == torch.bfloat16
    assert low.generate("a red apple", seed=1, size=(48, 32)).size == (48, 32)


def test_parameter_names_are_the_released_ones():
    with torch.device("meta"):
        names = set(MMDiT(MMDiTConfig(num_layers=1)).state_dict())
    assert len(names) == 45
    assert {"time_text_embed.timestep_embedder.linear_1.weight", "norm_out.linear.bias"} < names
    assert {
        "transformer_blocks.0.img_mlp.net.0.proj.weight",
        "transformer_blocks.0.attn.to_out.0.bias",
    } < names
