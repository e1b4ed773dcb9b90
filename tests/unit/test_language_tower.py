"""What the language tower learns from: texts by step, targets that are meant, answers that weigh more."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from danqing.conditioning.templates import DESCRIBE, EDIT_PLUS, GENERATE, IMAGE
from danqing.data.atlas import packaged_atlas
from danqing.data.colours import COLOURS
from danqing.data.concepts import concepts
from danqing.data.language import facts, ordered
from danqing.data.language.corpus import READING, Text, draw_text
from danqing.data.language.nouns import nouns
from danqing.data.world import RELATIONS, Background, Scene, Thing, Words
from danqing.models.vlm import VLM
from danqing.training.objectives.language import Language, LanguageTrainee, _features, fact_classes
from tests.tiny import randomized
from tests.unit.test_objectives import learn, same_batch

APPLE, DOG = "1F34E", "1F415"
UNKNOWN = -100


@pytest.fixture(scope="module")
def language(tiny):
    return Language(packaged_atlas(), tiny.components.tokenizer, batch_size=6, seed=0)


@pytest.fixture
def trainee(tiny):
    torch.manual_seed(0)
    vlm = randomized(VLM(tiny.components.vlm.config, vision=False), 3).requires_grad_(True)
    return LanguageTrainee(vlm)


def texts_of(language, step):
    """Return the texts that the batch of a step is made of."""
    rng = np.random.default_rng([language.seed, step])
    return [draw_text(rng, language.atlas) for _ in range(language.batch_size)]


def test_language_batches_depend_on_the_step_alone(language, tiny):
    other = Language(packaged_atlas(), tiny.components.tokenizer, batch_size=6, seed=0)
    other.batch(5)
    for first, second in zip(language.batch(3), other.batch(3), strict=True):
        assert same_batch(first[:4], second[:4])
        assert all(torch.equal(first.facts[name], second.facts[name]) for name in fact_classes())
    assert not same_batch(language.batch(3)[0][:4], language.batch(4)[0][:4])


@pytest.mark.parametrize("step", range(4))
def test_targets_are_the_next_tokens_after_the_template(language, step):
    batches, tokenizer = language.batch(step), language.tokenizer
    templates = {"generate": GENERATE, "edit": EDIT_PLUS, "describe": DESCRIBE}
    drawn = sorted(texts_of(language, step), key=lambda text: len((text.prompt + text.answer).encode()))
    by_task = [[text for text in drawn if text.task == task] for task in templates]
    *batches, _ = batches
    for batch, texts in zip(batches, filter(None, by_task), strict=True):
        for text, tokens, targets, end in zip(texts, batch.token_ids, batch.targets, batch.ends, strict=True):
            said = tokenizer.decode([*batch.prefix.tolist(), *tokens[: end + 1].tolist()], skip_special=False)
            seen = IMAGE.replace("<|image_pad|>", "<|image_pad|>" * 36)
            expected = templates[text.task].fill(text.prompt, num_pictures=int(text.picture is not None))
            expected = expected.replace(IMAGE, seen)
            assert said == expected + (text.answer + "<|im_end|>" if text.answer else "")
            learned = targets[:end] != UNKNOWN
            assert torch.equal(targets[:end][learned], tokens[1 : end + 1][learned])
            assert (tokens[1 : end + 1][~learned] == tokenizer.image_pad).all()
            assert (targets[end:] == UNKNOWN).all()
            assert (tokens[end + 1 :] == tokenizer.pad).all()


def test_names_are_taught_in_every_language(language):
    names, tokenizer = language.batch(0)[-1], language.tokenizer
    ends = len(tokenizer.encode("<|im_end|>\n<|im_start|>assistant\n"))
    for row, end, first in zip(names.token_ids, names.ends, names.facts["first"], strict=True):
        said = tokenizer.decode(row[: end + 1 - ends].tolist())
        assert said in list(nouns().values())[first].names.values()
    assert all((names.facts[name] == UNKNOWN).all() for name in fact_classes() if name != "first")


def test_close_ups_are_of_one_thing_in_one_token_or_of_words_in_a_line(tiny, trainee):
    tokenizer = tiny.components.tokenizer
    codes = tuple(packaged_atlas().codes[:3])
    mixture = replace(READING, codes=codes)
    objective = Language(
        packaged_atlas(), tokenizer, batch_size=2, seed=0, curriculum={0: mixture}, close_ups=40
    )
    near, words = objective.batch(0)[-2:]
    assert (near.grid, words.grid) == ((1, 1), (1, 6))
    assert near.pictures.scenes + words.pictures.scenes == 40
    for part, tokens in ((near, 1), (words, 6)):
        assert ((part.token_ids == tokenizer.image_pad).sum(1) == tokens).all()
    assert len(near.pictures.letters) == 0
    assert len(words.pictures.letters) > words.pictures.scenes
    answers = {
        tokenizer.decode(targets[at:end].tolist())
        for targets, at, end in zip(near.targets, near.asked, near.ends, strict=True)
    }
    names = {name for code in codes for name in nouns()[code].names.values()}
    assert {answer for answer in answers if any(name in answer for name in names)}
    objective.loss(trainee, [near])[0].backward()
    assert trainee.eyes.table.weight.grad.abs().sum() > 0


def test_a_dropped_prefix_is_the_template_in_front_of_the_prompt(language):
    for template in (GENERATE, EDIT_PLUS):
        ids = language.tokenizer.encode(template.fill("苹果"))
        prefix = language.tokenizer.decode(ids[: template.drop], skip_special=False)
        assert prefix == template.text.partition("{}")[0]


def thing(code, colour=None):
    return Thing(code, "flat", colour, 0.4, 0.5, 0.5)


def scene(relation, *things, background="orange"):
    return Scene(things, Background.plain(background), relation)


def targets(language, *scenes):
    """Return the fact targets of texts about scenes."""
    texts = [Text(task="generate", prompt="?", labels=ordered(facts(one))) for one in scenes]
    return {name: column.tolist() for name, column in language._collate("generate", texts).facts.items()}


def test_facts_of_scenes(language):
    codes = list(concepts())
    apple, dog, orange, green = codes.index(APPLE), codes.index(DOG), *map(COLOURS.index, ("orange", "green"))
    one = scene(None, thing(APPLE, "green"), background="black")
    three = scene(None, *[thing(DOG)] * 3)
    two = scene("above", thing(APPLE, "green"), thing(DOG))
    nothing, no_colour, no_relation = len(nouns()), len(COLOURS), len(RELATIONS)
    assert targets(language, one, three, two) == {
        "first": [apple, dog, apple],
        "second": [nothing, nothing, dog],
        "count": [1, 3, 1],
        "first_colour": [green, no_colour, green],
        "second_colour": [no_colour, no_colour, no_colour],
        "background": [COLOURS.index("black"), orange, orange],
        "relation": [no_relation, no_relation, RELATIONS.index("above")],
    }


@pytest.mark.parametrize(("relation", "inverse"), [("left", "right"), ("above", "below")])
def test_the_left_or_upper_thing_comes_first(language, relation, inverse):
    apple, dog = thing(APPLE, "green"), thing(DOG)
    found = targets(language, scene(relation, apple, dog), scene(inverse, dog, apple))
    assert all(first == second for first, second in found.values())
    assert found["first"][0] == list(concepts()).index(APPLE)
    assert found["relation"][0] == RELATIONS.index(relation)


def test_words_without_things_tell_their_background_alone(language):
    words = Words(
        lines=("OPEN",),
        font="",
        ink="white",
        ink_rgb=(255, 255, 255),
        board="none",
        board_colour=None,
        board_rgb=(0, 0, 0),
        size=0.8,
        x=0.5,
        y=0.5,
    )
    found = targets(language, Scene((), Background.plain("red"), words=words))
    assert found.pop("background") == [COLOURS.index("red")]
    assert set(map(tuple, found.values())) == {(UNKNOWN,)}


def test_texts_without_labels_have_no_facts(language):
    text = Text(task="edit", prompt="remove the dog")
    assert {column.item() for column in language._collate("edit", [text]).facts.values()} == {UNKNOWN}


def test_heads_have_the_classes_of_their_facts(language, trainee):
    classes = fact_classes()
    assert {name: head.out_features for name, head in trainee.heads.items()} == classes
    assert classes == {
        "first": len(nouns()),
        "second": len(nouns()) + 1,
        "count": 10,
        "first_colour": 12,
        "second_colour": 12,
        "background": 11,
        "relation": 8,
    }
    for step in range(3):
        for batch in language.batch(step):
            for name, column in batch.facts.items():
                known = column[column != UNKNOWN]
                assert ((known >= 0) & (known < classes[name])).all()


def test_the_language_loss_falls(language, trainee):
    batch = language.batch(0)
    loss, before = language.loss(trainee, batch)
    assert loss.item() == pytest.approx(before["next_token"] + before["facts"], rel=1e-5)
    learn(language, trainee, [batch] * 8)
    _, after = language.loss(trainee, batch)
    assert after["next_token"] < 0.9 * before["next_token"]
    assert after["facts"] < 0.9 * before["facts"]


def test_a_curriculum_changes_the_texts_at_its_steps(tiny):
    only = dict.fromkeys(("captions", "edits", "questions", "descriptions"), 0.0)
    told, asked = (replace(READING, **(only | {kind: 1.0})) for kind in ("captions", "questions"))
    tokenizer = tiny.components.tokenizer
    objective = Language(packaged_atlas(), tokenizer, batch_size=6, seed=0, curriculum={0: told, 3: asked})
    for step, shown in ((0, False), (2, False), (3, True), (9, True)):
        *texts, names = objective.batch(step)
        assert {batch.pictures is not None for batch in texts} == {shown}
        assert names.pictures is None


def test_answers_can_weigh_more(tiny, trainee):
    texts = [
        Text(task="describe", prompt="what is it?", answer=answer, picture=scene(None, thing(APPLE)))
        for answer in ("an apple", "a red apple on blue")
    ]
    tokenizer = tiny.components.tokenizer
    plain, heavy = (
        Language(packaged_atlas(), tokenizer, batch_size=6, seed=0, answers=weight) for weight in (0.0, 3.0)
    )
    batch = plain._collate("describe", texts)
    loss, numbers = plain.loss(trainee, [batch])
    features = _features(trainee, batch, noisy=True)
    errors = []
    for text, row, at, end in zip(texts, range(2), batch.asked, batch.ends, strict=True):
        said = tokenizer.encode(text.answer + "<|im_end|>")
        assert batch.targets[row, at:end].tolist() == said
        foretold = trainee.vlm.logits(features[row, at:end])
        errors.append(F.cross_entropy(foretold, batch.targets[row, at:end], reduction="none"))
    assert numbers["answers_error"] == pytest.approx(torch.cat(errors).mean().item(), rel=1e-5)
    assert heavy.loss(trainee, [batch])[0].item() == pytest.approx(loss.item() + 3 * numbers["answers_error"])


def test_a_batch_without_captions_has_a_loss(language, trainee):
    batch = [language._collate("edit", [Text(task="edit", prompt="remove the dog")])]
    loss, numbers = language.loss(trainee, batch)
    loss.backward()
    assert numbers["facts"] == 0
    assert loss.item() == pytest.approx(numbers["next_token"])
    assert all(p.grad.isfinite().all() for p in trainee.parameters() if p.grad is not None)


def test_facts_are_read_from_held_out_captions(language, trainee, tmp_path):
    with torch.no_grad():
        scores = language.evaluate(trainee.eval(), tmp_path, 0)
    groups, read = ("en", "zh", "other"), ("first", "second", "count", "relation")
    assert set(scores) == {f"{group}_{name}" for group in groups for name in read} | {"answers"}
    assert all(0 <= score <= 1 for score in scores.values())


def test_language_operations_are_proportional_to_the_tokens(language, trainee):
    batch = language.batch(0)
    assert language.flops(trainee, [*batch, *batch]) == 2 * language.flops(trainee, batch) > 0
