"""Folders of pictures as benchmarks lay them out: which picture is of which prompt.

GenEval (djghosh13/geneval), T2I-CompBench (Karine-Huang/T2I-CompBench), OneIG-Bench, whose files hold a grid
of pictures, TIIF-Bench (A113N-W3I/TIIF-Bench), and a manifest of our own that loses nothing.
"""

import csv
import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

from danqing.errors import DataError

Layout = Literal["manifest", "geneval", "compbench", "oneig", "tiif"]
MANIFEST: Final = "manifest.jsonl"
SUFFIXES: Final = (".png", ".webp", ".jpg", ".jpeg")
ONEIG_FOLDERS: Final[Mapping[str, str]] = {
    "anime": "anime",
    "portrait": "human",
    "human": "human",
    "object": "object",
    "text": "text",
    "knowledge": "reasoning",
    "reasoning": "reasoning",
    "multiling": "multilingualism",
}
"""Word in the name of an OneIG category -> folder of its pictures."""
ONEIG_PROMPTS: Final = ("prompt", "prompt_en", "prompt_cn", "prompt_zh")
TIIF_WORDINGS: Final = ("short_description", "long_description")
_NUMBERED: Final = re.compile(r"(?P<prompt>.+)_(?P<number>\d{3,})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """Where a picture is: a file, or a cell of one that holds several."""

    key: tuple[str, str]
    """Plain prompt, and the name of the picture that an edit is about."""
    sample: int
    """Which of the pictures of its prompt it is, from 0; in a manifest, its seed."""
    path: Path
    cell: int | None = None
    """Number of a cell of the grid, row by row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """What a reader needs to know beside the folder."""

    grid: tuple[int, int]
    """Columns and rows of the files of OneIG."""
    model: str | None
    """Folder of the model, where a layout has one for each."""
    prompts: Path
    """Folder or file with the prompts, where a layout does not hold them."""


Reader = Callable[[Path, Where], Iterator[Frozen]]


def layout_named(name: str) -> Layout:
    """Return a layout by its name; raises DataError for others."""
    for one in get_args(Layout):
        if one == name:
            found: Layout = one
            return found
    raise DataError(f"expected a layout of {', '.join(get_args(Layout))}, found {name!r}")


def plain_prompt(prompt: str) -> str:
    """Return a prompt without what file names and spreadsheets change: case, spaces, slashes, a last stop."""
    text = unicodedata.normalize("NFKC", prompt).replace("/", " ").casefold()
    return " ".join(text.split()).rstrip(".").rstrip()


def read_layout(folder: Path, layout: Layout, where: Where) -> list[Frozen]:
    """Return all pictures of a folder; raises DataError when it is not laid out so, or holds none."""
    if not folder.is_dir():
        raise DataError(f"expected a folder of pictures, found none at {folder}")
    try:
        found = list(_READERS[layout](folder, where))
    except (KeyError, ValueError, OSError, TypeError, AttributeError, csv.Error) as error:
        raise DataError(f"{folder}: expected the layout {layout}, found: {error!r}") from None
    if not found:
        raise DataError(f"{folder}: expected pictures in the layout {layout}, found none")
    return found


def oneig_folder(category: str) -> str:
    """Return the folder of an OneIG category; another category keeps its name."""
    plain = category.casefold()
    return next((folder for word, folder in ONEIG_FOLDERS.items() if word in plain), category)


def pictures_in(folder: Path) -> list[Path]:
    """Return the picture files of a folder in the order of their names."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


def _manifest(folder: Path, where: Where) -> Iterator[Frozen]:
    for row in _lines(folder / MANIFEST):
        path = folder / row["file"]
        if not path.resolve().is_relative_to(folder.resolve()):
            raise DataError(f"{folder / MANIFEST}: expected files inside the folder, found {row['file']}")
        if path.is_file():
            key = (plain_prompt(row["prompt"]), row.get("source", ""))
            yield Frozen(key=key, sample=int(row["seed"]), path=path)


def _geneval(folder: Path, where: Where) -> Iterator[Frozen]:
    for one in sorted(folder.glob("*/metadata.jsonl")):
        key = (plain_prompt(next(_lines(one))["prompt"]), "")
        samples = one.parent / "samples"
        for path in pictures_in(samples) if samples.is_dir() else ():
            if path.stem.isdigit():
                yield Frozen(key=key, sample=int(path.stem), path=path)


def _compbench(folder: Path, where: Where) -> Iterator[Frozen]:
    """Read numbers that run on over all prompts: those of one prompt, in order, are its samples."""
    folders = [folder, *sorted(folder.glob("**/samples"))]
    taken: dict[tuple[str, str], int] = {}
    for part in folders:
        named = [(match, path) for path in pictures_in(part) if (match := _NUMBERED.fullmatch(path.stem))]
        for match, path in sorted(named, key=lambda one: int(one[0]["number"])):
            key = (plain_prompt(match["prompt"]), "")
            yield Frozen(key=key, sample=taken.setdefault(key, 0), path=path)
            taken[key] += 1


def _oneig(folder: Path, where: Where) -> Iterator[Frozen]:
    prompts = {}
    for file in _files(where.prompts, ".csv"):
        with file.open(encoding="utf-8-sig", newline="") as opened:
            for row in csv.DictReader(opened):
                prompt = next(row[name] for name in ONEIG_PROMPTS if row.get(name))
                prompts[oneig_folder(row["category"]), row["id"].zfill(3)] = (plain_prompt(prompt), "")
    columns, rows = where.grid
    for part in sorted({name for name, _ in prompts}):
        if not (folder / part).is_dir():
            continue
        for path in pictures_in(_of_model(folder / part, where.model)):
            if (key := prompts.get((part, path.stem.zfill(3)))) is not None:
                for cell in range(columns * rows):
                    yield Frozen(key=key, sample=cell, path=path, cell=cell)


def _tiif(folder: Path, where: Where) -> Iterator[Frozen]:
    wordings: dict[str, list[dict[str, Any]]] = {}
    for file in _files(where.prompts, ".jsonl"):
        for row in _lines(file):
            wordings.setdefault(row["type"], []).append(row)
    for kind, rows in sorted(wordings.items()):
        if not (folder / kind).is_dir():
            continue
        for wording in TIIF_WORDINGS:
            part = _of_model(folder / kind, where.model) / wording
            for path in pictures_in(part) if part.is_dir() else ():
                if path.stem.isdigit() and int(path.stem) < len(rows) and rows[int(path.stem)].get(wording):
                    prompt = rows[int(path.stem)][wording]
                    yield Frozen(key=(plain_prompt(prompt), ""), sample=0, path=path)


_READERS: Final[Mapping[Layout, Reader]] = {
    "manifest": _manifest,
    "geneval": _geneval,
    "compbench": _compbench,
    "oneig": _oneig,
    "tiif": _tiif,
}


def _of_model(folder: Path, model: str | None) -> Path:
    """Return the folder of a model inside one of a category; the only one where none is named."""
    if model is not None:
        return folder / model if (folder / model).is_dir() else folder
    models = [path for path in folder.iterdir() if path.is_dir() and path.name not in TIIF_WORDINGS]
    if len(models) > 1:
        names = ", ".join(sorted(path.name for path in models))
        raise DataError(f"{folder}: expected one model, found {names}; name one with model=")
    return models[0] if models else folder


def _files(place: Path, suffix: str) -> list[Path]:
    found = [place] if place.is_file() else sorted(place.glob(f"*{suffix}"))
    if not found:
        raise DataError(f"{place}: expected prompts ({suffix}), found none; say where they are with prompts=")
    return found


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.strip():
                yield json.loads(line)
