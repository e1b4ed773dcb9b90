"""Captions find captions of the same picture by rare words that they share."""

import math

import numpy as np
import pytest

from danqing.scoring.retrieval import recall_both_ways
from danqing.scoring.wording import Wordings

TEXTS = ["a red apple", "a green apple", "a dog"]


def test_likeness_by_hand():
    # of one word: "a" is everywhere and weighs log(3/3) = 0; apple log(3/2); red, green, dog log 3
    apple, rare = math.log(3 / 2), math.log(3)
    one = np.hypot(apple, rare)
    words = apple * apple / (one * one)
    found = Wordings(TEXTS).likeness(["a red apple"])
    # words in pairs and threes are shared with itself alone, and there are no four
    assert found[0] == pytest.approx([3 / 4, words / 4, 0])


def test_a_text_in_other_words_is_like_nothing():
    assert Wordings(TEXTS).likeness(["", "eine Katze"]).tolist() == [[0, 0, 0]] * 2
    assert Wordings(["only one"]).likeness(["only one"]).tolist() == [[0]]  # nothing is rare among one


def test_captions_find_their_pictures_in_tiles_as_in_one_table():
    rng = np.random.default_rng(0)
    names = [f"thing{n}" for n in range(60)]
    truth = [list(rng.choice(names, 4, replace=False)) for _ in range(30)]
    references = [" ".join(rng.permutation(words)[:3]) for words in truth for _ in range(5)]
    captions = [" ".join(words) for words in truth]
    search = Wordings(references)
    owners = np.repeat(np.arange(30), 5)
    whole = recall_both_ways(search.of(captions), owners, 30)
    tiles = recall_both_ways(search.of(captions), owners, 30, block=7)
    assert whole.mean() == tiles.mean()
    assert whole.mean()["texts@1"] > 0.9
