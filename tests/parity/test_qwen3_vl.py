"""Our Qwen3-VL against Qwen3VLForConditionalGeneration of transformers, same weights, fp32."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from danqing.models.language import mrope_positions
from danqing.models.qwen3_vl import Qwen3VL, Qwen3VLConfig
from danqing.models.vision import patchify
from tests.parity.peer_parts import randomize, text_encoder_3
from tests.parity.peer_tokenizers import make_tokenizer

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

SHAPES = ((32 * 9, 32 * 5), (32 * 4, 32 * 11), (32, 32))
GRIDS = [(1, 18, 10), (1, 8, 22), (1, 2, 2)]


@pytest.fixture(scope="module")
def peer():
    return text_encoder_3(make_tokenizer("tiny"))


@pytest.fixture(scope="module")
def folder(peer, tmp_path_factory):
    path = tmp_path_factory.mktemp("text_encoder")
    peer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def config(folder):
    return Qwen3VLConfig.from_dict(json.loads((folder / "config.json").read_text()))


@pytest.fixture(scope="module")
def vlm(folder, config):
    vlm = Qwen3VL(config).eval()
    vlm.load_state_dict(load_file(folder / "model.safetensors"))
    return vlm


@pytest.fixture
def ids():
    return torch.randint(0, 440, (2, 37), generator=torch.Generator().manual_seed(3))


@pytest.fixture
def pictures(config):
    generator = torch.Generator().manual_seed(5)
    pixels = [torch.rand(3, *shape, generator=generator) * 2 - 1 for shape in SHAPES]
    return [patchify(picture, config.vision) for picture in pixels]


def with_pictures(config, *grids):
    """Token ids in which text surrounds one run of image tokens a picture."""
    ids = [1, 2]
    for index, (_, rows, columns) in enumerate(grids):
        ids += [config.vision_start_token, *[config.image_token] * (rows * columns // 4)]
        ids += [config.vision_end_token, *range(5, 7 + index)]
    return ids


def before_the_norm(peer, **inputs):
    """What the reference pipeline of 2.1 hands to the denoiser: its hook undoes the last norm."""
    handle = peer.model.language_model.norm.register_forward_hook(lambda module, given, out: given[0])
    try:
        return peer(**inputs, output_hidden_states=True).hidden_states[-1]
    finally:
        handle.remove()


def peer_inputs(config, ids, patches, grids):
    batch = torch.tensor([ids])
    return {
        "input_ids": batch,
        "attention_mask": torch.ones_like(batch),
        "pixel_values": patches,
        "image_grid_thw": torch.tensor(grids),
        "mm_token_type_ids": (batch == config.image_token).int(),
    }


@torch.no_grad()
def test_features_and_logits_of_text(peer, vlm, ids):
    features = vlm.features(ids)
    torch.testing.assert_close(features, before_the_norm(peer, input_ids=ids), rtol=0, atol=1e-5)
    torch.testing.assert_close(vlm.logits(features), peer(input_ids=ids).logits, rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_denoiser_reads_features_before_the_norm(vlm, ids):
    features = vlm.features(ids)
    assert not torch.allclose(features, vlm.language.norm(features), atol=0.1)


@torch.no_grad()
def test_bf16_rounds_like_the_reference(folder, config, ids):
    half = transformers.Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16)
    ours = Qwen3VL(config).eval()
    ours.load_state_dict(load_file(folder / "model.safetensors"))
    assert torch.equal(ours.to(torch.bfloat16).features(ids), before_the_norm(half, input_ids=ids))


@torch.no_grad()
def test_right_padding_changes_no_row(vlm, ids):
    padded = ids.clone()
    padded[1, 20:] = 448
    batch = vlm.features(padded, [37, 20])
    torch.testing.assert_close(batch[1:, :20], vlm.features(ids[1:, :20]), rtol=0, atol=1e-5)
    assert not batch[1, 20:].any()


@torch.no_grad()
def test_the_reference_pads_on_the_left_and_gets_the_same(peer, vlm, ids):
    mask = torch.ones_like(ids)
    mask[1, :17] = 0
    expected = before_the_norm(peer, input_ids=ids, attention_mask=mask)[1, 17:]
    torch.testing.assert_close(vlm.features(ids[1:, 17:])[0], expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_vision_tower(peer, vlm, pictures):
    expected = peer.model.visual(torch.cat(pictures), torch.tensor(GRIDS))
    seen = vlm.model.visual(torch.cat(pictures), GRIDS)
    torch.testing.assert_close(seen.features, expected.pooler_output, rtol=0, atol=1e-5)
    assert len(seen.levels) == len(expected.deepstack_features) == 2
    for ours, theirs in zip(seen.levels, expected.deepstack_features, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@torch.no_grad()
def test_vision_tower_with_frames(peer, vlm, pictures):
    grid = [(2, 6, 10), (1, 4, 4)]
    patches = torch.cat(pictures)[: 2 * 60 + 16]
    expected = peer.model.visual(patches, torch.tensor(grid)).pooler_output
    torch.testing.assert_close(vlm.model.visual(patches, grid).features, expected, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("chosen", [[0], [1], [2], [0, 1], [2, 1, 0]])
def test_features_with_pictures(peer, vlm, config, pictures, chosen):
    grids, patches = [GRIDS[k] for k in chosen], torch.cat([pictures[k] for k in chosen])
    ids = with_pictures(config, *grids)
    inputs = peer_inputs(config, ids, patches, grids)
    positions, following = mrope_positions(inputs["input_ids"], grids, config)
    expected, delta = peer.model.get_rope_index(
        input_ids=inputs["input_ids"],
        mm_token_type_ids=inputs["mm_token_type_ids"],
        image_grid_thw=inputs["image_grid_thw"],
    )
    assert torch.equal(positions, expected)
    assert following == [int(delta) + len(ids)]
    ours = vlm.features(inputs["input_ids"], patches=patches, grid_thw=grids)
    torch.testing.assert_close(ours, before_the_norm(peer, **inputs), rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_batch_with_pictures_equals_its_rows(vlm, config, pictures):
    rows = [with_pictures(config, GRIDS[0]), with_pictures(config, GRIDS[1], GRIDS[2])]
    lengths = [len(row) for row in rows]
    batch = torch.tensor([row + [448] * (max(lengths) - len(row)) for row in rows])
    together = vlm.features(batch, lengths, patches=torch.cat(pictures), grid_thw=GRIDS)
    first = vlm.features(torch.tensor(rows[:1]), patches=pictures[0], grid_thw=GRIDS[:1])
    second = vlm.features(torch.tensor(rows[1:]), patches=torch.cat(pictures[1:]), grid_thw=GRIDS[1:])
    torch.testing.assert_close(together[:1, : lengths[0]], first, rtol=0, atol=1e-5)
    torch.testing.assert_close(together[1:, : lengths[1]], second, rtol=0, atol=1e-5)


@torch.no_grad()
def test_greedy_generation(peer, vlm, ids):
    expected = peer.generate(input_ids=ids[:1], max_new_tokens=24, do_sample=False, eos_token_id=None)[0, 37:]
    ours = list(vlm.generate(ids[0].tolist(), max_new_tokens=24))
    assert ours == expected.tolist()
    stop = ours[10]
    assert list(vlm.generate(ids[0].tolist(), max_new_tokens=24, stop=[stop])) == ours[: ours.index(stop)]


@torch.no_grad()
def test_greedy_generation_with_pictures(peer, vlm, config, pictures):
    patches, ids = torch.cat(pictures), with_pictures(config, *GRIDS)
    inputs = peer_inputs(config, ids, patches, GRIDS)
    expected = peer.generate(**inputs, max_new_tokens=24, do_sample=False, eos_token_id=None)[0, len(ids) :]
    ours = vlm.generate(ids, max_new_tokens=24, patches=patches, grid_thw=GRIDS)
    assert list(ours) == expected.tolist()


def test_gradients(peer, vlm, config, pictures):
    ids = with_pictures(config, *GRIDS[:2])
    inputs = peer_inputs(config, ids, torch.cat(pictures[:2]), GRIDS[:2])
    target = torch.tensor([*ids[1:], 9])
    peer.zero_grad()
    torch.nn.functional.cross_entropy(peer(**inputs).logits[0], target).backward()
    vlm.zero_grad()
    features = vlm.features(inputs["input_ids"], patches=torch.cat(pictures[:2]), grid_thw=GRIDS[:2])
    torch.nn.functional.cross_entropy(vlm.logits(features)[0], target).backward()
    theirs = dict(peer.named_parameters())
    for name, parameter in vlm.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tied", [False, True])
def test_transformers_reads_what_we_write(tmp_path, config, ids, tied):
    ours = Qwen3VL(Qwen3VLConfig.from_dict({**config.to_dict(), "tie_word_embeddings": tied}))
    randomize(ours, 1)
    (tmp_path / "config.json").write_text(json.dumps(ours.config.to_dict()))
    save_file(ours.state_dict(), tmp_path / "model.safetensors", {"format": "pt"})
    peer, report = transformers.Qwen3VLForConditionalGeneration.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(report.values())
    with torch.no_grad():
        torch.testing.assert_close(
            ours.logits(ours.features(ids)), peer(input_ids=ids).logits, rtol=0, atol=1e-5
        )
    assert Qwen3VLConfig.from_dict(peer.config.to_dict()) == ours.config


def test_parts_can_be_left_out(vlm, config, ids):
    lean = Qwen3VL(config, vision=False, head=False).eval()
    names = set(lean.state_dict())
    assert names == {n for n in vlm.state_dict() if n.startswith("model.language_model.")}
    lean.load_state_dict({n: p for n, p in vlm.state_dict().items() if n in names})
    assert torch.equal(lean.features(ids), vlm.features(ids))


def test_full_size_names_and_shapes():
    """The 8B model, as its transformers class counts it too."""
    with torch.device("meta"):
        ours = Qwen3VL(Qwen3VLConfig())
        peer = transformers.Qwen3VLForConditionalGeneration(
            transformers.Qwen3VLConfig.from_dict(Qwen3VLConfig().to_dict())
        )
    shapes = {name: p.shape for name, p in ours.named_parameters()}
    assert shapes == {name: p.shape for name, p in peer.named_parameters()}
    assert round(sum(p.numel() for p in ours.parameters()) / 1e9, 3) == 8.767


def test_patches_match_the_image_processor():
    from PIL import Image
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    generator = torch.Generator().manual_seed(2)
    values = torch.randint(0, 256, (64, 96, 3), generator=generator, dtype=torch.uint8)
    processor = Qwen2VLImageProcessorPil(
        patch_size=16,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        size={"shortest_edge": 1024, "longest_edge": 4096 * 4096},
    )
    expected = processor(Image.fromarray(values.numpy()), return_tensors="pt")
    ours = patchify(values.permute(2, 0, 1) / 127.5 - 1, Qwen3VLConfig().vision)
    torch.testing.assert_close(ours, expected["pixel_values"], rtol=0, atol=1e-5)
    assert expected["image_grid_thw"].tolist() == [[1, 4, 6]]
