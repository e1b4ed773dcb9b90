"""Whole drawings of 2.1 from what the conditioner says on: our networks and loop against the reference's."""

import numpy as np
import pytest
import torch
from PIL import Image

from danqing.models.rope import GridShape
from danqing.models.single_stream import SingleStream, SingleStreamConfig, references_before
from danqing.models.vae import fold
from danqing.models.vae21 import VAE21, VAE21Config
from danqing.rng import sample_noise
from danqing.sampling.denoise import denoise
from danqing.sampling.guidance import guided
from danqing.sampling.schedule import TURBO, ScheduleConfig, sigma_grid
from tests.parity import peer_parts as parts

peer_21 = pytest.importorskip("tests.parity.peer_21")

PROMPT = "a red apple on a blue table"
WIDTH, HEIGHT = 96, 64


def photo(width, height, mode):
    generator = np.random.default_rng(width)
    return Image.fromarray(generator.integers(0, 256, (height, width, len(mode)), dtype=np.uint8))


CASES = {
    "text": {"num_inference_steps": 4},
    "turbo": {},
    "references": {
        "num_inference_steps": 3,
        "image": [photo(90, 60, "RGBA"), photo(50, 80, "RGB"), photo(64, 64, "RGBA")],
        "output_resolution": 96,
        "negative_prompt": "a pear",
        "true_cfg_scale": 3.0,
    },
}


def draw_reference(pipe, call):
    """Return the picture, and what the denoiser was given first for each branch of guidance."""
    given = []
    hook = pipe.transformer.register_forward_pre_hook(
        lambda _, args, kwargs: given.append(kwargs), with_kwargs=True
    )
    picture = pipe(
        prompt=PROMPT,
        width=WIDTH,
        height=HEIGHT,
        generator=torch.Generator().manual_seed(7),
        output_type="np",
        **call,
    ).images[0]
    hook.remove()
    return picture, given[: 2 if "negative_prompt" in call else 1]


def our_networks(pipe):
    model = SingleStream(SingleStreamConfig(**parts.DIT21)).eval()
    model.load_state_dict(pipe.transformer.state_dict())
    vae = VAE21(VAE21Config(**parts.VAE21)).eval()
    released = pipe.vae.state_dict().items()
    vae.load_state_dict({name: value for name, t in released if (value := fold(name, t)) is not None})
    return model, vae


@torch.no_grad()
def draw_ours(model, vae, branches, pictures, sigmas, scale):
    """Return a picture from the conditioner's features, as a pipeline does it in steps."""
    shape = GridShape(1, HEIGHT // 16, WIDTH // 16)
    # 1. References: latents as tokens, row by row.
    latents = [vae.encode(picture) for picture in pictures]
    shapes = [GridShape(1, *grid.shape[2:]) for grid in latents]
    tokens = torch.cat([grid.flatten(2).mT for grid in latents], dim=1) if latents else None
    # 2. What does not depend on the step: modulation of each level, text and references.
    table = model.modulation_table(sigmas[:-1])
    prefixes = []
    for features, slots in branches:
        before = references_before(slots, shapes)
        prefixes.append(
            model.prefix(features[:, ~slots], table, references=tokens, shapes=shapes, before=before)
        )

    def velocity(latents, index):
        cond, *uncond = (model(latents, prefix, table.at(index), shape=shape) for prefix in prefixes)
        return guided(cond, uncond[0], scale, rescale=False) if uncond else cond

    # 3. Denoise and decode.
    noise = sample_noise((1, 1, 64, *shape[1:]), 7)[:, 0].flatten(2).mT
    *_, last = denoise(velocity, noise, sigmas)
    return vae.decode(last.latents.mT.unflatten(2, shape[1:]))


@pytest.mark.parametrize("name", CASES)
def test_the_picture_is_that_of_the_reference(peers, name):
    call, turbo = CASES[name], name == "turbo"
    pipe = peer_21.pipeline(peers.tokenizer, turbo=turbo)
    expected, given = draw_reference(pipe, call)
    sizes = [(width * 16, height * 16) for _, height, width in given[0]["img_shapes"][0][:-1]]
    pictures = [
        pipe.image_processor.preprocess(picture.convert("RGBA"), width=width, height=height)
        for picture, (width, height) in zip(call.get("image", []), sizes, strict=True)
    ]
    branches = [
        (
            kwargs["encoder_hidden_states"],
            kwargs["img_mask"][0, : kwargs["encoder_hidden_states"].shape[1]],
        )
        for kwargs in given
    ]
    steps = call.get("num_inference_steps", 8)
    sigmas = sigma_grid(TURBO if turbo else ScheduleConfig(), steps, HEIGHT * WIDTH // 256)
    pixels = draw_ours(*our_networks(pipe), branches, pictures, sigmas, call.get("true_cfg_scale", 1.0))
    ours = ((pixels[0].permute(1, 2, 0) + 1) / 2).numpy()
    assert expected.std() > 0.05
    assert np.abs(ours - expected).max() < 1e-4
