"""Learning to see: eyes move and nothing else does, pictures are what the pipeline sees, right is counted."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image

from danqing.conditioning.pictures import picture_pixels, token_size
from danqing.conditioning.tokenizer_training import train_tokenizer
from danqing.data.atlas import packaged_atlas
from danqing.data.language.corpus import corpus
from danqing.data.language.nouns import nouns
from danqing.data.world import render, sample_scene
from danqing.models.vision import patchify
from danqing.models.vlm import VLM
from danqing.training.objectives.describing import PICTURE_LIMITS, Seeing, SeeingTrainee, whole_answers
from danqing.training.objectives.seeing import SceneTokens, families
from tests.tiny import text_encoder


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(corpus(np.random.default_rng(0), packaged_atlas(), 40), 1400)


@pytest.fixture
def trainee(tokenizer):
    torch.manual_seed(0)
    names = {"image_token": "image_pad", "video_token": "video_pad", "pad_token": "endoftext"}
    names |= {"vision_start_token": "vision_start", "vision_end_token": "vision_end", "eos_token": "im_end"}
    special = {key: tokenizer.token_id(f"<|{name}|>") for key, name in names.items()}
    vlm = VLM(text_encoder(len(tokenizer), special))
    vlm.init_weights(torch.Generator().manual_seed(0))
    return SeeingTrainee(vlm, SceneTokens(32))


def objective(trainee, tokenizer, **options):
    vision = trainee.vlm.config.vision
    return Seeing(packaged_atlas(), tokenizer, vision, **{"batch_size": 8, "seed": 0, "asked": 2, **options})


def test_a_batch_depends_on_its_step_alone(trainee, tokenizer):
    one, again = (objective(trainee, tokenizer).batch(3) for _ in range(2))
    assert torch.equal(one.patches, again.patches)
    assert torch.equal(one.token_ids, again.token_ids)
    assert not torch.equal(one.patches, objective(trainee, tokenizer).batch(4).patches)


def test_the_concepts_shown_can_be_chosen(trainee, tokenizer):
    codes = tuple(packaged_atlas().codes[:3])
    classes, rows = objective(trainee, tokenizer, codes=codes).batch(0).facts.classes, families()["concept"]
    seen = classes[(classes >= rows.start) & (classes < rows.stop)] - rows.start
    assert set(seen.tolist()) <= {list(nouns()).index(code) for code in codes}


def test_the_eyes_learn_and_nothing_else_moves(trainee, tokenizer):
    seeing = objective(trainee, tokenizer)
    batch = seeing.batch(0)
    before = copy.deepcopy(trainee.state_dict())
    optimizer = torch.optim.AdamW([p for p in trainee.parameters() if p.requires_grad], lr=3e-3)
    losses, parts = [], []
    for _ in range(30):
        loss, said = seeing.loss(trainee, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        parts.append(said)
    assert losses[-1] < 0.8 * losses[0]
    assert all(parts[-1][name] < parts[0][name] for name in ("apart", "read"))
    moved = {name for name, value in trainee.state_dict().items() if not torch.equal(value, before[name])}
    assert moved <= {name for name, p in trainee.named_parameters() if p.requires_grad}
    assert any(name.startswith("vlm.visual.patch_embed") for name in moved)
    assert any(name.startswith("vlm.visual.merger") for name in moved)
    assert not any(name.startswith(("vlm.model.", "tokens.")) for name in moved)


def test_before_asking_there_are_no_rows(trainee, tokenizer):
    seeing = objective(trainee, tokenizer, asked_from=2)
    assert len(seeing.batch(1).asked) == 0
    assert seeing.loss(trainee, seeing.batch(1))[1]["answered"] == 0
    assert seeing.batch(2).asked.tolist() == [0, 0, 1, 1]
    assert seeing.flops(trainee, seeing.batch(2)) > seeing.flops(trainee, seeing.batch(1)) > 0


def test_training_sees_what_the_pipeline_sees(trainee, tokenizer):
    """The same picture by way of PIL, one at a time, differs by rounding."""
    seeing, atlas = objective(trainee, tokenizer), packaged_atlas()
    config = trainee.vlm.config.vision
    rng = np.random.default_rng(5)
    scenes = [sample_scene(rng, atlas) for _ in range(4)]
    ours = seeing._collate(scenes, [], seeing._drawn(scenes)).patches.view(4, 144, -1)
    for scene, size, patches in zip(scenes, (96, 128, 128, 160), ours, strict=True):
        picture = Image.fromarray(render(scene, atlas, size))
        theirs = patchify(picture_pixels(picture, config, PICTURE_LIMITS), config)
        assert (patches - theirs).abs().max() < 4 / 255 / 0.26


@pytest.mark.parametrize("side", [64, 96, 128, 160, 192, 256, 512, 1000])
def test_every_square_picture_has_the_tokens_of_training(side):
    assert token_size(side, side, 28, PICTURE_LIMITS) == (168, 168)


def test_an_answer_is_right_as_a_whole():
    targets = torch.tensor([[-100, 5, 6], [-100, 5, 6], [5, -100, -100]])
    likeliest = torch.tensor([[9, 5, 6], [9, 5, 7], [5, 1, 2]])
    assert whole_answers(likeliest, targets).tolist() == [True, False, True]


@torch.no_grad()
def test_evaluation_writes_what_is_said(trainee, tokenizer, tmp_path):
    scores = objective(trainee, tokenizer).evaluate(trainee.eval(), tmp_path, 7)
    assert set(scores) == {"squares", "descriptions", "answers"}
    assert all(0 <= score < 0.5 for score in scores.values())
    with Image.open(tmp_path / "seen_000007.png") as page:
        assert page.width > 6 * 168
    lines = (tmp_path / "seen_000007.txt").read_text("utf-8").strip().split("\n")
    assert len(lines) == 12 * 2 * 3
