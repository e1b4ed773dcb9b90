"""The reference's 2.1 pipeline in memory, and the same checkpoint as a folder that it writes and we read.

Its pictures go through the reference's PIL processor, so torchvision is not needed.
"""

from pathlib import Path

import diffusers

from tests.parity import peer_parts as parts


def pipeline(tokenizer, *, turbo: bool = False):
    """Return a tiny random pipeline of 2.1, or of 2.1-Turbo."""
    made = diffusers.QwenImage21Pipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(
            **(parts.TURBO_SCHEDULER if turbo else parts.SCHEDULER)
        ),
        vae=parts.randomize(diffusers.AutoencoderKLQwenImage21(**parts.VAE21), 23),
        text_encoder=parts.text_encoder_3(tokenizer),
        processor=parts.still_processor_3(tokenizer),
        transformer=parts.randomize(diffusers.QwenImage21Transformer2DModel(**parts.DIT21), 34),
        sample_sigmas=parts.TURBO_SIGMAS if turbo else None,
    )
    made.set_progress_bar_config(disable=True)
    return made


def write_checkpoint(folder: Path, made) -> Path:
    """Save a pipeline as it saves itself; its processor in parts, since it lacks the one for videos."""
    for name in ("transformer", "vae", "text_encoder", "scheduler"):
        getattr(made, name).save_pretrained(folder / name)
    made.processor.tokenizer.save_pretrained(folder / "processor")
    made.processor.image_processor.save_pretrained(folder / "processor")
    made.save_config(folder)
    return folder
