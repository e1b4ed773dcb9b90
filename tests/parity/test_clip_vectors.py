"""Vectors of CLIP are those of the library, of length 1; the name of a distance says how they came about."""

import numpy as np
import pytest
import torch
import transformers as tf

from danqing.evaluation.benchmarks.coco import COCO
from danqing.evaluation.benchmarks.picture_sets import encoder_name
from danqing.evaluation.items import Item
from danqing.scoring.clip import CLIP_SCORE_PREFIX, Clip
from danqing.scoring.looking import Looks
from danqing.scoring.pretrained import source_of
from danqing.scoring.retrieval import Encoder
from tests.parity import tiny_judges


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_judges.clip(tmp_path_factory.mktemp("clip"))


def test_vectors_are_those_of_the_library(folder):
    clip = Clip(source_of(folder, "clip", device="cpu"), prefix="never used: ")
    assert isinstance(clip, Encoder)
    model = tf.CLIPModel.from_pretrained(folder).eval()
    tokenizer = tf.AutoTokenizer.from_pretrained(folder)
    images = tf.AutoImageProcessor.from_pretrained(folder, backend="pil")
    picture = tiny_judges.picture()
    with torch.no_grad():
        seen = model.get_image_features(**images(images=picture, return_tensors="pt")).pooler_output[0]
        said = model.get_text_features(**tokenizer("a red dog", return_tensors="pt")).pooler_output[0]
    np.testing.assert_allclose(clip.picture_vector(picture), seen / seen.norm(), atol=1e-6)
    np.testing.assert_allclose(clip.text_vector("a red dog"), said / said.norm(), atol=1e-6)


def test_a_picture_is_judged_by_such_vectors_and_the_name_tells_network_and_resizing(folder):
    clip = Clip(source_of(folder, "clip", device="cpu"))
    judge = COCO.judge(Looks(clip=clip), "official")
    assert clip.resize.startswith("bicubic to ")
    assert judge.name == f"captions and {encoder_name(clip)}"
    assert clip.resize in judge.name
    references = [f"a red dog {n}" for n in range(7)]
    item = Item(row="coco-pictures", prompt="a red dog", details={"references": references})
    score, seen, *captions = judge.judge(tiny_judges.picture(), item)
    cosine = float(
        clip.picture_vector(tiny_judges.picture()) @ clip.text_vector(f"{CLIP_SCORE_PREFIX}a red dog")
    )
    assert score.measure == pytest.approx(cosine)
    assert score.value == pytest.approx(min(max(2.5 * cosine, 0), 1))
    assert (seen.name, len(captions)) == ("picture", 5)
