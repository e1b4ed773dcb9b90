"""What is asked of models that look at pictures: where things are, how far, how alike, yes or no, in words.

Benchmarks score what these say with pure functions; which model says it is chosen elsewhere, so a detector in
the role of UniDet, and the official one where somebody has it, are the same to them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np
from PIL import Image

from danqing.errors import ResourceError

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, in pixels of the picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """One thing that a detector sees."""

    label: str
    """One of the labels that were asked for, as they were written."""
    score: float
    """From 0 to 1."""
    box: Box
    mask: np.ndarray | None = field(default=None, repr=False, compare=False)
    """(height, width) bool, where the detector tells the shape of things."""


class Look(Protocol):
    """A model that looks at pictures."""

    @property
    def name(self) -> str:
        """What reports call it: the id of its weights."""

    @property
    def version(self) -> str:
        """Another version may say something else: digest or revision, thresholds, wording."""


class Detector(Look, Protocol):
    """Finds the things it is asked for."""

    def detect(self, picture: Image.Image, labels: Sequence[str]) -> list[Detection]:
        """Return what is seen of `labels`, most certain first, above the detector's own lowest score."""


class DepthEstimator(Look, Protocol):
    """Says how near each pixel is."""

    def depth(self, picture: Image.Image) -> np.ndarray:
        """Return (height, width) float32 of the picture's own size; larger is nearer (MiDaS)."""


class Matcher(Look, Protocol):
    """Compares pictures with texts (CLIP)."""

    def similarity(self, picture: Image.Image, texts: Sequence[str]) -> list[float]:
        """Return the cosine of the picture and each text, -1 to 1."""

    def class_similarity(self, picture: Image.Image, wordings: Sequence[Sequence[str]]) -> list[float]:
        """Return the cosine of the picture and each class, told in several wordings.

        The embedding of a class is the mean of its wordings' normalised embeddings, normalised again
        (Radford et al. 2021, prompt ensembling).
        """


class Answerer(Look, Protocol):
    """Answers questions about pictures with one of two words."""

    def answer_probability(
        self, picture: Image.Image, question: str, answers: tuple[str, str] = ("yes", "no")
    ) -> float:
        """Return P(first) / (P(first) + P(second)) of the answer, 0 to 1."""


class Asker(Look, Protocol):
    """Answers questions about pictures in words."""

    def ask(self, picture: Image.Image, question: str) -> str:
        """Return the answer as the model writes it."""


class WordReader(Look, Protocol):
    """Reads the words in pictures."""

    def read_lines(self, picture: Image.Image) -> tuple[str, ...]:
        """Return the lines of text, top to bottom."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Looks:
    """The models at hand by the role they play for a benchmark; None where there is none."""

    blip_vqa: Answerer | None = None
    detector: Detector | None = None
    depth: DepthEstimator | None = None
    clip: Matcher | None = None
    vqa: Answerer | None = None
    asker: Asker | None = None
    words: WordReader | None = None
    sure: tuple[float, float] = (0.3, 0.9)
    """Scores from which the detector's things count for GenEval, and from which they are counted one by one.

    Those of its own detector; another one is as sure at other scores.
    """


ROLES = {
    "blip-vqa": "blip_vqa",
    "open-detector": "detector",
    "depth": "depth",
    "clip": "clip",
    "vqa": "vqa",
    "ask": "asker",
    "words": "words",
}
"""Name of a role, as benchmarks and users write it -> field of `Looks`."""

Kind = TypeVar("Kind")


def needed(look: Kind | None, role: str) -> Kind:
    """Return the model of a role; raises ResourceError where there is none."""
    if look is None:
        raise ResourceError(f"expected a model in the role {role!r}, found none; name one for the judge")
    return look
