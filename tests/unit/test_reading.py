"""What the judge concludes from boxes, and that its file is read back as it was written."""

from pathlib import Path

import pytest
import torch

from danqing.errors import CheckpointError
from danqing.scoring.detector import (
    CELLS,
    CHANNELS,
    CROP,
    Detector,
    DetectorConfig,
    Findings,
    cut,
    load_detector,
    write_detector,
)
from danqing.scoring.reading import Box, find_boxes, stands
from danqing.weights.store import write_safetensors


def box(x: float, y: float, width: float = 0.2, height: float = 0.2) -> Box:
    return Box(x=x, y=y, width=width, height=height)


@pytest.mark.parametrize(
    ("relation", "first", "others"),
    [
        ("left", box(0.2, 0.5), (box(0.8, 0.55),)),
        ("right", box(0.8, 0.5), (box(0.2, 0.45),)),
        ("above", box(0.5, 0.2), (box(0.52, 0.8),)),
        ("below", box(0.5, 0.8), (box(0.45, 0.2),)),
        ("inside", box(0.5, 0.52), (box(0.5, 0.5, 0.8, 0.8),)),
        ("front", box(0.6, 0.7, 0.4, 0.4), (box(0.45, 0.45, 0.6, 0.6),)),
        ("between", box(0.5, 0.5), (box(0.2, 0.5), box(0.8, 0.5))),
        ("between", box(0.5, 0.5), (box(0.5, 0.8), box(0.5, 0.2))),
    ],
)
def test_a_relation_stands_one_way_only(relation, first, others):
    assert stands(relation, first, *others)
    turned = (others[0], first, *others[1:])
    assert not stands(relation, *turned)


def test_things_in_one_spot_are_not_beside_each_other():
    for relation in ("left", "right", "above", "below"):
        assert not stands(relation, box(0.5, 0.5), box(0.52, 0.49))


def findings(*peaks: tuple[str, int, int, float, float]) -> Findings:
    """Return what a finder would say of boxes (channel, column, row, side, height of the peak)."""
    heat = torch.full((1, len(CHANNELS), CELLS, CELLS), -9.0)
    boxes = torch.zeros(1, len(CHANNELS), 4, CELLS, CELLS)
    for channel, column, row, side, peak in peaks:
        at = CHANNELS.index(channel)
        heat[0, at, row, column] = peak
        boxes[0, at, :2, row, column] = 0.5
        boxes[0, at, 2:, row, column] = torch.tensor(side).log()
    return Findings(heat, boxes, torch.zeros(1, 11), torch.zeros(1, 7))


def test_boxes_come_surest_first_and_faint_ones_not_at_all():
    found = find_boxes(
        findings(("small", 4, 8, 0.2, 1.0), ("large", 16, 16, 0.8, 3.0), ("small", 28, 8, 0.2, -2.0))
    )
    assert [channel for channel, _, _ in found] == ["large", "small"]
    assert found[1][1].x == pytest.approx(4.5 / CELLS)
    assert found[0][1].width == pytest.approx(0.8)


def test_one_thing_seen_as_small_and_large_is_one_and_a_thing_within_another_is_two():
    near = find_boxes(findings(("small", 16, 16, 0.48, 2.0), ("large", 16, 16, 0.52, 1.0)))
    within = find_boxes(findings(("small", 16, 16, 0.35, 2.0), ("large", 16, 16, 0.85, 1.0)))
    assert (len(near), len(within)) == (1, 2)


def test_a_crop_shows_its_box_and_the_border_beyond_the_picture():
    pixels = torch.zeros(1, 3, 128, 128)
    pixels[..., 32:96, 64:] = 1.0  # a bright right half of a middle band
    crop = cut(pixels, torch.tensor([[0.5, 0.5, 0.3, 0.2]]), [0])[0]
    assert crop.shape == (3, CROP, CROP)
    assert crop[:, 2:-2, : CROP // 2 - 2].max() < 0.01
    assert crop[:, 2:-2, CROP // 2 + 2 :].min() > 0.99


def test_a_detector_file_is_small_and_says_nearly_the_same(tmp_path: Path):
    torch.manual_seed(0)
    model = Detector(DetectorConfig(concepts=("1F34E", "1F415"), finder_dim=8, namer_dim=16)).eval()
    write_detector(tmp_path / "d.safetensors", model.config, model.state_dict())
    again = load_detector(tmp_path / "d.safetensors")
    assert again.config == model.config
    crops = torch.randn(4, 3, CROP, CROP)
    assert torch.allclose(again.namer(crops).concept, model.namer(crops).concept, atol=0.02)
    size = (tmp_path / "d.safetensors").stat().st_size
    assert size < 2.2 * sum(parameter.numel() for parameter in model.parameters())


def test_another_file_is_no_detector(tmp_path: Path):
    write_safetensors(tmp_path / "x.safetensors", {"a": torch.zeros(1)}, {})
    with pytest.raises(CheckpointError, match="danqing-detector-1"):
        load_detector(tmp_path / "x.safetensors")
