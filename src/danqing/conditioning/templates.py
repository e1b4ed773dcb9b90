"""The texts around a prompt that each released checkpoint was trained with.

Sources: the Qwen-Image technical report (2025), figure 7, and the pipelines that the model cards name, those
of diffusers (`pipeline_qwenimage.py`, `pipeline_qwenimage_edit.py`, `pipeline_qwenimage_edit_plus.py`,
`pipeline_qwenimage21.py`). Where the report and the code differ in the order of words, the code is what the
weights have seen.
"""

from dataclasses import dataclass

IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
"""A place for one picture; its middle token is repeated once for each feature of the picture."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
    """A text with one `{}` for the prompt, and how many of its leading tokens the denoiser never sees."""

    text: str
    drop: int
    picture: str = ""
    """What stands before the prompt for each picture; `{}` is its number, counted from one."""
    separator: str = ""
    """What stands between pictures."""

    def fill(self, prompt: str, *, num_pictures: int = 0) -> str:
        """Return the whole text for one prompt and its pictures."""
        numbered = [self.picture.replace("{}", str(k)) for k in range(1, num_pictures + 1)]
        return self.text.replace("{}", self.separator.join(numbered) + prompt)


_EDIT_SYSTEM = (
    "Describe the key features of the input image (color, shape, size, texture, objects, background), then "
    "explain how the user's text instruction should alter or modify the image. Generate a new image that "
    "meets the user's requirements while maintaining consistency with the original input where appropriate."
)
_EDIT = (
    f"<|im_start|>system\n{_EDIT_SYSTEM}<|im_end|>\n<|im_start|>user\n{{}}<|im_end|>\n<|im_start|>assistant\n"
)

GENERATE = Template(
    text=(
        "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, "
        "text, spatial relationships of the objects and background:<|im_end|>\n"
        "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
    ),
    drop=34,
)
"""Qwen-Image, Qwen-Image-2512, Qwen-Image-Layered and the ControlNets."""

EDIT = Template(text=_EDIT, drop=64, picture=IMAGE)
"""Qwen-Image-Edit: one picture."""

EDIT_PLUS = Template(text=_EDIT, drop=64, picture="Picture {}: " + IMAGE)
"""Qwen-Image-Edit-2509 and 2511: one or more pictures, numbered even when there is one."""

DESCRIBE = Template(
    text=(
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n"
        "<|im_start|>assistant\n"
    ),
    drop=0,
    picture=IMAGE,
)
"""The chat format of Qwen2.5-VL with its default system text: pictures, the question, then the answer."""

DESCRIBE_QUESTION = "Describe the image."
"""What `describe` asks when the user asks nothing."""

GENERATE_21 = Template(
    text=(
        "<|im_start|>system\nComprehend and analyze the provided prompt.<|im_end|>\n"
        "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
    ),
    drop=14,
    picture="<image{}>" + IMAGE,
    separator=" ",
)
"""Qwen-Image-2.1: a prompt, with any number of references before it; the system text alone is dropped."""

DESCRIBE_21 = Template(
    text="<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n",
    drop=0,
    picture=IMAGE,
)
"""The chat format of Qwen3-VL, which has no system text of its own."""

TEMPLATES = (GENERATE, EDIT, EDIT_PLUS, DESCRIBE, GENERATE_21, DESCRIBE_21)
