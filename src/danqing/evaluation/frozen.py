"""Pictures that were made before: a folder as a system, and answers of a run as such a folder.

How withdrawn systems, and pictures that benchmarks released, are judged like everything else. A picture that
is not there is missing: neither refused nor failed.
"""

import csv
import hashlib
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from PIL import Image

from danqing.conditioning.given import open_picture
from danqing.errors import DataError, RequestError
from danqing.evaluation.frozen_layouts import (
    MANIFEST,
    Frozen,
    Layout,
    Where,
    oneig_folder,
    plain_prompt,
    read_layout,
)
from danqing.evaluation.items import Ability, Item, Made, content_key
from danqing.evaluation.report.published import withdrawn
from danqing.evaluation.results import Answer, Entrant, Results
from danqing.files import LONGER, write_whole

MISSING: Final = "missing"
"""How the reason begins when a picture that is not there is asked for all the same."""
FIRST_SEED: Final[Mapping[Layout, int]] = {"compbench": 42}
"""Seed of the first picture of a prompt, where the protocol of a layout does not begin with 0."""
_TAIL: Final = 64  # last bytes of a file, which hold a checksum of its pixels
_BLACK: Final = 8  # brightest level of a cell that stands for no picture
_LONGEST_NAME: Final = 255  # bytes of a file name


class FrozenSystem:
    """The pictures of a folder, found by the prompts of items."""

    abilities: frozenset[Ability] = frozenset({"draw", "edit"})

    def __init__(
        self,
        folder: Path,
        layout: Layout = "manifest",
        *,
        name: str | None = None,
        grid: tuple[int, int] = (2, 2),
        model: str | None = None,
        prompts: Path | None = None,
        first_seed: int | None = None,
    ) -> None:
        """Read which pictures there are.

        `grid` is columns and rows of an OneIG file; `model` names the folder of one model where there are
        several, `prompts` the file or folder of prompts where it is not the folder itself. The first picture
        of a prompt has the seed `first_seed`, by default 0, and 42 for T2I-CompBench. Raises DataError when
        the folder is not laid out so.
        """
        self.name, self._layout, self._grid = name or model or folder.name, layout, grid
        where = Where(grid=grid, model=model, prompts=prompts or folder)
        first = FIRST_SEED.get(layout, 0) if first_seed is None else first_seed
        self._first = 0 if layout == "manifest" else first
        self._pictures = {(one.key, one.sample): one for one in read_layout(folder, layout, where)}
        self._folder = folder
        self._opened = lru_cache(maxsize=8)(_opened)  # the cells of a grid are asked for one after another
        gone = withdrawn(self.name)
        self.settings: Mapping[str, Any] = {
            "kind": "frozen",
            "layout": layout,
            "pictures": len(self._pictures),
            **({"withdrawn": gone.date.isoformat()} if gone is not None else {}),
        }
        self.version = content_key({"layout": layout, "grid": list(grid), "first_seed": self._first})[:12]

    def has(self, item: Item, seed: int) -> bool:
        """Return whether there is a picture; a black cell of a grid is none, as OneIG says."""
        found = self._found(item, seed)
        return found is not None and (found.cell is None or not _is_black(self._read(found)))

    def request(self, item: Item, seed: int) -> Mapping[str, Any]:
        """Return what decides the answer: a file and what it ends with, so a changed one is another."""
        found = self._found(item, seed)
        if found is None:
            return {"prompt": item.prompt, "source": item.source, "seed": seed, "file": None}
        return {
            "prompt": item.prompt,
            "seed": seed,
            "file": found.path.relative_to(self._folder).as_posix(),
            "cell": found.cell,
            "tail": _tail(found.path),
        }

    def answer(self, items: Sequence[Item], seed: int) -> list[Made]:
        """Return the pictures; raises DataError for one that is not there: its reason begins with MISSING."""
        return [self._one(item, seed) for item in items]

    def _one(self, item: Item, seed: int) -> Image.Image:
        found = self._found(item, seed)
        if found is None:
            raise DataError(f"{MISSING}: expected a picture of {item.prompt!r} with seed {seed}, found none")
        picture = self._read(found)
        if found.cell is not None and _is_black(picture):
            raise DataError(f"{MISSING}: expected a picture of {item.prompt!r}, found a black one")
        return picture

    def _found(self, item: Item, seed: int) -> Frozen | None:
        if item.ability not in self.abilities:
            return None
        return self._pictures.get(((plain_prompt(item.prompt), item.source), seed - self._first))

    def _read(self, found: Frozen) -> Image.Image:
        picture = self._opened(found.path)
        if found.cell is None:
            return picture
        columns, rows = self._grid
        width, height = picture.width // columns, picture.height // rows
        row, column = divmod(found.cell, columns)
        return picture.crop((column * width, row * height, (column + 1) * width, (row + 1) * height))


def export(results: Results, folder: Path, layout: Layout = "manifest", *, label: str | None = None) -> int:
    """Write the pictures of one entrant, by default the first, in a layout; returns how many.

    What the layout needs to be read again, prompts and numbers, is written beside them. Answers that are
    missing leave a gap, in a grid of OneIG a black cell. Raises DataError for an unknown label, and for a
    prompt that T2I-CompBench's file names cannot hold.
    """
    entrant = _entrant(results, label)
    answers = [one for (who, _), some in results.answers.items() if who == entrant.label for one in some]
    drawn = [one for one in answers if one.item.ability != "describe"]
    if layout != "manifest":
        drawn = [one for one in drawn if one.item.ability == "draw"]
    seeds = sorted({one.seed for one in drawn})
    by_item: dict[str, list[Answer]] = {}
    for one in drawn:
        by_item.setdefault(one.item.id, []).append(one)
    write = {
        "manifest": _write_manifest,
        "geneval": _write_geneval,
        "compbench": _write_compbench,
        "oneig": _write_oneig,
        "tiif": _write_tiif,
    }[layout]
    return write(folder, list(by_item.values()), seeds, entrant.system)


def _entrant(results: Results, label: str | None) -> Entrant:
    for one in results.entrants:
        if label is None or one.label == label:
            return one
    known = ", ".join(one.label for one in results.entrants)
    raise DataError(f"expected an entrant of {known}, found {label!r}")


def _write_manifest(folder: Path, items: list[list[Answer]], seeds: list[int], name: str) -> int:
    rows = []
    for one in _there(items):
        file = f"{one.item.id}_{one.seed}.png"
        write_whole(folder / file, _png(one))
        told = {"prompt": one.item.prompt, "seed": one.seed, "file": file, "row": one.item.row}
        about = {"source": one.item.source} if one.item.source else {}
        rows.append(told | about | {"language": one.item.language, "system": name})
    write_whole(folder / MANIFEST, _jsonl(rows))
    return len(rows)


def _write_geneval(folder: Path, items: list[list[Answer]], seeds: list[int], name: str) -> int:
    for index, answers in enumerate(items):
        item, place = answers[0].item, folder / f"{index:05d}"
        clauses = {"include": [one.to_json() for one in item.include]}
        told = {"tag": item.row, **clauses, **item.details, "prompt": item.prompt}
        write_whole(place / "metadata.jsonl", _jsonl([told]))
        for one in _there([answers]):
            write_whole(place / "samples" / f"{seeds.index(one.seed):04d}.png", _png(one))
    return len(_there(items))


def _write_compbench(folder: Path, items: list[list[Answer]], seeds: list[int], name: str) -> int:
    for index, answers in enumerate(items):
        for one in _there([answers]):
            number = index * len(seeds) + seeds.index(one.seed)
            file = f"{one.item.prompt.replace('/', ' ')}_{number:06d}.png"
            if len(file.encode()) > _LONGEST_NAME - LONGER:
                raise DataError(
                    f"expected prompts that fit a file name, found {one.item.prompt!r}; export a manifest"
                )
            write_whole(folder / "samples" / file, _png(one))
    return len(_there(items))


def _write_oneig(folder: Path, items: list[list[Answer]], seeds: list[int], name: str) -> int:
    columns = math.ceil(math.sqrt(len(seeds)))
    table = io.StringIO(newline="")
    counts: dict[str, int] = {}
    lines = csv.writer(table, lineterminator="\n")
    lines.writerow(["category", "id", "prompt"])
    for answers in items:
        item = answers[0].item
        category = item.tags.get("category", item.row)
        number = f"{counts.get(category, 0):03d}"
        counts[category] = counts.get(category, 0) + 1
        lines.writerow([category, number, item.prompt])
        there = {seeds.index(one.seed): one.image for one in _there([answers])}
        if there:
            file = io.BytesIO()
            _sheet(there, columns).save(file, "PNG")
            write_whole(folder / oneig_folder(category) / name / f"{number}.png", file.getvalue())
    write_whole(folder / "prompts.csv", table.getvalue().encode())
    return len(_there(items))


def _write_tiif(folder: Path, items: list[list[Answer]], seeds: list[int], name: str) -> int:
    kinds: dict[str, list[dict[str, str]]] = {}
    written = 0
    for answers in items:
        item = answers[0].item
        rows = kinds.setdefault(item.tags.get("type", item.row), [])
        wording = "long_description" if item.tags.get("wording") == "long" else "short_description"
        kind = item.tags.get("type", item.row)
        first = [one for one in _there([answers]) if one.seed == seeds[0]]  # TIIF has one picture a prompt
        for one in first:
            write_whole(folder / kind / name / wording / f"{len(rows)}.png", _png(one))
        written += len(first)
        rows.append({"type": kind, "short_description": "", "long_description": "", wording: item.prompt})
    for kind, rows in kinds.items():
        write_whole(folder / f"{kind}_prompts.jsonl", _jsonl(rows))
    return written


def _there(items: Iterable[list[Answer]]) -> list[Answer]:
    return [one for answers in items for one in answers if one.there]


def _sheet(pictures: Mapping[int, Image.Image], columns: int) -> Image.Image:
    """Return pictures in a square grid; cells without one are black."""
    width, height = next(iter(pictures.values())).size
    sheet = Image.new("RGB", (columns * width, columns * height))
    for cell, picture in pictures.items():
        row, column = divmod(cell, columns)
        sheet.paste(picture.convert("RGB").resize((width, height)), (column * width, row * height))
    return sheet


def _png(answer: Answer) -> bytes:
    return answer.store.kept(answer.key).content


def _jsonl(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _opened(path: Path) -> Image.Image:
    try:
        return open_picture(path).image
    except RequestError as error:  # whose folder it is did not draw it
        raise DataError(str(error)) from None


def _tail(path: Path) -> str:
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - _TAIL))
        return hashlib.sha256(f"{size} ".encode() + file.read()).hexdigest()[:16]


def _is_black(picture: Image.Image) -> bool:
    return max(high for _, high in picture.convert("RGB").getextrema()) <= _BLACK  # type: ignore[misc]
