"""Seeing: what a scene holds stands in the squares where it is seen, and a tower learns to read it there."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from danqing.conditioning.templates import DESCRIBE
from danqing.conditioning.tokenizer_training import train_tokenizer
from danqing.data.atlas import packaged_atlas
from danqing.data.world import Background, Scene, Thing, Words, render, sample_scene
from danqing.models.vlm import VLM
from danqing.training.objectives.seeing import (
    SceneTokens,
    letter_places,
    num_classes,
    read_pictures,
    scene_facts,
)
from tests.tiny import text_encoder

APPLE, DOG = "1F34E", "1F415"


def things(*placed, background="blue"):
    return Scene(
        tuple(Thing(concept, "shaded", None, size, x, y) for concept, size, x, y in placed),
        Background.plain(background),
    )


def entries(scene, grid=(6, 6)):
    """Return square -> classes found there."""
    facts = scene_facts([scene], packaged_atlas(), grid)
    found: dict[int, set[int]] = {}
    for square, one in zip(facts.squares.tolist(), facts.classes.tolist(), strict=True):
        found.setdefault(square, set()).add(one)
    return found


def test_a_thing_is_known_in_the_squares_that_it_fills():
    found = entries(things((APPLE, 0.32, 0.25, 0.25)))
    everywhere = set.intersection(*found.values())
    filled = {square for square, classes in found.items() if classes != everywhere}
    assert filled == {7} | (filled & {0, 1, 2, 6, 8, 12, 13, 14})
    assert len(everywhere) == 2  # the background's colour and kind


def test_every_class_has_a_row_and_every_scene_its_squares():
    rng, atlas = np.random.default_rng(0), packaged_atlas()
    scenes = [sample_scene(rng, atlas) for _ in range(64)]
    facts = scene_facts(scenes, atlas)
    assert facts.classes.min() >= 0
    assert facts.classes.max() < num_classes()
    assert torch.equal(facts.squares.unique(), torch.arange(64 * 36))
    assert len(facts.squares) == len(facts.classes)
    assert len(facts.lettered) == len(facts.letters) == len(facts.slots) > 0
    assert facts.letters.max() < num_classes()
    assert facts.boxes.abs().max() <= 1
    tokens = SceneTokens(16)(facts)
    assert tokens.shape == (64, 36, 16)


def test_nine_things_have_nine_middles():
    places = [(x, y) for y in (1 / 6, 1 / 2, 5 / 6) for x in (1 / 6, 1 / 2, 5 / 6)]
    scene = things(*((APPLE, 0.26, x, y) for x, y in places))
    counted = entries(scene)
    alone = entries(things((APPLE, 0.26, 0.5, 0.5)))
    middle = max(alone.values(), key=len)
    assert sum(classes == middle for classes in counted.values()) == 9


def test_letters_are_where_they_are_written():
    """Letters with ink in their middle, so that the pixels around each place tell."""
    words = Words(
        lines=("HX", "BEN"), font="bold", ink="black", ink_rgb=(0, 0, 0), board="sign",
        board_colour="white", board_rgb=(255, 255, 255), size=0.8, x=0.5, y=0.5,
    )  # fmt: skip
    scene = Scene((), Background.plain("yellow"), words=words)
    picture = render(scene, packaged_atlas(), 256)
    for character, x, y in letter_places(words):
        around = picture[round(256 * y) - 6 : round(256 * y) + 6, round(256 * x) - 6 : round(256 * x) + 6]
        assert (around.max(-1) < 80).any(), character
    assert [character for character, _, _ in letter_places(words)] == list("HXBEN")


def test_the_same_letters_in_another_order_are_other_tokens():
    def signed(text):
        words = Words(
            lines=(text,), font="bold", ink="black", ink_rgb=(0, 0, 0), board="none",
            board_colour=None, board_rgb=(0, 0, 0), size=0.14, x=0.58, y=0.58,
        )  # fmt: skip
        return Scene((), Background.plain("white"), words=words)

    module = SceneTokens(16).eval()
    one, other = module(scene_facts([signed("OH"), signed("HO")], packaged_atlas()))
    assert not torch.allclose(one, other)


def test_a_language_tower_learns_to_read_the_tokens():
    """Two scenes, one question: only the tokens tell which answer is right."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["what is there? an apple a dog"] * 4, 900)
    names = {"image_token": "image_pad", "video_token": "video_pad", "pad_token": "endoftext"}
    names |= {"vision_start_token": "vision_start", "vision_end_token": "vision_end", "eos_token": "im_end"}
    special = {key: tokenizer.token_id(f"<|{name}|>") for key, name in names.items()}
    vlm = VLM(text_encoder(len(tokenizer), special), vision=False)
    vlm.init_weights(torch.Generator().manual_seed(0))
    module = SceneTokens(32)
    text = DESCRIBE.fill("what is there?", num_pictures=1)
    asked = tokenizer.encode(text)
    at = asked.index(tokenizer.image_pad)
    rows = torch.tensor([asked[:at] + [tokenizer.image_pad] * 36 + asked[at + 1 :]] * 2)
    answers = torch.tensor([tokenizer.encode(word)[0] for word in ("apple", "dog")])
    facts = scene_facts([things((APPLE, 0.6, 0.5, 0.5)), things((DOG, 0.6, 0.5, 0.5))], packaged_atlas())
    optimizer = torch.optim.AdamW([*vlm.parameters(), *module.parameters()], lr=1e-2)
    losses = []
    for _ in range(40):
        logits = vlm.logits(read_pictures(vlm, rows, module(facts))[:, -1])
        loss = F.cross_entropy(logits, answers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 < 0.5 < losses[0]


def test_pictures_given_as_features_read_like_pictures():
    """The features of the vision tower, put in by hand, give what the model gives from pixels."""
    tokenizer = train_tokenizer(["what is there?"], 900)
    names = {"image_token": "image_pad", "video_token": "video_pad", "pad_token": "endoftext"}
    names |= {"vision_start_token": "vision_start", "vision_end_token": "vision_end", "eos_token": "im_end"}
    special = {key: tokenizer.token_id(f"<|{name}|>") for key, name in names.items()}
    vlm = VLM(text_encoder(len(tokenizer), special))
    vlm.init_weights(torch.Generator().manual_seed(1))
    grid_thw = [(1, 4, 6)]
    patches = torch.randn(24, vlm.config.vision.patch_dim, generator=torch.Generator().manual_seed(0))
    row = [tokenizer.vision_start] + [tokenizer.image_pad] * 6 + [tokenizer.vision_end, 5, 6]
    token_ids = torch.tensor([row])
    with torch.no_grad():
        expected = vlm.features(token_ids, patches=patches, grid_thw=grid_thw)
        pictures = vlm.visual(patches, grid_thw)[None]
        found = read_pictures(vlm, token_ids, pictures, grid=(2, 3))
        start = torch.tensor(tokenizer.encode("what is"))
        whole = torch.cat((start, token_ids[0]))[None]
        behind = read_pictures(vlm, token_ids, pictures, grid=(2, 3), prefix=vlm.prefix(start))
        expected_behind = vlm.features(whole, patches=patches, grid_thw=grid_thw)[:, len(start) :]
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(behind, expected_behind, rtol=1e-4, atol=1e-5)


def test_noise_is_that_of_its_generator():
    module = SceneTokens(16)
    facts = scene_facts([things((APPLE, 0.6, 0.5, 0.5))], packaged_atlas())
    first, again, other = (module(facts, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(module(facts), module(facts))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, module(facts))


@pytest.mark.parametrize("grid", [(5, 5), (4, 8)])
def test_any_grid_will_do(grid):
    facts = scene_facts([things((DOG, 0.5, 0.5, 0.5))], packaged_atlas(), grid)
    assert SceneTokens(16, grid=grid)(facts).shape == (1, grid[0] * grid[1], 16)
