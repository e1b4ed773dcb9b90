"""Our conditioner against Qwen2_5_VLForConditionalGeneration of transformers, same weights, fp32."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from danqing.models.vision import PIXEL_MEAN, PIXEL_STD, VisionTower, patchify
from danqing.models.vlm import VLM, VLMConfig, mrope_positions

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

VOCAB, IMAGE, START, END = 512, 460, 457, 458


def randomize(module, seed):
    """Give every parameter a value that shows when it is dropped or misplaced."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                parameter.copy_(noise / math.sqrt(parameter[0].numel()))
            else:
                parameter.copy_(0.1 * noise if name.endswith("bias") else 1 + 0.2 * noise)
    return module.eval()


def tiny_config(**changes):
    text = {
        "vocab_size": VOCAB,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
        "bos_token_id": None,
        "eos_token_id": 450,
        "pad_token_id": 448,
    }
    vision = {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": 64,
        "fullatt_block_indexes": [1],
    }
    return transformers.Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=IMAGE,
        video_token_id=461,
        vision_start_token_id=START,
        vision_end_token_id=END,
        **changes,
    )


@pytest.fixture(scope="module")
def peer():
    return randomize(transformers.Qwen2_5_VLForConditionalGeneration(tiny_config()), 11)


@pytest.fixture(scope="module")
def folder(peer, tmp_path_factory):
    path = tmp_path_factory.mktemp("text_encoder")
    peer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def config(folder):
    return VLMConfig.from_dict(json.loads((folder / "config.json").read_text()))


@pytest.fixture(scope="module")
def vlm(folder, config):
    vlm = VLM(config).eval()
    vlm.load_state_dict(load_file(folder / "model.safetensors"))
    return vlm


@pytest.fixture
def ids():
    return torch.randint(0, 440, (2, 37), generator=torch.Generator().manual_seed(3))


@pytest.fixture
def pictures(config):
    """Two pictures whose sides are no multiple of the window."""
    generator = torch.Generator().manual_seed(5)
    shapes = ((28 * 9, 28 * 5), (28 * 4, 28 * 11))
    patches = [patchify(torch.rand(3, *s, generator=generator) * 2 - 1, config.vision) for s in shapes]
    return torch.cat(patches), [(1, 18, 10), (1, 8, 22)]


@pytest.fixture
def picture_ids():
    return [1, 2, START, *[IMAGE] * 45, END, 5, 6, START, *[IMAGE] * 44, END, 7, 8, 9]


def ask_peer(peer, picture_ids, pictures, method, **options):
    ids = torch.tensor([picture_ids])
    return method(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=pictures[0],
        image_grid_thw=torch.tensor(pictures[1]),
        mm_token_type_ids=(ids == IMAGE).int(),
        **options,
    )


@torch.no_grad()
def test_every_layer_and_the_head(peer, vlm, ids):
    inputs, outputs = [], []

    def record(_, given, out):
        inputs.append(given[0])
        outputs.append(out)

    hooks = [layer.register_forward_hook(record) for layer in vlm.model.layers]
    features = vlm.features(ids)
    for hook in hooks:
        hook.remove()
    reference = peer(input_ids=ids, output_hidden_states=True)
    expected = reference.hidden_states
    torch.testing.assert_close(inputs[0], expected[0], rtol=0, atol=0)
    for ours, theirs in zip(outputs[:-1], expected[1:-1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    torch.testing.assert_close(features, expected[-1], rtol=0, atol=1e-5)
    torch.testing.assert_close(vlm.logits(features), reference.logits, rtol=0, atol=1e-5)


@torch.no_grad()
def test_bf16_rounds_like_the_reference(peer, folder, config, ids):
    half = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16)
    ours = VLM(config).eval()
    ours.load_state_dict(load_file(folder / "model.safetensors"))
    expected = half(input_ids=ids, output_hidden_states=True).hidden_states[-1]
    assert torch.equal(ours.to(torch.bfloat16).features(ids), expected)


@torch.no_grad()
def test_right_padding_changes_no_row(vlm, ids):
    lengths = [37, 20]
    padded = ids.clone()
    padded[1, 20:] = 448
    batch = vlm.features(padded, lengths)
    torch.testing.assert_close(batch[1:, :20], vlm.features(ids[1:, :20]), rtol=0, atol=1e-5)
    assert not batch[1, 20:].any()


@torch.no_grad()
def test_greedy_generation(peer, vlm, ids):
    expected = peer.generate(input_ids=ids[:1], max_new_tokens=24, do_sample=False, eos_token_id=None)[0, 37:]
    ours = list(vlm.generate(ids[0].tolist(), max_new_tokens=24))
    assert ours == expected.tolist()
    stop = ours[10]
    assert list(vlm.generate(ids[0].tolist(), max_new_tokens=24, stop=[stop])) == ours[: ours.index(stop)]


@torch.no_grad()
def test_sampling_is_seeded_and_follows_the_distribution(vlm, ids):
    prompt = ids[0].tolist()

    def draw(seed, **options):
        generator = torch.Generator().manual_seed(seed)
        return next(vlm.generate(prompt, max_new_tokens=1, generator=generator, **options))

    assert draw(7, temperature=1.0) == draw(7, temperature=1.0)
    likely = vlm.logits(vlm.features(ids[:1]))[0, -1].softmax(-1)
    best = int(likely.argmax())
    assert {draw(s, temperature=1.0, top_p=float(likely[best]) * 0.9) for s in range(20)} == {best}
    share = sum(draw(s, temperature=0.5) == best for s in range(300)) / 300
    expected = float((likely**2 / (likely**2).sum())[best])
    assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / 300)


@torch.no_grad()
def test_patches_match_the_image_processor():
    from PIL import Image
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    generator = torch.Generator().manual_seed(2)
    values = torch.randint(0, 256, (56, 84, 3), generator=generator, dtype=torch.uint8)
    processor = Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=28 * 28 * 1280)
    expected = processor(Image.fromarray(values.numpy()), return_tensors="pt")
    assert (list(processor.image_mean), list(processor.image_std)) == (list(PIXEL_MEAN), list(PIXEL_STD))
    pixels = values.permute(2, 0, 1) / 127.5 - 1
    ours = patchify(pixels, VLMConfig().vision)
    torch.testing.assert_close(ours, expected["pixel_values"], rtol=0, atol=1e-5)
    assert expected["image_grid_thw"].tolist() == [[1, 4, 6]]


@torch.no_grad()
def test_vision_tower(peer, vlm, pictures):
    expected = peer.model.visual(pictures[0], torch.tensor(pictures[1])).pooler_output
    torch.testing.assert_close(vlm.visual(*pictures), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_vision_tower_with_frames(peer, vlm, pictures):
    grid = [(2, 6, 10), (1, 4, 4)]
    patches = pictures[0][: 2 * 60 + 16]
    expected = peer.model.visual(patches, torch.tensor(grid)).pooler_output
    torch.testing.assert_close(vlm.visual(patches, grid), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_features_with_pictures(peer, vlm, config, picture_ids, pictures):
    ids = torch.tensor([picture_ids])
    positions, following = mrope_positions(ids, pictures[1], config)
    expected, delta = peer.model.get_rope_index(
        ids, (ids == IMAGE).int(), image_grid_thw=torch.tensor(pictures[1])
    )
    assert torch.equal(positions, expected)
    assert following == [int(delta) + len(picture_ids)]
    reference = ask_peer(peer, picture_ids, pictures, peer, output_hidden_states=True).hidden_states[-1]
    ours = vlm.features(ids, patches=pictures[0], grid_thw=pictures[1])
    torch.testing.assert_close(ours, reference, rtol=0, atol=1e-4)


@torch.no_grad()
def test_greedy_generation_with_pictures(peer, vlm, picture_ids, pictures):
    options = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": None}
    expected = ask_peer(peer, picture_ids, pictures, peer.generate, **options)[0, len(picture_ids) :]
    ours = vlm.generate(picture_ids, max_new_tokens=24, patches=pictures[0], grid_thw=pictures[1])
    assert list(ours) == expected.tolist()


def test_gradients(peer, vlm, picture_ids, pictures):
    target = torch.tensor([[*picture_ids[1:], 9]])
    ids = torch.tensor([picture_ids])
    logits = ask_peer(peer, picture_ids, pictures, peer).logits
    peer.zero_grad()
    torch.nn.functional.cross_entropy(logits[0], target[0]).backward()
    vlm.zero_grad()
    logits = vlm.logits(vlm.features(ids, patches=pictures[0], grid_thw=pictures[1]))
    torch.nn.functional.cross_entropy(logits[0], target[0]).backward()
    assert vlm.visual.patch_embed.proj.weight.grad.abs().max() > 0
    pairs = {
        "visual.patch_embed.proj.weight": peer.model.visual.patch_embed.proj.weight,
        "model.embed_tokens.weight": peer.model.language_model.embed_tokens.weight,
    }
    for name, parameter in pairs.items():
        torch.testing.assert_close(vlm.get_parameter(name).grad, parameter.grad, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tied", [False, True])
def test_transformers_reads_what_we_write(tmp_path, config, ids, tied):
    ours = VLM(VLMConfig.from_dict({**config.to_dict(), "tie_word_embeddings": tied})).eval()
    ours.init_weights(torch.Generator().manual_seed(1))
    (tmp_path / "config.json").write_text(json.dumps(ours.config.to_dict()))
    save_file(ours.state_dict(), tmp_path / "model.safetensors", {"format": "pt"})
    peer, report = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(report.values())
    assert peer.dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(
            ours.logits(ours.features(ids)), peer(input_ids=ids).logits, rtol=0, atol=1e-5
        )
    assert VLMConfig.from_dict(peer.config.to_dict()) == ours.config


def test_tied_checkpoint_has_no_head(tmp_path):
    peer = randomize(
        transformers.Qwen2_5_VLForConditionalGeneration(tiny_config(tie_word_embeddings=True)), 4
    )
    peer.save_pretrained(tmp_path)
    config = VLMConfig.from_dict(json.loads((tmp_path / "config.json").read_text()))
    VLM(config).load_state_dict(load_file(tmp_path / "model.safetensors"))


def test_parts_can_be_left_out(vlm, config, ids):
    lean = VLM(config, vision=False, head=False).eval()
    names = set(lean.state_dict())
    assert names == {n for n in vlm.state_dict() if n.startswith("model.")}
    lean.load_state_dict({n: p for n, p in vlm.state_dict().items() if n in names})
    assert torch.equal(lean.features(ids), vlm.features(ids))


def test_released_config_of_transformers_4():
    """The flat spelling of the released 7B config, in which text keys stand at the top level."""
    released = {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "max_position_embeddings": 128000,
        "vocab_size": 152064,
        "use_sliding_window": False,
        "image_token_id": 151655,
        "vision_config": {"depth": 32, "hidden_size": 1280, "in_chans": 3, "spatial_patch_size": 14},
    }
    assert VLMConfig.from_dict(released) == VLMConfig()


def test_full_size_names_and_shapes():
    with torch.device("meta"):
        ours = VLM(VLMConfig())
        tower = VisionTower(VLMConfig().vision)
    count = sum(p.numel() for p in ours.parameters())
    assert round(count / 1e9, 3) == 8.292
    assert round(sum(p.numel() for p in tower.parameters()) / 1e9, 3) == 0.677
