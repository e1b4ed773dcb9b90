"""Held-out prompts: things before background colours that training never paired."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from danqing.data.atlas import Atlas, packaged_atlas
from danqing.data.colours import COLOURS
from danqing.data.concepts import concepts, with_article
from danqing.data.world.scene import Background, Scene, Thing
from danqing.data.world.split import is_held_out, rank
from danqing.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One held-out evaluation item: the concept never met this background colour in training."""

    prompt: str
    concept: str
    background: str
    scene: Scene


def held_out_prompts(n: int, atlas: Atlas | None = None, codes: Sequence[str] | None = None) -> list[Prompt]:
    """Return the first `n` held-out (concept, background colour) pairs by hash order, as prompts with their
    scene.

    Each prompt reads "a dog on a purple background"; style is not said, the scene shows one that is not held
    out. Concepts are `codes`, by default all of the atlas (by default the packaged one). Pairs where a thing
    would vanish into its own colour are left out. The order does not depend on `n`. Raises DataError when
    there are fewer than `n`.
    """
    atlas = atlas if atlas is not None else packaged_atlas()
    ranked = sorted(
        (rank("background", code, colour), code, colour)
        for code, colour in product(codes if codes is not None else atlas.codes, COLOURS)
        if is_held_out("background", code, colour)
    )
    prompts: list[Prompt] = []
    for _, code, colour in ranked:
        if len(prompts) == n:
            return prompts
        style = next(
            (
                s
                for s in atlas.styles
                if atlas.has(code, s)
                and not is_held_out("style", code, s)
                and atlas.facts(code, s).colour != colour
            ),
            None,
        )
        if style is not None:
            scene = Scene((Thing(code, style, None, 0.7, 0.5, 0.5),), Background.plain(colour))
            text = f"{concepts()[code].indefinite} on {with_article(colour)} background"
            prompts.append(Prompt(prompt=text, concept=code, background=colour, scene=scene))
    if len(prompts) < n:
        raise DataError(f"expected {n} held-out prompts, found {len(prompts)}; ask for fewer")
    return prompts
