"""Qwen3-VL at a small size: its config, its errors, its cache and its eyes."""

import dataclasses

import pytest
import torch
from safetensors.torch import save_file

from danqing.conditioning.text import over_white
from danqing.conditioning.tokenizer import Tokenizer
from danqing.errors import ConfigError, RequestError
from danqing.models.qwen3_vision import Qwen3VisionConfig, Qwen3VisionTower
from danqing.models.qwen3_vl import Qwen3VL, Qwen3VLConfig
from danqing.models.vision import patchify
from danqing.weights.build import build
from tests.tiny import randomized

VISION = Qwen3VisionConfig(
    dim=16, hidden_dim=24, num_layers=2, num_heads=2, out_dim=32, num_positions=16, deepstack_layers=(0, 1)
)
CONFIG = Qwen3VLConfig(
    vocab_size=60,
    dim=32,
    hidden_dim=48,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    mrope_section=(4, 2, 2),
    image_token=50,
    video_token=51,
    vision_start_token=52,
    vision_end_token=53,
    eos_token=54,
    pad_token=55,
    max_positions=2048,
    vision=VISION,
)


def config_for(tokenizer: Tokenizer) -> Qwen3VLConfig:
    """Return the small config with the special tokens of a tokenizer."""
    return dataclasses.replace(
        CONFIG,
        vocab_size=len(tokenizer),
        image_token=tokenizer.image_pad,
        video_token=tokenizer.video_pad,
        vision_start_token=tokenizer.vision_start,
        vision_end_token=tokenizer.vision_end,
        eos_token=tokenizer.eos,
        pad_token=tokenizer.pad,
    )


@pytest.fixture
def vlm():
    return randomized(Qwen3VL(CONFIG), 0)


def test_config_survives_json():
    assert Qwen3VLConfig.from_dict(CONFIG.to_dict()) == CONFIG
    assert Qwen3VLConfig.from_dict(Qwen3VLConfig().to_dict()) == Qwen3VLConfig()


def test_released_config_of_transformers_4():
    text = {
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "rms_norm_eps": 1e-06,
        "rope_theta": 5000000,
        "rope_scaling": {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"},
        "max_position_embeddings": 262144,
        "vocab_size": 151936,
        "attention_bias": False,
        "eos_token_id": 151645,
    }
    vision = {"depth": 27, "hidden_size": 1152, "out_hidden_size": 4096, "hidden_act": "gelu_pytorch_tanh"}
    released = {"image_token_id": 151655, "text_config": text, "vision_config": vision}
    assert Qwen3VLConfig.from_dict(released) == Qwen3VLConfig()


def test_a_folder_gives_only_the_parts_that_a_task_needs(tmp_path, vlm):
    save_file(vlm.state_dict(), tmp_path / "model.safetensors")
    lean = build(
        lambda: Qwen3VL(CONFIG, vision=False, head=False),
        tmp_path,
        device=torch.device("cpu"),
        dtype=torch.float32,
        unused=("model.visual.", "lm_head."),
    )
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(lean.features(ids), vlm.features(ids))


def test_frequencies_take_turns():
    axes = Qwen3VLConfig().rope_axes
    assert axes[:6] == (0, 1, 2, 0, 1, 2)
    assert axes[-6:] == (1, 2, 0, 0, 0, 0)
    assert [axes.count(axis) for axis in range(3)] == [24, 20, 20]


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("text_config", {"rope_scaling": {"type": "yarn"}}, "found 'yarn'"),
        ("text_config", {"rope_scaling": {"mrope_interleaved": False}}, "mrope_interleaved=true"),
        ("text_config", {"rope_scaling": {"mrope_section": [1, 1, 1]}}, "mrope_section must add up"),
        ("text_config", {"rope_scaling": {"mrope_section": [1, 2, 5]}}, "take turns"),
        ("text_config", {"attention_bias": True}, "attention_bias=true"),
        ("text_config", {"hidden_act": "gelu"}, "hidden_act='silu', found 'gelu'"),
        ("text_config", {"num_key_value_heads": 3}, "multiple of num_kv_heads"),
        ("text_config", {"num_hidden_layers": 1}, "language layer for each level"),
        ("text_config", {"hidden_size": "32"}, "expected a number for hidden_size"),
        ("text_config", {"hidden_size": 64}, "end in the language width"),
        ("text_config", {"head_dim": 0}, "expected positive sizes"),
        ("vision_config", {"hidden_act": "silu"}, "hidden_act='gelu_pytorch_tanh', found 'silu'"),
        ("vision_config", {"num_position_embeddings": 15}, "must be a square, found 15"),
        ("vision_config", {"deepstack_visual_indexes": [2]}, "layers of the tower"),
        ("vision_config", {"num_heads": 3}, "multiple of 4"),
        ("vision_config", {"depth": 0}, "positive sizes of the vision tower"),
    ],
)
def test_config_errors(part, change, message):
    released = CONFIG.to_dict()
    released[part] |= change
    with pytest.raises(ConfigError, match=message):
        Qwen3VLConfig.from_dict(released)


def test_a_config_of_another_model_is_named():
    with pytest.raises(ConfigError, match=r"expected a Qwen3-VL config\.json, found no vocab_size"):
        Qwen3VLConfig.from_dict({"model_type": "llama"})


def test_missing_parts_are_named():
    lean = Qwen3VL(CONFIG, vision=False, head=False)
    ids = torch.full((1, 4), CONFIG.image_token)
    with pytest.raises(ConfigError, match="head=True"):
        lean.logits(lean.features(ids))
    with pytest.raises(ConfigError, match="vision=True"):
        lean.features(ids, patches=torch.zeros(16, VISION.patch_dim), grid_thw=[(1, 4, 4)])


def test_picture_must_match_its_tokens(vlm):
    with pytest.raises(RequestError, match="expected 4 image tokens"):
        vlm.features(
            torch.full((1, 3), CONFIG.image_token),
            patches=torch.zeros(16, VISION.patch_dim),
            grid_thw=[(1, 4, 4)],
        )


def test_pictures_do_not_see_each_other(vlm):
    generator = torch.Generator().manual_seed(1)
    grids = [(1, 10, 6), (1, 4, 8)]
    parts = [torch.randn(r * c, VISION.patch_dim, generator=generator) for _, r, c in grids]
    together = vlm.model.visual(torch.cat(parts), grids)
    alone = [vlm.model.visual(part, [grid]) for part, grid in zip(parts, grids, strict=True)]
    torch.testing.assert_close(
        together.features, torch.cat([one.features for one in alone]), rtol=0, atol=1e-5
    )


def test_positions_reach_every_patch():
    """A picture of one colour has features that differ from place to place, stretched to any size."""
    tower = randomized(Qwen3VisionTower(VISION), 1)
    for rows, columns in ((2, 2), (4, 4), (6, 2)):
        plain = torch.full((rows * columns, VISION.patch_dim), 0.3)
        found = tower(plain, [(1, rows, columns)]).features
        assert len(found.round(decimals=4).unique(dim=0)) == rows * columns // 4


def test_deepstack_changes_what_the_denoiser_reads(vlm):
    """The same picture with and without the features of the tower's earlier layers."""
    ids = torch.tensor([[1, *[50] * 4, 2]])
    picture = {"patches": torch.randn(16, VISION.patch_dim), "grid_thw": [(1, 4, 4)]}
    seen = vlm.features(ids, **picture)
    for merger in vlm.model.visual.deepstack_merger_list:
        merger.linear_fc2.weight.zero_()
        merger.linear_fc2.bias.zero_()
    without = vlm.features(ids, **picture)
    assert torch.equal(seen[0, 0], without[0, 0])
    assert not torch.isclose(seen[0, 1:], without[0, 1:], atol=1e-3).all(dim=-1).any()


def test_cached_generation_equals_whole_forwards(vlm):
    ids = [1, *[50] * 6, 2, 3]
    picture = {
        "patches": torch.randn(24, VISION.patch_dim, generator=torch.Generator().manual_seed(2)),
        "grid_thw": [(1, 4, 6)],
    }
    slow = list(ids)
    for _ in range(12):
        slow.append(int(vlm.logits(vlm.features(torch.tensor([slow]), **picture))[0, -1].argmax()))
    assert list(vlm.generate(ids, max_new_tokens=12, **picture)) == slow[len(ids) :]


def test_tied_head_is_the_embedding():
    tied = Qwen3VL(dataclasses.replace(CONFIG, tie_embeddings=True))
    assert "lm_head.weight" not in tied.state_dict()
    features = torch.randn(2, 3, 32)
    table = tied.language.embed_tokens.weight
    torch.testing.assert_close(tied.logits(features), tied.language.norm(features) @ table.T)


def test_pixels_of_qwen3_vl_stay_between_minus_one_and_one():
    picture = torch.rand(3, 32, 64) * 2 - 1
    assert patchify(picture, VISION).aminmax() == picture.aminmax()
    with pytest.raises(ConfigError, match="multiples of 32"):
        patchify(torch.zeros(3, 32, 40), VISION)


def test_clear_pixels_are_white_and_solid_ones_keep_their_colour():
    pixels = torch.rand(4, 2, 2) * 2 - 1
    pixels[3] = torch.tensor([[-1.0, 1.0], [-1.0, 1.0]])
    white = over_white(pixels)
    assert (white[:, :, 0] == 1).all()
    torch.testing.assert_close(white[:, :, 1], pixels[:3, :, 1], rtol=0, atol=1 / 255)
