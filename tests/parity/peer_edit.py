"""The reference's edit pipelines in memory, and the same checkpoints as folders that we read.

Their pictures go through the reference's PIL processor, so torchvision is not needed. Areas can be smaller
than those that the reference has in its code.
"""

import importlib
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import diffusers
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.processing_qwen2_vl import Qwen2VLProcessor

from danqing.conditioning.pictures import PictureLimits, save_processor
from danqing.conditioning.tokenizer import Tokenizer
from danqing.models.vision import VisionConfig
from tests.parity import peer_parts as parts
from tests.parity.peer_cases import forward_token_types
from tests.parity.peer_tokenizers import CHAT_TEMPLATE
from tests.parity.peers import Peers

LIMITS = PictureLimits(min_pixels=56 * 56, max_pixels=28 * 28 * 1280)
CLASSES = {
    "qwen-image-edit": "QwenImageEditPipeline",
    "qwen-image-edit-2509": "QwenImageEditPlusPipeline",
    "qwen-image-edit-2511": "QwenImageEditPlusPipeline",
}
MODULES = ("edit", "edit_plus", "edit_inpaint")


class StillProcessor(Qwen2VLProcessor):
    """The reference's processor without its video half, which needs torchvision."""

    def check_argument_for_proper_class(self, argument_name, argument):
        """Take no video processor."""


def picture_processor(tokenizer, limits: PictureLimits = LIMITS) -> StillProcessor:
    """Return the processor of Qwen2.5-VL over a transformers tokenizer."""
    images = Qwen2VLImageProcessorPil(min_pixels=limits.min_pixels, max_pixels=limits.max_pixels)
    return StillProcessor(images, tokenizer, None, chat_template=CHAT_TEMPLATE)


def components(peers: Peers, name: str) -> dict[str, object]:
    """Return the reference components of an edit checkpoint, without its processor."""
    found = dict(peers.components)
    if name == "qwen-image-edit-2511":
        dit = diffusers.QwenImageTransformer2DModel(**parts.DIT, zero_cond_t=True)
        found["transformer"] = parts.randomize(dit, 32)
    return found


def pipeline(kind: str, found: dict[str, object]):
    """Return the reference pipeline of class `kind`, with image positions as in training."""
    made = getattr(diffusers, kind)(**found, processor=picture_processor(found["tokenizer"]))
    made.set_progress_bar_config(disable=True)
    forward_token_types(made)
    return made


def write_checkpoint(folder: Path, name: str, found: dict[str, object]) -> Path:
    """Write the components in the released layout, under the class name the release carries."""
    diffusers.QwenImagePipeline(**found).save_pretrained(folder, safe_serialization=True)
    save_processor(folder / "processor", Tokenizer.load(folder / "tokenizer"), VisionConfig(), LIMITS)
    path = folder / "model_index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps({**index, "_class_name": CLASSES[name]}))
    return folder


@contextmanager
def areas(reference: int, vision: int) -> Iterator[None]:
    """Let the reference scale pictures to these areas during the block, instead of those in its code."""
    own = {1024 * 1024: reference, 384 * 384: vision}
    with ExitStack() as stack:
        for name in MODULES:
            module = importlib.import_module(f"diffusers.pipelines.qwenimage.pipeline_qwenimage_{name}")

            def scaled(area, ratio, whole=module.calculate_dimensions):
                return whole(own[area], ratio)

            stack.enter_context(mock.patch.object(module, "calculate_dimensions", scaled))
        yield
