"""Systems by name: every kind, its options, and what is said of a wrong one."""

import json
from datetime import date

import pytest
from PIL import Image

from danqing.errors import ConfigError, DanqingError, DataError, RequestError
from danqing.evaluation.items import Item
from danqing.evaluation.remote.names import system_named

TODAY = date(2026, 11, 23)


@pytest.fixture(autouse=True)
def _no_other_address(monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def test_a_vendor_with_options_needs_no_key_until_it_is_asked():
    text = "openai:gpt-image-2?quality=high&size=1024x1024&concurrency=8&seconds=60&name=GPT-Image-2"
    system = system_named(text, today=TODAY)
    assert system.name == "GPT-Image-2"
    assert system.concurrency == 8
    assert system.settings["quality"] == "high"
    assert system.version != system_named("openai:gpt-image-2?quality=low", today=TODAY).version
    same = system_named("openai:gpt-image-2?quality=high&size=1024x1024&price=1", today=TODAY)
    assert same.version == system.version


def test_gemini_and_other_servers():
    gemini = system_named("gemini:gemini-3.1-flash-image?aspect=16:9&size=2K", today=TODAY)
    assert (gemini.settings["aspect"], gemini.settings["size"]) == ("16:9", "2K")
    local = system_named("openai-compatible:http://127.0.0.1:8000/v1#Qwen/Qwen-Image?seeded=yes")
    assert local.settings["endpoint"] == "http://127.0.0.1:8000/v1"
    assert local.settings["model"] == "Qwen/Qwen-Image"
    assert local.shape == "images"
    assert system_named("openai-compatible:http://127.0.0.1/v1#dall-e-3").shape == "dall-e"
    assert system_named("openai-compatible:http://127.0.0.1/v1#vlm?shape=chat").abilities == {"describe"}
    assert system_named("gemini-compatible:http://127.0.0.1#imagen-4.0-generate-001").shape == "imagen"


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("openai:dall-e-3", "2026-05-12"),
        ("openai:gpt-image-1", "2026-10-23"),
        ("gemini:imagen-3.0-generate-002", "2026-06-30"),
        ("gemini:imagen-4.0-ultra-generate-001", "2026-08-17"),
    ],
)
def test_withdrawn_systems_are_refused_with_the_day_and_what_to_do(text, day):
    with pytest.raises(RequestError, match=f"withdrawn by .* on {day}.*frozen:FOLDER.*published:"):
        system_named(text, today=TODAY)


def test_a_withdrawal_counts_from_its_day():
    assert system_named("openai:gpt-image-1.5", today=date(2026, 11, 30)).name == "gpt-image-1.5"
    with pytest.raises(RequestError, match="2026-12-01"):
        system_named("openai:gpt-image-1.5", today=date(2026, 12, 1))


def test_frozen_folders_and_published_scores(tmp_path):
    place = tmp_path / "00000"
    (place / "samples").mkdir(parents=True)
    Image.new("RGB", (8, 8), "red").save(place / "samples" / "0000.png")
    (place / "metadata.jsonl").write_text(json.dumps({"prompt": "a cat"}))
    system = system_named(f"frozen:{tmp_path}?layout=geneval&name=DALL·E 3")
    assert system.name == "DALL·E 3"
    assert system.settings["withdrawn"] == "2026-05-12"
    assert system.has(Item(row="r", prompt="a cat"), 0)
    assert len(system_named("published:DALL-E 3").rows) > 20


def test_a_name_without_a_kind_is_a_checkpoint():
    system = system_named("nano?steps=2&name=quick", device="cpu", precision="fp32")
    assert (system.name, system.settings["steps"]) == ("quick", 2)
    assert system_named("danqing:nano?steps=2", device="cpu", precision="fp32").version == system.version


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("opnai:gpt-image-2", "did you mean openai"),
        ("openai:", "such as openai:"),
        ("openai:gpt-image-2?sise=1024x1024", "found 'sise'"),
        ("openai:gpt-image-2?quality", "options such as"),
        ("openai:gpt-image-2?size=a&size=b", "found one twice"),
        ("openai:gpt-image-2?concurrency=0", "concurrency: expected another value"),
        ("openai:gpt-image-2?price=-1", "price: expected another value"),
        ("openai-compatible:http://127.0.0.1/v1", "ADDRESS#MODEL"),
        ("nano?size=128", "size: expected another value"),
        ("published:DALL-E 3?size=1", "found 'size'"),
    ],
)
def test_wrong_names_are_explained(text, said):
    with pytest.raises(RequestError, match=said):
        system_named(text, today=TODAY)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("openai-compatible:ftp://host#model", ConfigError),
        ("openai-compatible:http://user:pass@127.0.0.1/v1#model", ConfigError),
        ("frozen:nowhere", DataError),
        ("frozen:nowhere?layout=gen-eval", DataError),
        ("no-such-checkpoint", DanqingError),
    ],
)
def test_what_a_name_points_to_must_be_there(text, kind):
    with pytest.raises(kind):
        system_named(text, today=TODAY)
