"""`danqing describe` as users run it."""

import json
import shutil

import pytest
from PIL import Image

from danqing.conditioning.questions import DESCRIBE_QUESTIONS


@pytest.fixture
def model(tiny_folder, tmp_path):
    """The tiny checkpoint, saying that it can describe, and two pictures beside it."""
    path = tmp_path / "tiny"
    shutil.copytree(tiny_folder, path)
    about = json.loads((path / "danqing.json").read_text())
    (path / "danqing.json").write_text(json.dumps({**about, "tasks": ["describe"]}))
    Image.new("RGB", (40, 60), "red").save(tmp_path / "red.png")
    Image.new("RGB", (90, 30), "blue").save(tmp_path / "blue.jpg")
    return path


def test_a_picture_is_described(cli, model):
    done = cli("describe", "red.png", "--model", model, "--max-tokens", 8)
    assert (done.code, done.err) == (0, "")
    assert done.out.strip()
    assert cli("describe", "red.png", "--model", model, "--max-tokens", 8).out == done.out


def test_json_says_what_was_asked_of_what(cli, model):
    done = cli(
        "describe", "red.png", "blue.jpg", "--model", model, "--language", "zh", "--max-tokens", 8, "--json"
    )
    assert done.code == 0, done.err
    said = json.loads(done.out)
    assert said["pictures"] == ["red.png", "blue.jpg"]
    assert (said["model"], said["ask"]) == ("tiny", DESCRIBE_QUESTIONS["zh"])
    plain = cli("describe", "red.png", "blue.jpg", "--model", model, "--language", "zh", "--max-tokens", 8)
    assert plain.out == said["text"] + "\n"


def test_drawn_words_can_be_drawn_again(cli, model):
    options = ("--model", model, "--ask", "why?", "--temperature", 2, "--max-tokens", 8, "--json")
    said = json.loads(cli("describe", "red.png", *options).out)
    again = json.loads(cli("describe", "red.png", *options, "--seed", said["seed"]).out)
    assert again == said


def test_mistakes_are_one_line(cli, model, tiny_folder):
    assert cli("describe").is_mistake("PICTURE")
    assert cli("describe", "none.png", "--model", model).is_mistake("found no file")
    assert cli("describe", "red.png", "--model", tiny_folder).is_mistake("tiny cannot describe")
    assert cli("describe", "red.png", "--model", model, "--language", "xx").is_mistake("expected one of en")
    asked = ("--ask", "why?", "--language", "zh")
    assert cli("describe", "red.png", "--model", model, *asked).is_mistake("found both")
