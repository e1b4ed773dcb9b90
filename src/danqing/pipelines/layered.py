"""A picture to the layers it could be made of: transparent pictures that give it when laid over each other.

Source: Qwen-Image-Layered (arXiv 2512.15603) and its released pipeline. The denoiser draws the whole picture
once more as frame 0 and a layer on every further frame, lowest first, looking at the picture as frame -1.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image

from danqing.conditioning.given import GivenPicture
from danqing.conditioning.latents import pack
from danqing.conditioning.pictures import check_aspect, fitted_size, picture_pixels, resized
from danqing.conditioning.templates import IMAGE
from danqing.conditioning.text import Conditioning, picture_patches, picture_token_ids
from danqing.errors import RequestError
from danqing.pipelines.components import Components
from danqing.pipelines.documents import flatten
from danqing.pipelines.draw import Progress, draw
from danqing.pipelines.job import Job, Settings
from danqing.pipelines.prepare import reference_of
from danqing.pipelines.reading import read
from danqing.pipelines.request import check_given, check_request, settled
from danqing.rng import sample_noise
from danqing.weights.layouts import CheckpointInfo

MAX_LAYERS = 20
"""As many as the release was trained with."""
RESOLUTIONS = (640, 1024)
"""Square roots of the areas the release was trained at."""
CAPTION_TOKENS = 512
_BASE_TOKENS = 256  # those of a 256x256 picture, whose schedule is not shifted

_QUESTION_EN = """# Image Annotator
You are a professional
image annotator. Please write an image caption based on the input image:
1. Write the caption using natural,
descriptive language without structured formats or rich text.
2. Enrich caption details by including:\x20
 - Object
attributes, such as quantity, color, shape, size, material, state, position, actions, and so on
 - Vision Relations
between objects, such as spatial relations, functional relations, possessive relations, attachment relations,\
 action
relations, comparative relations, causal relations, and so on
 - Environmental details, such as weather, lighting,
colors, textures, atmosphere, and so on
 - Identify the text clearly visible in the image, without translation or
explanation, and highlight it in the caption with quotation marks
3. Maintain authenticity and accuracy:
 - Avoid
generalizations
 - Describe all visible information in the image, while do not add information not explicitly shown in
the image
"""
_QUESTION_ZH = """# 图像标注器
你是一个专业的图像标注器。请基于输入图像，撰写图注:
1.
使用自然、描述性的语言撰写图注，不要使用结构化形式或富文本形式。
2. 通过加入以下内容，丰富图注细节：
 - 对象的属性：如数量、颜色、形状、大小、位置、材质、状态、动作等
 -
对象间的视觉关系：如空间关系、功能关系、动作关系、从属关系、比较关系、因果关系等
 - 环境细节：例如天气、光照、颜色、纹理、气氛等
 - 文字内容：识别图像中清晰可见的文字，不做翻译和解释，用引号在图注中强调
3.
保持真实性与准确性：
 - 不要使用笼统的描述
 -
描述图像中所有可见的信息，但不要加入没有在图像中出现的内容
"""
CAPTION_PROMPTS = {
    language: f"<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n{question}"
    f"{IMAGE}<|im_end|>\n<|im_start|>assistant\n"
    for language, question in (("en", _QUESTION_EN), ("zh", _QUESTION_ZH))
}
"""What the conditioner is asked where the user says nothing; line for line the released pipeline's text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayersRequest:
    """What a user asks for, from the CLI, the server or Python; None takes the checkpoint's own value."""

    picture: GivenPicture
    """Opened by `open_transparent`."""
    prompt: str = ""
    """A caption of the whole picture, hidden parts included; without one the conditioner writes it."""
    negative_prompt: str | None = None
    resolution: int | None = None
    """Square root of the layers' area in pixels: 640 or 1024; their aspect is the picture's."""
    size: tuple[int, int] | None = None
    """Width and height, filled in from the resolution."""
    steps: int | None = None
    guidance: float | None = None
    """Strength of classifier-free guidance; 1 turns it off."""
    rescale: bool = False
    """Keep the length of the conditional velocity under guidance."""
    seed: int | None = None
    count: int = 4
    """Layers."""
    language: str = "en"
    """Language of the caption that the conditioner writes: en or zh."""
    solver: str = "euler"

    def __post_init__(self) -> None:
        check_request(self, example=None)
        check_given("picture", self.picture)
        check_aspect(self.picture.image.size)
        if self.count > MAX_LAYERS:
            raise RequestError(f"count: expected 1 to {MAX_LAYERS} layers, found {self.count}")
        if self.language not in CAPTION_PROMPTS:
            known = " or ".join(CAPTION_PROMPTS)
            raise RequestError(f"language: expected {known}, found {self.language!r}; or give a prompt")
        if self.resolution is not None and self.resolution not in RESOLUTIONS:
            known = " or ".join(map(str, RESOLUTIONS))
            raise RequestError(f"resolution: expected {known}, found {self.resolution!r}")

    @property
    def mask(self) -> None:
        """Nothing of the picture is kept as it is."""

    @property
    def strength(self) -> None:
        """Layers start from noise alone."""

    def resolved(self, info: CheckpointInfo) -> "LayersRequest":
        """Return the request with the checkpoint's values filled in and its limits checked."""
        if "layers" not in info.tasks:
            raise RequestError(f"{info.name} cannot draw layers; it can {', '.join(info.tasks)}")
        area = info.reference_area if self.resolution is None else self.resolution**2
        size = fitted_size(self.picture.image.size, area)
        return settled(replace(self, size=None), info, size=size)


def draw_layers(components: Components, requests: Sequence[LayersRequest]) -> Iterator[Progress]:
    """Take every picture apart, yielding each denoising step; a drawn one carries its `layers`."""
    resolved = [request.resolved(components.info) for request in requests]
    told = components.at_once("text_encoder", (_told(components, request) for request in resolved))
    yield from draw(components, _jobs(components, told))


def _told(components: Components, request: LayersRequest) -> tuple[LayersRequest, Conditioning]:
    """Return what the denoiser reads: a caption of the whole picture, which the conditioner may write."""
    with components.hold("text_encoder"):
        if not request.prompt.strip():
            assert request.size is not None
            picture = resized(request.picture.image, request.size)
            request = replace(request, prompt=caption(components, picture, language=request.language))
        return request, read(components, request)


def _jobs(components: Components, requests: Iterable[tuple[LayersRequest, Conditioning]]) -> Iterator[Job]:
    for index, (request, txt) in enumerate(requests):
        assert request.size is not None
        assert request.steps is not None
        assert request.guidance is not None
        assert request.seed is not None
        picture = resized(request.picture.image, request.size)
        rows = [row[:length] for row, length in zip(txt.txt, txt.lengths, strict=True)]
        # 1. What it looks at: the picture.
        seen = reference_of(components, picture, request.size[0] * request.size[1])
        # 2. What it starts from: noise, one frame for the picture and one for each layer.
        config, frames = components.vae.config, request.count + 1
        grid = (2 * seen.shape.height, 2 * seen.shape.width)
        noise = pack(sample_noise((1, frames, config.z_dim, *grid), request.seed)[0])
        settings = Settings(
            shape=seen.shape,
            steps=request.steps,
            guidance=request.guidance,
            solver=request.solver,
            rescale=request.rescale,
            mu=math.sqrt(seen.tokens.shape[1] / _BASE_TOKENS),
            references=(seen.shape,) * frames,
        )
        yield Job(
            index=index,
            request=request,
            seed=request.seed,
            settings=settings,
            cond=rows[0],
            uncond=rows[1] if len(rows) > 1 else None,
            noise=noise.flatten(0, 1).unsqueeze(0),
            references=seen.tokens,
        )


@torch.no_grad()
def caption(components: Components, picture: Image.Image, *, language: str = "en") -> str:
    """Return what the conditioner says is in the picture, in `language` en or zh; greedy."""
    vlm, tokenizer = components.vlm, components.tokenizer
    pixels = picture_pixels(picture, vlm.config.vision, components.picture_limits)
    patches, grid_thw = picture_patches(vlm, [pixels])
    with components.stage("text_encoder"):
        tokens = vlm.generate(
            picture_token_ids(vlm, tokenizer, CAPTION_PROMPTS[language], grid_thw),
            max_new_tokens=CAPTION_TOKENS,
            stop=(tokenizer.eos, tokenizer.pad),
            patches=patches.to(components.device),
            grid_thw=grid_thw,
        )
        text = tokenizer.decode(list(tokens)).strip()
    if not text:
        raise RequestError(f"{components.info.name} found nothing to say of the picture; give it a prompt")
    return text


def composite_psnr(picture: Image.Image, layers: Sequence[Image.Image]) -> float:
    """Return how close the layers laid over each other are to the picture, in dB.

    Measured on colour times alpha and on alpha, so that a hole does not pass for the ground it is seen on.
    """
    ours, theirs = (_premultiplied(one) for one in (flatten(layers), resized(picture, layers[0].size)))
    error = float(np.square(ours - theirs).mean())
    return math.inf if error == 0 else -10 * math.log10(error)


def _premultiplied(picture: Image.Image) -> np.ndarray:
    values = np.asarray(picture.convert("RGBA"), dtype=np.float64) / 255
    values[..., :3] *= values[..., 3:]
    return values
