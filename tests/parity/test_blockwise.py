"""Our blockwise ControlNets against those of DiffSynth: pip install --no-deps diffsynth==2.1.12."""

import dataclasses
import importlib
import importlib.util
import sys
from functools import partial
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import danqing
from danqing.conditioning.given import open_picture
from danqing.conditioning.latents import pack
from danqing.models.controlnet import BlockwiseConfig, BlockwiseControlNet
from danqing.models.mmdit import MMDiT, MMDiTConfig
from danqing.pipelines.control import Control
from tests.parity import peer_parts as parts
from tests.parity.peer_cases import picture
from tests.parity.test_controlnet import SHAPE, close, draw, for_reference, inputs

diffusers = pytest.importorskip("diffusers")
FOUND = importlib.util.find_spec("diffsynth")
if FOUND is None:
    pytest.skip("DiffSynth is not installed", allow_module_level=True)

DIM = 48


@pytest.fixture(scope="module")
def make_pair():
    """Return a function that makes a ControlNet of DiffSynth and ours with the same weights.

    Only the file it lies in is imported; the rest of the package needs much more.
    """
    package = ModuleType("diffsynth")
    package.__path__ = list(FOUND.submodule_search_locations)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "diffsynth", package)
        module = importlib.import_module("diffsynth.models.qwen_image_controlnet")
        yield partial(_pair, module)


def _pair(module, num_layers=2, extra=0):
    peer = module.QwenImageBlockWiseControlNet(num_layers, 64, extra, DIM)
    parts.randomize(peer, 43)
    config = BlockwiseConfig(num_layers=num_layers, dim=DIM, extra_condition_channels=extra)
    ours = BlockwiseControlNet(config).eval()
    ours.load_state_dict(peer.state_dict())
    return peer, ours


@torch.no_grad()
@pytest.mark.parametrize("extra", [0, 4], ids=["picture", "inpaint"])
def test_residuals(make_pair, extra):
    peer, ours = make_pair(extra=extra)
    control, img = draw(2, 15, 64 + extra), draw(2, 15, DIM)
    expected = peer.process_controlnet_conditioning(control)
    close(ours(control), expected, 1e-5)
    for index in range(2):
        close(ours.residual(index, img, ours(control)), peer.blockwise_forward(img, expected, index), 1e-5)


def test_a_whole_picture(make_pair, peers, tmp_path):
    """DiffSynth reads the mode of the control's latents; hooks add what it makes of them to diffusers."""
    peer, _ = make_pair()
    save_file(peer.state_dict(), tmp_path / "model.safetensors")
    folder, image = peers.checkpoint("qwen-image"), picture(96, 64, 1)
    pipeline = diffusers.QwenImagePipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    pixels = pipeline.image_processor.preprocess(image).unsqueeze(2)
    vae = pipeline.vae
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (vae.config.latents_mean, vae.config.latents_std))
    with torch.no_grad():
        latents = (vae.encode(pixels).latent_dist.mode()[:, :, 0] - mean) / std
        control = peer.img_in(pack(latents))
    for index, block in enumerate(pipeline.transformer.transformer_blocks):

        def add(module, args, output, index=index):
            txt, img = output
            return txt, img + 0.7 * peer.blockwise_forward(img, control, index)

        block.register_forward_hook(add)
    expected = pipeline(
        prompt="a red cat on a mat",
        negative_prompt=" ",
        true_cfg_scale=4.0,
        width=96,
        height=64,
        num_inference_steps=3,
        generator=torch.Generator().manual_seed(7),
    ).images[0]
    model = danqing.load(folder, controlnet=tmp_path, device="cpu", precision="fp32")
    small = dataclasses.replace(model.components, info=dataclasses.replace(model.info, min_side=32))
    ours = danqing.Model(small).generate(
        "a red cat on a mat",
        size=(96, 64),
        steps=3,
        seed=7,
        controls=[Control(picture=open_picture(image), scale=0.7)],
    )
    a, b = np.asarray(ours).astype(int), np.asarray(expected).astype(int)
    assert b.std() > 5  # a flat picture would prove nothing
    assert np.abs(a - b).max() <= 1


@torch.no_grad()
def test_the_denoiser_with_residuals(make_pair):
    """DiffSynth adds to the stream after each block; hooks do the same to the denoiser of diffusers."""
    reference = parts.randomize(diffusers.QwenImageTransformer2DModel(**parts.DIT), 31)
    model = MMDiT(MMDiTConfig(**parts.DIT)).eval()
    model.load_state_dict(reference.state_dict())
    peer, ours = make_pair()
    img, txt, control, sigma = inputs([6, 3])

    for index, block in enumerate(reference.transformer_blocks):

        def add(module, args, output, index=index):
            txt, img = output
            return txt, img + 0.7 * peer.blockwise_forward(img, peer.img_in(control), index)

        block.register_forward_hook(add)
    expected = reference(**for_reference(img, txt, sigma, [6, 3]))[0]
    embedded = ours(control)

    def residual(index, img):
        return 0.7 * ours.residual(index, img, embedded)

    table = model.modulate(sigma)
    found = model(img, txt, table, shapes=[SHAPE], lengths=[6, 3], residual=residual)
    close(found, expected, 1e-4)
