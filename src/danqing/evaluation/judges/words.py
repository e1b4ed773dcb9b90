"""Readers of words in pictures: PP-OCR, and models that are asked to read."""

from importlib import metadata
from typing import Final

from PIL import Image

from danqing.scoring.looking import Asker
from danqing.scoring.ocr import Reader

QUESTION: Final = (
    "Write down all text that this picture shows, every piece of it once and nothing else. "
    "Where it shows none, answer: No text recognized"
)
"""Asks what LongText-Bench asks its reader (X-Omni, Geng et al. 2025), in other words."""


class OcrWords:
    """Reads with PP-OCR; raises ResourceError without the extra `evaluate`."""

    def __init__(self, *, confidence: float = 0.5) -> None:
        self._reader = Reader(confidence=confidence)
        self.name = "PP-OCR"
        self.version = f"rapidocr-{metadata.version('rapidocr')} confidence={confidence} 1"

    def read_lines(self, picture: Image.Image) -> tuple[str, ...]:
        """Return the lines of text, top to bottom."""
        return self._reader.read(picture.convert("RGB"))


class AskedWords:
    """Asks a model what is written."""

    def __init__(self, asker: Asker, question: str = QUESTION) -> None:
        self._asker, self._question = asker, question
        self.name = asker.name
        self.version = f"{asker.version} reading {question!r} 1"

    def read_lines(self, picture: Image.Image) -> tuple[str, ...]:
        """Return the lines of the answer."""
        said = self._asker.ask(picture, self._question)
        return tuple(line.strip() for line in said.splitlines() if line.strip())
