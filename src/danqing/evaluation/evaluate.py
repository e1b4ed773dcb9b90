"""The whole evaluation of the drawn world, from plan to report; every part resumes where it was."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from danqing.data.atlas import Atlas
from danqing.data.world import Scene, render
from danqing.errors import RequestError
from danqing.evaluation.asked import Asked, Profile
from danqing.evaluation.edit_judge import EditJudge
from danqing.evaluation.edits import by_kind
from danqing.evaluation.items import Ability, Item, Judge, System
from danqing.evaluation.judge import SceneJudge
from danqing.evaluation.page import write_page, write_text
from danqing.evaluation.renders import SIDE, RenderSystem, blurred, through
from danqing.evaluation.report import Report, make_report
from danqing.evaluation.results import Entrant, Role, Row, read_results
from danqing.evaluation.run import Plan, Tell, plan, run, score
from danqing.evaluation.scenes import scene_from
from danqing.evaluation.store import Store
from danqing.evaluation.systems import TASKS, ModelSystem, Silent, SourceOf, Untouched
from danqing.evaluation.texts import TextJudge
from danqing.evaluation.variety import TrainingPictures
from danqing.evaluation.world import SEEDS, taught, world_items, world_rows
from danqing.model import Model

_ALL: Final = frozenset(TASKS)
_PICTURES: Final[frozenset[Ability]] = frozenset({"draw", "edit"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What is measured, with what, and where it is kept."""

    model: Model
    folder: Path
    """Holds `store.sqlite`, `report.json` and `report.html`."""
    atlas: Atlas
    """Sprites of the true renders."""
    profile: Profile = "smoke"
    rows: tuple[str, ...] = ()
    """Names of rows, or their beginnings; empty for all that the model can do."""
    concepts: int | None = None
    """Ask for the first so many concepts of the core only."""
    steps: int | None = None
    earlier: Model | None = None
    """Another checkpoint to compare with."""
    baselines: bool = True

    @property
    def table(self) -> tuple[Row, ...]:
        """All rows of the table; pictures count as copies of training pictures with these sprites."""
        codes = taught(self.atlas, self.concepts)
        return world_rows(TrainingPictures(self.atlas, codes=codes))

    @property
    def asked(self) -> list[Asked]:
        """The items of the chosen rows that the model can do; raises RequestError when there are none."""
        table = self.table
        chosen = {row.items for row in table if not self.rows or row.name.startswith(self.rows)}
        if not chosen:
            names = ", ".join(row.name for row in table)
            raise RequestError(f"--rows: expected beginnings of {names}, found {', '.join(self.rows)}")
        items = world_items(self.atlas, self.profile, concepts=self.concepts, rows=chosen)
        able = abilities(self.model)
        asked = [one for one in items if one.item.ability in able]
        if not asked:
            info = self.model.info
            raise RequestError(
                f"--rows: {info.name} can {', '.join(info.tasks)}; {', '.join(self.rows)} asks for more"
            )
        return asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Entered:
    """Who answers, in which role, and what of."""

    system: System
    role: Role
    abilities: frozenset[Ability] = _ALL


def abilities(model: Model) -> frozenset[Ability]:
    """Return what a checkpoint says it can do."""
    return frozenset(ability for ability, task in TASKS.items() if task in model.info.tasks)


def systems(evaluation: Evaluation, asked: Sequence[Asked]) -> list[Entered]:
    """Return who answers: the model, its baselines, true answers as ceilings, sources as a floor."""
    source_of = _sources(asked, evaluation.atlas)
    model = ModelSystem(evaluation.model, steps=evaluation.steps, source_of=source_of)
    chosen = [Entered(system=model, role="model", abilities=abilities(evaluation.model))]
    earlier = evaluation.earlier
    if earlier is not None:
        older = ModelSystem(earlier, name="earlier", steps=evaluation.steps, source_of=source_of)
        chosen.append(Entered(system=older, role="baseline", abilities=abilities(earlier)))
    if evaluation.baselines:
        able = abilities(evaluation.model)
        chosen.append(Entered(system=Silent(model, source_of), role="baseline", abilities=able))
    unchanged = Entered(system=Untouched(source_of), role="floor", abilities=frozenset({"edit"}))
    return [*chosen, *_ceilings(evaluation, asked, model.version), unchanged]


def plans(evaluation: Evaluation, store: Store) -> list[Plan]:
    """Return what each system still has to answer."""
    asked = evaluation.asked
    return [
        plan([one.item for one in part], entered.system, seeds, store)
        for entered in systems(evaluation, asked)
        for seeds, ability, part in _parts(asked)
        if ability in entered.abilities
    ]


def evaluate(evaluation: Evaluation, *, command: str, tell: Tell | None = None) -> Report:
    """Make what is missing, judge it, and write report and page; returns the report."""
    asked = evaluation.asked
    judges = _judges(evaluation, asked)
    evaluation.folder.mkdir(parents=True, exist_ok=True)
    with Store.open(evaluation.folder / "store.sqlite") as store:
        _keep_sources(asked, _sources(asked, evaluation.atlas), store)
        entrants = []
        for entered in systems(evaluation, asked):
            parts = [part for part in _parts(asked) if part[1] in entered.abilities]
            for seeds, ability, part in parts:
                items = [one.item for one in part]
                run(plan(items, entered.system, seeds, store), store, tell=tell)
                score(items, entered.system, seeds, judges[ability], store, tell=tell)
                if entered.role == "model" and ability != "edit":  # the floor of an edit is its source
                    score(items, entered.system, seeds, judges[ability], store, shuffled=True, tell=tell)
            if parts:
                entrants.append(Entrant.of(entered.system, entered.role))
        results = read_results(
            store,
            rows=evaluation.table,
            entrants=entrants,
            judges=[(judge.name, judge.version) for judge in judges.values()],
            items=[one.item for one in asked],
        )
        title = f"{evaluation.model.info.name} on the drawn world, {evaluation.profile}"
        notes = [note for note in (by_kind(results), _left_out(evaluation)) if note is not None]
        report = make_report(results, title=title, commands=[command], notes=notes)
        write_text(evaluation.folder / "report.json", report.to_json() + "\n")
        write_page(report, results, evaluation.folder / "report.html")
    return report


def _ceilings(evaluation: Evaluation, asked: Sequence[Asked], version: str) -> list[Entered]:
    """Return the true renders, as they are, through the autoencoder, and blurred; the first knows words."""
    scenes, atlas = {one.item.id: one.scene for one in asked}, evaluation.atlas

    def scene_of(item: Item, seed: int) -> Scene | None:
        if scenes[item.id] is not None and seed == 0:
            return scenes[item.id]
        rng = np.random.default_rng([int(item.id, 16), seed])
        clauses = item.readings[seed % len(item.readings)] if item.readings else item.include
        return scene_from(clauses, rng, atlas)

    finish = through(evaluation.model.components.vae)
    restored = RenderSystem("sprites, VAE", scene_of, atlas, finish=finish, finish_version=version)
    soft = RenderSystem("sprites, blurred", scene_of, atlas, finish=blurred, finish_version="1")
    return [
        Entered(system=RenderSystem("pasted sprites", scene_of, atlas), role="ceiling"),
        Entered(system=restored, role="ceiling", abilities=_PICTURES),
        Entered(system=soft, role="ceiling", abilities=_PICTURES),
    ]


def _judges(evaluation: Evaluation, asked: Iterable[Asked]) -> Mapping[Ability, Judge]:
    """Return the judges of what is asked."""
    able = {one.item.ability for one in asked}
    scenes = SceneJudge()
    edits = {one.item.id: one.edit for one in asked if one.edit is not None}
    vae = evaluation.model.components.vae
    judges: dict[Ability, Callable[[], Judge]] = {
        "draw": lambda: scenes,
        "edit": lambda: EditJudge(scenes, lambda item: edits[item.id], evaluation.atlas, vae),
        "describe": TextJudge,
    }
    return {ability: make() for ability, make in judges.items() if ability in able}


def _sources(asked: Iterable[Asked], atlas: Atlas) -> SourceOf:
    """Return a function that renders what an item is about."""
    scenes = {one.item.source: one.source for one in asked}

    @lru_cache(maxsize=64)
    def drawn(name: str) -> Image.Image:
        scene = scenes[name]
        if scene is None:
            raise RequestError("expected an item about a picture, found one to draw")
        return Image.fromarray(render(scene, atlas, SIDE))

    return lambda item: drawn(item.source).copy()


def _keep_sources(asked: Iterable[Asked], source_of: SourceOf, store: Store) -> None:
    """Put the pictures that items are about into the store, for the page and for whoever reads it later."""
    there = store.sources()
    missing = {one.item.source: one.item for one in asked if one.item.source}
    store.add_sources({name: source_of(item) for name, item in missing.items() if name not in there})


def _left_out(evaluation: Evaluation) -> str | None:
    """Say which rows are not asked of a model that cannot do them; None where none is left out."""
    able, info = abilities(evaluation.model), evaluation.model.info
    missing = [] if evaluation.rows else [task for ability, task in TASKS.items() if ability not in able]
    return f"{info.name} cannot {' or '.join(missing)}: those rows are left out" if missing else None


def _parts(asked: Sequence[Asked]) -> list[tuple[tuple[int, ...], Ability, list[Asked]]]:
    """Divide items by the seeds they are answered with and by what they ask for."""
    parts: dict[tuple[tuple[int, ...], Ability], list[Asked]] = {}
    for one in asked:
        parts.setdefault((SEEDS.get(one.item.row, (0,)), one.item.ability), []).append(one)
    return [(seeds, ability, part) for (seeds, ability), part in parts.items()]
