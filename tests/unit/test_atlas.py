"""The atlas file, and the builder that fills it from pinned packages."""

import base64
import hashlib
import io
import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file

from danqing.data import Atlas, concepts
from danqing.data.assets import (
    NAMES,
    STYLES,
    Source,
    build_atlas,
    draw,
    fetch,
    open_pictures,
    plain_code,
    trim,
)
from danqing.data.atlas import Sprite, packaged_atlas, write_atlas
from danqing.data.concepts import LANGUAGES, with_article
from danqing.errors import DataError, ResourceError

PACKAGED = Path(str(packaged_atlas.__wrapped__.__globals__["__file__"])).parent / "sprites.safetensors"
CODES = ["1F34E", "1F415"]
SQUARE = '<rect x="4" y="8" width="24" height="12" fill="#cc1111"/>'


def small_sprite(colour: tuple[int, int, int, int] = (210, 30, 30, 255)) -> Sprite:
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[4:12] = colour
    return Sprite.of(pixels)


def small_atlas(path: Path, **changes) -> Path:
    sprites = {(code, "flat"): small_sprite() for code in CODES}
    write_atlas(path, CODES, {"flat": "ours"}, sprites)
    with safe_open(path, "np") as file:
        meta, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors | changes.pop("tensors", {}), path, metadata=meta | changes)
    return path


def package(folder: Path, source: Source, files: dict[str, bytes]) -> Source:
    """Write an archive as npm would, and return the source pinned to it."""
    name = source.name.removeprefix("@").replace("/", "-")
    path = folder / f"{name}-{source.version}.tgz"
    with tarfile.open(path, "w:gz") as tar:
        for member, content in files.items():
            entry = tarfile.TarInfo(f"package/{member}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    digest = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    return replace(source, integrity=f"sha512-{digest}")


def test_packaged_atlas_has_every_concept_in_every_style() -> None:
    atlas = packaged_atlas()
    assert atlas.codes == tuple(concepts())
    assert len(atlas.codes) == 300
    assert atlas.styles == ("shaded", "cartoon", "flat", "3D")
    assert atlas.pixels.shape == (300, 4, atlas.size, atlas.size, 4)
    assert PACKAGED.stat().st_size <= 2 * 2**20
    assert all(licence.endswith(")") for licence in atlas.licences.values())


def test_sprites_fill_their_square() -> None:
    atlas = packaged_atlas()
    for code in atlas.codes:
        for style in atlas.styles:
            extent = atlas.extent(code, style)
            assert max(extent) > 0.8
            assert min(extent) > 0.1


def test_an_apple_is_red() -> None:
    atlas = packaged_atlas()
    assert concepts()["1F34E"].english == "apple"
    assert {atlas.facts("1F34E", style).colour for style in ("cartoon", "flat")} == {"red"}


def test_written_atlas_reads_back_the_same(tmp_path: Path) -> None:
    atlas = Atlas.load(small_atlas(tmp_path / "atlas.safetensors"))
    assert np.array_equal(atlas.sprite("1F415", "flat"), small_sprite().pixels)
    assert atlas.facts("1F34E", "flat").colour == "red"
    assert "blue" in atlas.facts("1F34E", "flat").dyes
    assert atlas.extent("1F34E", "flat") == (1.0, 0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "format"),
        ({"size": "4096"}, "within"),
        ({"size": "x"}, "metadata"),
        ({"concepts": "[]"}, "within"),
        ({"concepts": '["1F34E", "0041"]'}, "concepts.json"),
        ({"sprites": "[]"}, "offsets"),
        ({"size": "8"}, "pictures of 8"),
        ({"tensors": {"offsets": np.array([0, 10, 5])}}, "offsets"),
    ],
)
def test_broken_atlas_is_refused(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Atlas.load(small_atlas(tmp_path / "atlas.safetensors", **changes))


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
    for word in ("Noto Emoji", "Twemoji", "Fluent Emoji", "Unicode CLDR", "Emojibase", "CC BY 4.0"):
        assert word in notice


def test_changed_archive_is_refused(tmp_path: Path) -> None:
    source = package(tmp_path, STYLES[0], {"icons.json": b"{}"})
    assert fetch(source, tmp_path).exists()
    with pytest.raises(DataError, match="sha512"):
        fetch(STYLES[0], tmp_path)


def test_missing_npm_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(ResourceError, match=r"Node\.js"):
        fetch(STYLES[0], tmp_path)


def test_unknown_style_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="oil"):
        build_atlas(tmp_path / "atlas.safetensors", ["oil"])


def test_iconify_pictures_join_by_code_and_alias(tmp_path: Path) -> None:
    icons = {
        "icons": {"apple": {"body": SQUARE}},
        "aliases": {"fruit": {"parent": "apple"}},
        "width": 32,
        "height": 32,
    }
    codes = {"1f34e": "apple", "1f415-fe0f": "fruit", "1f40d": "absent"}
    source = package(
        tmp_path,
        STYLES[0],
        {"icons.json": json.dumps(icons).encode(), "chars.json": json.dumps(codes).encode()},
    )
    pictures = open_pictures(source, fetch(source, tmp_path))
    assert set(pictures) == {"1F34E", "1F415"}
    sprite = trim(draw(pictures["1F415"], 64), 32)
    assert sprite.shape == (32, 32, 4)
    rows = np.flatnonzero(sprite[..., 3].any(1))
    assert abs(rows[0] - 8) <= 1  # 24 by 12 becomes the full width, centred
    assert abs(rows[-1] - 23) <= 1


def test_file_pictures_join_by_name(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGBA", (8, 8), (0, 0, 255, 255)).save(buffer, "WEBP", lossless=True)
    source = package(tmp_path, STYLES[3], {"assets/2600-fe0f.webp": buffer.getvalue(), "README.md": b"x"})
    pictures = open_pictures(source, fetch(source, tmp_path))
    assert set(pictures) == {"2600"}
    assert draw(pictures["2600"], 64).size == (8, 8)


def test_empty_picture_is_refused() -> None:
    with pytest.raises(DataError, match="content"):
        trim(Image.new("RGBA", (8, 8)), 8)


def test_codes_lose_their_variation_selector() -> None:
    assert plain_code("1f441-fe0f-200d-1f5e8-fe0f") == "1F441-200D-1F5E8"


def test_concepts_are_complete() -> None:
    rows = concepts().values()
    assert len({row.english for row in rows}) == len({row.chinese for row in rows}) == 300
    for row in rows:
        assert set(row.names) == set(LANGUAGES)
        assert all(name.strip() == name and name for name in row.names.values())
        assert len(row.measure) == 1
        assert "face" not in row.english.split()


def test_articles_follow_the_sound() -> None:
    said = {
        with_article(word)
        for word in ("apple", "unicorn", "hourglass", "honey pot", "umbrella", "eight ball")
    }
    assert said == {"an apple", "a unicorn", "an hourglass", "a honey pot", "an umbrella", "an eight ball"}
