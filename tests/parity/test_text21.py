"""Our conditioning for 2.1 against the pipeline of diffusers, same weights, fp32."""

import numpy as np
import pytest
import torch
from PIL import Image

from danqing.conditioning.images import to_pixels
from danqing.conditioning.templates import DESCRIBE_21, DESCRIBE_QUESTION, GENERATE_21
from danqing.conditioning.text import (
    encode_prompts_21,
    over_white,
    picture_patches,
    picture_token_ids,
)
from danqing.conditioning.tokenizer import Tokenizer
from danqing.errors import RequestError
from danqing.models.qwen3_vl import Qwen3VL, Qwen3VLConfig
from tests.parity.peer_parts import still_processor_3, text_encoder_3
from tests.parity.peer_tokenizers import make_tokenizer

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
SIZES = [(96, 64), (64, 128), (32, 32)]


@pytest.fixture(scope="module")
def pipeline():
    tokenizer = make_tokenizer("tiny")
    return diffusers.QwenImage21Pipeline(
        scheduler=None,
        vae=None,
        text_encoder=text_encoder_3(tokenizer),
        processor=still_processor_3(tokenizer),
        transformer=None,
    )


@pytest.fixture(scope="module")
def tokenizer(pipeline, tmp_path_factory):
    folder = tmp_path_factory.mktemp("processor")
    pipeline.processor.tokenizer.save_pretrained(folder)
    return Tokenizer.load(folder)


@pytest.fixture(scope="module")
def vlm(pipeline):
    vlm = Qwen3VL(Qwen3VLConfig.from_dict(pipeline.text_encoder.config.to_dict())).eval()
    vlm.load_state_dict(pipeline.text_encoder.state_dict())
    return vlm


def picture(width, height, channels=4):
    values = np.random.default_rng(width).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(values)


def pixels(image):
    return to_pixels(np.array(image)[None])[0]


def rows_of_the_reference(pipeline, prompts, images=None):
    """Features of the text tokens of each prompt, and how many of them stand before each picture."""
    embeds, mask, slots = pipeline.encode_prompt(prompts, image=images)
    mask = torch.ones(embeds.shape[:2]) if mask is None else mask
    return [
        (row[real.bool() & ~pads], [int((~pads[: k + 1]).sum()) for k in pads.nonzero().flatten().tolist()])
        for row, real, pads in zip(embeds, mask, slots, strict=True)
    ]


def test_the_template_is_that_of_the_pipeline(pipeline):
    assert pipeline.prompt_template_t2i == GENERATE_21.text
    assert pipeline.prompt_template_ti2i.format("x") == GENERATE_21.fill("x", num_pictures=1)
    assert pipeline._drop_idx == GENERATE_21.drop


def test_the_system_text_has_as_many_tokens_in_the_released_vocabulary(released_tokenizer):
    system, _, _ = GENERATE_21.text.partition("<|im_start|>user")
    assert len(released_tokenizer(system)["input_ids"]) == GENERATE_21.drop


@torch.no_grad()
def test_prompts(pipeline, vlm, tokenizer):
    expected = rows_of_the_reference(pipeline, PROMPTS)
    ours = encode_prompts_21(vlm, tokenizer, PROMPTS)
    assert ours.lengths == [len(row) for row, _ in expected]
    assert ours.before == ()
    for row, length, (theirs, _) in zip(ours.txt, ours.lengths, expected, strict=True):
        torch.testing.assert_close(row[:length], theirs, rtol=0, atol=1e-5)
        assert not row[length:].any()


@torch.no_grad()
def test_a_long_prompt_is_not_cut(pipeline, vlm, tokenizer):
    prompt = "a very long sentence about apples, " * 40
    ((expected, _),) = rows_of_the_reference(pipeline, [prompt])
    ours = encode_prompts_21(vlm, tokenizer, [prompt])
    assert ours.lengths[0] > 1024
    torch.testing.assert_close(ours.txt[0], expected, rtol=0, atol=1e-5)


def test_a_prompt_alone_and_in_a_batch_are_bit_equal(vlm, tokenizer):
    references = [pixels(picture(*size)) for size in SIZES]
    for given in ([], references):
        batch = encode_prompts_21(vlm, tokenizer, PROMPTS[:3], given)
        for row, length, prompt in zip(batch.txt, batch.lengths, PROMPTS[:3], strict=True):
            alone = encode_prompts_21(vlm, tokenizer, [prompt], given)
            assert torch.equal(row[:length], alone.txt[0])
            assert alone.before == batch.before


@torch.no_grad()
@pytest.mark.parametrize("count", [1, 2, 3, 10])
def test_references(pipeline, vlm, tokenizer, count):
    """Of several sizes, every second one transparent, and prompts of several lengths."""
    images = [picture(*SIZES[k % 3], 3 + k % 2).convert("RGBA") for k in range(count)]
    prompts = ["make it green", "put <image1> on a long, long table of oak", ""]
    expected = rows_of_the_reference(pipeline, prompts, images)
    ours = encode_prompts_21(vlm, tokenizer, prompts, [pixels(image) for image in images])
    assert ours.lengths == [len(row) for row, _ in expected]
    for row, length, (theirs, before) in zip(ours.txt, ours.lengths, expected, strict=True):
        torch.testing.assert_close(row[:length], theirs, rtol=0, atol=1e-5)
        assert list(dict.fromkeys(before)) == list(ours.before)
        assert len(ours.before) == count


def test_transparency_is_laid_over_white_like_pil():
    image = picture(64, 96)
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(image, mask=image.getchannel("A"))
    torch.testing.assert_close(over_white(pixels(image)), pixels(white), rtol=0, atol=1e-6)
    assert torch.equal(over_white(pixels(white)), pixels(white))


def test_more_than_ten_references_are_refused(vlm, tokenizer):
    with pytest.raises(RequestError, match="at most 10, found 11"):
        encode_prompts_21(vlm, tokenizer, ["x"], [torch.zeros(3, 32, 32)] * 11)


@pytest.mark.parametrize("count", [0, 1])
def test_a_picture_mark_in_the_prompt_is_refused(vlm, tokenizer, count):
    with pytest.raises(RequestError, match=f"found {count + 1}; clean the prompt"):
        encode_prompts_21(vlm, tokenizer, ["<|image_pad|>"], [torch.zeros(3, 32, 32)] * count)


@torch.no_grad()
def test_describing_a_picture(pipeline, vlm, tokenizer):
    image = picture(96, 64, 3)
    message = [{"type": "image", "image": image}, {"type": "text", "text": DESCRIBE_QUESTION}]
    inputs = pipeline.processor.apply_chat_template(
        [{"role": "user", "content": message}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    patches, grid_thw = picture_patches(vlm, [pixels(image)])
    token_ids = picture_token_ids(
        vlm, tokenizer, DESCRIBE_21.fill(DESCRIBE_QUESTION, num_pictures=1), grid_thw
    )
    assert token_ids == inputs["input_ids"][0].tolist()
    told = pipeline.text_encoder.generate(**inputs, max_new_tokens=16, do_sample=False, eos_token_id=None)
    ours = vlm.generate(token_ids, max_new_tokens=16, patches=patches, grid_thw=grid_thw)
    assert list(ours) == told[0, len(token_ids) :].tolist()
