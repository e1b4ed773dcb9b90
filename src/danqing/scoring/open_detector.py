"""Open detectors, asked for labels by name: OWLv2 (Minderer et al. 2023), Grounding DINO (Liu et al. 2023).

They stand in for UniDet in T2I-CompBench and for Mask2Former in GenEval, whose own weights need libraries of
2021. Labels are given as benchmarks write them. OWLv2 is asked for "a photo of a LABEL", and each box goes to
its likeliest label; Grounding DINO reads "label. label." and a box goes to the label that has its likeliest
token. One thing often gets several boxes, so of boxes of one label that overlap the most certain one stays.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
from PIL import Image
from torch import Tensor

from danqing.errors import ConfigError, RequestError
from danqing.scoring.looking import Detection
from danqing.scoring.pretrained import EXTRA, Source, open_model, open_pictures, open_tokenizer

_OWL: Final = ("owlv2", "owlvit")
_DINO: Final = ("grounding-dino", "mm-grounding-dino")
_MOST_TOKENS: Final = 256  # that Grounding DINO reads at once


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorOptions:
    """What is kept of what a detector sees."""

    threshold: float = 0.2
    """Lowest score; GenEval's own 0.3 and 0.9, for counting, are scores of another model."""
    overlap: float | None = 0.5
    """Boxes of one label whose intersection over union is larger are one thing; None keeps all."""
    wording: str = "a photo of a {}"
    """How OWLv2 is asked for a label; Grounding DINO is given the label alone."""
    long_side: int | None = None
    """Resize the picture so that its longer side has so many pixels before it is looked at."""
    most: int = 100
    """Boxes that are kept, the most certain ones."""


UNIDET_ROLE: Final = DetectorOptions(long_side=480)
"""The frame that T2I-CompBench shows UniDet; boxes are in pixels of the picture all the same."""


class OpenDetector:
    """Finds the things it is asked for."""

    def __init__(self, source: Source, options: DetectorOptions | None = None) -> None:
        """Raises RequestError for a wording without a place for the label."""
        self._options = options or DetectorOptions()
        if "{}" not in self._options.wording:
            raise RequestError(f"expected a wording with {{}} for the label, found {self._options.wording!r}")
        if importlib.util.find_spec("scipy") is None:  # resizes pictures for OWLv2, when the first one comes
            raise ConfigError(f"expected scipy beside an open detector, found none; {EXTRA}")
        families = (*_OWL, *_DINO)
        self._loaded = open_model(source, "AutoModelForZeroShotObjectDetection", families)
        self._grounding = self._loaded.model.config.model_type in _DINO
        self._pictures = open_pictures(source)
        self._tokenizer = open_tokenizer(source)
        self.name = self._loaded.name
        told = ", ".join(f"{name}={value}" for name, value in asdict(self._options).items())
        self.version = f"{self._loaded.version} {told} 1"

    @torch.inference_mode()
    def detect(self, picture: Image.Image, labels: Sequence[str]) -> list[Detection]:
        """Return what is seen of `labels`, most certain first; boxes are in pixels of the picture.

        Raises RequestError for more labels than Grounding DINO reads at once.
        """
        wanted = list(dict.fromkeys(labels))
        if not wanted:
            return []
        shown = self._shown(picture.convert("RGB"))
        inputs = self._loaded.held(self._pictures(images=shown, return_tensors="pt"))
        find = self._find_grounded if self._grounding else self._find_queried
        scores, which, boxes = find(inputs, wanted, shown)
        boxes = boxes * torch.tensor([picture.width / shown.width, picture.height / shown.height] * 2)
        kept = [int(at) for at in scores.argsort(descending=True, stable=True)]
        kept = [at for at in kept if scores[at] > self._options.threshold]
        if self._options.overlap is not None:
            kept = _apart(kept, which, boxes, self._options.overlap)
        return [
            Detection(
                label=wanted[int(which[at])],
                score=float(scores[at]),
                box=_inside(boxes[at].tolist(), picture.size),
            )
            for at in kept[: self._options.most]
        ]

    def _shown(self, picture: Image.Image) -> Image.Image:
        if self._options.long_side is None:
            return picture
        scale = self._options.long_side / max(picture.size)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        return picture.resize(size, Image.Resampling.BICUBIC)

    def _find_queried(
        self, inputs: dict[str, Any], labels: Sequence[str], shown: Image.Image
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return score, label and box of each patch of OWLv2; its frame is the square around the picture."""
        texts = [self._options.wording.format(label) for label in labels]
        longest = self._loaded.model.config.text_config.max_position_embeddings
        asked = self._tokenizer(
            texts, padding="max_length", truncation=True, max_length=longest, return_tensors="pt"
        )
        outputs = self._loaded.model(**inputs, **self._loaded.held(asked))
        found = outputs.logits[0].float().cpu().max(-1)
        wide = self._loaded.model.config.model_type == "owlv2"
        frame = (max(shown.size), max(shown.size)) if wide else shown.size
        return found.values.sigmoid(), found.indices, _corners(outputs.pred_boxes[0], frame)

    def _find_grounded(
        self, inputs: dict[str, Any], labels: Sequence[str], shown: Image.Image
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return score, label and box of each query of Grounding DINO."""
        asked = self._tokenizer("".join(f"{_plain(label)}. " for label in labels), return_tensors="pt")
        if asked.input_ids.shape[1] > _MOST_TOKENS:
            raise RequestError(
                f"expected labels of {_MOST_TOKENS} tokens at most, found {asked.input_ids.shape[1]}; ask "
                "for fewer at once"
            )
        outputs = self._loaded.model(**inputs, **self._loaded.held(asked))
        chances = outputs.logits[0].float().cpu().sigmoid()  # (queries, tokens)
        starts, spans = 1, []  # after [CLS]
        for label in labels:
            length = len(self._tokenizer(_plain(label), add_special_tokens=False).input_ids)
            spans.append(chances[:, starts : starts + length].max(-1).values)
            starts += length + 1  # the point
        found = torch.stack(spans, -1).max(-1)
        return found.values, found.indices, _corners(outputs.pred_boxes[0], shown.size)


def _plain(label: str) -> str:
    return label.strip().lower().replace(".", " ")


def _corners(boxes: Tensor, frame: tuple[int, int]) -> Tensor:
    """Return boxes, given as centre and size in parts of a frame, as corners in its pixels."""
    middle, size = boxes.float().cpu().chunk(2, -1)
    return torch.cat([middle - size / 2, middle + size / 2], -1) * torch.tensor([*frame, *frame])


def _apart(kept: Sequence[int], which: Tensor, boxes: Tensor, overlap: float) -> list[int]:
    """Return those of the boxes, most certain first, that no more certain one of the same label covers."""
    chosen: list[int] = []
    for at in kept:
        same = [other for other in chosen if which[other] == which[at]]
        if all(_iou(boxes[at], boxes[other]) <= overlap for other in same):
            chosen.append(at)
    return chosen


def _iou(first: Tensor, second: Tensor) -> float:
    left_top, right_bottom = torch.maximum(first[:2], second[:2]), torch.minimum(first[2:], second[2:])
    common = float((right_bottom - left_top).clamp_min(0).prod())
    both = float((first[2:] - first[:2]).prod() + (second[2:] - second[:2]).prod()) - common
    return common / both if both > 0 else 0.0


def _inside(box: Sequence[float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    left, top, right, bottom = box
    width, height = size
    return (
        min(max(left, 0.0), width),
        min(max(top, 0.0), height),
        min(max(right, 0.0), width),
        min(max(bottom, 0.0), height),
    )
