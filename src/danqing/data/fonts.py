"""Fonts: what signs and posters are written in, and the captions under preview pictures.

`data/fonts` holds subsets of openly licensed faces, without hinting, and their licences; `build_fonts` makes
it from pinned packages and the tables of this package, and nothing else writes it.
"""

import io
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

from PIL import ImageFont, features

from danqing.data.packages import Source, fetch, read_member
from danqing.errors import DataError, ResourceError

Script = Literal["latin", "chinese", "caption"]

MAX_BYTES: Final = int(2.4 * 2**20)
"""Size of all fonts and licences together."""
_OFL, _APACHE = "OFL-1.1", "Apache-2.0"
_SHAPED: Final = ("plain", "arabic", "devanagari")  # faces whose letters change by their neighbours
_OPEN_FILES: Final = 96  # faces kept open, one a name and size


@dataclass(frozen=True, slots=True, kw_only=True)
class Face:
    """One font of the package."""

    name: str
    """What it looks like, in a word; also the name of its file."""
    script: Script
    """What signs it writes; "caption" for none."""
    source: Source
    member: str
    """Path of the whole font inside its package."""
    family: str = ""
    """The family name of the subset where the licence reserves the original one."""
    language: str = ""
    """The caption language whose words it must hold, besides its own script."""


def _expo(name: str, version: str, licence: str, attribution: str, integrity: str) -> Source:
    return Source(
        name=f"@expo-google-fonts/{name}",
        version=version,
        licence=licence,
        attribution=attribution,
        integrity=f"sha512-{integrity}",
    )


FONTS: Final = (
    Face(
        name="bold",
        script="latin",
        member="700Bold/Roboto_700Bold.ttf",
        source=_expo(
            "roboto",
            "0.4.3",
            _OFL,
            "Roboto, The Roboto Project Authors",
            "kX3wmpmu06fN1yOwYWMdjYJWNUYW6xUiAGeHbvPzzSEb3A3j23JelQ3tAgwQNKgEKRq6wtMmzixy2r7y9c8dsA==",
        ),
    ),
    Face(
        name="serif",
        script="latin",
        family="Danqing Serif",
        member="800ExtraBold/PlayfairDisplay_800ExtraBold.ttf",
        source=_expo(
            "playfair-display",
            "0.4.2",
            _OFL,
            "Playfair Display, The Playfair Display Project Authors",
            "mWhBV59RUjSS3aYpytUb7UyHHTnXcHh7epAn7gq+M4XAEh5PuMKUrP8eiUfkJLb6UwHZCi7EhQpUzxHu5OL96w==",
        ),
    ),
    Face(
        name="tall",
        script="latin",
        member="400Regular/BebasNeue_400Regular.ttf",
        source=_expo(
            "bebas-neue",
            "0.4.1",
            _OFL,
            "Bebas Neue, The Bebas Neue Project Authors",
            "Ibnf0EQgMUj01tT/ws64RlsMQmOvDP+UDFW93bld0C/WwaOaCGWKgNnqxNkKxmL73y2kpT8EB4dkSNUOyAOEJA==",
        ),
    ),
    Face(
        name="comic",
        script="latin",
        member="400Regular/LuckiestGuy_400Regular.ttf",
        source=_expo(
            "luckiest-guy",
            "0.4.1",
            _APACHE,
            "Luckiest Guy, Astigmatic",
            "Ag8izurRDir0mvOi68wsNoNdw1Oh50m1RJT3U3vVtCNJW0ZNEqOTvd00mjDxGpXMYIU7tvUe0kGk0MawLap+fQ==",
        ),
    ),
    Face(
        name="marker",
        script="latin",
        member="400Regular/PermanentMarker_400Regular.ttf",
        source=_expo(
            "permanent-marker",
            "0.4.0",
            _APACHE,
            "Permanent Marker, Font Diner",
            "yqKSFt3Wu/06XAGFNlT4z5iLmnjtAuSV/vkeumnM/2cgbEv3dQVKDbcdQnowW8N3vNOABGqWxbs4KEiewNOzqA==",
        ),
    ),
    Face(
        name="handwritten",
        script="latin",
        member="700Bold/Caveat_700Bold.ttf",
        source=_expo(
            "caveat",
            "0.4.2",
            _OFL,
            "Caveat, The Caveat Project Authors",
            "kCG35tRUX8Wi+u0Jh5ck3K1u7vZkdLnwRTuKMrEnlVmikvxQFXN1KjF5cL2vqRG7Hwm7648Zl8xe1BWAoIsPCA==",
        ),
    ),
    Face(
        name="heiti",
        script="chinese",
        language="zh",
        member="700Bold/NotoSansSC_700Bold.ttf",
        source=_expo(
            "noto-sans-sc",
            "0.4.3",
            _OFL,
            "Noto Sans SC, Adobe and Google",
            "9rAwdFTFHbO/u6Cs0gj2jZbW74TGIiaFNQnXYH2s5wA1bzVkwbaviL4t8YUV642eGYjg86eH6DkAEQmfNHDncQ==",
        ),
    ),
    Face(
        name="kuaile",
        script="chinese",
        language="zh",
        member="400Regular/ZCOOLKuaiLe_400Regular.ttf",
        source=_expo(
            "zcool-kuaile",
            "0.4.2",
            _OFL,
            "ZCOOL KuaiLe, The ZCOOL KuaiLe Project Authors",
            "KkcHLXsOWzINR2ezf3bPpn4ePATD5JmG31Lif9/N1YkC1ZRyscwB3B5OV4svMjNtz5EE9XcK04JiIYfMAzUd3A==",
        ),
    ),
)
"""The faces of signs. The Chinese ones hold every character of this package's tables, "heiti" also the 3,755
of the first level of GB 2312-80."""

_NOTO: Final = "{}, The Noto Project Authors"
CAPTION_FACES: Final = (
    Face(
        name="plain",
        script="caption",
        member="500Medium/NotoSans_500Medium.ttf",
        source=_expo(
            "noto-sans",
            "0.4.2",
            _OFL,
            _NOTO.format("Noto Sans"),
            "zYD8G2ijWLxqmquoQgghNh/x9p0yxWwArD0oxO1oXY1qx5vOd4t0Kbhnu/Cx8RTy08OgA8RtxuULZFaXwVPnPw==",
        ),
    ),
    Face(
        name="arabic",
        script="caption",
        language="ar",
        member="500Medium/NotoSansArabic_500Medium.ttf",
        source=_expo(
            "noto-sans-arabic",
            "0.4.3",
            _OFL,
            _NOTO.format("Noto Sans Arabic"),
            "YvtxyuegxPegu2g5urXJ+gQxRp8i798nQswTmEjwXOWR/fqy0Gvey6h5IoNRBrc43SxRxPezqCiR9ivpfPAXSg==",
        ),
    ),
    Face(
        name="devanagari",
        script="caption",
        language="hi",
        member="500Medium/NotoSansDevanagari_500Medium.ttf",
        source=_expo(
            "noto-sans-devanagari",
            "0.4.1",
            _OFL,
            _NOTO.format("Noto Sans Devanagari"),
            "26boYPNKGP1r4R5MxsMAY/zCQOwiXLOJzX8sh1a2oEWyQurQsyniaCv4992c+9jjwshEEt2NNVv5GcnyzaL7QQ==",
        ),
    ),
    Face(
        name="korean",
        script="caption",
        language="ko",
        member="500Medium/NotoSansKR_500Medium.ttf",
        source=_expo(
            "noto-sans-kr",
            "0.4.3",
            _OFL,
            "Noto Sans KR, Adobe and Google",
            "EVS/uJPcf1TgJtjmQmrFr0oGdcl7ml09CSu0E/AyGzR0UfzdR2pBbzWWPsnuzZiGUl643ODYwYiXK5+B+fLjhQ==",
        ),
    ),
    Face(
        name="japanese",
        script="caption",
        language="ja",
        member="500Medium/NotoSansJP_500Medium.ttf",
        source=_expo(
            "noto-sans-jp",
            "0.4.3",
            _OFL,
            "Noto Sans JP, Adobe and Google",
            "Fl+Z6vtD24HFAYsvzB0S9Nery1ly16B9PesdY0wBd+wEHAvkNglnkTUspU0HqGOubkmoa8zusJrKv6vDx1o70A==",
        ),
    ),
)
"""The faces of captions only; Chinese captions use "heiti"."""

CAPTION_FONTS: Final[Mapping[str, str]] = MappingProxyType(
    dict.fromkeys(("en", "es", "fr", "de", "pt", "it", "ru"), "plain")
    | {"zh": "heiti", "ja": "japanese", "ko": "korean", "ar": "arabic", "hi": "devanagari"}
)
"""Caption language -> name of its font."""


def sign_fonts(script: str) -> tuple[str, ...]:
    """Return the names of the fonts that write signs in "latin" or "chinese"."""
    return tuple(face.name for face in FONTS if face.script == script)


@lru_cache(maxsize=_OPEN_FILES)
def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """Return a font of the package at `size` pixels an em.

    Caption fonts shape Arabic and Devanagari and need Pillow with Raqm, as its wheels have it. Raises
    DataError for an unknown name, ResourceError without Raqm.
    """
    face = next((face for face in (*FONTS, *CAPTION_FACES) if face.name == name), None)
    if face is None:
        raise DataError(f"expected a font of {[face.name for face in FONTS]}, found {name!r}")
    engine = ImageFont.Layout.BASIC
    if face.script == "caption":
        if not features.check("raqm"):
            raise ResourceError("expected Pillow with Raqm for captions, found none; install Pillow's wheel")
        engine = ImageFont.Layout.RAQM
    return ImageFont.truetype(str(_folder() / f"{name}.ttf"), size, layout_engine=engine)


@cache
def caption_characters(language: str) -> frozenset[str]:
    """Return every character that the tables of this package hold for a caption language."""
    return frozenset("".join(_texts(language)))


def build_fonts(out: Path | str | None = None, archives: Path | str | None = None) -> Path:
    """Make the folder of fonts again: one subset a face and one LICENSE for all.

    Args:
        out: the folder to write; that of the package when None.
        archives: folder where package archives are kept between builds; a temporary one when None.

    Raises DataError for a wrong archive or when the fonts are larger than 2.4 MiB, ResourceError without npm
    or fontTools.
    """
    files: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as scratch:
        notices, licences = [], {}
        for face in (*FONTS, *CAPTION_FACES):
            archive = fetch(face.source, Path(archives or scratch))
            files[f"{face.name}.ttf"], notice = _subset(face, read_member(archive, face.member))
            notices.append(
                f"{face.name}.ttf: {face.source.attribution} ({face.source.licence})\n  {notice}\n"
            )
            licences[face.source.licence] = read_member(archive, "LICENSE_FONT").decode()
        files["LICENSE"] = _licence(notices, licences).encode()
    if (total := sum(map(len, files.values()))) > MAX_BYTES:
        raise DataError(f"expected fonts up to {MAX_BYTES} bytes, found {total}; name fewer characters")
    folder = Path(out) if out is not None else _folder()
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        temporary = folder / f"{name}.part"
        temporary.write_bytes(content)
        temporary.replace(folder / name)
    return folder


def _folder() -> Path:
    return Path(str(resources.files("danqing.data"))) / "fonts"


def _characters(face: Face) -> str:
    """Return what a face must hold: ASCII, what belongs to its script, the words of its language."""
    text = _span(0x20, 0x7E)
    if face.name == "heiti":
        rows = range(0xB0, 0xD8)
        text += "".join(bytes((row, cell)).decode("gb2312", "ignore") for row in rows for cell in _CELLS)
    if face.language:
        text += "".join(sorted(caption_characters(face.language)))
    return text + "×→←“”‘’«»‹›" + "".join(_span(first, last) for first, last in _ALSO.get(face.name, ()))


_ALSO: Final = {
    "plain": ((0xA0, 0x17F), (0x400, 0x45F), (0x2013, 0x2026)),
    "arabic": ((0x60C, 0x669),),
    "japanese": ((0x3001, 0x3002), (0x3041, 0x3096), (0x30A1, 0x30FE)),
}
_CELLS: Final = range(0xA1, 0xFF)


def _span(first: int, last: int) -> str:
    return "".join(map(chr, range(first, last + 1)))


def _texts(language: str) -> Iterator[str]:
    """Yield every text of a language in the package's JSON files: below its key, or in a file of its name."""
    keys = {language, *(("chinese", "measure") if language == "zh" else ())}
    for path in sorted(_folder().parent.rglob("*.json")):
        yield from _below(json.loads(path.read_text("utf-8")), keys, path.stem == language)


def _below(value: Any, keys: set[str], inside: bool) -> Iterator[str]:
    if isinstance(value, str):
        if inside:
            yield value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _below(part, keys, inside or key in keys)
    elif isinstance(value, list):
        for part in value:
            yield from _below(part, keys, inside)


def _subset(face: Face, content: bytes) -> tuple[bytes, str]:
    """Cut a TrueType font down to what a face must hold; returns the file and its copyright notice."""
    try:
        from fontTools import subset
        from fontTools.ttLib import TTFont
    except ImportError:
        raise ResourceError(
            "expected fontTools to make subsets, found none; pip install danqing[data]"
        ) from None
    options = subset.Options()
    options.hinting = False
    options.notdef_outline = True
    options.name_IDs = [0, 1, 2, 4, 6, 13, 14]
    if face.name not in _SHAPED:
        options.layout_features = []
    options.drop_tables += ["FFTM", "STAT", "BASE", "VORG", "vhea", "vmtx"]
    whole = TTFont(io.BytesIO(content), recalcTimestamp=False)
    subsetter = subset.Subsetter(options)
    subsetter.populate(text=_characters(face))
    subsetter.subset(whole)
    names = whole["name"]
    if face.family:
        renamed = {1: face.family, 4: face.family, 6: face.family.replace(" ", "")}
        for record in names.names:
            record.string = renamed.get(record.nameID, record.string)
    written = io.BytesIO()
    whole.save(written)
    return written.getvalue(), str(names.getDebugName(0))


def _licence(notices: list[str], licences: dict[str, str]) -> str:
    """Return one text with the notice of every font and the licences they are under."""
    ofl = licences[_OFL]
    rule = "-" * 59 + "\n"
    texts = [
        rule + ofl[ofl.index("SIL OPEN FONT LICENSE Version 1.1") :],
        rule + licences[_APACHE].lstrip("\n"),
    ]
    head = "Fonts of this folder. Each is a subset of the font named, without hinting.\n\n"
    return head + "\n".join([*notices, *texts])
