"""Which weights judge by default: one table of repositories, each at a commit that does not move.

Every entry keeps its weights as safetensors; nothing is loaded that runs code when it is read.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinned:
    """A repository of the Hugging Face hub at one commit."""

    id: str
    revision: str
    licence: str
    about: str
    """What it is, and how it stands to the model of the official code."""


PINNED: Final[dict[str, Pinned]] = {
    "blip-vqa": Pinned(
        id="Salesforce/blip-vqa-base",
        revision="787b3d35d57e49572baabd22884b3d5a05acf072",
        licence="BSD-3-Clause",
        about="BLIP VQA base, CapFilt-large: T2I-CompBench's weights, positions resampled to 384 px",
    ),
    "open-detector": Pinned(
        id="google/owlv2-base-patch16-ensemble",
        revision="cfd3195ba4ea9592eec887ded089f4c08eff231d",
        licence="Apache-2.0",
        about="OWLv2, in the role of UniDet and of Mask2Former",
    ),
    "grounding-dino": Pinned(
        id="IDEA-Research/grounding-dino-tiny",
        revision="a2bb814dd30d776dcf7e30523b00659f4f141c71",
        licence="Apache-2.0",
        about="Grounding DINO, a second open detector",
    ),
    "depth": Pinned(
        id="depth-anything/Depth-Anything-V2-Small-hf",
        revision="5426e4f0f36572d16453bbda7a8389317b1bef99",
        licence="Apache-2.0",
        about="Depth Anything V2, in the role of MiDaS; DPT-hybrid itself is on the hub as a pickle only",
    ),
    "clip": Pinned(
        id="openai/clip-vit-base-patch32",
        revision="c237dc49a33fc61debc9276459120b7eac67e7ef",
        licence="MIT",
        about="CLIP ViT-B/32 of T2I-CompBench, at the commit that holds safetensors",
    ),
    "clip-large": Pinned(
        id="openai/clip-vit-large-patch14",
        revision="32bd64288804d66eefd0ccbe215aa642df71cc41",
        licence="MIT",
        about="CLIP ViT-L/14, which names colours in GenEval",
    ),
    "vqa": Pinned(
        id="Qwen/Qwen2.5-VL-7B-Instruct",
        revision="cc594898137f460bfe9f0759e9844b3ce807cfb5",
        licence="Apache-2.0",
        about="Qwen2.5-VL 7B, the judge of OneIG-Bench and the reader of LongText-Bench",
    ),
    "ask": Pinned(
        id="Qwen/Qwen3-VL-8B-Instruct",
        revision="0c351dd01ed87e9c1b53cbc748cba10e6187ff3b",
        licence="Apache-2.0",
        about="Qwen3-VL 8B, the judge of Soft-TIFA in GenEval 2",
    ),
}
"""By role, or by a name of their own where a role has several."""
