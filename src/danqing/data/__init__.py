"""Training data: the drawn world, its captions, and the openly licensed pictures it is made of."""

from danqing.data.assets import build_atlas
from danqing.data.atlas import Atlas
from danqing.data.colours import COLOURS
from danqing.data.concepts import LANGUAGES, Concept, concepts
from danqing.data.language import (
    Labels,
    Length,
    caption,
    edit_instruction,
    facts,
    instruction,
    ordered,
    question,
)
from danqing.data.preview import preview
from danqing.data.world import Background, Prompt, Scene, Thing, held_out_prompts, render, sample_scene
from danqing.data.world.edits import Edit

__all__ = [
    "COLOURS",
    "LANGUAGES",
    "Atlas",
    "Background",
    "Concept",
    "Edit",
    "Labels",
    "Length",
    "Prompt",
    "Scene",
    "Thing",
    "build_atlas",
    "caption",
    "concepts",
    "edit_instruction",
    "facts",
    "held_out_prompts",
    "instruction",
    "ordered",
    "preview",
    "question",
    "render",
    "sample_scene",
]
