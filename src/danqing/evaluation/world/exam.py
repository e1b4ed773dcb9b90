"""The drawn world as an exam: its judges, its true answers, and what a checkpoint is compared with."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from danqing.data.atlas import Atlas
from danqing.data.world import Scene, render
from danqing.errors import RequestError
from danqing.evaluation.evaluate import Evaluation
from danqing.evaluation.exam import Entered, Exam
from danqing.evaluation.items import Ability, Item, Judge
from danqing.evaluation.results import Results, Row
from danqing.evaluation.systems import TASKS, ModelSystem, Silent, SourceOf, Untouched
from danqing.evaluation.world.asked import Asked, Profile
from danqing.evaluation.world.edit_judge import EditJudge
from danqing.evaluation.world.edits import by_kind
from danqing.evaluation.world.items import SEEDS, taught, world_items, world_rows
from danqing.evaluation.world.judge import SceneJudge
from danqing.evaluation.world.renders import SIDE, RenderSystem, blurred, through
from danqing.evaluation.world.scenes import scene_from
from danqing.evaluation.world.texts import TextJudge
from danqing.evaluation.world.variety import TrainingPictures
from danqing.model import Model

WORLD: Final = "world"
_PICTURES: Final[frozenset[Ability]] = frozenset({"draw", "edit"})


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What is asked about the drawn world, and of which checkpoint."""

    model: Model
    atlas: Atlas
    """Sprites of the true renders."""
    profile: Profile = "smoke"
    rows: tuple[str, ...] = ()
    """Names of rows, or their beginnings; empty for all that the model can do."""
    concepts: int | None = None
    """Ask for the first so many concepts of the core only."""
    steps: int | None = None
    """Of the checkpoint, by default its own."""
    version: str = ""
    """Of the system that answers, where it is not the checkpoint with these steps alone."""

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


def abilities(model: Model) -> frozenset[Ability]:
    """Return what a checkpoint says it can do."""
    return frozenset(ability for ability, task in TASKS.items() if task in model.info.tasks)


def world_exam(world: World) -> Exam:
    """Return the drawn world as an exam, with true answers as ceilings and sources as a floor."""
    asked = world.asked
    source_of = _sources(asked, world.atlas)
    unchanged = Entered(system=Untouched(source_of), role="floor", abilities=frozenset({"edit"}))
    return Exam(
        name=WORLD,
        title="The drawn world",
        items=tuple(one.item for one in asked),
        rows=world.table,
        judges=cache(lambda: _judges(world, asked)),
        seeds_of=SEEDS,
        source_of=source_of,
        own=(*_ceilings(world, asked), unchanged),
        about={
            "Source": "made by this package from its own sprites; the sentences of the natural rows are ours",
            "Licence": "Apache-2.0",
            "Asked here": f"{len(asked)} prompts, {world.profile}; 8 seeds in the rows over seeds, else 1",
        },
        notes=lambda results: _notes(world, results),
    )


def world_evaluation(
    world: World, folder: Path, *, earlier: Model | None = None, baselines: bool = True
) -> Evaluation:
    """Return the evaluation of a checkpoint on the drawn world alone, kept in `folder`."""
    exam = world_exam(world)
    return Evaluation(
        exams=(exam,),
        entered=tuple(world_entered(world, exam.source_of, earlier=earlier, baselines=baselines)),
        folder=folder,
        title=f"{world.model.info.name} on the drawn world, {world.profile}",
    )


def world_entered(
    world: World, source_of: SourceOf | None, *, earlier: Model | None = None, baselines: bool = True
) -> list[Entered]:
    """Return a checkpoint, an earlier one, and the first told or shown nothing."""
    system = ModelSystem(world.model, steps=world.steps, source_of=source_of)
    chosen = [Entered(system=system, role="model")]
    if earlier is not None:
        older = ModelSystem(earlier, name="earlier", steps=world.steps, source_of=source_of)
        chosen.append(Entered(system=older, role="baseline"))
    if baselines:
        chosen.append(silent(system, source_of))
    return chosen


def silent(system: ModelSystem, source_of: SourceOf | None) -> Entered:
    """Return the baseline that is told nothing, or shown a grey picture."""

    def nowhere(item: Item) -> Image.Image:
        raise RequestError(f"expected an item to draw, found one about a picture: {item.prompt!r}")

    return Entered(system=Silent(system, source_of or nowhere), role="baseline", abilities=system.abilities)


def _ceilings(world: World, asked: Sequence[Asked]) -> list[Entered]:
    """Return the true renders, as they are, through the autoencoder, and blurred; the first knows words."""
    scenes, atlas = {one.item.id: one.scene for one in asked}, world.atlas

    def scene_of(item: Item, seed: int) -> Scene | None:
        if scenes[item.id] is not None and seed == 0:
            return scenes[item.id]
        rng = np.random.default_rng([int(item.id, 16), seed])
        clauses = item.readings[seed % len(item.readings)] if item.readings else item.include
        return scene_from(clauses, rng, atlas)

    finish = through(world.model.components.vae)
    version = world.version or ModelSystem(world.model, steps=world.steps).version
    restored = RenderSystem("sprites, VAE", scene_of, atlas, finish=finish, finish_version=version)
    soft = RenderSystem("sprites, blurred", scene_of, atlas, finish=blurred, finish_version="1")
    return [
        Entered(system=RenderSystem("pasted sprites", scene_of, atlas), role="ceiling"),
        Entered(system=restored, role="ceiling", abilities=_PICTURES),
        Entered(system=soft, role="ceiling", abilities=_PICTURES),
    ]


def _judges(world: World, asked: Iterable[Asked]) -> Mapping[Ability, Judge]:
    """Return the judges of what is asked."""
    able = {one.item.ability for one in asked}
    scenes = SceneJudge()
    edits = {one.item.id: one.edit for one in asked if one.edit is not None}
    vae = world.model.components.vae
    judges: dict[Ability, Callable[[], Judge]] = {
        "draw": lambda: scenes,
        "edit": lambda: EditJudge(scenes, lambda item: edits[item.id], world.atlas, vae),
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


def _notes(world: World, results: Results) -> list[str]:
    """Say how the kinds of edits went, and which rows a model that cannot do them is not asked."""
    able, info = abilities(world.model), world.model.info
    missing = [] if world.rows else [task for ability, task in TASKS.items() if ability not in able]
    left_out = f"{info.name} cannot {' or '.join(missing)}: those rows are left out" if missing else None
    return [note for note in (by_kind(results), left_out) if note is not None]
