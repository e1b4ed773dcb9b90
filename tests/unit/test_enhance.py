"""The prompt enhancer: what it asks, how it reads answers, what it shows."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from danqing.conditioning.enhance import (
    SYSTEM_PROMPTS,
    enhance_text,
    lost_words,
    parse_rewrite,
    prompt_changes,
    prompt_diff,
    prompt_language,
    release_system_prompt,
)
from danqing.conditioning.tokenizer_training import train_tokenizer
from danqing.errors import CheckpointError, ConfigError, RequestError
from danqing.models.qwen3_vl import Qwen3VL
from danqing.pipelines.enhance import enhance
from tests.unit.test_qwen3_vl import config_for

WISH = "a red apple"
REWRITE = "a red apple on a blue table"


def test_the_wish_is_told_in_its_language_and_task():
    assert SYSTEM_PROMPTS["generate"]["en"] in enhance_text("a cat")
    assert SYSTEM_PROMPTS["generate"]["zh"] in enhance_text("一只猫")
    assert SYSTEM_PROMPTS["edit"]["en"] in enhance_text("make it green", num_pictures=1)
    assert enhance_text("x {}", system="s {}").startswith("<|im_start|>system\ns {}<|im_end|>")
    assert "user\nx {}<|im_end|>" in enhance_text("x {}", system="s {}")


def test_pictures_come_first_and_are_numbered():
    mark = "<|vision_start|><|image_pad|><|vision_end|>"
    expected = f"<|im_start|>user\nPicture 1: {mark}Picture 2: {mark}swap them<|im_end|>"
    assert expected in enhance_text("swap them", num_pictures=2)


@pytest.mark.parametrize(
    ("prompt", "language"),
    [("a cat", "en"), ("一只猫", "zh"), ("赤いりんごの絵", "en"), ("고양이", "en"), ("", "en")],
)
def test_language(prompt, language):
    assert prompt_language(prompt) == language


@pytest.mark.parametrize(
    ("answer", "prompt", "ratio"),
    [
        ("A cat.\nIt sleeps.", "A cat. It sleeps.", None),
        ("Rewritten Prompt: A cat", "A cat", None),
        ("改写输出：一只猫", "一只猫", None),
        ("“一只猫”", "一只猫", None),
        ('"OPEN" over a door that says "SHUT"', '"OPEN" over a door that says "SHUT"', None),
        ("```text\nA cat\n```", "A cat", None),
        ("<think>a cat, then {</think>\nA cat", "A cat", None),
        ('Here: {"rewritten_prompt": "a {cat}", "wh_ratio": "16:9"} done.', "a {cat}", (16, 9)),
        ('{"rewritten_prompt": "A cat", "wh_ratio": ""}', "A cat", None),
        ('{"rewritten_prompt": "A cat", "wh_ratio": "0:9"}', "A cat", None),
        ('{"other": 1}', '{"other": 1}', None),
    ],
)
def test_answers(answer, prompt, ratio):
    found = parse_rewrite(answer)
    assert (found.prompt, found.ratio) == (prompt, ratio)


@pytest.mark.parametrize("answer", ["", " \n", "<think>no end", '""', "Rewritten Prompt:"])
def test_no_answer_is_no_prompt(answer):
    with pytest.raises(RequestError, match="empty answer; draw without --enhance"):
        parse_rewrite(answer)


def test_lost_words():
    prompt = "a sign “早上好” and \"OPEN\", the dog's bowl says 'BO', it's red"
    assert lost_words(prompt, prompt) == ()
    assert lost_words(prompt, "a sign “早上好”, a bowl, open") == ("OPEN", "BO")


def test_the_rewrite_is_shown_as_a_diff():
    assert prompt_diff(WISH, REWRITE) == "a red apple{+ on a blue table+}"
    assert prompt_diff("一只猫", "一只黑猫") == "一只{+黑+}猫"
    assert prompt_diff("a red cat", "a blue cat") == "a [-red-]{+blue+} cat"


@given(st.text(), st.text())
def test_the_diff_holds_both_prompts(before, after):
    changes = prompt_changes(before, after)
    assert "".join(change.text for change in changes if change.kind != "added") == before
    assert "".join(change.text for change in changes if change.kind != "removed") == after


def test_system_text_of_a_release(tmp_path):
    assert release_system_prompt(tmp_path) is None
    (tmp_path / "system_prompt.txt").write_text(" Rewrite {}. \n", encoding="utf-8")
    assert release_system_prompt(tmp_path) == "Rewrite {}."
    (tmp_path / "system_prompt.txt").write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match="expected UTF-8"):
        release_system_prompt(tmp_path)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([enhance_text(WISH), REWRITE], 900)


@pytest.fixture(scope="module")
def vlm(tokenizer):
    """A conditioner that has learned one rewrite by heart."""
    torch.manual_seed(0)
    vlm = Qwen3VL(config_for(tokenizer))
    start = tokenizer.encode(enhance_text(WISH))
    ids = torch.tensor([[*start, *tokenizer.encode(REWRITE), tokenizer.eos]])
    optimizer = torch.optim.AdamW([*vlm.language.parameters(), *vlm.lm_head.parameters()], lr=1e-2)
    for _ in range(60):
        logits = vlm.logits(vlm.features(ids[:, :-1]))[0, len(start) - 1 :]
        optimizer.zero_grad()
        F.cross_entropy(logits, ids[0, len(start) :]).backward()
        optimizer.step()
    return vlm.eval().requires_grad_(False)


def test_a_conditioner_rewrites(vlm, tokenizer):
    assert enhance(vlm, tokenizer, WISH, seed=0).prompt == REWRITE


def test_an_answer_without_an_end_is_no_prompt(vlm, tokenizer):
    with pytest.raises(RequestError, match="fewer than 3 tokens, found no end"):
        enhance(vlm, tokenizer, WISH, seed=0, max_tokens=3)


def test_a_seed_is_a_rewrite(vlm, tokenizer):
    def rewrite(seed):
        try:
            return enhance(vlm, tokenizer, WISH, seed=seed, temperature=2.0, max_tokens=48).prompt
        except RequestError as error:
            return str(error)

    found = [rewrite(seed) for seed in range(6)]
    assert found == [rewrite(seed) for seed in range(6)]
    assert len(set(found)) > 2


def test_an_instruction_is_rewritten_with_its_pictures_in_view(vlm, tokenizer):
    pictures = [torch.zeros(3, 32, 64), torch.zeros(3, 64, 32)]
    with pytest.raises(RequestError, match="found no end"):
        enhance(vlm, tokenizer, "swap them", pictures, seed=0, max_tokens=1)
    blind = Qwen3VL(vlm.config, vision=False)
    with pytest.raises(ConfigError, match="built without vision"):
        enhance(blind, tokenizer, "swap them", pictures, seed=0)


def test_nothing_to_rewrite(vlm, tokenizer):
    with pytest.raises(RequestError, match="expected a prompt to rewrite"):
        enhance(vlm, tokenizer, " \n", seed=0)
    with pytest.raises(RequestError, match="give fewer or smaller pictures"):
        enhance(vlm, tokenizer, "very " * 9999, seed=0)
