"""A judge over HTTP through the real client, against a local stand-in that speaks the wire format."""

import base64
import io
import json
import logging
import math

import numpy as np
import pytest
from PIL import Image

from danqing.errors import ConfigError, DataError, RequestError, ResourceError
from danqing.retry import Retry
from danqing.scoring.remote_judge import RemoteJudge, RemoteOptions, chosen
from tests.vendor_stand_in import Reply, openai_error, openai_words, vendor_stand_in

KEY = "sk-stand-in-0123456789abcdef"
RED = Image.new("RGB", (6, 4), "red")
ASKED = "is it red?\nAnswer with one word: yes or no."


@pytest.fixture
def vendor(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DANQING_ENDPOINT_KEY", KEY)
    with vendor_stand_in() as server:
        yield server


def judge(vendor, kept=None, pauses=None, **options):
    slept = [] if pauses is None else pauses
    return RemoteJudge(
        "stand-in-1",
        RemoteOptions(**{"seconds": 20.0, **options}),
        endpoint=f"{vendor.address}/v1",
        kept=kept,
        retry=Retry(attempts=3, sleep=slept.append),
        rng=np.random.default_rng(0),
    )


def test_a_question_goes_out_with_the_picture_at_temperature_zero(vendor):
    assert judge(vendor, system="Be brief.").ask(RED, "what is it?") == "A plain page."
    asked = vendor.asked[0]
    assert asked.path == "/v1/chat/completions"
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert {name: asked.json[name] for name in ("model", "temperature", "max_tokens")} == {
        "model": "stand-in-1",
        "temperature": 0,
        "max_tokens": 1024,
    }
    system, user = asked.json["messages"]
    assert system == {"role": "system", "content": "Be brief."}
    assert user["content"][1] == {"type": "text", "text": "what is it?"}
    head, _, data = user["content"][0]["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).tobytes() == RED.tobytes()


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Yes", "yes"),
        ("no.", "no"),
        ("The sky is blue, so the page is not red.\nNo", "no"),
        ("**YES**, it is.", "yes"),
        ("I know nothing", None),
        ("Yes and no", None),
        ("First no, then\nthe answer is yes", "yes"),
        ("yes\nsince it is red", "yes"),
    ],
)
def test_an_answer_is_found_in_words(text, answer):
    assert chosen(text, ("yes", "no")) == answer


def test_yes_is_one_and_no_is_nought(vendor):
    vendor.replies[ASKED] = [openai_words("Yes."), openai_words("No")]
    one = judge(vendor)
    assert one.answer_probability(RED, "is it red?") == 1
    assert one.answer_probability(RED, "is it red?") == 0
    assert one.unclear == 0


def test_what_is_neither_and_a_refusal_count_as_no_and_are_told(vendor, caplog):
    refused = openai_words(None, refusal="I cannot look at that")
    vendor.replies[ASKED] = [openai_words("Perhaps"), refused]
    one = judge(vendor)
    with caplog.at_level(logging.WARNING, logger="danqing"):
        assert one.answer_probability(RED, "is it red?") == 0
        assert one.answer_probability(RED, "is it red?") == 0
    assert one.unclear == 2
    assert "expected one of two answers, found 'Perhaps'" in caplog.text
    assert "I cannot look at that" in caplog.text
    vendor.replies["what is it?"] = [refused]
    with pytest.raises(RequestError, match="refused: I cannot"):
        one.ask(RED, "what is it?")


def test_with_log_probabilities_the_share_of_the_first_answer_counts(vendor):
    likely = {"Yes": math.log(0.5), " yes": math.log(0.1), "No": math.log(0.2), "Maybe": math.log(0.1)}
    vendor.replies[ASKED] = [openai_words("Yes", likely), openai_words("No", {"Hm": 0.0})]
    one = judge(vendor, logprobs=True)
    assert one.answer_probability(RED, "is it red?") == pytest.approx(0.6 / 0.8)
    assert vendor.asked[0].json["logprobs"] is True
    assert vendor.asked[0].json["top_logprobs"] == 20
    assert (
        one.answer_probability(RED, "is it red?") == 0
    )  # neither token among the likeliest: the words count


def test_what_was_answered_is_kept_by_model_wording_and_picture(vendor, tmp_path):
    first = judge(vendor, kept=tmp_path)
    assert first.ask(RED, "what is it?") == "A plain page."
    assert judge(vendor, kept=tmp_path).ask(RED.copy(), "what is it?") == "A plain page."
    assert len(vendor.asked) == 1
    judge(vendor, kept=tmp_path).ask(RED, "and what is it?")
    judge(vendor, kept=tmp_path).ask(Image.new("RGB", (6, 4), "blue"), "what is it?")
    judge(vendor, kept=tmp_path).ask(Image.new("RGB", (4, 6), "red"), "what is it?")
    judge(vendor, kept=tmp_path, system="Be brief.").ask(RED, "what is it?")
    assert len(vendor.asked) == 5
    files = sorted(tmp_path.rglob("*.json"))
    assert len(files) == 5
    assert KEY not in "".join(file.read_text() for file in files)
    kept = json.loads(files[0].read_text())
    assert kept["answered by"] == "stand-in-1"
    for file in files:
        file.write_text("{")
    with pytest.raises(DataError, match="expected an answer of a judge"):
        judge(vendor, kept=tmp_path).ask(RED, "what is it?")


def test_passing_errors_are_tried_again_and_others_not(vendor):
    pauses = []
    vendor.replies["what is it?"] = [
        openai_error(429, "rate_limit_exceeded", retry_after="7"),
        openai_error(503, None),
    ]
    assert judge(vendor, pauses=pauses).ask(RED, "what is it?") == "A plain page."
    assert pauses[0] >= 7
    assert len(pauses) == 2
    vendor.replies["what is it?"] = [openai_error(503, None)] * 3
    with pytest.raises(ResourceError, match=r"\(3 attempts\)"):
        judge(vendor).ask(RED, "what is it?")
    vendor.replies["what is it?"] = [openai_error(401, "invalid_api_key")]
    with pytest.raises(ConfigError, match="DANQING_ENDPOINT_KEY"):
        judge(vendor).ask(RED, "what is it?")
    vendor.replies["what is it?"] = [openai_words(None)]
    with pytest.raises(DataError, match=r"found none \(length\)"):
        judge(vendor).ask(RED, "what is it?")
    vendor.replies["what is it?"] = [Reply(seconds=0.6)] * 3
    with pytest.raises(ResourceError, match="timed out"):
        judge(vendor, seconds=0.2).ask(RED, "what is it?")


def test_the_version_holds_what_decides_an_answer_and_not_patience(vendor):
    plain = judge(vendor)
    assert plain.version.startswith("stand-in-1 prompts ")
    assert plain.version.endswith(" parser 1")
    assert judge(vendor, seconds=5.0).version == plain.version
    for option in ({"system": "x"}, {"temperature": None}, {"logprobs": True}, {"longest": 8}):
        assert judge(vendor, **option).version != plain.version


def test_models_without_a_temperature_are_asked_without_one(vendor):
    judge(vendor, temperature=None, image_detail="low").ask(RED, "what is it?")
    assert "temperature" not in vendor.asked[0].json
    assert vendor.asked[0].json["messages"][0]["content"][0]["image_url"]["detail"] == "low"
