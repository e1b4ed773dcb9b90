"""Controls: what may be asked for, which network reads what, and what they change."""

import json
import re

import numpy as np
import pytest
import torch

import danqing
from danqing.cli.controls import opened_controls, parse_control
from danqing.conditioning.given import open_mask, open_picture
from danqing.errors import CheckpointError, RequestError
from danqing.models.mmdit import is_modulation
from danqing.pipelines.control import Control, Window
from danqing.pipelines.generate import GenerateRequest
from danqing.weights.controlnets import load_controlnet
from danqing.weights.layouts import QWEN_IMAGE
from tests.editor import half, noisy
from tests.layering import write_blockwise, write_controlnet

EDGES = open_picture(noisy(64, 48), name="edges.png")
MASK = open_mask(half(64, 48), name="mask.png")


@pytest.fixture(scope="module")
def load(tiny_folder, tmp_path_factory):
    """Load the tiny checkpoint with a ControlNet: union, inpainting or blockwise."""
    nets = {
        "union": write_controlnet(tmp_path_factory.mktemp("union")),
        "inpainting": write_controlnet(tmp_path_factory.mktemp("inpainting"), masked=True),
        "blockwise": write_blockwise(tmp_path_factory.mktemp("blockwise")),
    }
    return lambda name: danqing.load(tiny_folder, controlnet=nets[name], device="cpu", precision="fp32")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scale": -1}, "control: expected scale from 0 to 10, found -1"),
        ({"start": "0"}, "control: expected start from 0 to 1, found '0'"),
        ({"end": 1.5}, "control: expected end from 0 to 1, found 1.5"),
        ({"start": 0.5, "end": 0.5}, "control: expected its start before its end, found 0.5 and 0.5"),
    ],
)
def test_a_wrong_value_is_named(values, message):
    with pytest.raises(RequestError, match=re.escape(message)):
        Control(picture=EDGES, **values)


def test_a_window_holds_the_steps_that_lie_inside_it():
    def steps(start, end, count=4):
        return [step for step in range(count) if Window(1.0, start, end).covers(step, count)]

    assert steps(0.0, 1.0) == [0, 1, 2, 3]
    assert steps(0.0, 0.5) == [0, 1]
    assert steps(0.3, 1.0) == [2, 3]
    assert steps(0.26, 0.3) == []


@pytest.mark.parametrize(("name", "mask"), [("union", None), ("inpainting", MASK), ("blockwise", None)])
def test_controls_change_the_picture_as_strongly_as_told(load, name, mask):
    model = load(name)

    def draw(**values):
        control = Control(picture=EDGES, mask=mask, **values)
        return np.asarray(model.generate("a cat", seed=1, controls=[control])).astype(int)

    def far(a, b):
        return np.abs(a - b).mean()

    full, none = draw(), draw(scale=0.0)
    assert far(draw(scale=0.05), none) < far(full, none)
    assert far(draw(end=0.4), none) > 0
    assert far(draw(start=0.99), none) == 0
    blank = open_picture(np_picture(0))
    other = model.generate("a cat", seed=1, controls=[Control(picture=blank, mask=mask)])
    assert far(np.asarray(other).astype(int), full) > 0


def np_picture(value):
    from PIL import Image

    return Image.new("RGB", (64, 48), (value,) * 3)


def test_under_the_mask_the_picture_does_not_matter(load):
    model = load("inpainting")
    covered = EDGES.image.copy()
    covered.paste((1, 2, 3), mask=MASK.image)
    draw = [
        model.generate("a cat", seed=1, controls=[Control(picture=open_picture(image), mask=MASK)])
        for image in (EDGES.image, covered)
    ]
    assert np.array_equal(*draw)


def test_several_controls_do_not_stand_in_each_others_way(load):
    model = load("blockwise")  # reads no noise, so that controls can be told apart
    second = Control(picture=open_picture(np_picture(200)), scale=0.0)
    alone = model.generate("a cat", seed=1, controls=[Control(picture=EDGES)])
    both = model.generate("a cat", seed=1, controls=[Control(picture=EDGES), second])
    assert np.array_equal(alone, both)


def test_a_mask_and_a_network_that_do_not_fit_are_told(load, tiny):
    with pytest.raises(RequestError, match="expected a ControlNet that reads the picture, found none"):
        tiny.generate("a cat", controls=[Control(picture=EDGES)])
    with pytest.raises(RequestError, match="expected a mask with a picture for this ControlNet, found none"):
        load("inpainting").generate("a cat", controls=[Control(picture=EDGES)])
    with pytest.raises(RequestError, match="expected no mask with a picture for this ControlNet, found one"):
        load("union").generate("a cat", controls=[Control(picture=EDGES, mask=MASK)])


def test_a_network_for_another_denoiser_is_refused(tiny_folder, tmp_path):
    with pytest.raises(
        CheckpointError, match=r"a denoiser of \{.*'blocks': 2\}, found one for \{.*'blocks': 3"
    ):
        danqing.load(tiny_folder, controlnet=write_blockwise(tmp_path, num_layers=3))
    with pytest.raises(CheckpointError, match="expected the folder of a ControlNet"):
        danqing.load(tiny_folder, controlnet=tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"expected one \.safetensors file"):
        danqing.load(tiny_folder, controlnet=tmp_path / "empty")


def test_the_modulation_of_a_controlnet_may_lie_elsewhere(tmp_path):
    net = load_controlnet(
        write_controlnet(tmp_path), torch.device("meta"), torch.float32, modulation=torch.device("cpu")
    )
    places = {p.device.type for name, p in net.named_parameters() if is_modulation(name)}
    assert places == {"cpu"}
    assert net.modulation_table(torch.tensor([1.0, 0.5])).img.device.type == "cpu"


def test_the_picture_is_drawn_in_the_aspect_of_its_control():
    tall = Control(picture=open_picture(np_picture(0).resize((600, 900))))
    assert GenerateRequest(prompt="a cat", controls=(tall,)).resolved(QWEN_IMAGE).size == (1088, 1632)
    with pytest.raises(RequestError, match="controls: expected a tuple of Control"):
        GenerateRequest(prompt="a cat", controls=("edges.png",))


def test_python_takes_paths_and_metadata_holds_names(load, tmp_path):
    EDGES.image.save(tmp_path / "edges.png")
    drawn = load("union").generate("a cat", seed=1, steps=1, controls=tmp_path / "edges.png")
    (told,) = json.loads(drawn.info["danqing"])["controls"]
    assert told == {"picture": "edges.png", "mask": None, "scale": 1.0, "start": 0.0, "end": 1.0}


@pytest.mark.parametrize(
    ("said", "window"),
    [("", (1, 0, 1)), (":0.8", (0.8, 0, 1)), (":1.5:0.1", (1.5, 0.1, 1)), (":1:0.1:.9", (1, 0.1, 0.9))],
)
def test_numbers_behind_a_file_name(tmp_path, said, window):
    EDGES.image.save(tmp_path / "edges.png")
    assert parse_control(f"{tmp_path / 'edges.png'}{said}").window == window


def test_a_file_whose_name_looks_like_numbers(tmp_path):
    EDGES.image.save(tmp_path / "edges:2", "png")
    assert parse_control(str(tmp_path / "edges:2")).window == (1, 0, 1)
    with pytest.raises(RequestError, match=re.escape("expected FILE[:SCALE[:START[:END]]], found")):
        parse_control("edges.png:1.2.3")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["a.png"], None, None), "expected --controlnet FOLDER with --control"),
        (([], None, "folder"), "expected --control FILE with --controlnet"),
        (
            (["a.png", "b.png"], "mask.png", "folder"),
            "--control-mask: expected one --control to mask, found 2",
        ),
    ],
)
def test_flags_that_need_each_other(arguments, message):
    with pytest.raises(RequestError, match=message):
        opened_controls(*arguments)
