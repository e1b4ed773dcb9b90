"""Caption measures equal those of pycocoevalcap 1.2.

tests/fixtures/captions.json holds captions of our own, what that package made of them, and how it was asked.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from danqing.errors import DataError
from danqing.scoring.captions import (
    bleu,
    bleu_of_parts,
    bleu_parts,
    cider_d,
    rouge_l,
    score_captions,
    spaced,
)
from danqing.scoring.tokenise import tokenise

FIXTURE = json.loads((Path(__file__).parents[1] / "fixtures" / "captions.json").read_text("utf-8"))
PICTURES = FIXTURE["pictures"]
CANDIDATES = [picture["candidate"] for picture in PICTURES]
REFERENCES = [picture["references"] for picture in PICTURES]


@pytest.mark.parametrize(
    "picture", PICTURES, ids=[f"{p['candidate'][:30]}-{i}" for i, p in enumerate(PICTURES)]
)
def test_captions_are_cut_into_the_same_words(picture):
    assert tokenise(picture["candidate"]) == picture["candidate_words"]
    assert [tokenise(text) for text in picture["references"]] == picture["reference_words"]


def test_every_score_is_that_of_the_coco_caption_evaluation():
    scores = score_captions(CANDIDATES, REFERENCES)
    assert scores.bleu == pytest.approx(FIXTURE["bleu"], abs=1e-6)
    for name in ("rouge_l", "cider_d"):
        ours = getattr(scores, name)
        assert ours.mean == pytest.approx(FIXTURE[name], abs=1e-6)
        assert ours.each == pytest.approx([picture[name] for picture in PICTURES], abs=1e-6)


def test_each_measure_alone_gives_the_same_and_words_can_be_cut_before():
    scores = score_captions(CANDIDATES, REFERENCES)
    found = [" ".join(picture["candidate_words"]) for picture in PICTURES]
    wanted = [[" ".join(words) for words in picture["reference_words"]] for picture in PICTURES]
    assert bleu(CANDIDATES, REFERENCES) == bleu(found, wanted, tokenised=True) == scores.bleu
    assert rouge_l(CANDIDATES, REFERENCES) == rouge_l(found, wanted, tokenised=True) == scores.rouge_l
    assert cider_d(CANDIDATES, REFERENCES) == cider_d(found, wanted, tokenised=True) == scores.cider_d


def test_the_mean_length_counts_words_of_candidates():
    scores = score_captions(["A red apple.", "one two three four five"], [["an apple"], ["numbers"]])
    assert scores.mean_length == 4


def test_a_right_caption_that_runs_on_loses_nearly_all_its_cider():
    references = [["a red apple on a table"], ["two cats on a sofa"], ["a bus in the rain"]]
    short = [several[0] for several in references]
    long = [text + " and then a great many more things nobody else has ever seen or named" for text in short]
    assert cider_d(short, references).mean == pytest.approx(10)
    assert cider_d(long, references).mean < 1


@pytest.mark.parametrize("text", ["", "...", "\n \t", "🍎", "“"])
def test_a_caption_without_words_has_none(text):
    assert tokenise(text) == []


@pytest.mark.parametrize(
    ("candidates", "references", "found"),
    [
        (["a cat"], [["a cat"], ["a dog"]], "found 1 captions and 2 lists"),
        ([], [], "found 0 captions"),
        (["a cat", "a dog"], [["a cat"], []], r"picture 1, found \[\]"),
        (["a cat"], ["a cat"], "picture 0, found 'a cat'"),
    ],
)
def test_what_does_not_fit_together_is_refused(candidates, references, found):
    for measure in (score_captions, bleu, rouge_l, cider_d):
        with pytest.raises(DataError, match=found):
            measure(candidates, references)


def test_bleu_of_a_corpus_is_what_the_parts_of_its_captions_sum_to():
    parts = np.array([bleu_parts(*pair) for pair in zip(CANDIDATES, REFERENCES, strict=True)])
    whole = [float(bleu_of_parts(parts.sum(0), order)) for order in (1, 2, 3, 4)]
    assert whole == pytest.approx(FIXTURE["bleu"], abs=1e-6)
    halves = np.array([parts[::2].sum(0), parts[1::2].sum(0)])
    assert bleu_of_parts(halves, 4).tolist() == pytest.approx(
        [bleu(CANDIDATES[at::2], REFERENCES[at::2])[3] for at in (0, 1)]
    )


def test_parts_of_one_caption_by_hand():
    # "the the cat": "the" is in no reference twice; the nearest length is 2 before 5
    found = bleu_parts("the the cat", ["the cat", "a dog and the cat"])
    assert found == (2, 1, 0, 0, 3, 2, 1, 0, 3, 2)


@pytest.mark.parametrize(
    ("text", "language", "words"),
    [
        ("A red apple.", "en", "a red apple"),
        ("三个红苹果，在LED灯前。", "zh", "三 个 红 苹 果 在 led 灯 前"),
        ("赤いリンゴ", "ja", "赤 い リ ン ゴ"),
        ("1 1/2 cups", "en", "1 1/2 cups"),
    ],
)
def test_captions_without_spaces_are_cut_into_characters(text, language, words):
    assert spaced(text, language) == words
