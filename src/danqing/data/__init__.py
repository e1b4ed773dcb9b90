"""Training data: the drawn world, its captions, and the openly licensed pictures it is made of."""

from danqing.data.assets import build_atlas
from danqing.data.atlas import Atlas
from danqing.data.colours import COLOURS
from danqing.data.concepts import LANGUAGES, Concept, concepts
from danqing.data.preview import preview
from danqing.data.world import Background, Prompt, Scene, Thing, held_out_prompts, render, sample_scene

__all__ = [
    "COLOURS",
    "LANGUAGES",
    "Atlas",
    "Background",
    "Concept",
    "Prompt",
    "Scene",
    "Thing",
    "build_atlas",
    "concepts",
    "held_out_prompts",
    "preview",
    "render",
    "sample_scene",
]
