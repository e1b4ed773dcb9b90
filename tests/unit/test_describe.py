"""Describing: what may be asked, and an answer that comes in pieces."""

import dataclasses
import json
import shutil

import pytest
import torch
from PIL import Image

import danqing
from danqing.conditioning.given import open_picture
from danqing.conditioning.questions import DESCRIBE_QUESTIONS
from danqing.conditioning.tokenizer_training import train_tokenizer
from danqing.data.concepts import LANGUAGES
from danqing.errors import RequestError
from danqing.model import load_describer
from danqing.pipelines.describe import DescribeRequest, describe, spoken

RED, BLUE = Image.new("RGB", (40, 60), "red"), Image.new("RGB", (90, 30), "blue")


@pytest.fixture(scope="module")
def folder(tiny_folder, tmp_path_factory):
    """The tiny checkpoint, saying that it can describe."""
    path = tmp_path_factory.mktemp("describing") / "tiny"
    shutil.copytree(tiny_folder, path)
    about = json.loads((path / "danqing.json").read_text())
    (path / "danqing.json").write_text(json.dumps({**about, "tasks": ["generate", "describe"]}))
    return path


@pytest.fixture(scope="module")
def describer(folder):
    return load_describer(folder, device="cpu", precision="fp32")


def request(*pictures, **options):
    return DescribeRequest(
        pictures=tuple(open_picture(picture) for picture in pictures), **{"max_tokens": 12, **options}
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pictures": ()}, "expected one or more pictures"),
        ({"pictures": RED}, "expected one or more pictures"),
        ({"pictures": (RED,)}, "expected an opened picture"),
        ({"ask": " "}, "ask: expected a question"),
        ({"ask": "x" * 20_001}, "ask: expected at most 20000 characters"),
        ({"ask": "what?", "language": "zh"}, "found both"),
        ({"language": "xx"}, "language: expected one of en, zh, .* found 'xx'"),
        ({"max_tokens": 0}, "max_tokens: expected 1 to"),
        ({"max_tokens": 2.5}, "max_tokens: expected 1 to"),
        ({"temperature": -1}, r"temperature: expected 0 \(off\) to 10"),
        ({"temperature": float("nan")}, r"temperature: expected 0 \(off\) to 10"),
        ({"temperature": "hot"}, "temperature: expected a number"),
        ({"seed": -1}, "a seed is a whole number"),
    ],
)
def test_a_wrong_value_is_one_line(change, message):
    with pytest.raises(RequestError, match=message) as caught:
        DescribeRequest(**{"pictures": (open_picture(RED),), **change})
    assert "\n" not in str(caught.value)


def test_the_question_carries_the_language():
    assert request(RED).question == DESCRIBE_QUESTIONS["en"]
    assert "中文" in request(RED, language="zh").question
    assert request(RED, ask="几个？").question == "几个？"
    assert tuple(DESCRIBE_QUESTIONS) == LANGUAGES


def test_only_what_is_drawn_by_chance_needs_a_seed():
    assert request(RED).resolved().seed is None
    drawn = request(RED, temperature=1.0).resolved()
    assert drawn.seed is not None
    assert drawn.resolved() == drawn


def test_the_answer_depends_on_every_picture_and_on_the_question(describer):
    def said(*pictures, **options):
        return "".join(describe(describer, request(*pictures, **options)))

    answers = {said(RED), said(BLUE), said(RED, BLUE), said(BLUE, RED), said(RED, ask="why?")}
    assert len(answers) == 5
    assert said(RED) == said(RED)


def test_a_seed_is_an_answer(describer):
    def said(seed):
        return "".join(describe(describer, request(RED, temperature=2.0, seed=seed)))

    assert said(1) == said(1)
    assert len({said(seed) for seed in range(4)}) > 1


def test_a_long_answer_is_cut(describer):
    whole = "".join(describe(describer, request(RED, max_tokens=20)))
    assert whole.startswith("".join(describe(describer, request(RED, max_tokens=5))).rstrip("\ufffd"))


def test_more_than_the_model_reads_is_one_line(describer):
    small = dataclasses.replace(describer.vlm.config, max_positions=64)
    vlm = describer.vlm
    vlm.config, whole = small, vlm.config
    try:
        with pytest.raises(RequestError, match="tiny reads up to 64 tokens, found"):
            list(describe(describer, request(RED, max_tokens=40)))
    finally:
        vlm.config = whole


def test_the_front_door(folder, tiny):
    model = danqing.load(folder, device="cpu", precision="fp32")
    said = model.describe(RED, max_tokens=8)
    assert said == "".join(model.stream_description([RED], max_tokens=8))
    assert said == "".join(
        describe(load_describer(folder, device="cpu", precision="fp32"), request(RED, max_tokens=8))
    )
    with pytest.raises(RequestError, match="unknown option 'tokens'"):
        model.describe(RED, tokens=3)
    with pytest.raises(RequestError, match="tiny cannot describe; it can generate"):
        tiny.describe(RED)


def test_a_checkpoint_that_cannot_describe_says_so(tiny_folder):
    with pytest.raises(RequestError, match="tiny cannot describe; it can generate"):
        load_describer(tiny_folder)


def test_characters_come_whole():
    """Our vocabulary has bytes for what it never saw: a character takes several tokens, a piece does not."""
    tokenizer = train_tokenizer(["a red apple"], 900)
    text = "a red 苹果 🍎 apple"
    ids = tokenizer.encode(text)
    pieces = list(spoken(tokenizer, ids))
    assert "".join(pieces) == text
    assert all("\ufffd" not in piece for piece in pieces)
    assert len(pieces) < len(ids)
    assert len(pieces) > 5


def test_what_never_becomes_a_character_is_said_at_the_end():
    tokenizer = train_tokenizer(["a red apple"], 900)
    ids = tokenizer.encode("a 苹")[:-1]
    assert "".join(spoken(tokenizer, ids)) == tokenizer.decode(ids) == "a \ufffd"


def test_answers_end_where_the_model_ends_them(describer):
    """With the end of a turn made likeliest, nothing is said."""
    vlm = describer.vlm
    end = describer.tokenizer.token_id("<|im_end|>")
    weight = vlm.lm_head.weight
    row = weight[end].clone()
    with torch.no_grad():
        features = []
        hook = vlm.model.register_forward_hook(lambda *given: features.append(given[2]))
        list(describe(describer, request(RED, max_tokens=1)))
        hook.remove()
        weight[end] = 100 * features[0][0, -1]
        assert "".join(describe(describer, request(RED))) == ""
        weight[end] = row
