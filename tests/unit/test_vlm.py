"""The vision-language model at a small size: its config, its errors, its cache and its training."""

import pytest
import torch
from torch.nn import functional as F

from danqing.errors import ConfigError, RequestError
from danqing.models.vision import VisionConfig, VisionTower, patchify
from danqing.models.vlm import VLM, VLMConfig, mrope_positions

VISION = VisionConfig(
    dim=16, hidden_dim=24, num_layers=2, num_heads=2, out_dim=32, full_attention_layers=(1,)
)
CONFIG = VLMConfig(
    vocab_size=60,
    dim=32,
    hidden_dim=48,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    mrope_section=(2, 1, 1),
    image_token=50,
    video_token=51,
    vision_start_token=52,
    vision_end_token=53,
    eos_token=54,
    pad_token=55,
    vision=VISION,
)


@pytest.fixture
def vlm():
    vlm = VLM(CONFIG).eval()
    vlm.init_weights(torch.Generator().manual_seed(0), std=0.2)
    return vlm


def test_config_survives_json():
    assert VLMConfig.from_dict(CONFIG.to_dict()) == CONFIG
    assert VLMConfig.from_dict(VLMConfig().to_dict()) == VLMConfig()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_config": {}}, "found no vocab_size, hidden_size"),
        ({"text_config": None}, "found no vocab_size"),
        ({"rope_scaling": {"type": "yarn"}}, "found 'yarn'"),
        ({"hidden_act": "gelu"}, "hidden_act='silu', found 'gelu'"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"hidden_size": "64"}, "expected a number for hidden_size"),
        ({"num_attention_heads": 0}, "expected positive sizes"),
        ({"num_attention_heads": 5}, "multiple of num_heads"),
        ({"rope_scaling": {"mrope_section": [1, 1, 1]}}, "mrope_section must add up"),
    ],
)
def test_config_errors(change, message):
    released = CONFIG.to_dict()
    if "text_config" in change:
        released |= change
    else:
        released["text_config"] |= change
    with pytest.raises(ConfigError, match=message):
        VLMConfig.from_dict(released)


@pytest.mark.parametrize("change", [{"num_heads": 3}, {"window_size": 100}, {"num_layers": 0}])
def test_vision_config_errors(change):
    with pytest.raises(ConfigError):
        VisionConfig(**change)


def test_eos_may_be_a_list():
    released = CONFIG.to_dict()
    released["text_config"]["eos_token_id"] = [54, 55]
    assert VLMConfig.from_dict(released).eos_token == 54


def test_missing_parts_are_named():
    lean = VLM(CONFIG, vision=False, head=False)
    ids = torch.full((1, 4), CONFIG.image_token)
    with pytest.raises(ConfigError, match="head=True"):
        lean.logits(lean.features(ids))
    with pytest.raises(ConfigError, match="vision=True"):
        lean.features(ids, patches=torch.zeros(16, VISION.patch_dim), grid_thw=[(1, 4, 4)])


def test_picture_must_match_its_tokens(vlm):
    patches = torch.zeros(16, VISION.patch_dim)
    with pytest.raises(RequestError, match="expected 4 image tokens"):
        vlm.features(torch.full((1, 3), CONFIG.image_token), patches=patches, grid_thw=[(1, 4, 4)])


def test_picture_sides():
    with pytest.raises(ConfigError, match="multiples of 28"):
        patchify(torch.zeros(3, 28, 30), VISION)


def test_positions_after_a_picture():
    ids = torch.tensor([[1, 50, 50, 50, 50, 50, 50, 2, 3]])
    positions, following = mrope_positions(ids, [(1, 4, 6)], CONFIG)
    assert positions[:, 0].tolist() == [
        [0, 1, 1, 1, 1, 1, 1, 4, 5],
        [0, 1, 1, 1, 2, 2, 2, 4, 5],
        [0, 1, 2, 3, 1, 2, 3, 4, 5],
    ]
    assert following == [6]


@torch.no_grad()
def test_pictures_do_not_see_each_other(vlm):
    generator = torch.Generator().manual_seed(1)
    parts = [
        torch.randn(rows * columns, VISION.patch_dim, generator=generator)
        for rows, columns in ((10, 6), (4, 8))
    ]
    grids = [(1, 10, 6), (1, 4, 8)]
    together = vlm.visual(torch.cat(parts), grids)
    alone = [vlm.visual(part, [grid]) for part, grid in zip(parts, grids, strict=True)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-5)


@torch.no_grad()
def test_windows_hide_the_rest():
    """Without a layer of full attention, a change inside one window stays in it."""
    config = VisionConfig(
        dim=16, hidden_dim=24, num_layers=2, num_heads=2, out_dim=32, full_attention_layers=(), window_size=56
    )
    tower = VisionTower(config).eval()
    patches = torch.randn(8 * 8, config.patch_dim, generator=torch.Generator().manual_seed(1))
    changed = patches.clone()
    changed[0] += 1
    differs = (tower(patches, [(1, 8, 8)]) != tower(changed, [(1, 8, 8)])).any(-1).view(4, 4)
    assert differs.tolist() == [[True] * 2 + [False] * 2] * 2 + [[False] * 4] * 2


@torch.no_grad()
def test_cached_generation_equals_whole_forwards(vlm):
    ids = [1, 50, 50, 50, 50, 50, 50, 2, 3]
    picture = {
        "patches": torch.randn(24, VISION.patch_dim, generator=torch.Generator().manual_seed(2)),
        "grid_thw": [(1, 4, 6)],
    }
    slow = list(ids)
    for _ in range(12):
        slow.append(int(vlm.logits(vlm.features(torch.tensor([slow]), **picture))[0, -1].argmax()))
    assert list(vlm.generate(ids, max_new_tokens=12, **picture)) == slow[len(ids) :]


def test_rows_that_share_a_prefix_are_as_if_each_was_read_whole(vlm):
    head = torch.tensor([3, 7, 11, 2, 9])
    tails = torch.tensor([[5, 6, 50, 50, 50, 50, 8], [50, 50, 50, 50, 1, 2, 55]])
    grids = [(1, 4, 4), (1, 4, 4)]
    patches = torch.cat([patchify(torch.rand(3, 56, 56), VISION) for _ in grids])
    whole = vlm.features(torch.cat([head.expand(2, -1), tails], 1), patches=patches, grid_thw=grids)
    shared = vlm.features(tails, patches=patches, grid_thw=grids, prefix=vlm.prefix(head))
    torch.testing.assert_close(shared, whole[:, 5:], rtol=1e-5, atol=1e-5)
    weight = vlm.model.layers[0].self_attn.k_proj.weight
    losses = [features.square().mean(dim=-1)[:, -7:].sum() for features in (whole, shared)]
    grads = [torch.autograd.grad(loss, weight)[0] for loss in losses]
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-6)


def test_generation_is_lazy(vlm):
    tokens = vlm.generate([1, 2, 3], max_new_tokens=10**6)
    assert next(tokens) in range(60)
    tokens.close()


def test_training_lowers_the_loss(vlm):
    vlm.train()
    ids = torch.tensor([[1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1]])
    optimizer = torch.optim.AdamW(vlm.parameters(), lr=1e-2)

    def loss():
        logits = vlm.logits(vlm.features(ids[:, :-1], [5, 5]))
        return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())

    start = float(loss().detach())
    for _ in range(40):
        optimizer.zero_grad()
        step = loss()
        step.backward()
        optimizer.step()
    assert float(step.detach()) < 0.1 * start


def test_tied_head_is_the_embedding():
    tied = VLM(VLMConfig.from_dict({**CONFIG.to_dict(), "tie_word_embeddings": True}))
    assert "lm_head.weight" not in tied.state_dict()
    features = torch.randn(2, 3, 32)
    torch.testing.assert_close(tied.logits(features), features @ tied.model.embed_tokens.weight.T)
