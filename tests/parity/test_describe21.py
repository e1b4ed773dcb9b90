"""Pictures and a question to the conditioner of 2.1, from a folder, against transformers: word for word."""

import pytest
import torch

from danqing.conditioning.given import open_picture
from danqing.conditioning.questions import DESCRIBE_QUESTIONS
from danqing.model import load_describer
from danqing.pipelines.describe import DescribeRequest, describe
from tests.parity.peer_cases import picture

pytest.importorskip("diffusers")
peer_21 = pytest.importorskip("tests.parity.peer_21")

NEW_TOKENS = 24


@pytest.fixture(scope="module")
def sides(peers, tmp_path_factory):
    pipeline = peer_21.pipeline(peers.tokenizer)
    folder = peer_21.write_checkpoint(tmp_path_factory.mktemp("released") / "Qwen-Image-2.1", pipeline)
    return pipeline, load_describer(folder, device="cpu", precision="fp32")


@torch.no_grad()
def reference(pipeline, pictures, question):
    """Return what transformers says: its chat template, its image processor, its generation."""
    content = [*({"type": "image", "image": one} for one in pictures), {"type": "text", "text": question}]
    inputs = pipeline.processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    out = pipeline.text_encoder.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
    said = out[0, inputs["input_ids"].shape[1] :]
    return pipeline.processor.tokenizer.decode(said, skip_special_tokens=True)


@pytest.mark.parametrize("language", ["en", "ar"])
@pytest.mark.parametrize("sizes", [[(96, 64)], [(90, 61)], [(20, 300)], [(90, 60), (57, 57), (112, 200)]])
def test_text(sides, sizes, language):
    pipeline, describer = sides
    pictures = [picture(*size, seed) for seed, size in enumerate(sizes)]
    given = tuple(map(open_picture, pictures))
    request = DescribeRequest(pictures=given, language=language, max_tokens=NEW_TOKENS)
    ours = "".join(describe(describer, request))
    assert ours == reference(pipeline, pictures, DESCRIBE_QUESTIONS[language])


def test_different_pictures_say_different_things(sides):
    """Random weights hear pictures, so that the test above compares more than the question."""

    def said(*size):
        given = (open_picture(picture(*size)),)
        return "".join(describe(sides[1], DescribeRequest(pictures=given, max_tokens=NEW_TOKENS)))

    assert said(96, 64) != said(64, 160)
