"""The drawn world: states of scenes, how they are drawn by chance, rendered and edited.

`scene` says what a scene is, `split` what is held out, `sample` draws scenes, `layout` places things, `tiles`
and `render` make pictures, `edits` changes states.
"""

from danqing.data.world.prompts import Prompt, held_out_prompts
from danqing.data.world.render import render
from danqing.data.world.sample import KIND_SHARES, draw_background, sample_scene
from danqing.data.world.scene import (
    OPPOSITE,
    RELATIONS,
    Background,
    BackgroundKind,
    Portrait,
    Relation,
    Scene,
    SceneKind,
    Thing,
    Words,
)
from danqing.data.world.split import Split, contains_held_out, is_held_out

__all__ = [
    "KIND_SHARES",
    "OPPOSITE",
    "RELATIONS",
    "Background",
    "BackgroundKind",
    "Portrait",
    "Prompt",
    "Relation",
    "Scene",
    "SceneKind",
    "Split",
    "Thing",
    "Words",
    "contains_held_out",
    "draw_background",
    "held_out_prompts",
    "is_held_out",
    "render",
    "sample_scene",
]
