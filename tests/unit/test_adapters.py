"""Adapter files: every spelling of one adapter, what is written, and what is refused."""

import json
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from danqing.errors import CheckpointError, RequestError
from danqing.models.lora import Difference, Hadamard, Kronecker, LowRank, linears, strengths
from danqing.models.mmdit import MMDiT
from danqing.models.single_stream import SingleStream, SingleStreamConfig
from danqing.weights.adapters import adapt, check_adapter, lightning_steps, load_adapter, save_adapter
from tests.tiny import TRANSFORMER, randomized

LAYER = "transformer_blocks.0.attn.to_out.0"
FLAT = "transformer_blocks_0_attn_to_out_0"
GENERATOR = torch.Generator().manual_seed(3)


def draw(*shape):
    return torch.randn(shape, generator=GENERATOR)


DOWN, UP = draw(4, 32), draw(32, 4)


@pytest.fixture(scope="module")
def model():
    return randomized(MMDiT(TRANSFORMER), 1)


def write(tmp_path, tensors, header=None, name="adapter.safetensors"):
    save_file({key: value.clone() for key, value in tensors.items()}, tmp_path / name, header)
    return tmp_path / name


SPELLINGS = {
    "diffusers": ("transformer.{}.lora_A.weight", "transformer.{}.lora_B.weight", None),
    "diffusers of old": ("transformer.{}.lora.down.weight", "transformer.{}.lora.up.weight", None),
    "PEFT": ("base_model.model.{}.lora_A.weight", "base_model.model.{}.lora_B.weight", None),
    "PEFT, named": ("base_model.model.{}.lora_A.mine.weight", "base_model.model.{}.lora_B.mine.weight", None),
    "DiffSynth": ("{}.lora_A.default.weight", "{}.lora_B.default.weight", None),
    "DiffSynth, nested": ("pipe.dit.{}.lora_A.default.weight", "pipe.dit.{}.lora_B.default.weight", None),
    "SimpleTuner": (
        "transformer.base_model.model.{}.lora.down.weight",
        "transformer.base_model.model.{}.lora.up.weight",
        None,
    ),
    "ai-toolkit": ("diffusion_model.{}.lora_A.weight", "diffusion_model.{}.lora_B.weight", None),
    "ComfyUI": (
        "diffusion_model.{}.lora_down.weight",
        "diffusion_model.{}.lora_up.weight",
        "diffusion_model.{}.alpha",
    ),
    "Lightning": ("{}.lora_down.weight", "{}.lora_up.weight", "{}.alpha"),
    "diffusers, alpha": (
        "transformer.{}.lora_A.weight",
        "transformer.{}.lora_B.weight",
        "transformer.{}.alpha",
    ),
    "kohya": ("lora_unet_{}.lora_down.weight", "lora_unet_{}.lora_up.weight", "lora_unet_{}.alpha"),
    "OneTrainer": (
        "lora_transformer_{}.lora_down.weight",
        "lora_transformer_{}.lora_up.weight",
        "lora_transformer_{}.alpha",
    ),
    "LyCORIS": ("lycoris_{}.lora_down.weight", "lycoris_{}.lora_up.weight", "lycoris_{}.alpha"),
}


@pytest.mark.parametrize("program", SPELLINGS)
def test_every_spelling_is_the_same_adapter(program, model, tmp_path):
    down, up, alpha = SPELLINGS[program]
    layer = FLAT if down.startswith(("lora_", "lycoris_")) else LAYER
    tensors = {down.format(layer): DOWN, up.format(layer): UP}
    if alpha is not None:
        tensors[alpha.format(layer)] = torch.tensor(6.0)
    found = load_adapter(write(tmp_path, tensors), model)
    assert list(found) == [LAYER]
    assert torch.equal(found[LAYER].down, DOWN)
    assert torch.equal(found[LAYER].up, UP)
    assert found[LAYER].scale == (1.0 if alpha is None else 1.5)
    assert not any(p.requires_grad for p in found[LAYER].parameters())


@pytest.mark.parametrize("kind", ["MMDiT", "single stream"])
def test_every_layer_has_its_own_flat_name(kind, tmp_path):
    with torch.device("meta"):
        made = MMDiT(TRANSFORMER) if kind == "MMDiT" else SingleStream(SingleStreamConfig(num_layers=2))
    tensors = {}
    for name, layer in linears(made).items():
        flat = f"lora_unet_{name.replace('.', '_')}"
        tensors |= {f"{flat}.lora_down.weight": torch.zeros(1, layer.in_features)}
        tensors |= {f"{flat}.lora_up.weight": torch.zeros(layer.out_features, 1)}
    assert set(load_adapter(write(tmp_path, tensors), made)) == set(linears(made))


KINDS = {
    "low rank": LowRank(draw(2, 32), draw(32, 2), scale=0.3),
    "biased": LowRank(draw(2, 32), draw(32, 2), scale=0.3, bias=draw(32)),
    "kronecker": Kronecker(draw(8, 4), draw(4, 8), scale=0.3),
    "hadamard": Hadamard((draw(32, 2), draw(32, 2)), (draw(2, 32), draw(2, 32)), scale=0.3),
    "difference": Difference(draw(32, 32), bias=draw(32)),
}


@pytest.mark.parametrize("dialect", ["diffusers", "comfyui", "kohya"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_read_back(kind, dialect, model, tmp_path):
    path, adapter = tmp_path / "new" / "adapter.safetensors", {LAYER: KINDS[kind]}
    if dialect == "diffusers" and kind not in ("low rank", "biased"):
        with pytest.raises(RequestError, match="all that diffusers loads; choose comfyui or kohya"):
            save_adapter(path, adapter, dialect)
        return
    save_adapter(path, adapter, dialect)
    assert [file.name for file in path.parent.iterdir()] == ["adapter.safetensors"]
    found = load_adapter(path, model)[LAYER]
    assert type(found) is type(adapter[LAYER])
    torch.testing.assert_close(found.weight(), adapter[LAYER].weight(), rtol=0, atol=1e-6)
    x = draw(3, 32)
    torch.testing.assert_close(found(x), adapter[LAYER](x), rtol=0, atol=1e-5)


def test_alpha_stays_exact_in_half_precision(tmp_path):
    save_adapter(
        tmp_path / "a.safetensors", {LAYER: LowRank(DOWN, UP, scale=0.3)}, "kohya", dtype=torch.bfloat16
    )
    stored = load_file(tmp_path / "a.safetensors")
    assert stored[f"lora_unet_{FLAT}.lora_up.weight"].dtype == torch.bfloat16
    assert stored[f"lora_unet_{FLAT}.alpha"] == torch.tensor(1.2)


def test_a_layer_that_comfyui_fuses_is_two_of_ours(tmp_path):
    single = randomized(SingleStream(SingleStreamConfig(num_layers=1, **SMALL21)), 1)
    gate, proj = (f"transformer_blocks.0.img_mlp.{name}" for name in ("gate_layer", "proj"))
    fused = "diffusion_model.transformer_blocks.0.img_mlp.gate_up"
    rows, width = 2 * single.get_submodule(gate).out_features, single.get_submodule(gate).in_features
    files = {
        "lora": {".lora_down.weight": draw(2, width), ".lora_up.weight": draw(rows, 2)},
        "lokr": {".lokr_w1": draw(4, 2), ".lokr_w2": draw(rows // 4, width // 2)},
        "lokr of one": {".lokr_w1": draw(1, 1), ".lokr_w2": draw(rows, width)},
        "loha": {
            ".hada_w1_a": draw(rows, 2),
            ".hada_w1_b": draw(2, width),
            ".hada_w2_a": draw(rows, 2),
            ".hada_w2_b": draw(2, width),
        },
        "full": {".diff": draw(rows, width)},
    }
    both = nn.Sequential(nn.Linear(width, rows))
    for tensors in files.values():
        path = write(tmp_path, {fused + end: tensor for end, tensor in tensors.items()})
        found = load_adapter(path, single)
        alone = load_adapter(write(tmp_path, {"0" + end: t for end, t in tensors.items()}), both)["0"]
        assert list(found) == [gate, proj]
        assert torch.equal(torch.cat([found[gate].weight(), found[proj].weight()]), alone.weight())
    path = write(tmp_path, {fused + ".lokr_w1": draw(3, 1), fused + ".lokr_w2": draw(rows // 3, width)})
    with pytest.raises(CheckpointError, match=r"to fall into 2 parts, found \[3, 1\]"):
        load_adapter(path, single)


SMALL21 = {
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "context_in_dim": 32,
    "axes_dims_rope": (4, 6, 6),
    "mlp_ratio": 3,
}


def test_the_text_encoders_share_is_left_out_with_a_warning(model, tmp_path, caplog):
    tensors = {f"{LAYER}.lora_A.weight": DOWN, f"{LAYER}.lora_B.weight": UP}
    more = {"lora_te_layers_0.lora_down.weight": DOWN, "text_encoder.layers.0.lora_A.weight": DOWN}
    with caplog.at_level(logging.WARNING, logger="danqing"):
        assert list(load_adapter(write(tmp_path, tensors | more), model)) == [LAYER]
    assert [record.message.split(": ", 1)[1] for record in caplog.records] == [
        "2 tensors for the text encoder are left out; only the denoiser is adapted"
    ]
    with pytest.raises(CheckpointError, match="found none, only 2 tensors for the text encoder"):
        load_adapter(write(tmp_path, more), model)


LORA = {f"{LAYER}.lora_A.weight": DOWN, f"{LAYER}.lora_B.weight": UP}
WRONG = {
    "no file": (None, "expected a safetensors file, found none"),
    "another model": (
        LORA | {f"double_blocks.{n}.img_attn.qkv.lora_A.weight": DOWN for n in range(9)},
        r"found 9 tensors that fit none \(double_blocks.0.img_attn.qkv.lora_A.weight \[4, 32\], .*, …\); the "
        "adapter was made for another model",
    ),
    "an unknown factor": (
        LORA | {f"{LAYER}.lora_C.weight": DOWN},
        r"1 tensors .* \(.*lora_C.weight \[4, 32\]\)",
    ),
    "a name of two lines": (
        LORA | {f"{LAYER}\nlora_A": DOWN},
        r"names of tensors in one line, found '.*\\n",
    ),
    "an endless name": (LORA | {"a" * 10_000: DOWN}, "names of tensors in one line, found 'aaa"),
    "nothing": ({}, "expected an adapter of the denoiser, found none"),
    "another width": (
        {f"{LAYER}.lora_A.weight": draw(4, 31), f"{LAYER}.lora_B.weight": UP},
        r"to_out.0: expected down of \[4, 32\], found \[4, 31\]",
    ),
    "two ranks": (
        {f"{LAYER}.lora_A.weight": DOWN, f"{LAYER}.lora_B.weight": draw(32, 5)},
        r"expected up of \[32, 4\], found \[32, 5\]",
    ),
    "no rank": (
        {f"{LAYER}.lora_A.weight": draw(0, 32), f"{LAYER}.lora_B.weight": draw(32, 0)},
        r"expected down of \[rank, 32\], found \[0, 32\]",
    ),
    "a convolution": (
        {f"{LAYER}.lora_A.weight": draw(4, 32, 1, 1), f"{LAYER}.lora_B.weight": UP},
        r"expected down of \[rank, 32\], found \[4, 32, 1, 1\]",
    ),
    "one half": ({f"{LAYER}.lora_A.weight": DOWN}, "expected the two halves of a LoRA, .*, found down"),
    "two layers": (
        {f"transformer_blocks.{n}.attn.to_q.lora_A.weight": DOWN for n in (0, 1)},
        "0.attn.to_q: expected the two halves .*; 1 more layers are wrong",
    ),
    "twice": (
        LORA | {f"transformer.{LAYER}.lora_A.weight": DOWN},
        "expected one adapter, found two: .* and ",
    ),
    "not a number": (LORA | {f"{LAYER}.lora_B.weight": UP / 0}, "lora_B.weight: expected finite numbers"),
    "whole numbers": (
        LORA | {f"{LAYER}.lora_B.weight": UP.int()},
        "expected floating-point numbers, found I32",
    ),
    "many alphas": (LORA | {f"{LAYER}.alpha": draw(2)}, r"expected one number as alpha, found \[2\]"),
    "endless alpha": (LORA | {f"{LAYER}.alpha": torch.tensor(float("inf"))}, "alpha: expected finite"),
    "DoRA": (LORA | {f"{LAYER}.dora_scale": UP}, "expected a LoRA, LoKr or LoHa, found DoRA"),
    "DoRA of PEFT": (LORA | {f"{LAYER}.lora_magnitude_vector": UP}, "found DoRA"),
    "OFT": ({f"{LAYER}.oft_blocks": UP}, "found OFT"),
    "a LoKr of another size": (
        {f"{LAYER}.lokr_w1": draw(4, 4), f"{LAYER}.lokr_w2": draw(8, 9)},
        r"expected Kronecker factors of \[32, 32\], found factors of \[32, 36\]",
    ),
    "a LoKr without its half": (
        {f"{LAYER}.lokr_w1": draw(4, 4)},
        "or all factors of a LoKr or LoHa, found w1",
    ),
    "a biased LoKr": (
        {f"{LAYER}.lokr_w1": draw(4, 4), f"{LAYER}.lokr_w2": draw(8, 8), f"{LAYER}.diff_b": draw(32)},
        "expected no bias beside a LoKr or LoHa",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_refused_in_one_line(case, model, tmp_path):
    tensors, message = WRONG[case]
    path = tmp_path / "adapter.safetensors" if tensors is None else write(tmp_path, tensors)
    with pytest.raises(CheckpointError, match=message) as caught:
        adapt(model, [(path, 1.0)])
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert strengths(model) == {}


def test_headers_alone_tell_what_does_not_fit(tmp_path):
    with torch.device("meta"):
        empty = MMDiT(TRANSFORMER)
    broken = write(tmp_path, LORA | {f"{LAYER}.lora_B.weight": UP / 0})
    check_adapter(broken, empty)  # values are not looked at
    with pytest.raises(CheckpointError, match="expected down of"):
        check_adapter(write(tmp_path, {**LORA, f"{LAYER}.lora_A.weight": draw(4, 31)}), empty)


@pytest.mark.parametrize("cut", [4, 100, -10])
def test_broken_files_are_refused(cut, model, tmp_path):
    path = write(tmp_path, LORA)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CheckpointError, match="expected a whole safetensors file"):
        load_adapter(path, model)


@pytest.mark.parametrize("name", ["adapter.ckpt", "adapter.pt", "adapter.bin"])
def test_pickles_are_not_opened(name, model, tmp_path):
    (tmp_path / name).write_bytes(b"\x80\x04.")
    with pytest.raises(CheckpointError, match=r"expected a \.safetensors file, found another"):
        load_adapter(tmp_path / name, model)


def header(**values):
    said = {f"transformer.{key}": value for key, value in {"r": 4, "lora_alpha": 4, **values}.items()}
    return {"lora_adapter_metadata": json.dumps(said)}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"r": 8}, "expected rank 8 as the config says, found 4"),
        ({"r": 0}, "'r': expected a number, found 0"),
        ({"r": "4"}, "'r': expected a number, found '4'"),
        ({"lora_alpha": float("nan")}, "'lora_alpha': expected a number, found nan"),
        ({"use_dora": True}, "found DoRA"),
        ({"peft_type": "BOFT"}, "expected peft_type LORA or LOKR or LOHA, found 'BOFT'"),
        ({"rank_pattern": {"(a+)+$": 4}}, "rank_pattern: expected names of layers, found the pattern"),
        ({"alpha_pattern": [4]}, "alpha_pattern: expected an object"),
    ],
)
def test_wrong_configs_are_refused(config, message, model, tmp_path):
    with pytest.raises(CheckpointError, match=message):
        load_adapter(write(tmp_path, LORA, header(**config)), model)


def test_a_header_that_is_no_json(model, tmp_path):
    with pytest.raises(CheckpointError, match="expected JSON in lora_adapter_metadata"):
        load_adapter(write(tmp_path, LORA, {"lora_adapter_metadata": "{"}), model)


def test_a_folder_needs_one_file(model, tmp_path):
    with pytest.raises(CheckpointError, match="expected one adapter in the folder, found none"):
        load_adapter(tmp_path, model)
    for name in ("a.safetensors", "b.safetensors"):
        write(tmp_path, LORA, name=name)
    with pytest.raises(CheckpointError, match=r"found a.safetensors, b.safetensors; name the file"):
        load_adapter(tmp_path, model)


def test_adapters_are_called_what_their_files_are(tmp_path):
    model = randomized(MMDiT(TRANSFORMER), 1)
    (tmp_path / "other").mkdir()
    first = write(tmp_path, LORA, name="ink.v1.safetensors")
    second = write(tmp_path / "other", LORA, name="ink.v1.safetensors")
    assert adapt(model, [(first, 0.5), (second, -1.0)]) == {"ink.v1": 0.5, "ink.v1-2": -1.0}
    assert strengths(model) == {"ink.v1": 0.5, "ink.v1-2": -1.0}


@pytest.mark.parametrize(
    ("name", "metadata", "steps"),
    [
        ("Qwen-Image-Lightning-4steps-V1.0.safetensors", {}, 4),
        ("Qwen-Image-Edit-2509-Lightning-8steps-V1.0-bf16.safetensors", {}, 8),
        ("turbo_8_step.safetensors", {}, 8),
        ("lightning.safetensors", {"num_inference_steps": "4"}, 4),
        ("lightning.safetensors", {"num_inference_steps": "many"}, None),
        ("4stepsister.safetensors", {}, None),
    ],
)
def test_a_distilled_adapter_says_its_steps(name, metadata, steps, tmp_path):
    assert lightning_steps(write(tmp_path, LORA, metadata, name)) == steps


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({LAYER: KINDS["low rank"]}, "flux"), "dialect: expected one of diffusers, comfyui, kohya"),
        (({}, "kohya"), "expected an adapter that changes something"),
    ],
)
def test_what_cannot_be_written(arguments, message, tmp_path):
    with pytest.raises(RequestError, match=message):
        save_adapter(tmp_path / "a.safetensors", *arguments)
