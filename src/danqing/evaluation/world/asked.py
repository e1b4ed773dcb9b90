"""Items together with the scenes they are about, and how many of them are asked."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from danqing.data.world import Scene
from danqing.data.world.edits import Edit
from danqing.evaluation.items import Clause, Item, Position, content_key

Profile = Literal["smoke", "full"]
COUNTS: Final[Mapping[Profile, Mapping[str, int]]] = {
    "smoke": {"row": 24, "language": 12, "part": 2, "ambiguous": 12, "variety": 6},
    "full": {"row": 500, "language": 300, "part": 46, "ambiguous": 500, "variety": 40},
}
"""Items a row, scenes a language, items of each language where a row has many, ambiguous prompts, and prompts
drawn with several seeds."""
PLAIN_FONTS: Final = ("bold", "tall", "serif", "heiti")
"""Fonts that OCR reads without trouble."""
SEED: Final = 2026
"""Of every choice of items, with the name of what is chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """An item with the scene of its true answer; None for prompts that people wrote."""

    item: Item
    scene: Scene | None
    """What a right picture shows; of words, what the picture they are about shows."""
    edit: Edit | None = None
    """Of an edit: `scene` is its target."""

    @property
    def source(self) -> Scene | None:
        """The scene of the picture that the item is about; None where it is about none."""
        if self.edit is not None:
            return self.edit.source
        return self.scene if self.item.ability == "describe" else None


def readable(scene: Scene) -> bool:
    """Tell whether OCR reads the words of a true render: one line, a plain font, no single letters."""
    assert scene.words is not None
    line = scene.words.lines[0]
    fits = 3 <= len(line) <= 6 if line.isascii() else len(line) <= 2
    return fits and len(scene.words.lines) == 1 and scene.words.font in PLAIN_FONTS


def take(items: Iterator[Asked], count: int) -> list[Asked]:
    """Return the first so many items."""
    return [one for one, _ in zip(items, range(count), strict=False)]


def source_name(scene: Scene, atlas_digest: str) -> str:
    """Return the name of the true render of a scene: other sprites make another picture."""
    return content_key({"scene": repr(scene), "atlas": atlas_digest})[:16]


def clauses(scene: Scene) -> tuple[Clause, ...]:
    """Return what a right picture of a scene shows, as far as a full caption says it."""
    counted = scene.kind in ("count", "group")
    found = []
    for index, (thing, count) in enumerate(scene.groups):
        position: Position | None = None
        if index == 0 and scene.relation is not None:
            position = ("between", 1, 2) if scene.relation == "between" else (scene.relation, 1)
        found.append(
            Clause(
                concept=thing.concept,
                count=count if counted else None,
                colour=thing.colour,
                position=position,
            )
        )
    if scene.words is not None:
        found.append(Clause(text=" ".join(scene.words.lines)))
    return (*found, Clause(background=scene.background.colour))
