"""The shipped model as a stranger meets it."""

import json

import numpy as np
from PIL import Image

import danqing
from danqing.conditioning.images import picture_parameters
from danqing.data.world import held_out_prompts
from danqing.scoring.match import first_concepts, packaged_matcher

PROMPT = "a red apple on a blue table"


def test_the_first_command_draws(cli, tmp_path):
    done = cli(PROMPT, "--seed", 7, "--json")
    assert done.code == 0, done.err
    told = json.loads(done.lines[0])
    picture = Image.open(tmp_path / told["path"])
    assert picture.size == tuple(told["size"]) == (128, 128)
    assert json.loads(picture_parameters(picture)["danqing"])["prompt"] == PROMPT
    python = danqing.load("nano").generate(PROMPT, seed=7)
    assert np.array_equal(np.asarray(picture), np.asarray(python))


def test_info_and_doctor_know_it(cli):
    told = json.loads(cli("info", "nano", "--json").out)
    assert told["name"] == "danqing-nano"
    assert told["licence"] == "Apache-2.0"
    doctor = cli("doctor")
    assert doctor.code == 0, doctor.out + doctor.err


def test_a_size_outside_its_range_names_the_range(cli):
    assert cli(PROMPT, "--size", "512x512").is_mistake("96 to 192 pixels")


def test_it_heeds_the_prompt():
    """Backgrounds of held-out prompts come out in the colour asked for; a random model would get one in
    eleven.
    """
    nano = danqing.load("nano")
    judge = packaged_matcher()
    prompts = held_out_prompts(8, codes=first_concepts())
    right = sum(
        judge.judge(np.asarray(nano.generate(item.prompt, seed=0))).background == item.background
        for item in prompts
    )
    assert right >= 6
