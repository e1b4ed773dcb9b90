"""Training data: the drawn world, its captions, and the openly licensed pictures it is made of."""

from danqing.data.assets import build_atlas
from danqing.data.atlas import Atlas
from danqing.data.captions import Labels, caption, facts, sign_text
from danqing.data.colours import COLOURS
from danqing.data.concepts import LANGUAGES, Concept, concepts
from danqing.data.world.edits import Edit
from danqing.data.instructions import edit_instruction, question
from danqing.data.preview import preview
from danqing.data.world import Background, Prompt, Scene, Thing, held_out_prompts, render, sample_scene

__all__ = [
    "COLOURS",
    "LANGUAGES",
    "Atlas",
    "Background",
    "Concept",
    "Edit",
    "Labels",
    "Prompt",
    "Scene",
    "Thing",
    "build_atlas",
    "caption",
    "concepts",
    "edit_instruction",
    "facts",
    "held_out_prompts",
    "preview",
    "question",
    "render",
    "sample_scene",
    "sign_text",
]
