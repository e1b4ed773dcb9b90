"""Encoded scenes in shards: each depends on its number alone, and a window of them moves along the run."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from danqing.conditioning.images import to_pixels
from danqing.conditioning.pictures import fitted_size, picture_pixels, resized
from danqing.conditioning.text import encode_edit_prompts, encode_prompts
from danqing.data.atlas import packaged_atlas
from danqing.data.cache import UNTOLD, ExampleCache, Mixture, SceneEncoder, Task
from danqing.data.language import caption
from danqing.data.language.seen import style_of
from danqing.data.world import contains_held_out, render, sample_scene
from danqing.weights.layouts import Folder

SIZE = 16
LANGUAGES = {"en": 0.6, "zh": 0.3}


class Recording:
    """A scene encoder that remembers what it was given."""

    def __init__(self, encoder: SceneEncoder) -> None:
        self.encoder, self.atlas, self.size = encoder, encoder.atlas, encoder.size
        self.prepared = []

    def encode_prepared(self, prepared):
        self.prepared.append(prepared)
        return self.encoder.encode_prepared(prepared)


def mixed(count, **options):
    """Return tasks of a mixture, alone."""
    mixture, rng = Mixture(**{"languages": LANGUAGES} | options), np.random.default_rng(0)
    return [mixture.draw(rng, packaged_atlas()) for _ in range(count)]


@pytest.fixture(scope="module")
def encoder(tiny, tiny_folder) -> SceneEncoder:
    parts = tiny.components
    vlm = Folder(tiny_folder).vlm(parts.device, torch.float32, vision=True)
    return SceneEncoder(atlas=packaged_atlas(), vae=parts.vae, vlm=vlm, tokenizer=parts.tokenizer, size=SIZE)


@pytest.fixture
def make(encoder, tmp_path):
    """Make a cache in a folder: shards of four, two in the window, a new one after every eight draws."""

    def cache(name="shards", **options):
        mixture = Mixture(**{"languages": LANGUAGES} | options.pop("mixture", {}))
        options = {"seed": 0, "mixture": mixture, "shard_size": 4, "window": 2, "reuse": 2} | options
        return ExampleCache(options.pop("encoder", encoder), tmp_path / name, **options)

    return cache


def draw(cache, items_before, count=24, *, seed=0):
    return cache.draw(np.random.default_rng(seed), items_before, count)


def same(first, second):
    return torch.equal(first.latents, second.latents) and torch.equal(first.txt, second.txt)


def files(cache):
    return sorted(path.name for path in cache.folder.iterdir())


def name(number):
    return f"shard-{number:06d}.safetensors"


def drawn_tasks(encoder, count):
    rng = np.random.default_rng(0)
    scenes = [sample_scene(rng, encoder.atlas) for _ in range(count)]
    return [Task(scene=scene, prompt=caption(scene, "en", rng, encoder.atlas)) for scene in scenes]


def test_text_is_encoded_as_for_drawing(encoder):
    tasks = drawn_tasks(encoder, 3)
    examples = encoder.encode(tasks)
    assert examples.offsets[-1] == len(examples.txt)
    for index, task in enumerate(tasks):
        expected = encode_prompts(encoder.vlm, encoder.tokenizer, [task.prompt]).txt[0]
        torch.testing.assert_close(examples[index].txt, expected, rtol=2e-3, atol=2e-3)
        assert examples[index].reference is None


def test_edits_are_encoded_as_for_editing(encoder):
    rng, atlas = np.random.default_rng(2), encoder.atlas
    mixture = Mixture(languages=LANGUAGES, edits=1.0, untold=0.3)
    tasks = [mixture.draw(rng, atlas) for _ in range(12)]
    assert {task.prompt == UNTOLD for task in tasks} == {True, False}
    assert not any(contains_held_out(one) for task in tasks for one in (task.scene, task.source))
    examples = encoder.encode(tasks)
    assert examples.references.shape == examples.latents.shape
    for index, task in enumerate(tasks[:3]):
        source = render(task.source, atlas, SIZE)
        with torch.no_grad():
            exact = encoder.vae.encode(to_pixels(source[None]))[0]
        assert (examples[index].reference - exact).abs().mean() < 0.05 * exact.std()
        seen = picture_pixels(
            resized(Image.fromarray(source), fitted_size((SIZE, SIZE), encoder.vision_area)),
            encoder.vlm.config.vision,
        )
        expected = encode_edit_prompts(encoder.vlm, encoder.tokenizer, [task.prompt], [seen]).txt[0]
        torch.testing.assert_close(examples[index].txt, expected, rtol=2e-3, atol=2e-3)


def test_pictures_are_encoded_by_the_autoencoder(encoder):
    tasks = drawn_tasks(encoder, 34)  # more than are encoded together
    examples = encoder.encode(tasks)
    pixels = to_pixels(np.stack([render(task.scene, encoder.atlas, SIZE) for task in tasks]))
    with torch.no_grad():
        exact = encoder.vae.encode(pixels)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            parts = [encoder.vae.encode(part) for part in pixels.split(32)]
    assert examples.latents.shape == (34, 16, SIZE // 8, SIZE // 8)
    assert torch.equal(examples.latents, torch.cat(parts).half())
    assert (examples.latents - exact).abs().mean() < 0.05 * exact.std()


def test_a_shard_depends_on_its_number_alone(make):
    alone, after_others = make("alone"), make("others", reuse=4)
    draw(after_others, 0)
    assert same(alone.shard(2), after_others.shard(2))
    assert not same(alone.shard(2), alone.shard(1))
    assert not same(alone.shard(2), make("seed", seed=1).shard(2))


def test_a_deleted_shard_is_made_again(make):
    cache = make()
    first = cache.shard(1)
    path = cache.folder / name(1)
    before = path.read_bytes()
    path.unlink()
    assert same(make().shard(1), first)
    assert path.read_bytes() == before


def test_a_shard_in_the_folder_is_read(make, encoder):
    make().shard(0)
    recording = Recording(encoder)
    make(encoder=recording).shard(0)
    assert recording.prepared == []


def test_files_are_half_precision_and_batches_single(make):
    cache = make()
    drawn = draw(cache, 0, 2)
    stored = load_file(cache.folder / name(0))
    assert (stored["latents"].dtype, stored["txt"].dtype) == (torch.float16, torch.float16)
    assert {part.dtype for example in drawn for part in example[:2]} == {torch.float32}
    assert same(make().shard(0), cache.shard(0))
    for row, text, _ in drawn:
        index = next(k for k in range(4) if torch.equal(stored["latents"][k].float(), row))
        start, end = stored["offsets"][index : index + 2]
        assert torch.equal(stored["txt"][start:end].float(), text)


def test_no_scene_of_a_mixture_is_held_out():
    assert not any(contains_held_out(task.scene) for task in mixed(60))


def test_captions_come_in_the_chosen_languages():
    said = [task.prompt for task in mixed(20, languages={"zh": 1.0})]
    assert all(any("\u4e00" <= sign <= "\u9fff" for sign in text) for text in said)


def test_scenes_come_in_the_chosen_kinds():
    assert {task.scene.kind for task in mixed(20, shares={"pair": 1.0})} == {"pair"}


def test_only_unusual_styles_are_said():
    options = {"languages": {"en": 1.0}, "shares": {"single": 1.0}, "styles": {"flat": 0.5, "glossy": 0.5}}
    said = [(style_of(task.scene), task.prompt) for task in mixed(60, **options)]
    assert {style for style, _ in said} == {"flat", "glossy", None}
    assert all("glossy" in text for style, text in said if style == "glossy")
    assert sum("flat" in text for style, text in said if style == "flat") < 15


def test_other_processes_prepare_the_same_shards(make):
    alone, helped = make("alone"), make("helped", workers=1)
    assert all(same(alone.shard(number), helped.shard(number)) for number in (1, 0))


def test_the_window_grows_and_then_moves(make):
    cache = make()
    windows = {}
    for items_before in (0, 7, 8, 15, 16, 24):
        draw(cache, items_before)
        windows[items_before] = files(cache)
    assert windows[0] == windows[7] == [name(0)]
    assert windows[8] == windows[15] == [name(0), name(1)]
    assert windows[16] == [name(1), name(2)]
    assert windows[24] == [name(2), name(3)]


def test_draws_come_from_the_window(make):
    cache = make()
    drawn = draw(cache, 24)
    inside = [row for number in (2, 3) for row in cache.shard(number).latents.float()]
    assert all(any(torch.equal(example.latents, one) for one in inside) for example in drawn)


def test_shards_that_left_while_a_run_was_stopped_are_deleted(make):
    draw(make(), 8)
    resumed = make()
    draw(resumed, 24)
    assert files(resumed) == [name(2), name(3)]


def test_a_draw_depends_on_the_generator_and_the_place_in_the_run(make):
    fresh, used = make("fresh"), make("used")
    draw(used, 0)
    draw(used, 40, seed=9)
    for items_before in (8, 24):
        pairs = zip(draw(fresh, items_before, 6), draw(used, items_before, 6), strict=True)
        assert all(torch.equal(one.txt, other.txt) for one, other in pairs)
    first, other = draw(fresh, 24, 6), draw(fresh, 24, 6, seed=1)
    assert not all(
        torch.equal(*pair) for pair in zip((e.txt for e in first), (e.txt for e in other), strict=True)
    )
