"""What the fields of a pattern stand for: each is worded once, when a pattern first names it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from danqing.data.atlas import Atlas
from danqing.data.language.tables import phrasings, pick, table
from danqing.data.world.scene import Scene
from danqing.data.world.split import Split


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """The fields of one text about one scene; a mapping for `str.format_map`."""

    language: str
    scene: Scene
    rng: np.random.Generator
    atlas: Atlas | None
    split: Split
    makers: Mapping[str, "Maker"]
    """Field -> function that words it."""
    sized: bool = True
    """Whether nouns may carry a word for their size."""
    said: dict[str, str] = field(default_factory=dict)
    """Fields worded so far, and those given from outside."""

    def __getitem__(self, name: str) -> str:
        found = self.said.get(name)
        if found is None:
            found = self.said[name] = self.makers[name](self)
        return found

    @property
    def words(self) -> dict[str, Any]:
        """Word lists of the language."""
        return table(self.language).words

    def fill(self, *names: str) -> str:
        """Draw a pattern of the named lists and fill it in."""
        return pick(self.rng, phrasings(self.language, names, self.split)).format_map(self)


Maker = Callable[[Fields], str]
