"""How pictures reach the conditioner, against the image processor of Qwen2-VL."""

import pytest
import torch
from PIL import Image

from danqing.conditioning.pictures import PictureLimits, picture_pixels, save_processor, token_size
from danqing.conditioning.tokenizer_training import train_tokenizer
from danqing.errors import CheckpointError, RequestError
from danqing.models.vision import VisionConfig, patchify
from tests.parity.peer_parts import HAVE_TORCHVISION

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

SIZES = [(80, 64), (64, 96), (300, 200), (20, 20), (28, 28), (1000, 37), (14, 42), (70, 98)]


def picture(width, height):
    generator = torch.Generator().manual_seed(width * height)
    values = torch.randint(0, 256, (height, width, 4), generator=generator, dtype=torch.uint8).numpy()
    return Image.fromarray(values if width % 3 else values[..., :3].copy())


@pytest.fixture(scope="module")
def processor():
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    return Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=200 * 200)


@pytest.mark.parametrize("size", SIZES)
def test_patches(processor, size):
    expected = processor(picture(*size), return_tensors="pt")
    limits = PictureLimits(min_pixels=56 * 56, max_pixels=200 * 200)
    pixels = picture_pixels(picture(*size), VisionConfig(), limits)
    assert [[1, pixels.shape[1] // 14, pixels.shape[2] // 14]] == expected["image_grid_thw"].tolist()
    torch.testing.assert_close(patchify(pixels, VisionConfig()), expected["pixel_values"], rtol=0, atol=1e-5)


def test_sizes():
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    limits = PictureLimits(min_pixels=3136, max_pixels=100_000)
    for height in range(3, 900, 37):
        for width in range(5, 900, 41):
            if max(height, width) > 200 * min(height, width):
                continue
            expected = smart_resize(height, width, factor=28, min_pixels=3136, max_pixels=100_000)
            assert token_size(height, width, 28, limits) == tuple(expected), (height, width)
    with pytest.raises(RequestError, match="ratio up to 200"):
        token_size(1, 201, 28, limits)


def test_saved_processor(tmp_path, processor):
    tokenizer = train_tokenizer(["a red apple"], 900)
    limits = PictureLimits(min_pixels=56 * 56, max_pixels=200 * 200)
    save_processor(tmp_path, tokenizer, VisionConfig(), limits)
    assert PictureLimits.load(tmp_path) == limits
    theirs = type(processor).from_pretrained(tmp_path)
    for size in SIZES:
        expected = processor(picture(*size), return_tensors="pt")
        again = theirs(picture(*size), return_tensors="pt")
        assert torch.equal(again["pixel_values"], expected["pixel_values"])


@pytest.mark.skipif(not HAVE_TORCHVISION, reason="AutoProcessor needs torchvision")
def test_auto_processor(tmp_path):
    tokenizer = train_tokenizer(["a red apple"], 900)
    save_processor(tmp_path, tokenizer, VisionConfig())
    theirs = transformers.AutoProcessor.from_pretrained(tmp_path)
    text = "<|vision_start|><|image_pad|><|vision_end|>a red apple"
    out = theirs(text=[text], images=[picture(80, 64)], return_tensors="pt")
    pixels = picture_pixels(picture(80, 64), VisionConfig())
    count = out["input_ids"][0].tolist().count(tokenizer.image_pad)
    assert count == pixels.shape[1] * pixels.shape[2] // 28**2
    # Its bicubic filter rounds a little differently from PIL's.
    difference = (patchify(pixels, VisionConfig()) - out["pixel_values"]).abs()
    assert difference.mean() < 2 / 255


def test_released_limits(tmp_path):
    (tmp_path / "processor_config.json").write_text(
        '{"image_processor": {"size": {"shortest_edge": 3136, "longest_edge": 12845056}}}'
    )
    assert PictureLimits.load(tmp_path) == PictureLimits()
    (tmp_path / "processor_config.json").write_text(
        '{"image_processor": {"min_pixels": 5, "max_pixels": "x"}}'
    )
    with pytest.raises(CheckpointError, match="min_pixels <= max_pixels"):
        PictureLimits.load(tmp_path)
