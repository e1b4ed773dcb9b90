"""A tiny checkpoint of 2.1 of our own classes; its conditioner knows two rewrites by heart."""

from pathlib import Path

import torch
from torch.nn import functional as F

from danqing.conditioning.enhance import enhance_text
from danqing.conditioning.pictures import PictureLimits, resized_pixels, save_processor
from danqing.conditioning.text import picture_patches, picture_token_ids
from danqing.conditioning.tokenizer import Tokenizer
from danqing.conditioning.tokenizer_training import train_tokenizer
from danqing.models.qwen3_vl import Qwen3VL
from danqing.models.single_stream import SingleStream, SingleStreamConfig
from danqing.models.vae21 import VAE21, VAE21Config
from danqing.sampling.schedule import ScheduleConfig
from danqing.weights.layouts import QWEN_IMAGE_21, CheckpointInfo, write_folder
from tests.editor import noisy
from tests.tiny import randomized
from tests.unit.test_qwen3_vl import config_for

WISH, REWRITE = "a red apple", "a red apple on a blue table"
ORDER, PRECISE = 'write "HI" on it', "write on the red apple"
"""The rewrite loses a word that was to be written."""
TRANSFORMER = SingleStreamConfig(
    num_layers=2,
    attention_head_dim=16,
    num_attention_heads=2,
    context_in_dim=32,
    axes_dims_rope=(4, 6, 6),
)
AUTOENCODER = VAE21Config(base_dim=4, decoder_base_dim=4, num_res_blocks=1)
INFO = CheckpointInfo(
    name="tiny-2.1",
    licence=QWEN_IMAGE_21.licence,
    commercial=False,
    tasks=QWEN_IMAGE_21.tasks,
    size=(64, 96),
    sizes=((128, 64),),
    min_side=32,
    max_side=160,
    multiple=32,
    steps=2,
    guidance=1.0,
    rescale=False,
    max_length=200,
    max_references=10,
    reference_area=64 * 64,
    transparency=True,
)
LIMITS = PictureLimits(min_pixels=32 * 32, max_pixels=4096 * 4096)


def write_tiny21(
    folder: Path, *, info: CheckpointInfo | None = INFO, turbo: ScheduleConfig | None = None
) -> Path:
    """Write the checkpoint and return its folder; `turbo` is the schedule of a distilled one."""
    tokenizer = train_tokenizer([enhance_text(WISH), enhance_text(ORDER, num_pictures=1), REWRITE], 900)
    vlm = _taught(tokenizer)
    write_folder(
        folder,
        transformer=(TRANSFORMER, randomized(SingleStream(TRANSFORMER), 1).state_dict()),
        vae=(AUTOENCODER, randomized(VAE21(AUTOENCODER), 2).state_dict()),
        text_encoder=(vlm.config, vlm.state_dict()),
        schedule=turbo or ScheduleConfig(),
        info=info,
    )
    save_processor(folder / "processor", tokenizer, vlm.config.vision, LIMITS)
    return folder


def _taught(tokenizer: Tokenizer) -> Qwen3VL:
    torch.manual_seed(0)
    vlm = Qwen3VL(config_for(tokenizer))
    seen = [resized_pixels(noisy(60, 44), (64, 64))]
    lessons = [
        _lesson(vlm, tokenizer, enhance_text(WISH), REWRITE, []),
        _lesson(vlm, tokenizer, enhance_text(ORDER, num_pictures=1), PRECISE, seen),
    ]
    optimizer = torch.optim.AdamW([*vlm.language.parameters(), *vlm.lm_head.parameters()], lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        for ids, start, patches, grid in lessons:
            features = vlm.features(ids[:, :-1], patches=patches, grid_thw=grid)
            F.cross_entropy(vlm.logits(features)[0, start - 1 :], ids[0, start:]).backward()
        optimizer.step()
    return vlm.eval().requires_grad_(False)


def _lesson(vlm, tokenizer, question, answer, pictures):
    """Return tokens of a conversation, where its answer starts, and the pictures it speaks of."""
    patches, grid = picture_patches(vlm, pictures)
    start = picture_token_ids(vlm, tokenizer, question, grid)
    ids = torch.tensor([[*start, *tokenizer.encode(answer), tokenizer.eos]])
    return ids, len(start), patches, grid
