"""VQAScore (Lin et al. 2024): how likely "Yes" is when a model is asked whether a picture shows a text.

The paper's own model is CLIP-FlanT5; its project asks conversational models the same, as is done here.
"""

from collections.abc import Sequence
from typing import Final

from PIL import Image

from danqing.scoring.vlm_judge import VlmJudge

QUESTION: Final = 'Does this figure show "{}"? Please answer yes or no.'


class VqaScore:
    """Scores texts, and answers questions, by the probability of "Yes" among everything that may be said."""

    def __init__(self, judge: VlmJudge, question: str = QUESTION) -> None:
        self._judge, self._question = judge, question
        self.name = f"VQAScore, {judge.name}"
        self.version = f"{judge.version} {question!r} 1"

    def scores(self, picture: Image.Image, texts: Sequence[str]) -> list[float]:
        """Return P("Yes") for each text, 0 to 1; the rest of the probability is not only "No"."""
        return [self.answer_probability(picture, self._question.format(text)) for text in texts]

    def answer_probability(
        self, picture: Image.Image, question: str, answers: tuple[str, str] = ("yes", "no")
    ) -> float:
        """Return P(first) of a question that is asked as it is; what the second would get does not count."""
        return self._judge.probability(picture, question, answers[0].capitalize())
