"""The packaged judge: what it reads off true renders of the world, and what it says of an item's facts."""

from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image, ImageFilter

from danqing.data.atlas import Atlas, packaged_atlas
from danqing.data.concepts import core_codes
from danqing.data.world import Scene, SceneKind, render, sample_scene
from danqing.evaluation.items import Clause, Item
from danqing.evaluation.world.items import clauses
from danqing.evaluation.world.judge import SceneJudge
from danqing.scoring.reading import SceneReader, packaged_reader


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    return packaged_atlas()


@pytest.fixture(scope="module")
def reader() -> SceneReader:
    return packaged_reader()


def scenes(atlas: Atlas, kind: SceneKind, count: int) -> list[Scene]:
    rng = np.random.default_rng([7, *kind.encode()])
    return [sample_scene(rng, atlas, shares={kind: 1.0}, codes=core_codes()) for _ in range(count)]


def met(scenes: Sequence[Scene], atlas: Atlas, reader: SceneReader, *, blur: float = 0.0) -> dict[str, float]:
    """Return the share of facts, by kind, that the judge reads off true renders."""
    judge, values = SceneJudge(reader), {}
    for scene in scenes:
        picture = Image.fromarray(render(scene, atlas)).filter(ImageFilter.GaussianBlur(blur))
        for atom in judge.judge(picture, Item(row="test", prompt="-", include=clauses(scene))):
            values.setdefault(atom.name, []).append(atom.value)
    return {name: float(np.mean(found)) for name, found in values.items()}


@pytest.mark.parametrize("blur", [0.0, 1.0])
def test_a_lone_thing_is_named_with_its_background(blur: float, atlas: Atlas, reader: SceneReader) -> None:
    shares = met(scenes(atlas, "single", 40), atlas, reader, blur=blur)
    assert shares["object"] >= 0.85
    assert shares["background"] >= 0.95


def test_numbers_and_places_are_read(atlas: Atlas, reader: SceneReader) -> None:
    assert met(scenes(atlas, "count", 20), atlas, reader)["object"] >= 0.85
    pairs = [
        scene for scene in scenes(atlas, "pair", 30) if scene.relation in ("left", "right", "above", "below")
    ]
    assert met(pairs, atlas, reader)["position"] >= 0.6


def test_the_words_of_a_sign_are_read(atlas: Atlas, reader: SceneReader) -> None:
    signs = [
        scene
        for scene in scenes(atlas, "words", 150)
        if scene.words is not None
        and scene.words.font == "bold"
        and len(scene.words.lines) == 1
        and 3 <= len(scene.words.lines[0]) <= 6
    ]
    assert len(signs) >= 3
    assert met(signs, atlas, reader)["words"] >= 0.9


def test_another_scene_does_not_meet_the_facts(atlas: Atlas, reader: SceneReader) -> None:
    judge = SceneJudge(reader)
    one, other = scenes(atlas, "single", 2)
    atoms = judge.judge(
        Image.fromarray(render(one, atlas)), Item(row="test", prompt="-", include=clauses(other))
    )
    assert atoms[0].name == "object"
    assert atoms[0].value == 0


def test_one_valid_reading_of_an_ambiguous_item_suffices(atlas: Atlas, reader: SceneReader) -> None:
    scene, other = scenes(atlas, "single", 2)
    readings = tuple((Clause(concept=one.things[0].concept),) for one in (other, scene))
    seen = reader.read([render(scene, atlas)])[0]
    item = Item(row="test", prompt="-", readings=readings)
    atoms = SceneJudge(reader).judge(Image.fromarray(render(scene, atlas)), item)
    assert atoms[0].value == float(bool(seen.of(scene.things[0].concept)))


def test_what_must_be_absent_is_missed_when_it_is_there(atlas: Atlas, reader: SceneReader) -> None:
    scene = scenes(atlas, "single", 1)[0]
    seen = reader.read([render(scene, atlas)])[0].things[0].concept
    item = Item(
        row="test", prompt="-", include=(Clause(background=scene.background.colour),),
        exclude=(Clause(concept=seen),),
    )  # fmt: skip
    atoms = SceneJudge(reader).judge(Image.fromarray(render(scene, atlas)), item)
    assert [atom.value for atom in atoms if atom.name == "object"] == [0.0]


def test_a_picture_is_read_the_same_alone_or_among_others(atlas: Atlas, reader: SceneReader) -> None:
    pictures = [render(scene, atlas) for scene in scenes(atlas, "group", 3)]
    assert reader.read(pictures)[1] == reader.read([pictures[1]])[0]
