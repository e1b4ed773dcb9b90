"""The shipped model in the reference library: the same weights, the same picture."""

import numpy as np
import pytest
import torch

import danqing
from danqing.conditioning.templates import GENERATE
from danqing.model import find_checkpoint
from danqing.weights.layouts import write_released_copy


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Nano, exported to the released layout and opened by diffusers."""
    from diffusers import QwenImagePipeline

    folder = tmp_path_factory.mktemp("released") / "nano"
    write_released_copy(find_checkpoint("nano"), folder)
    pipeline = QwenImagePipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize(
    ("prompt", "seed"), [("a red apple on a blue table", 0), ("一只熊猫，黄色背景", 7), ("three bananas", 11)]
)
def test_diffusers_draws_the_same_picture(reference, prompt, seed):
    nano = danqing.load("nano", device="cpu", precision="fp32")
    ours = np.asarray(nano.generate(prompt, seed=seed, steps=6)).astype(int)
    theirs = reference(
        prompt,
        negative_prompt=" ",
        true_cfg_scale=nano.info.guidance,
        width=nano.info.size[0],
        height=nano.info.size[1],
        num_inference_steps=6,
        generator=torch.Generator().manual_seed(seed),
    ).images[0]
    assert np.abs(ours - np.asarray(theirs).astype(int)).max() <= 1


def test_the_text_encoder_is_whole(reference):
    """Nothing is missing or left over, the vision tower included."""
    assert reference.text_encoder.config.vision_config.depth > 0
    prefix = GENERATE.text.partition("{}")[0]
    assert len(reference.tokenizer(prefix).input_ids) == reference.prompt_template_encode_start_idx == 34
