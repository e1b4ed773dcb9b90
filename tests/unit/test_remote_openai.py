"""OpenAI's API through its real client, against a local stand-in that speaks its wire format."""

import json
import logging
import time

import numpy as np
import pytest
from PIL import Image

from danqing.errors import ConfigError, DataError, RequestError, ResourceError
from danqing.evaluation.items import Item
from danqing.evaluation.remote.answers import INVALID, TIMED_OUT, notes_of
from danqing.evaluation.remote.openai_api import OpenAIOptions, OpenAISystem
from danqing.evaluation.run import plan, run
from danqing.evaluation.store import Store
from danqing.retry import Retry
from tests.vendor_stand_in import (
    PAGE,
    REVISED,
    Reply,
    encoded,
    openai_address,
    openai_error,
    openai_picture,
    page,
    vendor_stand_in,
)

KEY = "sk-stand-in-0123456789abcdef"
DRAW = Item(row="page", prompt="a red page")
EDIT = Item(row="page", prompt="make it blue", ability="edit", source="page")
ASK = Item(row="page", prompt="what is it?", ability="describe", source="page")


@pytest.fixture
def vendor(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DANQING_ENDPOINT_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-openai-alone-1234")
    with vendor_stand_in() as server:
        yield server


def system(vendor, model="gpt-image-2", *, attempts=3, pauses=None, seconds=20.0, **options):
    source = Image.new("RGB", (8, 8), "white")
    slept = [] if pauses is None else pauses
    return OpenAISystem(
        model,
        OpenAIOptions(seconds=seconds, **options),
        endpoint=f"{vendor.address}/v1",
        source_of=lambda item: source,
        retry=Retry(attempts=attempts, sleep=slept.append),
        rng=np.random.default_rng(0),
    )


def test_a_gpt_image_model_is_asked_in_its_own_shape(vendor):
    (made,) = system(vendor, quality="high", size="1024x1024", background="opaque").answer([DRAW], 0)
    assert made.size == PAGE
    assert made.getpixel((0, 0)) == (255, 0, 0)
    assert vendor.asked[0].path == "/v1/images/generations"
    assert vendor.asked[0].json == {
        "model": "gpt-image-2",
        "prompt": "a red page",
        "n": 1,
        "size": "1024x1024",
        "quality": "high",
        "background": "opaque",
        "output_format": "png",
    }
    assert notes_of(made)["usage"]["output_tokens"] == 272


def test_dall_e_is_asked_in_its_own_shape_and_its_revised_prompt_is_kept(vendor):
    (made,) = system(vendor, "dall-e-3", style="natural", quality="hd").answer([DRAW], 0)
    assert vendor.asked[0].json["response_format"] == "b64_json"
    assert vendor.asked[0].json["style"] == "natural"
    assert notes_of(made)["revised_prompt"] == REVISED + DRAW.prompt


def test_other_servers_get_the_seed_when_they_are_said_to_take_one(vendor):
    system(vendor, "qwen-image", seeded=True).answer([DRAW], 7)
    assert vendor.asked[0].json["seed"] == 7
    assert "seed" not in (system(vendor, "qwen-image").answer([DRAW], 7), vendor.asked[1].json)[1]


def test_an_edit_sends_the_source_and_a_question_goes_through_chat(vendor):
    (made,) = system(vendor).answer([EDIT], 0)
    assert made.getpixel((0, 0)) == (0, 0, 255)
    assert vendor.asked[0].path == "/v1/images/edits"
    assert b"\x89PNG" in vendor.asked[0].body
    assert system(vendor, "a-vlm", shape="chat").answer([ASK], 0) == ["A plain page."]
    text, picture = vendor.asked[1].json["messages"][0]["content"]
    assert text["text"] == "what is it?"
    assert picture["image_url"]["url"].startswith("data:image/png;base64,")


def test_what_a_model_cannot_do_is_refused_without_asking(vendor):
    with pytest.raises(RequestError, match="to draw, found one to edit"):
        system(vendor, "dall-e-3").answer([EDIT], 0)
    assert vendor.asked == []


def test_rate_limits_are_waited_for_as_the_server_asks(vendor):
    pauses = []
    limited = openai_error(429, "rate_limit_exceeded", retry_after="7")
    vendor.replies[DRAW.prompt] = [limited, openai_error(503, None)]
    system(vendor, pauses=pauses).answer([DRAW], 0)
    assert len(vendor.asked) == 3
    assert 7 <= pauses[0] <= 10.5
    assert 1 <= pauses[1] <= 2


def test_servers_that_stay_down_are_a_failure_that_says_how_often_it_was_tried(vendor):
    vendor.replies[DRAW.prompt] = [openai_error(500, None, "trace of our code")] * 9
    with pytest.raises(ResourceError) as failed:
        system(vendor).answer([DRAW], 0)
    assert str(failed.value) == "the endpoint answered 500 (3 attempts)"


@pytest.mark.parametrize("code", ["content_policy_violation", "moderation_blocked"])
def test_a_refusal_is_one_and_is_not_tried_again(vendor, code):
    said = f"Your request was rejected. Quote req_abc123 with key {KEY}."
    vendor.replies[DRAW.prompt] = [openai_error(400, code, said)]
    with pytest.raises(RequestError) as refused:
        system(vendor).answer([DRAW], 0)
    assert str(refused.value) == f"refused ({code}): Your request was rejected. Quote [...] with key [...]."
    assert len(vendor.asked) == 1


def test_a_refusal_without_a_code_is_known_by_its_words(vendor):
    said = "Your request was rejected as a result of our safety system."
    vendor.replies[DRAW.prompt] = [openai_error(400, None, said), openai_error(400, None, "Invalid size.")]
    with pytest.raises(RequestError, match="safety system"):
        system(vendor).answer([DRAW], 0)
    with pytest.raises(DataError, match=r"answered 400: Invalid size\."):
        system(vendor).answer([DRAW], 0)


def test_a_chat_that_declines_is_a_refusal(vendor):
    message = {"role": "assistant", "content": None, "refusal": "I cannot say who this is."}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    body = {"id": "1", "object": "chat.completion", "created": 1, "choices": [choice]}
    vendor.replies[ASK.prompt] = [Reply(body=body)]
    with pytest.raises(RequestError, match="I cannot say"):
        system(vendor, "a-vlm", shape="chat").answer([ASK], 0)


def test_slow_answers_time_out(vendor):
    vendor.replies[DRAW.prompt] = [Reply(seconds=1.0)] * 2
    began = time.monotonic()
    with pytest.raises(ResourceError, match=rf"^{TIMED_OUT} after 0.2 seconds \(2 attempts\)"):
        system(vendor, attempts=2, seconds=0.2).answer([DRAW], 0)
    assert time.monotonic() - began < 1.5


@pytest.mark.parametrize(
    "reply",
    [
        openai_picture(b"no picture at all"),
        openai_picture(page()[:60]),
        openai_picture(page(size=(9000, 9000), kind="GIF")),
        Reply(body={"created": 1, "data": [{"b64_json": "*** not base64 ***"}]}),
        Reply(body={"created": 1, "data": []}),
        openai_address("https://example.com/picture.png"),
    ],
    ids=["bytes", "half", "large", "base64", "empty", "address"],
)
def test_an_invalid_picture_is_a_failure_of_its_own_kind(vendor, reply):
    vendor.replies[DRAW.prompt] = [reply]
    with pytest.raises(DataError, match=f"^{INVALID}"):
        system(vendor).answer([DRAW], 0)
    assert len(vendor.asked) == 1


def test_a_body_that_is_no_json_is_a_failure(vendor):
    vendor.replies[DRAW.prompt] = [Reply(body=b"<html>a gateway</html>")]
    with pytest.raises(DataError):
        system(vendor).answer([DRAW], 0)


def test_addresses_are_fetched_only_where_allowed_and_only_from_public_or_own_hosts(vendor):
    wanted = {"response_format": "url", "fetch": True}
    (made,) = system(vendor, "dall-e-3", **wanted).answer([DRAW], 0)
    assert made.getpixel((0, 0)) == (0, 128, 0)
    for address in ("http://example.com/1.png", "https://127.0.0.1:9/1.png", "file:///etc/hostname"):
        vendor.replies[DRAW.prompt] = [openai_address(address)]
        with pytest.raises(DataError, match=r"expected an? (https|public) address"):
            system(vendor, "dall-e-3", **wanted).answer([DRAW], 0)


def test_a_picture_is_not_paid_again_when_only_fetching_it_fails(vendor):
    vendor.replies["/files/1.png"] = [Reply(503)]
    system(vendor, "dall-e-3", response_format="url", fetch=True).answer([DRAW], 0)
    assert [asked.path for asked in vendor.asked].count("/v1/images/generations") == 1


def test_a_wrong_key_fails_once_for_all_and_is_never_shown(vendor, caplog):
    caplog.set_level(logging.DEBUG)
    vendor.replies[DRAW.prompt] = [openai_error(401, "invalid_api_key", f"Incorrect API key: {KEY}")]
    asked = system(vendor, concurrency=1)
    other = Item(row="page", prompt="a blue page")
    with pytest.raises(ConfigError) as failed:
        asked.answer([DRAW, other], 0)
    for item in (DRAW, other):
        with pytest.raises(ConfigError):
            asked.answer([item], 0)
    assert len(vendor.asked) == 1
    assert KEY not in str(failed.value) + repr(failed.value) + repr(vars(asked)) + caplog.text
    assert failed.value.__cause__ is None
    assert "DANQING_ENDPOINT_KEY" in str(failed.value)


def test_an_endpoint_never_gets_the_key_or_the_account_of_openai(vendor, monkeypatch):
    monkeypatch.delenv("DANQING_ENDPOINT_KEY")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-mine")
    system(vendor).answer([DRAW], 0)
    sent = json.dumps(dict(vendor.asked[0].headers))
    assert "sk-of-openai-alone-1234" not in sent
    assert "org-of-mine" not in sent


def test_answers_come_together_and_in_order(vendor):
    colours = ["red", "blue", "green", "red", "blue", "green", "red", "blue"]
    items = [Item(row="page", prompt=f"page {n} in {colour}") for n, colour in enumerate(colours)]
    for item in items:
        success = openai_picture(page(item.prompt.split()[-1]))
        vendor.replies[item.prompt] = [Reply(body=success.body, seconds=0.15)]
    made = system(vendor, concurrency=4).answer(items, 0)
    named = {(255, 0, 0): "red", (0, 0, 255): "blue", (0, 128, 0): "green"}
    assert [named[one.getpixel((0, 0))] for one in made] == colours
    assert 2 <= vendor.busiest <= 4


def test_one_refusal_does_not_make_the_others_twice(vendor, tmp_path):
    items = [Item(row="page", prompt=f"page {n} in blue") for n in range(4)]
    vendor.replies[items[1].prompt] = [openai_error(400, "content_policy_violation")]
    asked = system(vendor)
    with Store.open(tmp_path / "store.sqlite") as store:
        done = run(plan(items, asked, [0], store), store)
        again = plan(items, asked, [0], store)
    assert (done.made, done.refused, done.failed) == (3, 1, 0)
    assert (again.missing, again.refused) == ((), 1)
    assert len(vendor.asked) == 4


def test_the_key_is_in_no_file_of_the_store(vendor, tmp_path):
    vendor.replies[DRAW.prompt] = [openai_error(400, "content_policy_violation", f"{KEY} was here")]
    items = [DRAW, Item(row="page", prompt="a blue page")]
    with Store.open(tmp_path / "store.sqlite") as store:
        run(plan(items, system(vendor), [0], store), store)
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert KEY.encode() not in kept
    assert encoded(KEY.encode()).encode() not in kept


def test_options_of_another_shape_and_addresses_with_keys_are_refused(vendor, monkeypatch):
    with pytest.raises(ConfigError, match="style"):
        system(vendor, "gpt-image-2", style="vivid")
    with pytest.raises(ConfigError, match="without a key"):
        OpenAISystem("m", endpoint="http://user:secret@127.0.0.1/v1")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1/v1")
    with pytest.raises(ConfigError, match="openai-compatible"):
        OpenAISystem("gpt-image-2")


def test_without_a_key_nothing_is_asked(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    asked = OpenAISystem("gpt-image-2")
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        asked.check()
