"""Pictures and a question in, text out, against transformers with the same weights: greedy, word for word."""

import pytest
import torch
from PIL import Image

from danqing.conditioning.given import open_picture
from danqing.conditioning.questions import DESCRIBE_QUESTIONS
from danqing.model import load_describer
from danqing.pipelines.describe import DescribeRequest, describe
from tests.parity.peer_parts import CHAT_TEMPLATE

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

NEW_TOKENS = 24


@pytest.fixture(scope="module")
def folder(peers):
    return peers.checkpoint("qwen-image")


@pytest.fixture(scope="module")
def describer(folder):
    return load_describer(folder, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def peer(folder):
    kind = transformers.Qwen2_5_VLForConditionalGeneration
    return kind.from_pretrained(folder / "text_encoder", dtype=torch.float32).eval()


def picture(width, height, mode="RGB"):
    generator = torch.Generator().manual_seed(width * height)
    values = torch.randint(0, 256, (height, width, len(mode)), generator=generator, dtype=torch.uint8)
    return Image.fromarray(values.numpy(), mode)


def reference(peer, peers, pictures, question):
    """Return what transformers says: its chat template, its image processor, its generation.

    The released template puts the system text in front of a conversation that has none.
    """
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    content = [*({"type": "image"} for _ in pictures), {"type": "text", "text": question}]
    text = peers.tokenizer.apply_chat_template(
        [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": content},
        ],
        chat_template=CHAT_TEMPLATE,
        add_generation_prompt=True,
        tokenize=False,
    )
    seen = Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=12845056)(pictures, return_tensors="pt")
    for grid in seen["image_grid_thw"]:
        text = text.replace("<|image_pad|>", "<|place|>" * int(grid.prod() // 4), 1)
    ids = peers.tokenizer(text.replace("<|place|>", "<|image_pad|>"), return_tensors="pt")["input_ids"]
    out = peer.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=seen["pixel_values"],
        image_grid_thw=seen["image_grid_thw"],
        mm_token_type_ids=(ids == peer.config.image_token_id).int(),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        pad_token_id=0,
    )
    return peers.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize("language", ["en", "ar"])
@pytest.mark.parametrize(
    "sizes", [[(84, 56)], [(133, 70)], [(20, 300)], [(84, 56), (150, 90)], [(90, 60), (57, 57), (112, 200)]]
)
def test_text(peer, peers, describer, sizes, language):
    pictures = [picture(*size) for size in sizes]
    given = tuple(open_picture(one) for one in pictures)
    ours = describe(describer, DescribeRequest(pictures=given, language=language, max_tokens=NEW_TOKENS))
    assert "".join(ours) == reference(peer, peers, pictures, DESCRIBE_QUESTIONS[language])


def test_a_question_of_ones_own(peer, peers, describer):
    pictures = [picture(100, 80)]
    given = (open_picture(pictures[0]),)
    request = DescribeRequest(pictures=given, ask="How many 🍎 are there?\nCount!", max_tokens=NEW_TOKENS)
    assert "".join(describe(describer, request)) == reference(peer, peers, pictures, request.question)


def test_different_pictures_say_different_things(describer):
    """Random weights hear pictures, so that the tests above compare more than the question."""

    def said(*size):
        given = (open_picture(picture(*size)),)
        return "".join(describe(describer, DescribeRequest(pictures=given, max_tokens=NEW_TOKENS)))

    assert said(84, 56) != said(133, 70)
