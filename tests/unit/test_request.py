"""What a user may ask for."""

import dataclasses

import pytest

import danqing
from danqing.errors import CheckpointError, RequestError
from danqing.pipelines.generate import GenerateRequest
from danqing.pipelines.request import MAX_PROMPT_CHARACTERS
from danqing.rng import MAX_SEED
from tests.tiny import INFO


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": ""}, "expected some text, found none"),
        ({"prompt": "  \n"}, "expected some text, found none"),
        ({"prompt": None}, "prompt: expected some text"),
        ({"prompt": "a" * (MAX_PROMPT_CHARACTERS + 1)}, "prompt: expected at most 20000 characters"),
        ({"negative_prompt": "a" * (MAX_PROMPT_CHARACTERS + 1)}, "negative_prompt: expected at most"),
        ({"negative_prompt": 5}, "negative_prompt: expected text, found 5"),
        ({"steps": 0}, "steps: expected 1 to 1000, found 0"),
        ({"steps": 1001}, "steps: expected 1 to 1000, found 1001"),
        ({"steps": 2.5}, "steps: expected a whole number, found 2.5"),
        ({"steps": "4"}, "steps: expected a whole number, found '4'"),
        ({"steps": True}, "steps: expected a whole number, found True"),
        ({"guidance": 0.5}, r"guidance: expected 1 \(off\) to 100, found 0.5"),
        ({"guidance": float("nan")}, "guidance: expected .* found nan"),
        ({"guidance": float("inf")}, "guidance: expected .* found inf"),
        ({"guidance": "4"}, "guidance: expected a number, found '4'"),
        ({"count": 0}, "count: expected 1 to 1000, found 0"),
        ({"count": 1001}, "count: expected 1 to 1000, found 1001"),
        ({"count": "2"}, "count: expected a whole number, found '2'"),
        ({"solver": "dpm"}, "solver: expected one of euler, heun, found 'dpm'"),
        ({"seed": -1}, "a seed is a whole number"),
        ({"seed": MAX_SEED, "count": 2}, "a seed is a whole number"),
        ({"size": (64,)}, r"size: expected width and height, found \(64,\)"),
        ({"size": "64x64"}, "size: expected width and height, found '64x64'"),
        ({"size": (64, "64")}, "size: expected width and height"),
        ({"size": (64.0, 64)}, "size: expected width and height"),
    ],
)
def test_a_wrong_value_is_one_line(change, message):
    with pytest.raises(RequestError, match=message) as caught:
        GenerateRequest(**{"prompt": "x", **change})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [(50, 64), (64, 16), (64, 112), (0, 0), (-64, 64)])
def test_a_size_outside_the_range_is_one_line(size):
    with pytest.raises(RequestError, match=r"tiny draws 32 to 96 pixels a side in multiples of 16, found"):
        GenerateRequest(prompt="x", size=size).resolved(INFO)


def test_the_checkpoint_fills_in_what_is_not_asked_for():
    filled = GenerateRequest(prompt="x").resolved(INFO)
    assert (filled.size, filled.steps, filled.guidance, filled.negative_prompt) == ((64, 48), 3, 3.0, " ")
    assert filled.seed is not None
    assert filled.resolved(INFO) == filled


def test_what_is_asked_for_stays():
    request = GenerateRequest(
        prompt="x", size=(32, 96), steps=1, guidance=1, negative_prompt="", seed=0, count=2, solver="heun"
    )
    assert request.resolved(INFO) == request


def test_a_request_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        GenerateRequest(prompt="x").steps = 3


def test_options_of_the_front_door(tiny):
    with pytest.raises(RequestError, match=r"unknown option 'step'; known: .*steps"):
        tiny.generate("x", step=3)
    with pytest.raises(RequestError, match="found both"):
        tiny.generate(GenerateRequest(prompt="x"), steps=3)
    with pytest.raises(RequestError, match="found width 50"):
        tiny.generate("x", size=(50, 64))


def test_one_picture_or_a_list(tiny):
    assert tiny.generate("x", seed=1, steps=1).size == (64, 48)
    assert [image.size for image in tiny.generate("x", seed=1, steps=1, count=2)] == [(64, 48)] * 2


@pytest.mark.parametrize("name", ["no-such-model", "tests/unit"])
def test_an_unknown_model_is_one_line(name, tmp_path):
    for where in (name, str(tmp_path)):
        with pytest.raises(CheckpointError, match="expected a"):
            danqing.load(where)
