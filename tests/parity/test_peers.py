"""The reference side itself: what parity tests compare with must be what was published."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.parity import peer_parts
from tests.parity.peer_cases import cases, record
from tests.parity.peer_tokenizers import ADDED_TOKENS, PLAIN
from tests.parity.peers import CHECKPOINTS, NEED_TORCHVISION, Peers

DRAW_PREFIX = (  # 34 tokens, which the text-to-image pipeline drops
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, "
    "spatial relationships of the objects and background:<|im_end|>\n<|im_start|>user\n"
)


def test_the_released_tokenizer_has_the_published_numbers(released_tokenizer):
    published = {
        "<|endoftext|>": 151643,
        "<|im_start|>": 151644,
        "<|im_end|>": 151645,
        "<|vision_start|>": 151652,
        "<|vision_end|>": 151653,
        "<|image_pad|>": 151655,
        "</think>": 151668,
    }
    assert {token: released_tokenizer.convert_tokens_to_ids(token) for token in published} == published
    assert len(released_tokenizer) == 151643 + len(ADDED_TOKENS)


def test_the_released_tokenizer_splits_as_published(released_tokenizer):
    assert len(released_tokenizer(DRAW_PREFIX).input_ids) == 34
    assert released_tokenizer("Hello world").input_ids == [9707, 1879]
    assert len(released_tokenizer("你好，世界").input_ids) == 3


def test_plain_added_tokens_survive_decoding(released_tokenizer):
    ids = released_tokenizer("<|im_start|><think>a</think><|im_end|>").input_ids
    assert released_tokenizer.decode(ids, skip_special_tokens=True) == "<think>a</think>"
    kept = released_tokenizer.decode(
        released_tokenizer.convert_tokens_to_ids(ADDED_TOKENS), skip_special_tokens=True
    )
    assert [token for token in ADDED_TOKENS if token in kept] == PLAIN


def test_the_checkpoint_has_the_released_layout(peers):
    folder = peers.checkpoint("qwen-image")
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "QwenImagePipeline"
    parts = {"scheduler", "text_encoder", "tokenizer", "transformer", "vae"}
    assert {path.name for path in folder.iterdir() if path.is_dir()} == parts
    tensors = load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")
    assert "transformer_blocks.1.img_mlp.net.0.proj.weight" in tensors
    assert all(value.std() > 0 or value.numel() == 1 for value in tensors.values())


def test_building_again_gives_the_same_weights(peers, tmp_path):
    name = "qwen-image/transformer/diffusion_pytorch_model.safetensors"
    peers.checkpoint("qwen-image")
    Peers(tmp_path, "tiny").checkpoint("qwen-image")
    first, second = load_file(peers.folder / name), load_file(tmp_path / name)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def _updates(path) -> list[torch.Tensor]:
    """Return up @ down of every target, scaled, in the order of the flattened target names."""
    tensors = load_file(path)
    found = {}
    for key, down in tensors.items():
        if "lora_A" not in key and "lora_down" not in key:
            continue
        up = tensors[key.replace("lora_A", "lora_B").replace("lora_down", "lora_up")]
        name = key.split(".lora_")[0]
        scale = tensors[f"{name}.alpha"].item() / len(down) if f"{name}.alpha" in tensors else 1.0
        for prefix in ("transformer.", "diffusion_model.", "lora_unet_"):
            name = name.removeprefix(prefix)
        found[name.replace(".", "_")] = scale * up @ down
    return [found[name] for name in sorted(found)]


def test_the_five_lora_layouts_mean_one_update(peers):
    files = sorted(peers.checkpoint("loras").glob("*.safetensors"))
    assert len(files) == 5
    first, *others = map(_updates, files)
    assert len(first) == 2 * 8
    for other in others:
        torch.testing.assert_close(other, first)


@pytest.mark.skipif(peer_parts.HAVE_TORCHVISION, reason="torchvision is here")
@pytest.mark.parametrize("name", sorted(NEED_TORCHVISION))
def test_what_needs_torchvision_says_so(peers, name):
    with pytest.raises(LookupError, match="needs torchvision"):
        peers.checkpoint(name)


def test_every_case_names_a_known_checkpoint():
    used = {case.checkpoint for case in cases().values()}
    controlnets = {case.controlnet for case in cases().values() if case.controlnet}
    assert used | controlnets == set(CHECKPOINTS) - {"loras"}


def test_a_recorded_run_holds_every_call(peers):
    peers.checkpoint("qwen-image")
    case = cases()["t2i"]
    tensors = record(peers.folder, case)
    steps = case.call["num_inference_steps"]
    assert tensors["images"].shape == (1, 3, 64, 96)
    assert tensors["sigmas"].shape == (steps + 1,)
    assert tensors["sigmas"][0] == 1
    assert tensors["sigmas"][-1] == 0
    assert {f"latents.{i}" for i in range(steps)} <= tensors.keys()
    assert {f"transformer.{i}.out" for i in range(2 * steps)} <= tensors.keys()  # cond and uncond
    assert {"text_encoder.0.out", "text_encoder.1.out"} <= tensors.keys()
    assert torch.equal(tensors["transformer.0.in.timestep"], torch.ones(1))
