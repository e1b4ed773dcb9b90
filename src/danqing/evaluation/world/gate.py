"""The gate of the shipped model: does it draw what it was asked for, in combinations it never saw?

Each prompt names one thing and one background colour that never met in training. The judge sees pictures
only. Its ceiling is what it reads off the true renders, plain and through the model's own autoencoder; its
floor is how often the same readings fit other prompts.
"""

import json
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from danqing.conditioning.images import to_pictures, to_pixels
from danqing.data.atlas import Atlas, packaged_atlas
from danqing.data.concepts import concepts
from danqing.data.world import Prompt, held_out_prompts, render
from danqing.evaluation.digests import weights_digest
from danqing.evaluation.statistics import Rate
from danqing.evaluation.world.reconstruction import Autoencoder, restore
from danqing.evaluation.world.sheets import captioned_sheet
from danqing.files import whole
from danqing.model import Model
from danqing.pipelines.generate import GenerateRequest
from danqing.scoring.match import Verdict, first_concepts, packaged_matcher

Draw = Callable[[GenerateRequest], Image.Image]

SHEET_PICTURES: Final = 24
_MARK: Final = "gate"  # PNG text that holds what drew a picture


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What the judge found in a set of pictures."""

    object: Rate
    background: Rate
    both: Rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """How often a reading fits the prompt of another picture, over all pairs of two different prompts."""

    object: float
    background: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """One prompt that was not met, and what the judge saw instead."""

    index: int
    prompt: str
    seen: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GateReport:
    """The outcome of one measurement; `to_json` gives it to programs, `str` to readers."""

    settings: Mapping[str, Any]
    """What drew the pictures: model, weights, size, steps, guidance, seed."""
    score: Score
    ceiling: Score
    """True renders of the same scenes."""
    vae_ceiling: Score | None
    """True renders through the model's autoencoder; None for a drawer without one."""
    floor: Floor
    seconds: float | None
    """Median seconds a picture; None when all were there already."""
    mistakes: tuple[Mistake, ...]

    def to_json(self) -> str:
        """Return the report as JSON."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=1)

    def __str__(self) -> str:
        rows = [("drawn", self.score), ("ceiling, renders", self.ceiling)]
        rows += [("ceiling, VAE", self.vae_ceiling)] if self.vae_ceiling else []
        lines = [", ".join(f"{key} {value}" for key, value in self.settings.items())]
        lines += [f"{name:17} object {row.object}   background {row.background}" for name, row in rows]
        lines += [
            f"{'floor, shuffled':17} object {self.floor.object:.3f}   background {self.floor.background:.3f}"
        ]
        if self.seconds is not None:
            lines.append(f"{self.seconds:.2f} seconds a picture (median)")
        return "\n".join(lines)


def measure(
    model: Model,
    *,
    count: int = 100,
    seed: int = 0,
    steps: int | None = None,
    out: Path | None = None,
    atlas: Atlas | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> GateReport:
    """Draw the first `count` held-out prompts, one picture each, all with `seed`, and judge them.

    Into `out` go a PNG a prompt (those there already with the same parameters and weights are not drawn
    again), `sheet.png` with the first 24 pictures, and `report.json`. `progress` is told how many pictures
    are done, and of how many.
    """
    request = GenerateRequest(prompt="-", seed=seed, steps=steps).resolved(model.info)
    settings = {
        "model": model.info.name,
        "weights": weights_digest(model),
        "precision": str(model.components.dtype).removeprefix("torch."),
    }
    return measure_drawing(
        lambda wanted: _one(model.generate(wanted)),
        request,
        settings=settings,
        vae=model.components.vae,
        count=count,
        out=out,
        atlas=atlas,
        progress=progress,
    )


def measure_drawing(
    draw: Draw,
    request: GenerateRequest,
    *,
    settings: Mapping[str, Any],
    vae: Autoencoder | None = None,
    count: int = 100,
    out: Path | None = None,
    atlas: Atlas | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> GateReport:
    """Measure anything that draws; `request` has all but the prompt, `settings` says what draws."""
    atlas = atlas if atlas is not None else packaged_atlas()
    matcher = packaged_matcher()
    prompts = held_out_prompts(count, atlas, first_concepts())
    pictures, seconds = _draw_all(draw, request, prompts, settings, out, progress)
    side = (request.size or (128, 128))[0]
    truths = [render(prompt.scene, atlas, side) for prompt in prompts]
    restored = None if vae is None else to_pictures(restore(vae, to_pixels(np.stack(truths))))
    seen = [matcher.judge(picture) for picture in pictures]
    report = GateReport(
        settings={
            **settings,
            "size": list(request.size or (128, 128)),
            "steps": request.steps,
            "guidance": request.guidance,
            "seed": request.seed,
        },
        score=score(seen, prompts),
        ceiling=score([matcher.judge(truth) for truth in truths], prompts),
        vae_ceiling=score([matcher.judge(one) for one in restored], prompts) if restored else None,
        floor=floor(seen, prompts),
        seconds=statistics.median(seconds) if seconds else None,
        mistakes=tuple(_mistakes(seen, prompts)),
    )
    if out is not None:
        texts = [prompt.prompt for prompt in prompts]
        captioned_sheet(pictures[:SHEET_PICTURES], texts[:SHEET_PICTURES]).save(out / "sheet.png")
        (out / "report.json").write_text(report.to_json() + "\n", encoding="utf-8")
    return report


def score(seen: Sequence[Verdict], prompts: Sequence[Prompt]) -> Score:
    """Count how often the judge saw the thing, the background, and both."""
    things = [v.concept == p.concept for v, p in zip(seen, prompts, strict=True)]
    grounds = [v.background == p.background for v, p in zip(seen, prompts, strict=True)]
    both = [thing and ground for thing, ground in zip(things, grounds, strict=True)]
    total = len(prompts)
    return Score(
        object=Rate.of(sum(things), total),
        background=Rate.of(sum(grounds), total),
        both=Rate.of(sum(both), total),
    )


def floor(seen: Sequence[Verdict], prompts: Sequence[Prompt]) -> Floor:
    """Return how often what was seen in one picture fits the prompt of another."""
    pairs = max(len(prompts) * (len(prompts) - 1), 1)

    def share(found: list[str | None], wanted: list[str]) -> float:
        counts = Counter(wanted)
        own = sum(one == other for one, other in zip(found, wanted, strict=True))
        return (sum(counts[one] for one in found if one is not None) - own) / pairs

    return Floor(
        object=share([v.concept for v in seen], [p.concept for p in prompts]),
        background=share([v.background for v in seen], [p.background for p in prompts]),
    )


def _draw_all(
    draw: Draw,
    request: GenerateRequest,
    prompts: Sequence[Prompt],
    settings: Mapping[str, Any],
    out: Path | None,
    progress: Callable[[int, int], None] | None,
) -> tuple[list[Image.Image], list[float]]:
    pictures, seconds = [], []
    for index, prompt in enumerate(prompts):
        wanted = replace(request, prompt=prompt.prompt)
        mark = json.dumps({**settings, **asdict(wanted)}, sort_keys=True)
        path = None if out is None else out / f"{index:03d}-{_slug(prompt.prompt)}.png"
        picture = _find(path, mark)
        if picture is None:
            started = time.perf_counter()
            picture = draw(wanted)
            seconds.append(time.perf_counter() - started)
            if path is not None:
                _keep(picture, path, mark)
        pictures.append(picture.convert("RGB"))
        if progress is not None:
            progress(index + 1, len(prompts))
    return pictures, seconds


def _find(path: Path | None, mark: str) -> Image.Image | None:
    """Return the picture at `path` if it was drawn by what `mark` says."""
    if path is None or not path.is_file():
        return None
    with Image.open(path, formats=("PNG",)) as picture:
        picture.load()
        return picture.copy() if picture.info.get(_MARK) == mark else None


def _keep(picture: Image.Image, path: Path, mark: str) -> None:
    """Write a picture with its mark; a file is complete or not there."""
    texts = PngInfo()
    for key, value in {**picture.info, _MARK: mark}.items():
        if isinstance(key, str) and isinstance(value, str):
            texts.add_itxt(key, value)
    with whole(path) as temporary:
        picture.save(temporary, "PNG", pnginfo=texts)


def _mistakes(seen: Sequence[Verdict], prompts: Sequence[Prompt]) -> list[Mistake]:
    found = []
    for index, (verdict, prompt) in enumerate(zip(seen, prompts, strict=True)):
        if (verdict.concept, verdict.background) != (prompt.concept, prompt.background):
            thing = "nothing" if verdict.concept is None else concepts()[verdict.concept].indefinite
            found.append(Mistake(index=index, prompt=prompt.prompt, seen=f"{thing} on {verdict.background}"))
    return found


def _one(drawn: Image.Image | list[Image.Image]) -> Image.Image:
    assert isinstance(drawn, Image.Image)  # count is 1
    return drawn


def _slug(text: str) -> str:
    return re.sub(r"\W+", "-", text.lower()).strip("-")[:60]
