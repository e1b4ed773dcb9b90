"""Tiny components of the reference library, with seeded weights and the real structure.

8x and 16x VAE, 2x2 packing, 16 and 64 latent channels, three RoPE axes, M-RoPE, grouped queries, windowed and
full vision attention, DeepStack: only widths and depths shrink.
"""

import importlib.util
import math

import torch
from torch import nn

from tests.parity.peer_tokenizers import CHAT_TEMPLATE


def enable_torchvision() -> bool:
    """Let a CUDA-built torchvision import next to a CPU-only torch; return whether there is one at all.

    Its C++ library cannot load there, and the import then fails because two operators it registers fake
    kernels for do not exist. Declaring their schemas is enough: the transforms are pure Python.
    """
    if importlib.util.find_spec("torchvision") is None:
        return False
    try:
        import torchvision
    except RuntimeError:
        import sys

        for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        enable_torchvision.keep = library  # type: ignore[attr-defined]
        import torchvision  # noqa: F401
    return True


HAVE_TORCHVISION = enable_torchvision()

SCHEDULER = {  # the published config of Qwen-Image 1.x and of 2.1
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "max_image_seq_len": 8192,
    "max_shift": 0.9,
    "num_train_timesteps": 1000,
    "shift": 1.0,
    "shift_terminal": 0.02,
    "time_shift_type": "exponential",
    "use_dynamic_shifting": True,
}
LAYERED_SCHEDULER = {
    **SCHEDULER,
    "shift_terminal": None,
    "time_shift_type": "linear",
}  # published for Layered
TURBO_SCHEDULER = {**SCHEDULER, "shift_terminal": None, "use_dynamic_shifting": False}  # for 2.1-Turbo
TURBO_SIGMAS = [1.0, 0.978453, 0.95418, 0.926626, 0.89508, 0.845148, 0.704534, 0.414568]
DIT = {
    "patch_size": 2,
    "in_channels": 64,
    "out_channels": 16,
    "num_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 3,
    "joint_attention_dim": 64,
    "axes_dims_rope": (4, 6, 6),
}
VAE = {
    "base_dim": 8,
    "z_dim": 16,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 1,
    "temperal_downsample": [False, True, True],
}
DIT21 = {
    "patch_size": 1,
    "in_channels": 64,
    "out_channels": 64,
    "num_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 3,
    "context_in_dim": 64,
    "mlp_ratio": 3,
    "axes_dims_rope": (4, 6, 6),
}
VAE21 = {"base_dim": 4, "decoder_base_dim": 6, "num_res_blocks": 1}


def randomize(module: nn.Module, seed: int) -> nn.Module:
    """Give every parameter a telling value, so that a dropped bias, gain or zero-init layer shows."""
    generator = torch.Generator().manual_seed(seed)
    zero_centered = {
        name + ".weight"
        for name, m in module.named_modules()
        if type(m).__name__.endswith("ZeroCenterRMSNorm")
    }
    with torch.no_grad():
        for name, p in module.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            is_gain = ("norm" in name.lower() and name.endswith("weight")) or name.endswith("gamma")
            if name in zero_centered:
                value = 0.2 * noise
            elif is_gain and p.squeeze().dim() <= 1:
                value = 1 + 0.2 * noise
            elif p.dim() >= 2:
                value = noise / math.sqrt(p[0].numel())
            else:
                value = 0.1 * noise
            p.copy_(value)
    return module.eval()


def _token_ids(tokenizer) -> dict[str, int]:
    ids = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    return {key: tokenizer.convert_tokens_to_ids(token) for key, token in ids.items()}


def _text_sizes(tokenizer) -> dict[str, object]:
    return {
        "vocab_size": 64 * math.ceil(len(tokenizer) / 64),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def text_encoder_25(tokenizer):
    """Return a tiny Qwen2.5-VL."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": 64,
        "fullatt_block_indexes": [1],
    }
    config = Qwen2_5_VLConfig(
        text_config={**_text_sizes(tokenizer), "rms_norm_eps": 1e-6, "rope_parameters": rope},
        vision_config=vision,
        **_token_ids(tokenizer),
    )
    return randomize(Qwen2_5_VLForConditionalGeneration(config), 11)


def text_encoder_3(tokenizer):
    """Return a tiny Qwen3-VL."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    rope = {
        "rope_type": "default",
        "rope_theta": 5e6,
        "mrope_section": [4, 2, 2],
        "mrope_interleaved": True,
    }
    vision = {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": 64,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
    }
    config = Qwen3VLConfig(
        text_config={**_text_sizes(tokenizer), "head_dim": 16, "rope_parameters": rope},
        vision_config=vision,
        **_token_ids(tokenizer),
    )
    return randomize(Qwen3VLForConditionalGeneration(config), 12)


def processor_25(tokenizer):
    """Return the processor of Qwen2.5-VL; needs torchvision."""
    from transformers import Qwen2VLImageProcessor, Qwen2VLProcessor
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    return Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=28 * 28 * 1280),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=CHAT_TEMPLATE,
    )


def processor_3(tokenizer):
    """Return the processor of Qwen3-VL; needs torchvision."""
    from transformers import Qwen2VLImageProcessor, Qwen3VLProcessor
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

    # The published preprocessor: 16-pixel patches, mean and std 0.5; no useful lower bound at this size.
    images = Qwen2VLImageProcessor(
        patch_size=16,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        size={"shortest_edge": 32 * 32, "longest_edge": 4096 * 4096},
    )
    return Qwen3VLProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(),
        chat_template=CHAT_TEMPLATE,
    )


def still_processor_3(tokenizer):
    """Return the processor of Qwen3-VL without its video half: pictures go through PIL, not torchvision."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
    from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor

    class StillProcessor(Qwen3VLProcessor):
        def check_argument_for_proper_class(self, argument_name, argument):
            """Take no video processor."""

    images = Qwen2VLImageProcessorPil(
        patch_size=16,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        size={"shortest_edge": 32 * 32, "longest_edge": 4096 * 4096},
    )
    return StillProcessor(images, tokenizer, None, chat_template=CHAT_TEMPLATE)
