"""Scenes of the drawn world with five captions each: what COCO is to photographs, made here and offline."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Final

import numpy as np
from PIL import Image

from danqing.data.atlas import packaged_atlas
from danqing.data.language import Length, caption
from danqing.data.language.descriptions import description
from danqing.data.world import Scene, SceneKind, render, sample_scene
from danqing.errors import RequestError
from danqing.evaluation.benchmarks.caption_scores import REFERENCES
from danqing.evaluation.digests import atlas_digest
from danqing.evaluation.items import Ability, Item, Made
from danqing.evaluation.world.asked import SEED, clauses, source_name
from danqing.evaluation.world.items import taught
from danqing.evaluation.world.renders import SIDE, RenderSystem

SCENES: Final = 60
LANGUAGES: Final = ("en", "zh")
_KINDS: Final[Mapping[SceneKind, float]] = {
    "single": 0.3,
    "count": 0.2,
    "pair": 0.25,
    "group": 0.15,
    "between": 0.1,
}
_LENGTHS: Final[tuple[Length, ...]] = ("full", "full", "styled", "long", "full")
"""Of the captions after the plain description."""
_TRIES: Final = 100
_WISHES: Final = re.compile(
    r"^(?:draw|paint|create|generate|make|show|give|render|please|i would|i want|i need|can you)\b"
    r"|^(?:请|生成|给我|帮我|来一|我想|我要|画)|上画|风格画|please$",
    re.IGNORECASE,
)
"""Words of captions that ask for a picture and do not describe one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Captioned:
    """A scene with what five people might say of its picture, in each language."""

    number: int
    scene: Scene
    source: str
    """Name of its true render."""
    captions: Mapping[str, tuple[str, ...]]
    sixth: Mapping[str, str]
    """One more, which is no reference."""


@cache
def captioned_scenes() -> tuple[Captioned, ...]:
    """Return the scenes, always the same; each holds a combination that no training picture holds."""
    atlas = packaged_atlas()
    rng, sprites = np.random.default_rng([SEED, *b"captions"]), atlas_digest(atlas)
    codes, found = taught(atlas), []
    for number in range(SCENES):
        scene = sample_scene(rng, atlas, "held_out", shares=_KINDS, codes=codes)
        told = {language: tuple(_captions(scene, language, rng)) for language in LANGUAGES}
        found.append(
            Captioned(
                number=number,
                scene=scene,
                source=source_name(scene, sprites),
                captions={language: captions[:-1] for language, captions in told.items()},
                sixth={language: captions[-1] for language, captions in told.items()},
            )
        )
    return tuple(found)


def caption_items(name: str, ability: Ability) -> list[Item]:
    """Return an item for each scene and language: its picture to describe, or its first caption to draw."""
    return [
        Item(
            row=f"{name}-{language}",
            prompt=one.captions[language][0] if ability == "draw" else "",
            language=language,
            ability=ability,
            source="" if ability == "draw" else one.source,
            include=clauses(one.scene),
            details={REFERENCES: list(one.captions[language])},
            tags={"scene": str(one.number)},
            cluster=f"captioned scene {one.number}",
        )
        for language in LANGUAGES
        for one in captioned_scenes()
    ]


@lru_cache(maxsize=64)
def true_picture(source: str) -> Image.Image:
    """Return the true render that items are about; raises RequestError for an unknown name."""
    for one in captioned_scenes():
        if one.source == source:
            return Image.fromarray(render(one.scene, packaged_atlas(), SIDE))
    raise RequestError(f"expected the name of a true picture of a captioned scene, found {source!r}")


def true_renders() -> RenderSystem:
    """Return the ceiling that pastes the sprites of the scene an item words."""

    def scene(item: Item, seed: int) -> Scene:
        return captioned_scenes()[int(item.tags["scene"])].scene

    return RenderSystem("pasted sprites", scene, packaged_atlas())


class OneMore:
    """Answers with a sixth caption: how near people are to one another."""

    name, version = "one more caption", "1"
    abilities: frozenset[Ability] = frozenset({"describe"})

    def __init__(self) -> None:
        self.settings: Mapping[str, Any] = {"captions": "worded by the grammar, told the scene"}

    def request(self, item: Item, seed: int) -> Mapping[str, Any]:
        """Return what decides the answer: the item."""
        return {"item": item.id}

    def answer(self, items: Sequence[Item], seed: int) -> list[Made]:
        """Return the sixth caption of each scene."""
        return [captioned_scenes()[int(item.tags["scene"])].sixth[item.language] for item in items]


def _captions(scene: Scene, language: str, rng: np.random.Generator) -> Iterator[str]:
    """Yield the plain description, then captions of other lengths, all different and none a wish."""
    atlas = packaged_atlas()
    said = [description(scene, language, atlas)]
    yield said[0]
    for length in _LENGTHS:
        drawn = (caption(scene, language, rng, atlas, length=length) for _ in range(_TRIES))
        said.append(next(one for one in drawn if one not in said and not _WISHES.search(one)))
        yield said[-1]
