"""A checkpoint of danqing as a judge: the part that conditions drawing sees pictures and answers."""

from contextlib import nullcontext

import torch
from PIL import Image

from danqing.conditioning.given import open_picture
from danqing.conditioning.pictures import picture_pixels
from danqing.conditioning.templates import DESCRIBE, DESCRIBE_21
from danqing.conditioning.text import picture_patches, picture_token_ids
from danqing.errors import DataError, ResourceError
from danqing.models.qwen3_vl import Qwen3VL
from danqing.pipelines.describe import Describer, DescribeRequest, describe
from danqing.scoring.digest import module_digest


class OwnJudge:
    """Asks the describer of a checkpoint."""

    def __init__(self, describer: Describer, *, longest: int = 128) -> None:
        """Raises ResourceError for weights that come and go, since they cannot be told apart in passing."""
        if any(tensor.is_meta for tensor in describer.vlm.state_dict().values()):
            raise ResourceError(
                f"{describer.info.name}: expected a judge whose weights stay in memory, found one that "
                "streams; give it more memory, or a smaller checkpoint"
            )
        self._describer, self._longest = describer, longest
        self.name = describer.info.name
        dtype = str(next(describer.vlm.parameters()).dtype).removeprefix("torch.")
        self.version = f"{module_digest(describer.vlm)} {dtype} longest={longest} 1"

    def ask(self, picture: Image.Image, question: str) -> str:
        """Return the likeliest answer."""
        request = DescribeRequest(pictures=(open_picture(picture),), ask=question, max_tokens=self._longest)
        return "".join(describe(self._describer, request)).strip()

    def answer_probability(
        self, picture: Image.Image, question: str, answers: tuple[str, str] = ("yes", "no")
    ) -> float:
        """Return P(first) / (P(first) + P(second)) of the first token of the answer.

        An answer counts in lower case and capitalised. Raises DataError for answers that begin alike.
        """
        chances = self._next(picture, question).double().softmax(-1)
        tokenizer = self._describer.tokenizer
        groups = [
            {tokenizer.encode(spelling)[0] for spelling in (one.lower(), one.capitalize())} for one in answers
        ]
        if groups[0] & groups[1]:
            raise DataError(
                f"expected answers that begin with different tokens, found {' and '.join(answers)}"
            )
        first, second = (float(chances[list(group)].sum()) for group in groups)
        return first / (first + second)

    @torch.no_grad()
    def _next(self, picture: Image.Image, question: str) -> torch.Tensor:
        """Return the score of every token as the first of the answer."""
        describer, vlm = self._describer, self._describer.vlm
        image = open_picture(picture).image
        pixels = [picture_pixels(image, vlm.config.vision, describer.picture_limits)]
        patches, grid_thw = picture_patches(vlm, pixels)
        template = DESCRIBE_21 if isinstance(vlm, Qwen3VL) else DESCRIBE
        token_ids = picture_token_ids(
            vlm, describer.tokenizer, template.fill(question, num_pictures=1), grid_thw
        )
        with nullcontext() if describer.residency is None else describer.residency.stage():
            batch = torch.tensor([token_ids], device=vlm.device)
            features = vlm.features(batch, patches=patches.to(vlm.device), grid_thw=grid_thw)
            return vlm.logits(features[0, -1]).float().cpu()
