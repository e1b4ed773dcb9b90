"""Judges by name, from folders to the bundle that benchmarks look with."""

import pytest

from danqing.errors import CheckpointError
from danqing.evaluation.judges.names import looks_named
from danqing.scoring.blip_vqa import COMPBENCH, BlipVQA
from danqing.scoring.clip import Clip
from danqing.scoring.depth import DepthModel
from danqing.scoring.open_detector import UNIDET_ROLE, OpenDetector
from danqing.scoring.pretrained import Source
from danqing.scoring.vlm_judge import VlmJudge
from danqing.scoring.vqa_score import VqaScore
from tests.parity import tiny_judges as tiny

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("judges")
    names = ("blip", "clip", "owl", "depth", "llava")
    return {name: getattr(tiny, name)(root / name) for name in names}


def test_a_bundle_holds_the_same_judges_as_the_loaders(folders):
    at = {name: Source(place=str(folder), device="cpu") for name, folder in folders.items()}
    looks = looks_named(
        [
            f"blip-vqa={folders['blip']}?side=480&digits=4",
            f"open-detector={folders['owl']}?long_side=480&sure=0.2,0.4",
            f"depth={folders['depth']}?eight_bit=yes",
            f"clip={folders['clip']}?prefix=A photo depicts ",
            f"vqa=vqascore:{folders['llava']}",
            f"ask=vlm:{folders['llava']}?longest=8&ending= Be brief.",
            f"words=vlm:{folders['llava']}?longest=8&ending= Be brief.",
        ],
        device="cpu",
        precision="fp32",
    ).looks()
    picture, vlm = tiny.picture(), VlmJudge(at["llava"])
    same = {
        looks.blip_vqa: BlipVQA(at["blip"], COMPBENCH),
        looks.detector: OpenDetector(at["owl"], UNIDET_ROLE),
        looks.depth: DepthModel(at["depth"], eight_bit=True),
        looks.clip: Clip(at["clip"], prefix="A photo depicts "),
        looks.vqa: VqaScore(vlm),
        looks.asker: VlmJudge(at["llava"], longest=8, ending=" Be brief."),
    }
    for chosen, made in same.items():
        assert (chosen.name, chosen.version) == (made.name, made.version)
    assert looks.sure == (0.2, 0.4)
    assert looks.vqa.answer_probability(picture, "red?") == vlm.probability(picture, "red?", "Yes")
    said = looks.asker.ask(picture, looks.words._question)
    assert "\n".join(looks.words.read_lines(picture)).split() == said.split()


def test_another_kind_of_weights_in_a_role_is_told(folders):
    with pytest.raises(CheckpointError, match="expected a model of owlv2, owlvit, grounding-dino"):
        looks_named([f"open-detector={folders['clip']}"], device="cpu").looks()
    blip = looks_named([f"vqa=blip:{folders['blip']}"], device="cpu").looks().vqa
    assert isinstance(blip, BlipVQA)
