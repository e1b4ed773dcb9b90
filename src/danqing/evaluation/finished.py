"""An evaluation that was made, read again from its folder: who took part, and what they answered."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danqing.data.atlas import packaged_atlas
from danqing.errors import DataError
from danqing.evaluation.benchmarks import benchmark
from danqing.evaluation.evaluate import REPORT, STORE
from danqing.evaluation.frozen import export
from danqing.evaluation.frozen_layouts import Layout
from danqing.evaluation.results import Entrant, Results, Row, read_results
from danqing.evaluation.store import Store
from danqing.evaluation.world.exam import WORLD
from danqing.evaluation.world.items import taught, world_rows
from danqing.evaluation.world.variety import TrainingPictures


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The folder of an evaluation with what its report says of systems and benchmarks."""

    folder: Path
    entrants: tuple[Entrant, ...]
    """All columns; the first is what the report is about."""
    sections: tuple[str, ...]
    """Names of its benchmarks."""
    told: dict[str, dict[str, Any]]
    """What the report says of each of them."""

    def entrant(self, label: str | None = None) -> Entrant:
        """Return a column by its label, by default the first; raises DataError for an unknown one."""
        for one in self.entrants:
            if label in (None, one.label):
                return one
        known = ", ".join(one.label for one in self.entrants)
        raise DataError(f"{self.folder}: expected a system of {known}, found {label!r}")

    def judges(self, section: str) -> list[tuple[str, str]]:
        """Return name and version of the judges of a benchmark."""
        return [(name, version) for name, version in self.told[section]["judges"]]

    def results(self, store: Store, section: str, entrants: Sequence[Entrant]) -> Results:
        """Return what these entrants answered to a benchmark, of those that took part in it."""
        told, rows = self.told[section], section_rows(section, self.told[section]["benchmark"])
        names = {row.items for row in rows}
        wanted = {entrant: store.tasks(entrant.system, entrant.version) for entrant in entrants}
        items = store.items(list({item for tasks in wanted.values() for item, _, _ in tasks}))
        chosen = [item for item in items.values() if item.row in names]
        ids = {item.id for item in chosen}
        taking = [one for one in entrants if any(item in ids for item, _, _ in wanted[one])]
        if not taking:
            told_of = ", ".join(one.label for one in entrants)
            raise DataError(f"{self.folder}: expected answers of {told_of} to {section}, found none")
        return read_results(
            store,
            rows=rows,
            entrants=taking,
            judges=self.judges(section),
            items=chosen,
            name=section,
            benchmark=told["benchmark"],
            title=told["title"],
            about=told["about"],
        )


def read_finished(folder: Path) -> Finished:
    """Return the evaluation in a folder; raises DataError when there is none."""
    try:
        told = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        sections = {one["name"]: one for one in told["sections"]}
        entrants = tuple(
            Entrant(label=one["label"], system=one["system"], version=one["version"], role=one["role"])
            for one in told["columns"]
        )
    except FileNotFoundError:
        raise DataError(
            f"{folder}: expected an evaluation with {REPORT}, found none; run one first"
        ) from None
    except (json.JSONDecodeError, KeyError, TypeError):
        raise DataError(
            f"{folder / REPORT}: expected a report of this version; run the evaluation again"
        ) from None
    if not (folder / STORE).is_file():
        raise DataError(f"{folder}: expected {STORE} beside {REPORT}, found none")
    return Finished(folder=folder, entrants=entrants, sections=tuple(sections), told=sections)


def export_finished(
    folder: Path, output: Path, layout: Layout, *, system: str | None = None, section: str | None = None
) -> int:
    """Write the pictures of one system in one benchmark, by default the first ones; returns how many.

    Raises DataError for a system or a benchmark that the evaluation does not have.
    """
    finished = read_finished(folder)
    chosen = section or finished.sections[0]
    if chosen not in finished.sections:
        known = ", ".join(finished.sections)
        raise DataError(f"{folder}: expected a benchmark of {known}, found {chosen!r}")
    with Store.open(folder / STORE, readonly=True) as store:
        return export(finished.results(store, chosen, [finished.entrant(system)]), output, layout)


def section_rows(section: str, name: str) -> tuple[Row, ...]:
    """Return the rows of a benchmark; the name of a section ends with the variant where there are several."""
    if name == WORLD:
        atlas = packaged_atlas()
        return world_rows(TrainingPictures(atlas, codes=taught(atlas)))
    found = benchmark(name)
    variant = next((one for one in found.variants if section == f"{name}-{one}"), found.variants[0])
    return found.rows(variant)
