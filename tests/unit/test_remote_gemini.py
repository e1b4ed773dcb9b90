"""Gemini's API through its real client, against a local stand-in that speaks its wire format."""

import base64
import logging

import numpy as np
import pytest
from PIL import Image

from danqing.errors import ConfigError, DataError, RequestError, ResourceError
from danqing.evaluation.items import Item
from danqing.evaluation.remote.answers import INVALID, TIMED_OUT, notes_of
from danqing.evaluation.remote.gemini_api import GeminiOptions, GeminiSystem
from danqing.retry import Retry
from tests.vendor_stand_in import (
    PAGE,
    REVISED,
    Reply,
    encoded,
    gemini_blocked,
    gemini_ended,
    gemini_error,
    page,
    vendor_stand_in,
)

KEY = "AIza-stand-in-0123456789"
DRAW = Item(row="page", prompt="a red page")
EDIT = Item(row="page", prompt="make it blue", ability="edit", source="page")
ASK = Item(row="page", prompt="", ability="describe", source="page", language="zh")


@pytest.fixture
def vendor(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DANQING_ENDPOINT_KEY", KEY)
    monkeypatch.setenv("GEMINI_API_KEY", "AIza-of-google-alone")
    with vendor_stand_in() as server:
        yield server


def system(vendor, model="gemini-3.1-flash-image", *, pauses=None, seconds=20.0, **options):
    slept = [] if pauses is None else pauses
    return GeminiSystem(
        model,
        GeminiOptions(seconds=seconds, **options),
        endpoint=vendor.address,
        source_of=lambda item: Image.new("RGB", (8, 8), "white"),
        retry=Retry(attempts=3, sleep=slept.append),
        rng=np.random.default_rng(0),
    )


def test_a_picture_is_asked_for_as_part_of_a_conversation(vendor):
    (made,) = system(vendor, aspect="16:9", size="2K", seeded=True).answer([DRAW], 5)
    assert made.size == PAGE
    assert made.getpixel((0, 0)) == (255, 0, 0)
    (asked,) = vendor.asked
    assert asked.path.endswith("/models/gemini-3.1-flash-image:generateContent")
    wanted = asked.json["generationConfig"]
    assert wanted["imageConfig"] == {"aspectRatio": "16:9", "imageSize": "2K"}
    assert wanted["seed"] == 5
    assert notes_of(made)["usage"]["total_token_count"] == 1299


def test_an_edit_and_a_description_send_the_picture(vendor):
    (made,) = system(vendor).answer([EDIT], 0)
    assert made.getpixel((0, 0)) == (0, 0, 255)
    assert system(vendor, "gemini-3.8-flash").answer([ASK], 0) == ["A plain page."]
    for asked in vendor.asked:
        picture, words = asked.json["contents"][0]["parts"]
        assert base64.urlsafe_b64decode(picture["inlineData"]["data"]).startswith(b"\x89PNG")
        assert words["text"] in ("make it blue", "请用中文描述这张图片。")


@pytest.mark.filterwarnings("ignore:The generate_images method")
def test_imagen_keeps_its_own_shape_and_what_the_prompt_became(vendor):
    (made,) = system(vendor, "imagen-4.0-generate-001", aspect="1:1").answer([DRAW], 0)
    assert vendor.asked[0].path.endswith("/models/imagen-4.0-generate-001:predict")
    assert vendor.asked[0].json["parameters"]["aspectRatio"] == "1:1"
    assert notes_of(made)["revised_prompt"] == REVISED + DRAW.prompt


@pytest.mark.parametrize(
    ("reply", "named"),
    [
        (gemini_blocked("PROHIBITED_CONTENT"), "PROHIBITED_CONTENT"),
        (gemini_ended("IMAGE_SAFETY"), "IMAGE_SAFETY"),
        (gemini_ended("RECITATION"), "RECITATION"),
    ],
)
def test_blocks_are_refusals(vendor, reply, named):
    vendor.replies[DRAW.prompt] = [reply]
    with pytest.raises(RequestError, match=named):
        system(vendor).answer([DRAW], 0)
    assert len(vendor.asked) == 1


@pytest.mark.filterwarnings("ignore:The generate_images method")
def test_a_filtered_picture_of_imagen_is_a_refusal(vendor):
    vendor.replies[DRAW.prompt] = [Reply(body={"predictions": [{"raiFilteredReason": "people"}]})]
    with pytest.raises(RequestError, match="people"):
        system(vendor, "imagen-4.0-generate-001").answer([DRAW], 0)


@pytest.mark.parametrize(
    "reply",
    [
        gemini_ended("STOP", {"text": "Here is your picture."}),
        gemini_ended("NO_IMAGE"),
        gemini_ended("STOP", {"inlineData": {"mimeType": "image/png", "data": encoded(page()[:60])}}),
    ],
    ids=["words", "none", "half"],
)
def test_no_picture_is_a_failure_of_its_own_kind(vendor, reply):
    vendor.replies[DRAW.prompt] = [reply]
    with pytest.raises(DataError, match=f"^{INVALID}"):
        system(vendor).answer([DRAW], 0)


def test_quotas_are_waited_for_as_the_body_asks(vendor):
    pauses = []
    limited = gemini_error(429, "RESOURCE_EXHAUSTED", delay="9s")
    vendor.replies[DRAW.prompt] = [limited, gemini_error(503, "UNAVAILABLE")]
    system(vendor, pauses=pauses).answer([DRAW], 0)
    assert len(vendor.asked) == 3
    assert 9 <= pauses[0] <= 13.5
    assert 1 <= pauses[1] <= 2


def test_servers_that_stay_down_or_slow_are_failures(vendor):
    vendor.replies[DRAW.prompt] = [gemini_error(500, "INTERNAL", "a stack trace")] * 3
    with pytest.raises(ResourceError, match=r"^the endpoint answered 500 \(3 attempts\)$"):
        system(vendor).answer([DRAW], 0)
    vendor.replies[DRAW.prompt] = [Reply(seconds=0.8)] * 3
    with pytest.raises(ResourceError, match=f"^{TIMED_OUT} after 0.2 seconds"):
        system(vendor, seconds=0.2).answer([DRAW], 0)


def test_a_wrong_key_closes_the_system_and_is_never_shown(vendor, caplog):
    caplog.set_level(logging.DEBUG)
    said = f"API key not valid: {KEY}. Please pass a valid API key."
    vendor.replies[DRAW.prompt] = [gemini_error(400, "INVALID_ARGUMENT", said)]
    asked = system(vendor)
    for _ in range(2):
        with pytest.raises(ConfigError) as failed:
            asked.answer([DRAW], 0)
    assert len(vendor.asked) == 1
    assert KEY not in str(failed.value) + repr(vars(asked)) + caplog.text
    assert "DANQING_ENDPOINT_KEY" in str(failed.value)


def test_an_endpoint_never_gets_the_key_of_google(vendor, monkeypatch):
    monkeypatch.delenv("DANQING_ENDPOINT_KEY")
    system(vendor).answer([DRAW], 0)
    assert "AIza-of-google-alone" not in str(dict(vendor.asked[0].headers))


def test_without_a_key_nothing_is_asked(monkeypatch):
    for name in ("GEMINI_API_KEY", "GOOGLE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="GEMINI_API_KEY"):
        GeminiSystem("gemini-3.1-flash-image").check()
