"""What a benchmark is: prompts in files, how they are drawn, who looks at them, and the scores."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from danqing.errors import DataError
from danqing.evaluation.items import Item, Judge, System
from danqing.evaluation.results import Row
from danqing.scoring.looking import Looks

Variant = Literal["official", "fixed"]
"""The score as the benchmark's own code computes it, mistakes included, or as its paper means it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file of a benchmark."""

    name: str
    """Where it lies in the benchmark's folder."""
    address: str = ""
    """Where it is fetched from; empty where nothing permits that, and users bring it."""
    sha256: str = ""
    """Of the file as it was when the reader was written."""
    git_blob: str = ""
    """Its name in git, where only that is known."""
    optional: bool = False
    """Whether the benchmark can be read without it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """Prompts with their truth, the protocol of their authors, and the scores."""

    name: str
    title: str
    licence: str
    """Of its data, as SPDX names it; empty where there is none, and then nothing is fetched."""
    source: str
    """Project and paper."""
    files: tuple[File, ...] = ()
    """None for a benchmark inside the package."""
    seeds: tuple[int, ...] = (0,)
    """One for each picture of a prompt, as the protocol says."""
    size: tuple[int, int] | None = None
    """Width and height of the pictures, where the protocol says."""
    protocol: str = ""
    """What else a reader must know to compare scores, in a sentence or two."""
    variants: tuple[Variant, ...] = ("official",)
    """The first is the default."""
    judges: Mapping[str, str]
    """Roles of `scoring.looking.ROLES` that its judge needs -> the model in it officially."""
    read: Callable[[Path], list[Item]]
    """Items from the benchmark's folder; raises DataError when files are missing or other than expected."""
    rows: Callable[[Variant], tuple[Row, ...]]
    """Rows of the table; rows that count make up the benchmark's own overall score as their plain mean."""
    judge: Callable[[Looks, Variant], Judge]
    """The judge of all items, given who looks; raises ResourceError when a role is empty."""
    picture: Callable[[Path, Item], Image.Image] | None = None
    """The picture that an item is about, from the benchmark's folder; for edits, questions and captions."""
    ceilings: Callable[[Path], Sequence[System]] | None = None
    """Systems that know the true answers: the most that a judge can see. The first stands beside answers."""

    def path(self, folder: Path, name: str) -> Path:
        """Return one of the files; raises DataError when it is not there."""
        found = folder / name
        if not found.is_file():
            raise DataError(
                f"{self.title}: expected {found}, found none; get it with: danqing evaluate fetch {self.name}"
            )
        return found
