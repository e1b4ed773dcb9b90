"""Edits as items and their judge: the true result meets every changed fact, the source none, damage shows."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

import danqing
from danqing.data.atlas import packaged_atlas
from danqing.data.world import render
from danqing.errors import DataError
from danqing.evaluation.items import Atom
from danqing.evaluation.world.asked import COUNTS, Asked
from danqing.evaluation.world.edit_judge import WITHIN, EditJudge
from danqing.evaluation.world.edits import EDIT_ROWS, KINDS, OUTSIDE, edit_items
from danqing.evaluation.world.items import taught
from danqing.evaluation.world.judge import SceneJudge
from danqing.evaluation.world.renders import SIDE, through


@pytest.fixture(scope="module")
def asked() -> list[Asked]:
    atlas = packaged_atlas()
    return edit_items("edit", atlas, "sprites", taught(atlas, 300), "smoke")


@pytest.fixture(scope="module")
def vae():
    return danqing.load("nano", device="cpu", precision="fp32").components.vae


@pytest.fixture(scope="module")
def judge(asked, vae) -> EditJudge:
    edits = {one.item.id: one.edit for one in asked}
    return EditJudge(SceneJudge(), lambda item: edits[item.id], packaged_atlas(), vae)


def picture(scene) -> Image.Image:
    return Image.fromarray(render(scene, packaged_atlas(), SIDE))


def met(atoms: tuple[Atom, ...]) -> bool:
    return all(atom.value == 1 for atom in atoms if atom.name != OUTSIDE)


def rest(atoms: tuple[Atom, ...]) -> Atom:
    return next(atom for atom in atoms if atom.name == OUTSIDE)


def test_every_kind_is_asked_equally_often(asked):
    kinds = [one.item.tags["kind"] for one in asked]
    assert len(asked) == COUNTS["smoke"]["row"]
    assert {kinds.count(kind) for kind in KINDS} == {2}


def test_other_rows_ask_for_other_languages(asked):
    atlas = packaged_atlas()
    found = edit_items("edit-languages", atlas, "sprites", taught(atlas, 300), "smoke")
    languages = [one.item.language for one in found]
    assert {languages.count(language) for language in danqing.data.LANGUAGES[1:]} == {2}
    assert "en" not in languages
    assert len({one.item.source for one in [*asked, *found]}) == len(asked) + len(found)
    assert set(EDIT_ROWS) == {"edit", "edit-unseen", "edit-languages"}


def test_the_true_result_meets_what_is_asked_and_the_source_does_not(asked, judge):
    chosen = ("add", "remove", "replace", "recolour", "background", "style", "move")
    kinds = [one for one in asked[: len(KINDS)] if one.edit.kind in chosen]
    true = {one.edit.kind: met(judge.judge(picture(one.edit.target), one.item)) for one in kinds}
    unchanged = {one.edit.kind: met(judge.judge(picture(one.edit.source), one.item)) for one in kinds}
    assert sum(true.values()) >= len(kinds) - 1, true  # the reader names nine things in ten
    assert not any(unchanged.values()), unchanged


def test_the_rest_is_compared_with_what_the_autoencoder_keeps(asked, judge, vae):
    one = next(one for one in asked if one.edit.kind == "recolour")
    true, source = picture(one.edit.target), picture(one.edit.source)
    assert rest(judge.judge(true, one.item)).measure == pytest.approx(0, abs=0.2)  # like the truth itself
    assert rest(judge.judge(through(vae)(source), one.item)).measure > 5  # like the reconstruction
    broken = true.copy()
    ImageDraw.Draw(broken).rectangle(
        (0, 0, SIDE, 24), fill="black" if true.getpixel((0, 0))[0] > 99 else "white"
    )
    found = rest(judge.judge(broken, one.item))
    assert found.measure < -WITHIN
    assert found.value == 0
    assert met(judge.judge(broken, one.item)) == met(judge.judge(true, one.item))


def test_what_has_no_rest_says_nothing_of_it(asked, judge):
    whole = next(one for one in asked if one.edit.kind == "background")
    atoms = judge.judge(picture(whole.edit.target), whole.item)
    kept = [atom for atom in atoms if atom.name == OUTSIDE]
    assert all(np.isfinite(atom.measure) for atom in kept)
    with pytest.raises(DataError, match="expected a picture"):
        judge.judge("a text", whole.item)


def test_another_autoencoder_is_another_judge(asked, judge):
    other = danqing.load("nano", device="cpu", precision="fp32").components.vae
    same = EditJudge(SceneJudge(), lambda item: None, packaged_atlas(), other)
    assert same.version == judge.version
    next(other.parameters()).data.mul_(2)
    assert EditJudge(SceneJudge(), lambda item: None, packaged_atlas(), other).version != judge.version
