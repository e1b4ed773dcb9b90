"""Words about scenes in twelve languages: captions, edit instructions, questions, and texts to learn from.

`tables` holds word lists and patterns and says which are held out; `seen` what can be said of a scene;
`english`, `chinese` and `labels` fill patterns in; `captions`, `instructions`, `questions` and `facts` are
what others call; `corpus` mixes them.
"""

from danqing.data.language.captions import Length, caption
from danqing.data.language.facts import Labels, facts, ordered
from danqing.data.language.instructions import edit_instruction, instruction
from danqing.data.language.questions import question

__all__ = [
    "Labels",
    "Length",
    "caption",
    "edit_instruction",
    "facts",
    "instruction",
    "ordered",
    "question",
]
