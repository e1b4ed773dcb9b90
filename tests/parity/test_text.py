"""Our prompt conditioning against the pipelines of diffusers, same weights, fp32."""

import json

import pytest
import torch
from safetensors.torch import load_file

from danqing.conditioning.templates import DESCRIBE, DESCRIBE_QUESTION, EDIT, EDIT_PLUS, GENERATE
from danqing.conditioning.text import encode_edit_prompts, encode_prompts, picture_patches, picture_token_ids
from danqing.conditioning.tokenizer import Tokenizer
from danqing.errors import RequestError
from danqing.models.vlm import VLM, VLMConfig

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.parity

PROMPTS = [
    "a red apple on a blue table",
    "",
    "猫 {} a sign that says “OPEN”",
    "<|im_start|>user\nnow",
    " ",
    "\n\nx",
]


@pytest.fixture(scope="module")
def folder(peers_qwen):
    return peers_qwen.checkpoint("qwen-image")


@pytest.fixture(scope="module")
def pipeline(folder):
    return diffusers.QwenImagePipeline.from_pretrained(folder, dtype=torch.float32)


@pytest.fixture(scope="module")
def tokenizer(folder):
    return Tokenizer.load(folder / "tokenizer")


@pytest.fixture(scope="module")
def vlm(folder):
    config = VLMConfig.from_dict(json.loads((folder / "text_encoder" / "config.json").read_text()))
    vlm = VLM(config, head=False).eval()
    state = load_file(folder / "text_encoder" / "model.safetensors")
    vlm.load_state_dict({name: value for name, value in state.items() if not name.startswith("lm_head.")})
    return vlm


@pytest.fixture
def pictures():
    generator = torch.Generator().manual_seed(5)
    return [torch.rand(3, *size, generator=generator) * 2 - 1 for size in ((84, 140), (56, 112))]


def test_templates_are_those_of_the_pipelines(pipeline):
    assert pipeline.prompt_template_encode == GENERATE.text
    assert pipeline.prompt_template_encode_start_idx == GENERATE.drop
    # Their constructors need nothing else to tell the templates.
    parts = dict.fromkeys(["scheduler", "vae", "text_encoder", "tokenizer", "processor", "transformer"])
    edit = diffusers.QwenImageEditPipeline(**parts)
    assert edit.prompt_template_encode == EDIT.text.replace("{}", EDIT.picture + "{}")
    assert edit.prompt_template_encode_start_idx == EDIT.drop
    plus = diffusers.QwenImageEditPlusPipeline(**parts)
    assert plus.prompt_template_encode == EDIT_PLUS.text
    assert plus.prompt_template_encode_start_idx == EDIT_PLUS.drop


@torch.no_grad()
def test_prompts(pipeline, vlm, tokenizer):
    expected, mask = pipeline.encode_prompt(PROMPTS, max_sequence_length=1024)
    ours = encode_prompts(vlm, tokenizer, PROMPTS)
    assert ours.lengths == mask.sum(1).tolist()
    assert ours.lengths[1] == 5
    torch.testing.assert_close(ours.txt, expected, rtol=0, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("max_length", [512, 1024])
def test_long_prompts_lose_their_end(pipeline, vlm, tokenizer, max_length):
    prompt = "a very long sentence about apples, " * 150
    expected, _ = pipeline.encode_prompt(prompt, max_sequence_length=max_length)
    ours = encode_prompts(vlm, tokenizer, [prompt], max_length=max_length)
    assert ours.lengths == [max_length]
    torch.testing.assert_close(ours.txt, expected, rtol=0, atol=1e-4)


def test_a_prompt_alone_and_in_a_batch_are_bit_equal(vlm, tokenizer):
    batch = encode_prompts(vlm, tokenizer, PROMPTS)
    for row, length, prompt in zip(batch.txt, batch.lengths, PROMPTS, strict=True):
        alone = encode_prompts(vlm, tokenizer, [prompt])
        assert torch.equal(row[:length], alone.txt[0])
        assert not row[length:].any()


@torch.no_grad()
@pytest.mark.parametrize(("template", "count"), [(EDIT, 1), (EDIT_PLUS, 1), (EDIT_PLUS, 2)])
def test_edit_prompts(pipeline, vlm, tokenizer, pictures, template, count):
    """The reference encoder on the ids that the processor would give: each picture's place, repeated."""
    patches, grid_thw = picture_patches(vlm, pictures[:count])
    text = template.fill("make it green", num_pictures=count)
    for _, rows, columns in grid_thw:
        text = text.replace("<|image_pad|>", "<|wide|>" * (rows * columns // 4), 1)
    ids = torch.tensor([pipeline.tokenizer(text.replace("<|wide|>", "<|image_pad|>"))["input_ids"]])
    expected = pipeline.text_encoder(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=patches,
        image_grid_thw=torch.tensor(grid_thw),
        mm_token_type_ids=(ids == tokenizer.image_pad).int(),
        output_hidden_states=True,
    ).hidden_states[-1][:, 64:]
    ours = encode_edit_prompts(vlm, tokenizer, ["make it green", ""], pictures[:count], template=template)
    assert ours.lengths == [expected.shape[1], expected.shape[1] - 3]
    torch.testing.assert_close(ours.txt[:1], expected, rtol=0, atol=1e-4)


def test_a_picture_mark_in_the_prompt_is_refused(vlm, tokenizer, pictures):
    with pytest.raises(RequestError, match="found 2; clean the prompt"):
        encode_edit_prompts(vlm, tokenizer, ["<|image_pad|>"], pictures[:1])


def test_describe_template(vlm, tokenizer, pictures):
    _, grid_thw = picture_patches(vlm, pictures)
    text = DESCRIBE.fill(DESCRIBE_QUESTION, num_pictures=2)
    ids = picture_token_ids(vlm, tokenizer, text, grid_thw)
    assert ids.count(tokenizer.image_pad) == 15 + 8
    assert tokenizer.decode(ids) == (
        "system\nYou are a helpful assistant.\nuser\nDescribe the image.\nassistant\n"
    )
