"""Vision-language models as judges, through the real loader, against direct calls of the library."""

import pytest
import torch
import transformers as tf

from danqing.errors import CheckpointError, DataError
from danqing.scoring.pretrained import Source
from danqing.scoring.vlm_judge import VlmJudge, first_tokens
from danqing.scoring.vqa_score import VqaScore
from tests.parity import tiny_judges as tiny

pytestmark = pytest.mark.parity
QUESTION = "is there a red apple?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.llava(tmp_path_factory.mktemp("judges") / "llava")


@pytest.fixture(scope="module")
def judge(folder):
    return VlmJudge(Source(place=str(folder), device="cpu"), longest=12)


def direct(folder, question: str):
    """Return model, processor and inputs, made without our code."""
    model = tf.AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor = tf.AutoProcessor.from_pretrained(folder)
    text = f"USER: <image>\n{question} ASSISTANT:"
    return model, processor, processor(images=tiny.picture(), text=text, return_tensors="pt")


def test_the_answer_is_the_librarys_likeliest(folder, judge):
    model, processor, inputs = direct(folder, QUESTION)
    with torch.no_grad():
        tokens = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    new = tokens[0, inputs["input_ids"].shape[1] :]
    said = judge.ask(tiny.picture(), QUESTION)
    assert said == processor.tokenizer.decode(new, skip_special_tokens=True).strip()
    assert judge.ask(tiny.picture(), QUESTION) == said


def test_an_answers_probability_is_that_of_its_first_tokens(folder, judge):
    model, processor, inputs = direct(folder, QUESTION)
    with torch.no_grad():
        chances = model(**inputs).logits[0, -1].softmax(-1)
    masses = []
    for spellings in (("yes", "Yes", " yes", " Yes"), ("no", "No", " no", " No")):
        first = {processor.tokenizer(one, add_special_tokens=False).input_ids[0] for one in spellings}
        masses.append(float(chances[list(first)].sum()))
    found = judge.answer_probability(tiny.picture(), QUESTION)
    assert found == pytest.approx(masses[0] / sum(masses), abs=1e-6)
    assert judge.answer_probability(tiny.picture(), QUESTION, ("no", "yes")) == pytest.approx(1 - found)


def test_vqa_score_is_how_likely_yes_is(folder, judge):
    text, question = "a red apple", 'Does this figure show "a red apple"? Please answer yes or no.'
    model, processor, inputs = direct(folder, question)
    with torch.no_grad():
        chances = model(**inputs).logits[0, -1].softmax(-1)
    yes = processor.tokenizer("Yes", add_special_tokens=False).input_ids[0]
    score = VqaScore(judge)
    (found,) = score.scores(tiny.picture(), [text])
    assert found == pytest.approx(float(chances[yes]), abs=1e-7)
    assert score.answer_probability(tiny.picture(), question) == found
    assert score.version != VqaScore(judge, "Is '{}' in this picture?").version


def test_what_follows_every_question_is_part_of_the_version(folder, judge):
    ended = VlmJudge(Source(place=str(folder), device="cpu"), longest=12, ending=" yes or no?")
    assert ended.version != judge.version
    asked = judge.answer_probability(tiny.picture(), QUESTION + " yes or no?")
    assert ended.answer_probability(tiny.picture(), QUESTION) == asked


def test_answers_that_begin_alike_cannot_be_told_apart(judge):
    with pytest.raises(DataError, match="different tokens"):
        judge.answer_probability(tiny.picture(), QUESTION, ("yes", "yes"))


def test_a_token_that_both_answers_may_begin_with_tells_nothing():
    class Spaced:
        """A tokenizer that puts a space before a space, as that of Llama does."""

        def __call__(self, text, add_special_tokens):
            assert not add_special_tokens
            token_ids = [0] if text.startswith(" ") else [len(text)]
            return tf.BatchEncoding({"input_ids": token_ids})

    assert first_tokens(Spaced(), ("yes", "no")) == (frozenset({3}), frozenset({2}))


def test_a_model_without_a_conversation_is_refused(folder, tmp_path):
    model, processor, _ = direct(folder, QUESTION)
    model.save_pretrained(tmp_path)
    processor.chat_template = processor.tokenizer.chat_template = None
    processor.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="chat template"):
        VlmJudge(Source(place=str(tmp_path), device="cpu"))
