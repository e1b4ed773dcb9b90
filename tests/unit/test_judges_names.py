"""Who looks at pictures, by name: clear errors, roles, options; `danqing` itself as a judge; words."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import danqing
from danqing.conditioning.given import open_picture
from danqing.data.fonts import font
from danqing.errors import CheckpointError, ConfigError, DataError, RequestError
from danqing.evaluation.judges.names import looks_named
from danqing.evaluation.judges.own import OwnJudge
from danqing.evaluation.judges.words import AskedWords, OcrWords
from danqing.model import load_describer
from danqing.pipelines.describe import DescribeRequest, describe
from danqing.scoring.looking import ROLES
from danqing.scoring.pinned import PINNED
from danqing.scoring.pretrained import source_of
from danqing.scoring.remote_judge import RemoteJudge

PICTURE = Image.fromarray(np.tile(np.array([[[200, 30, 30]]], np.uint8), (96, 96, 1)))


@pytest.fixture(scope="module", params=["tiny_folder", "tiny21_folder"])
def folder(request, tmp_path_factory):
    """A tiny checkpoint of each generation, saying that it can describe."""
    path = tmp_path_factory.mktemp("judging") / request.param
    shutil.copytree(request.getfixturevalue(request.param), path)
    about = json.loads((path / "danqing.json").read_text())
    (path / "danqing.json").write_text(json.dumps({**about, "tasks": ["generate", "describe"]}))
    return path


@pytest.fixture(scope="module")
def describer(folder):
    return load_describer(folder, device="cpu", precision="fp32")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("vga=danqing:nano", "found 'vga=danqing:nano'; did you mean vqa"),
        ("vqa", "expected ROLE=NAME"),
        ("vqa=nano", "expected a judge that begins with vlm:, blip:, vqascore:, openai:"),
        ("vqa=danqin:nano", "did you mean danqing:"),
        ("ask=vqascore:pinned", "expected a judge that begins with vlm:, blip:, openai:"),
        ("vqa=danqing:", "expected weights or 'pinned', found nothing"),
        ("clip=", "expected weights or 'pinned', found nothing"),
        ("vqa=openai-compatible:http://127.0.0.1:1/v1", "expected openai-compatible:ADDRESS#MODEL"),
        ("clip=pinned?side=480", "expected options of device, precision, prefix, found 'side'"),
        ("blip-vqa=pinned?side=big", "side: expected another value, found 'big'"),
        ("open-detector=pinned?sure=0.3", "sure: expected another value, found '0.3'"),
        ("open-detector=pinned?threshold=2", "threshold: expected another value"),
        ("vqa=openai:x?longest=1&longest=2", "expected every option once"),
    ],
)
def test_a_name_that_means_nothing_is_told_so(text, told):
    with pytest.raises(RequestError) as error:
        looks_named([text])
    assert told in str(error.value)


def test_a_role_is_given_once_and_a_key_never_in_the_address():
    with pytest.raises(RequestError, match="clip twice"):
        looks_named(["clip=pinned", "clip=clip-large"])
    choice = looks_named(["vqa=openai-compatible:http://me:secret@127.0.0.1:1/v1#model"])
    with pytest.raises(ConfigError, match="DANQING_ENDPOINT_KEY") as error:
        choice.looks()
    assert "secret" not in str(error.value)


def test_roles_and_options_are_read_and_nothing_is_loaded():
    chosen = looks_named(
        [
            "blip-vqa=pinned?side=480&digits=4",
            "open-detector=grounding-dino?overlap=none&sure=0.25,0.4",
            "vqa=openai:gpt-4o-2024-11-20?temperature=none&logprobs=yes",
            "words=ocr",
        ]
    )
    assert chosen.roles == {"blip-vqa", "open-detector", "vqa", "words"}
    options = {one.role: dict(one.options) for one in chosen.chosen}
    assert options["blip-vqa"] == {"side": 480, "digits": 4}
    assert options["open-detector"] == {"overlap": None, "sure": (0.25, 0.4)}
    assert options["vqa"] == {"temperature": None, "logprobs": True}


def test_every_role_has_weights_at_a_commit_or_is_played_without():
    assert {role for role in ROLES if role != "words"} <= set(PINNED)
    for one in PINNED.values():
        assert len(one.revision) == 40
        assert source_of(one.id, "clip").revision == one.revision
        assert source_of("", "clip").place == PINNED["clip"].id
    assert source_of(f"someone/model@{'a' * 40}", "clip").revision == "a" * 40
    with pytest.raises(RequestError, match="a branch may move"):
        source_of("someone/model", "clip")
    with pytest.raises(RequestError, match="a branch may move"):
        source_of("someone/model@main", "clip")
    with pytest.raises(CheckpointError, match="expected a folder"):
        source_of("./nowhere/at/all", "clip")


def test_one_checkpoint_plays_several_roles_and_is_loaded_once(folder, tmp_path):
    texts = [f"{role}=danqing:{folder}" for role in ("vqa", "ask", "words")]
    looks = looks_named(texts, device="cpu", kept=tmp_path).looks()
    assert looks.vqa is looks.asker
    assert isinstance(looks.words, AskedWords)
    assert looks.clip is None
    assert looks.sure == (0.3, 0.9)
    assert looks.vqa.name == json.loads((folder / "danqing.json").read_text())["name"]
    remote = looks_named(["vqa=openai-compatible:http://127.0.0.1:1/v1#m?longest=9"], kept=tmp_path).looks()
    assert isinstance(remote.vqa, RemoteJudge)


def test_danqing_answers_as_describe_does(describer, folder):
    judge = OwnJudge(describer, longest=24)
    question = "What is the background?"
    request = DescribeRequest(pictures=(open_picture(PICTURE),), ask=question, max_tokens=24)
    assert judge.ask(PICTURE, question) == "".join(describe(describer, request)).strip()
    model = danqing.load(folder, device="cpu", precision="fp32")
    assert judge.ask(PICTURE, question) == model.describe(PICTURE, question, max_tokens=24).strip()


def test_danqings_probability_is_that_of_the_answer_it_would_begin_with(describer):
    judge = OwnJudge(describer)
    question = "Is there an apple?"
    chances = judge._next(PICTURE, question).softmax(-1)
    (likeliest,) = [int(chances.argmax())]
    said = judge.ask(PICTURE, question)
    assert said.startswith(describer.tokenizer.decode([likeliest]).strip())
    words = ("yes", "no")
    spelled = [[describer.tokenizer.encode(one)[0] for one in (word, word.capitalize())] for word in words]
    masses = [float(chances[sorted(set(group))].sum()) for group in spelled]
    found = judge.answer_probability(PICTURE, question)
    assert found == pytest.approx(masses[0] / sum(masses), abs=1e-6)
    assert judge.answer_probability(PICTURE, question, ("no", "yes")) == pytest.approx(1 - found)
    with pytest.raises(DataError, match="begin with different tokens"):
        judge.answer_probability(PICTURE, question, ("yes", "Yes"))


def test_danqings_version_tells_weights_apart(describer):
    before = OwnJudge(describer).version
    assert OwnJudge(describer, longest=9).version != before
    weight = next(describer.vlm.parameters())
    with torch.no_grad():
        weight.flatten()[0] += 1
    changed = OwnJudge(describer).version
    with torch.no_grad():
        weight.flatten()[0] -= 1
    assert changed != before


def test_words_are_read_or_asked_for():
    sign = Image.new("RGB", (256, 96), "white")
    ImageDraw.Draw(sign).text((20, 20), "HELLO", fill="black", font=font("plain", 40))
    reader = OcrWords()
    assert reader.read_lines(sign) == ("HELLO",)
    assert reader.version.startswith("rapidocr-")

    class Asked:
        name, version = "model", "1"

        def ask(self, picture, question):
            assert "all text that this picture shows" in question
            return "GOOD\n\n morning "

    words = AskedWords(Asked())
    assert words.read_lines(sign) == ("GOOD", "morning")
    assert words.version != Asked.version
