"""The atlas file, and the builder that fills it from pinned packages."""

import base64
import hashlib
import io
import json
import shutil
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file

from danqing.data import Atlas, concepts
from danqing.data.assets import NAMES, STYLES, build_atlas, draw, trim
from danqing.data.atlas import Sprite, packaged_atlas, write_atlas
from danqing.data.concepts import LANGUAGES, core_codes, drawn_codes, missing_pictures, with_article
from danqing.data.packages import Source, fetch, open_pictures, plain_code, slugs
from danqing.errors import DataError, ResourceError

PACKAGED = Path(str(packaged_atlas.__wrapped__.__globals__["__file__"])).parent / "sprites.safetensors"
APPLE, DOG = "1F34E", "1F415"
LICENCES = {"flat": "ours", "bold": "theirs"}
NOUNS = {"animals", "food", "travel", "activities", "objects"}
FIRST_ENDS = "1F3F8"
"""The last of the first 300, which keep their places."""
DRAWN = {
    "shaded": 1354,
    "cartoon": 1354,
    "flat": 1332,
    "3D": 1334,
    "bold": 974,
    "glossy": 1332,
    "detailed": 878,
    "outlined": 520,
    "simple": 700,
}
SQUARE = '<rect x="4" y="8" width="24" height="12" fill="#cc1111"/>'
ICONS = {"icons": {"apple": {"body": SQUARE}}, "width": 32, "height": 32}


def small_sprite(colour: tuple[int, int, int, int] = (210, 30, 30, 255)) -> Sprite:
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[4:12] = colour
    return Sprite.of(pixels)


def small_atlas(path: Path, **changes) -> Path:
    """Write an apple in two styles and a dog in one, then change metadata or tensors of the file."""
    blue = small_sprite((20, 60, 220, 255))
    rows = [(APPLE, "flat", small_sprite()), (APPLE, "bold", blue), (DOG, "bold", small_sprite())]
    write_atlas(path, LICENCES, rows)
    with safe_open(path, "np") as file:
        meta, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors | changes.pop("tensors", {}), path, metadata=meta | changes)
    return path


def package(folder: Path, source: Source, files: dict[str, bytes]) -> Source:
    """Write an archive as npm would, and return the source pinned to it."""
    path = folder / source.archive
    with tarfile.open(path, "w:gz") as tar:
        for member, content in files.items():
            entry = tarfile.TarInfo(f"package/{member}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    digest = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    return replace(source, integrity=f"sha512-{digest}")


def test_packaged_atlas_is_the_core_in_nine_styles() -> None:
    atlas = packaged_atlas()
    assert atlas.codes == core_codes()
    assert len(atlas.codes) == 500
    assert atlas.styles == tuple(source.style for source in STYLES)
    assert len(atlas.styles) == 9
    assert PACKAGED.stat().st_size <= 3.6 * 2**20
    assert all(licence.endswith(")") for licence in atlas.licences.values())


def test_packaged_atlas_has_the_pictures_that_the_sets_have() -> None:
    atlas, missing = packaged_atlas(), missing_pictures()
    for code in atlas.codes:
        assert atlas.styles_of(code) == tuple(s for s in atlas.styles if code not in missing[s]), code
        assert set(atlas.styles[:4]) <= set(atlas.styles_of(code))


def test_sets_draw_as_many_concepts_as_were_joined() -> None:
    drawn = {style: len(drawn_codes()) - len(codes) for style, codes in missing_pictures().items()}
    assert drawn == DRAWN
    assert sum(drawn.values()) > 9_500


def test_sprites_fill_their_square() -> None:
    atlas = packaged_atlas()
    for code in atlas.codes:
        for style in atlas.styles_of(code):
            extent = atlas.extent(code, style)
            assert max(extent) > 0.8
            assert min(extent) > 0.1


def test_an_apple_is_red() -> None:
    atlas = packaged_atlas()
    assert concepts()[APPLE].english == "apple"
    assert {atlas.facts(APPLE, style).colour for style in ("cartoon", "flat", "outlined")} == {"red"}


def test_written_atlas_reads_back_the_same(tmp_path: Path) -> None:
    atlas = Atlas.load(small_atlas(tmp_path / "atlas.safetensors"))
    assert np.array_equal(atlas.sprite(DOG, "bold"), small_sprite().pixels)
    assert atlas.facts(APPLE, "flat") == small_sprite().facts
    assert (atlas.facts(APPLE, "flat").colour, atlas.facts(APPLE, "bold").colour) == ("red", "blue")
    assert "blue" in atlas.facts(APPLE, "flat").dyes
    assert atlas.extent(APPLE, "flat") == (1.0, 0.5)
    assert (atlas.size, atlas.licences) == (16, LICENCES)


def test_a_concept_need_not_exist_in_every_style(tmp_path: Path) -> None:
    atlas = Atlas.load(small_atlas(tmp_path / "atlas.safetensors"))
    assert atlas.styles_of(APPLE) == ("flat", "bold")
    assert atlas.styles_of(DOG) == ("bold",)
    assert atlas.styles_of("1F40D") == ()
    assert atlas.has(DOG, "bold")
    assert not atlas.has(DOG, "flat")
    assert not atlas.has("1F40D", "flat")
    for ask in (atlas.index, atlas.sprite, atlas.facts, atlas.extent):
        with pytest.raises(DataError, match="concept and style"):
            ask(DOG, "flat")


def test_all_sprites_are_the_single_ones_in_their_rows(tmp_path: Path) -> None:
    atlas = Atlas.load(small_atlas(tmp_path / "atlas.safetensors"))
    fresh = Atlas.load(tmp_path / "atlas.safetensors")
    assert fresh.sprites.shape == (3, 16, 16, 4)
    for pair in ((APPLE, "flat"), (APPLE, "bold"), (DOG, "bold")):
        assert np.array_equal(fresh.sprites[atlas.index(*pair)], atlas.sprite(*pair))


def test_lossy_atlas_keeps_its_outline(tmp_path: Path) -> None:
    write_atlas(tmp_path / "atlas.safetensors", {"flat": "ours"}, [(DOG, "flat", small_sprite())], quality=90)
    found = Atlas.load(tmp_path / "atlas.safetensors").sprite(DOG, "flat")
    assert np.array_equal(found[..., 3], small_sprite().pixels[..., 3])
    assert np.abs(found[6:10].astype(int) - small_sprite().pixels[6:10]).max() < 12


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "danqing-atlas-1"}, "format"),
        ({"size": "4096"}, "within"),
        ({"size": "x"}, "metadata"),
        ({"styles": "[]"}, "metadata"),
        ({"styles": '{"flat": "ours"}'}, "rows"),
        ({"concepts": "[]"}, "offsets"),
        ({"concepts": '["1F34E", "1F34E"]'}, "once each"),
        ({"concepts": '["1F34E", "0041"]'}, r"concepts\.json"),
        ({"tensors": {"offsets": np.array([0, 10, 5])}}, "offsets"),
        ({"tensors": {"rows": np.zeros((0, 2), np.int16)}}, "within"),
        ({"tensors": {"rows": np.zeros((3, 2), np.int64)}}, "'rows'"),
        ({"tensors": {"rows": np.array([[0, 0], [0, 0], [1, 1]], np.int16)}}, "in order"),
        ({"tensors": {"rows": np.array([[0, 0], [0, 1], [7, 1]], np.int16)}}, "in order"),
        ({"tensors": {"colours": np.array([0, 4, 99], np.int8)}}, "colour facts"),
        ({"tensors": {"hues": np.array([0, np.inf, 9], np.float32)}}, "colour facts"),
        ({"tensors": {"dyes": np.array([0, 0, 255], np.uint8)}}, "colour facts"),
    ],
)
def test_broken_atlas_is_refused(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Atlas.load(small_atlas(tmp_path / "atlas.safetensors", **changes))


def test_broken_pictures_are_refused_when_they_are_asked_for(tmp_path: Path) -> None:
    path = small_atlas(tmp_path / "atlas.safetensors", size="8")
    with pytest.raises(DataError, match="strip of"):
        Atlas.load(path).sprite(APPLE, "flat")
    with safe_open(small_atlas(path), "np") as file:
        noise = np.arange(file.get_tensor("webp").size).astype(np.uint8)
    small_atlas(path, tensors={"webp": noise})
    with pytest.raises(DataError, match="broken bytes"):
        Atlas.load(path).extent(DOG, "bold")


def test_what_is_no_atlas_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file"):
        Atlas.load(tmp_path / "absent.safetensors")
    (tmp_path / "text.safetensors").write_text("not an atlas")
    with pytest.raises(DataError, match="safetensors"):
        Atlas.load(tmp_path / "text.safetensors")
    with pytest.raises(DataError, match="concept and style"):
        packaged_atlas().sprite("1F34E", "oil")


def test_sources_are_pinned() -> None:
    for source in (*STYLES, *NAMES):
        assert source.integrity.startswith("sha512-")
        assert len(base64.b64decode(source.integrity.removeprefix("sha512-"))) == 64
        assert source.licence in ("Apache-2.0", "CC-BY-4.0", "MIT", "Unicode-3.0")


def test_notice_names_every_source() -> None:
    notice = (Path(__file__).parents[2] / "NOTICE").read_text()
    for source in (*STYLES, *NAMES):
        assert source.attribution.split(",")[0].split(" until")[0] in notice
        assert source.licence.replace("-", " ").replace(" 4.0", "").split()[0] in notice


def test_changed_archive_is_refused(tmp_path: Path) -> None:
    source = package(tmp_path, STYLES[0], {"icons.json": b"{}"})
    assert fetch(source, tmp_path).exists()
    with pytest.raises(DataError, match="sha512"):
        fetch(STYLES[0], tmp_path)


def test_missing_npm_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(ResourceError, match=r"Node\.js"):
        fetch(STYLES[0], tmp_path)


def test_failing_npm_is_quoted_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "npm"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'npm error code ECONNREFUSED' >&2\necho x > half.tgz\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    with pytest.raises(DataError, match="ECONNREFUSED; check the network"):
        fetch(STYLES[0], tmp_path / "archives")
    assert list((tmp_path / "archives").iterdir()) == []


def test_unknown_style_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="oil"):
        build_atlas(tmp_path / "atlas.safetensors", ["oil"])


def test_pictures_join_by_code_and_alias(tmp_path: Path) -> None:
    icons = ICONS | {"aliases": {"fruit": {"parent": "apple"}, "turned": {"parent": "apple", "hFlip": True}}}
    codes = {"1f34e": "apple", "1f415-fe0f": "fruit", "1f40d": "absent", "1f449": "turned"}
    source = package(
        tmp_path,
        STYLES[0],
        {"icons.json": json.dumps(icons).encode(), "chars.json": json.dumps(codes).encode()},
    )
    pictures = open_pictures(source, tmp_path)
    assert set(pictures) == {"1F34E", "1F415", "1F449"}
    assert b"scale(-1 1)" in pictures["1F449"]
    sprite = trim(draw(pictures["1F415"], 64), 32)
    assert sprite.shape == (32, 32, 4)
    rows = np.flatnonzero(sprite[..., 3].any(1))
    assert abs(rows[0] - 8) <= 1  # 24 by 12 becomes the full width, centred
    assert abs(rows[-1] - 23) <= 1


def test_sets_without_codes_join_by_the_names_of_another(tmp_path: Path) -> None:
    aliases = {"hound": {"parent": "dog"}}
    body = {"body": SQUARE}
    coded = {"icons": dict.fromkeys(("red-apple", "dog", "skis"), body), "aliases": aliases}
    chars = {"1f34e": "red-apple", "1f415": "dog", "1f3bf": "skis"}
    other = package(
        tmp_path,
        STYLES[0],
        {"icons.json": json.dumps(coded).encode(), "chars.json": json.dumps(chars).encode()},
    )
    own = {"icons": dict.fromkeys(("red-apple-1", "red-apple-2", "hound", "cat"), body)}
    named = replace(STYLES[4], name="@iconify-json/ours", names=other)
    source = package(tmp_path, named, {"icons.json": json.dumps(own).encode(), "chars.json": b"{}"})
    assert set(open_pictures(source, tmp_path)) == {"1F34E", "1F415"}


def test_slugs_override_the_rule(tmp_path: Path) -> None:
    streamline = next(source for source in STYLES if source.style == "outlined")
    assert slugs()[streamline.name]["1F983"] is None  # its "turkey" is a flag
    icons = {"icons": {name: {"body": SQUARE} for name in ("turkey", "bird-1", "bird-2")}}
    chars = json.dumps({"1f983": "turkey", "1f426": "bird"}).encode()
    other = package(tmp_path, STYLES[0], {"icons.json": json.dumps(icons).encode(), "chars.json": chars})
    own = icons | {"icons": icons["icons"] | {"bird-2": {"body": SQUARE.replace("24", "20")}}}
    source = package(tmp_path, replace(streamline, names=other), {"icons.json": json.dumps(own).encode()})
    pictures = open_pictures(source, tmp_path)
    assert set(pictures) == {"1F426"}
    assert b'width="20"' in pictures["1F426"]


def test_file_pictures_join_by_name(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGBA", (8, 8), (0, 0, 255, 255)).save(buffer, "WEBP", lossless=True)
    source = package(tmp_path, STYLES[3], {"assets/2600-fe0f.webp": buffer.getvalue(), "README.md": b"x"})
    pictures = open_pictures(source, tmp_path)
    assert set(pictures) == {"2600"}
    assert draw(pictures["2600"], 64).size == (8, 8)


def test_empty_picture_is_refused() -> None:
    with pytest.raises(DataError, match="content"):
        trim(Image.new("RGBA", (8, 8)), 8)


def test_codes_lose_their_variation_selector() -> None:
    assert plain_code("1f441-fe0f-200d-1f5e8-fe0f") == "1F441-200D-1F5E8"


def test_concepts_are_complete() -> None:
    rows = [concepts()[code] for code in drawn_codes()]
    assert len(rows) >= 1_300
    for names in ({r.english for r in rows}, {r.plural for r in rows}, {r.chinese for r in rows}):
        assert len(names) == len(rows)
    for row in rows:
        assert set(row.names) == set(LANGUAGES)
        assert all(name.strip() == name and name for name in row.names.values())
        assert len(row.measure) == 1
    assert set(Counter(row.group for row in rows)) == {*NOUNS, "faces", "people"}


def test_only_what_looks_the_same_shares_a_name() -> None:
    for language in LANGUAGES:
        seen: dict[str, str] = {}
        for code in drawn_codes():
            concept = concepts()[code]
            other = seen.setdefault(concept.names[language].lower(), code)
            assert other == code or other in concept.same, (language, concept.names[language])


def test_core_comes_first_and_is_of_nouns() -> None:
    codes = core_codes()
    assert codes == drawn_codes()[:500] == tuple(concepts())[:500]
    assert {concepts()[code].group for code in codes} == NOUNS
    assert codes[0] == "1F412"
    assert codes[299] == FIRST_ENDS


def test_alike_concepts_know_each_other() -> None:
    table, core = concepts(), set(core_codes())
    for code in drawn_codes():
        concept = table[code]
        assert code not in concept.same
        assert all(code in table[other].same for other in concept.same)
        assert len(set(concept.same)) == len(concept.same)
        assert code not in core or not core & set(concept.same)


def test_articles_follow_the_sound() -> None:
    said = {
        with_article(word)
        for word in ("apple", "unicorn", "hourglass", "honey pot", "umbrella", "eight ball", "OK hand")
    }
    assert said == {
        "an apple",
        "a unicorn",
        "an hourglass",
        "a honey pot",
        "an umbrella",
        "an eight ball",
        "an OK hand",
    }
