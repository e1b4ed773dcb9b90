"""Text to picture."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from danqing.conditioning.images import to_pictures
from danqing.conditioning.latents import noise_tokens, unpack
from danqing.conditioning.text import Conditioning, encode_prompts, join
from danqing.errors import RequestError
from danqing.models.rope import GridShape
from danqing.pipelines.components import Components
from danqing.rng import check_seed, fresh_seed
from danqing.sampling.denoise import SOLVERS, VelocityFn, denoise
from danqing.sampling.guidance import guided
from danqing.sampling.schedule import sigma_grid
from danqing.weights.layouts import CheckpointInfo

MAX_COUNT = 1000
MAX_PROMPT_CHARACTERS = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """What a user asks for, from the CLI, the server or Python; None takes the checkpoint's own value."""

    prompt: str
    negative_prompt: str | None = None
    size: tuple[int, int] | None = None
    """Width and height in pixels."""
    steps: int | None = None
    guidance: float | None = None
    """Strength of classifier-free guidance; 1 turns it off."""
    seed: int | None = None
    """Seed of the first picture; further ones count up. None draws a fresh one."""
    count: int = 1
    solver: str = "euler"

    def __post_init__(self) -> None:
        if not isinstance(self.prompt, str) or not self.prompt.strip():
            raise RequestError('prompt: expected some text, found none; try "a red apple on a blue table"')
        for name in ("prompt", "negative_prompt"):
            _check_text(name, getattr(self, name))
        if self.size is not None and not _is_size(self.size):
            raise RequestError(f"size: expected width and height, found {self.size!r}; try (1024, 768)")
        if self.steps is not None:
            _check_number("steps", self.steps, 1, 1000)
        if self.guidance is not None:
            _check_number("guidance", self.guidance, 1, 100, whole=False)
        _check_number("count", self.count, 1, MAX_COUNT)
        if self.solver not in SOLVERS:
            raise RequestError(f"solver: expected one of {', '.join(SOLVERS)}, found {self.solver!r}")
        if self.seed is not None:
            check_seed(self.seed)
            check_seed(self.seed + self.count - 1)

    def resolved(self, info: CheckpointInfo) -> "GenerateRequest":
        """Return the request with the checkpoint's values filled in and its limits checked."""
        size = self.size or info.size
        for label, side in zip(("width", "height"), size, strict=True):
            if side % info.multiple or not info.min_side <= side <= info.max_side:
                raise RequestError(
                    f"size: {info.name} draws {info.min_side} to {info.max_side} pixels a side in multiples "
                    f"of {info.multiple}, found {label} {side}"
                )
        return replace(
            self,
            size=size,
            negative_prompt=info.negative_prompt if self.negative_prompt is None else self.negative_prompt,
            steps=self.steps or info.steps,
            guidance=info.guidance if self.guidance is None else self.guidance,
            seed=fresh_seed() if self.seed is None else self.seed,
        )


def _check_text(name: str, text: object) -> None:
    if text is None:
        return
    if not isinstance(text, str):
        raise RequestError(f"{name}: expected text, found {text!r}")
    if len(text) > MAX_PROMPT_CHARACTERS:
        raise RequestError(f"{name}: expected at most {MAX_PROMPT_CHARACTERS} characters, found {len(text)}")


def _check_number(name: str, value: object, low: int, high: int, *, whole: bool = True) -> None:
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise RequestError(f"{name}: expected a {'whole ' if whole else ''}number, found {value!r}")
    if not low <= value <= high:
        off = "" if whole else " (off)"
        raise RequestError(f"{name}: expected {low}{off} to {high}, found {value}")


def _is_size(size: object) -> bool:
    return (
        isinstance(size, tuple | list)
        and len(size) == 2
        and all(isinstance(side, int) and not isinstance(side, bool) for side in size)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One step of one group of pictures; the last step of a group carries its pictures."""

    request: int
    """Index of the first picture's request."""
    step: int
    steps: int
    sigma: float
    seeds: tuple[int, ...]
    preview: Callable[[], list[Image.Image]]
    """Decode what the pictures look like so far."""
    drawn: tuple["Drawn", ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A finished picture and what made it."""

    image: Image.Image
    request: GenerateRequest
    """Resolved; its seed is the picture's own and its count 1."""
    index: int
    """Place of the request in the call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """One picture to draw."""

    index: int
    request: GenerateRequest
    cond: Tensor
    uncond: Tensor | None


def generate(components: Components, requests: Sequence[GenerateRequest]) -> Iterator[Progress]:
    """Draw every picture of every request, yielding each denoising step.

    Pictures of equal size, steps and guidance are denoised together, `components.batch_size` at a time; what
    a picture looks like does not depend on its neighbours.
    """
    resolved = [request.resolved(components.info) for request in requests]
    waiting: list[_Job] = []
    for job in _jobs(components, resolved):
        if waiting and (_settings(waiting[0]) != _settings(job) or len(waiting) == components.batch_size):
            yield from _draw(components, waiting)
            waiting = []
        waiting.append(job)
    if waiting:
        yield from _draw(components, waiting)


def _jobs(components: Components, requests: Sequence[GenerateRequest]) -> Iterator[_Job]:
    for index, request in enumerate(requests):
        assert request.guidance is not None
        assert request.seed is not None
        texts = [request.prompt] + ([request.negative_prompt or ""] if request.guidance > 1 else [])
        encoded = encode_prompts(
            components.vlm, components.tokenizer, texts, max_length=components.info.max_length
        )
        rows = [row[:length] for row, length in zip(encoded.txt, encoded.lengths, strict=True)]
        for number in range(request.count):
            alone = replace(request, seed=request.seed + number, count=1)
            yield _Job(index=index, request=alone, cond=rows[0], uncond=rows[1] if len(rows) > 1 else None)


def _settings(job: _Job) -> tuple[object, ...]:
    request = job.request
    return request.size, request.steps, request.guidance, request.solver


@torch.no_grad()
def _draw(components: Components, jobs: Sequence[_Job]) -> Iterator[Progress]:
    request = jobs[0].request
    assert request.size
    assert request.steps
    assert request.guidance
    # 1. The canvas: latents, and the tokens they are packed into.
    ratio = components.vae.config.spatial_ratio
    lat_w, lat_h = (side // ratio for side in request.size)
    shape = GridShape(1, lat_h // 2, lat_w // 2)
    seeds = [job.request.seed for job in jobs if job.request.seed is not None]
    noise = noise_tokens(seeds, channels=components.vae.config.z_dim, lat_h=lat_h, lat_w=lat_w)
    # 2. The noise levels, and what each does to every block.
    sigmas = sigma_grid(components.schedule, request.steps, shape.height * shape.width)
    # 3. The velocity the solver follows. Latents stay in fp32 between steps, whatever the network uses.
    velocity = _velocity(components, jobs, sigmas, shape, request.guidance)
    # 4. Denoise, then decode one by one.
    for step in denoise(
        velocity, noise.to(components.device), sigmas.to(components.device), solver=request.solver
    ):
        done = step.number == request.steps
        pictures = _decode(components, step.latents, shape.height) if done else []
        drawn = (
            Drawn(image=image, request=job.request, index=job.index)
            for image, job in zip(pictures, jobs, strict=False)
        )
        yield Progress(
            request=jobs[0].index,
            step=step.number,
            steps=request.steps,
            sigma=step.sigma,
            seeds=tuple(seeds),
            preview=partial(_decode, components, step.denoised, shape.height),
            drawn=tuple(drawn),
        )


def _velocity(
    components: Components, jobs: Sequence[_Job], sigmas: Tensor, shape: GridShape, guidance: float
) -> VelocityFn:
    model, dtype = components.transformer, components.dtype
    text = _text(jobs)
    table = model.modulation_table(sigmas[:-1]).to(components.device)

    def velocity(latents: Float[Tensor, "batch seq dim"], index: int) -> Float[Tensor, "batch seq dim"]:
        copies = len(text.lengths) // len(jobs)  # both branches of guidance in one forward
        img = latents.to(dtype).repeat(copies, 1, 1)
        out = model(img, text.txt.to(dtype), table.at(index), shapes=[shape], lengths=text.lengths).float()
        if copies == 1:
            return out
        cond, uncond = out.chunk(2)
        return guided(cond, uncond, guidance)

    return velocity


def _text(jobs: Sequence[_Job]) -> Conditioning:
    """Return all conditional rows, then all unconditional ones."""
    return join([job.cond for job in jobs] + [job.uncond for job in jobs if job.uncond is not None])


@torch.no_grad()
def _decode(components: Components, tokens: Tensor, height: int) -> list[Image.Image]:
    latents = unpack(tokens, height).to(components.dtype)
    return [to_pictures(components.vae.decode(one))[0] for one in latents.split(1)]
