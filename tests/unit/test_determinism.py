"""One seed is one picture: alone, in a batch, among other requests; fp32, one thread, bit for bit."""

import io

import pytest
import torch

from danqing.pipelines.generate import GenerateRequest, generate
from tests.tiny import with_batch

PROMPTS = ["a red apple", "a blue table with a very long description", "x"]


def png(image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def final_latents(model, request, monkeypatch):
    """Draw, and return every picture's last latents in the order they were decoded."""
    from danqing.pipelines import draw as module

    seen, decode = [], module.decode

    def spy(components, tokens, height):
        seen.extend(tokens.split(1))
        return decode(components, tokens, height)

    with monkeypatch.context() as patch:
        patch.setattr(module, "decode", spy)
        list(generate(model.components, [request]))
    return seen


def test_count_pictures_are_those_of_single_runs(tiny):
    together = tiny.generate(PROMPTS[0], seed=7, count=3)
    alone = [tiny.generate(PROMPTS[0], seed=7 + k) for k in range(3)]
    assert [png(image) for image in together] == [png(image) for image in alone]
    assert len({image.tobytes() for image in alone}) == 3


def test_latents_of_a_count_are_those_of_single_runs(tiny, monkeypatch):
    together = final_latents(tiny, GenerateRequest(prompt=PROMPTS[1], seed=7, count=3), monkeypatch)
    for k, latents in enumerate(together):
        request = GenerateRequest(prompt=PROMPTS[1], seed=7 + k)
        assert torch.equal(final_latents(tiny, request, monkeypatch)[0], latents)


def test_a_picture_does_not_depend_on_other_requests(tiny):
    requests = [
        GenerateRequest(prompt=prompt, seed=seed, size=size, guidance=guidance, count=count)
        for prompt, seed, size, guidance, count in [
            (PROMPTS[0], 1, (48, 48), 3.0, 1),
            (PROMPTS[1], 1, (48, 48), 3.0, 2),
            (PROMPTS[2], 5, (64, 32), 1.0, 1),
            (PROMPTS[0], 1, (48, 48), 1.0, 1),
        ]
    ]
    drawn = [one for progress in generate(tiny.components, requests) for one in progress.drawn]
    assert [one.index for one in drawn] == [0, 1, 1, 2, 3]
    assert [one.request.seed for one in drawn] == [1, 1, 2, 5, 1]
    for one in drawn:
        assert one.request.count == 1
        assert png(tiny.generate(one.request)) == png(tiny.generate(one.request))
        alone = tiny.generate(one.request)
        assert alone.tobytes() == one.image.tobytes()
        assert alone.size == one.request.size


def test_stream_draws_what_generate_draws(tiny):
    steps = list(tiny.stream(PROMPTS[1], seed=3, count=2))
    assert [(p.step, p.steps, p.seeds) for p in steps] == [
        *[(k, 3, (3,)) for k in (1, 2, 3)],
        *[(k, 3, (4,)) for k in (1, 2, 3)],
    ]
    assert [len(p.drawn) for p in steps] == [0, 0, 1, 0, 0, 1]
    assert steps[2].sigma == 0
    images = [one.image for progress in steps for one in progress.drawn]
    expected = tiny.generate(PROMPTS[1], seed=3, count=2)
    assert [image.tobytes() for image in images] == [image.tobytes() for image in expected]


def test_the_last_preview_is_the_picture_and_the_first_is_not(tiny):
    steps = list(tiny.stream(PROMPTS[0], seed=3))
    final = steps[-1].drawn[0].image.tobytes()
    assert steps[-1].preview()[0].tobytes() == final
    assert steps[0].preview()[0].tobytes() != final
    assert steps[0].preview()[0].size == (64, 48)


def test_looking_at_previews_changes_nothing(tiny):
    for progress in tiny.stream(PROMPTS[0], seed=3):
        progress.preview()
        drawn = progress.drawn
    assert drawn[0].image.tobytes() == tiny.generate(PROMPTS[0], seed=3).tobytes()


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_pictures_denoised_together_differ_by_rounding_alone(tiny, guidance, monkeypatch):
    request = GenerateRequest(prompt=PROMPTS[0], seed=7, count=3, guidance=guidance)
    alone = final_latents(tiny, request, monkeypatch)
    together = final_latents(with_batch(tiny, 2), request, monkeypatch)
    torch.testing.assert_close(torch.cat(together), torch.cat(alone), rtol=0, atol=1e-4)


def test_closing_the_stream_stops_it(tiny):
    calls = []
    hook = tiny.components.transformer.register_forward_hook(lambda *_: calls.append(1))
    try:
        stream = tiny.stream(PROMPTS[0], seed=1, steps=50, count=4)
        assert next(stream).step == 1
        stream.close()
    finally:
        hook.remove()
    assert len(calls) == 1
    assert list(stream) == []


def test_an_open_seed_is_told(tiny):
    image = tiny.generate(PROMPTS[0])
    seed = int(image.info["parameters"].split("Seed: ")[1].split(",")[0])
    assert png(tiny.generate(PROMPTS[0], seed=seed)) == png(image)


def test_no_requests_draw_nothing(tiny):
    assert list(generate(tiny.components, [])) == []
