"""The whole evaluation of the drawn world, from plan to report; every part resumes where it was."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from danqing.data.atlas import Atlas
from danqing.data.world import Scene
from danqing.errors import RequestError
from danqing.evaluation.items import Item, System
from danqing.evaluation.judge import SceneJudge
from danqing.evaluation.page import write_page, write_text
from danqing.evaluation.renders import RenderSystem, blurred, through
from danqing.evaluation.report import Report, make_report
from danqing.evaluation.results import Entrant, Role, read_results
from danqing.evaluation.run import Plan, Tell, plan, run, score
from danqing.evaluation.scenes import scene_from
from danqing.evaluation.store import Store
from danqing.evaluation.systems import ModelSystem
from danqing.evaluation.variety import TrainingPictures
from danqing.evaluation.world import SEEDS, Asked, Profile, taught, world_items, world_rows
from danqing.model import Model

NOTHING_SAID: Final = "."
"""The prompt of the baseline that is told nothing; a checkpoint refuses an empty one."""


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
    """Names of rows, or their beginnings; empty for all."""
    concepts: int | None = None
    """Ask for the first so many concepts of the core only."""
    steps: int | None = None
    earlier: Model | None = None
    """Another checkpoint to compare with."""
    baselines: bool = True

    @property
    def asked(self) -> list[Asked]:
        """The items of the chosen rows; raises RequestError when there are none."""
        items = world_items(self.atlas, self.profile, concepts=self.concepts)
        chosen = [one for one in items if not self.rows or one.item.row.startswith(self.rows)]
        if not chosen:
            names = sorted({one.item.row for one in items})
            raise RequestError(
                f"--rows: expected beginnings of {', '.join(names)}, found {', '.join(self.rows)}"
            )
        return chosen


class Silent:
    """A checkpoint that is not told the prompt: what its pictures meet by chance."""

    def __init__(self, system: ModelSystem) -> None:
        self._system = system
        self.name, self.version, self.settings = "no prompt", system.version, system.settings

    def request(self, item: Item, seed: int) -> dict[str, object]:
        """Return what decides the picture: item and seed, since the prompt is always the same."""
        return {"item": item.id, "seed": seed}

    def draw(self, items: Sequence[Item], seed: int) -> list[Image.Image]:
        """Draw pictures of nothing in particular, each from noise of its own."""
        return [
            self._system.draw([replace(item, prompt=NOTHING_SAID)], (seed + int(item.id, 16)) % 2**32)[0]
            for item in items
        ]


def systems(evaluation: Evaluation, asked: Sequence[Asked]) -> list[tuple[System, Role]]:
    """Return who draws: the model, its baselines, and true renders as ceilings."""
    model = ModelSystem(evaluation.model, steps=evaluation.steps)
    chosen: list[tuple[System, Role]] = [(model, "model")]
    if evaluation.earlier is not None:
        chosen.append((ModelSystem(evaluation.earlier, name="earlier", steps=evaluation.steps), "baseline"))
    if evaluation.baselines:
        chosen.append((Silent(model), "baseline"))
    scenes = {one.item.id: one.scene for one in asked}
    atlas = evaluation.atlas

    def scene_of(item: Item, seed: int) -> Scene | None:
        if scenes[item.id] is not None and seed == 0:
            return scenes[item.id]
        rng = np.random.default_rng([int(item.id, 16), seed])
        clauses = item.readings[seed % len(item.readings)] if item.readings else item.include
        return scene_from(clauses, rng, atlas)

    finish = through(evaluation.model.components.vae)
    return [
        *chosen,
        (RenderSystem("pasted sprites", scene_of, atlas), "ceiling"),
        (
            RenderSystem("sprites, VAE", scene_of, atlas, finish=finish, finish_version=model.version),
            "ceiling",
        ),
        (RenderSystem("sprites, blurred", scene_of, atlas, finish=blurred, finish_version="1"), "ceiling"),
    ]


def plans(evaluation: Evaluation, store: Store) -> list[Plan]:
    """Return what each system still has to draw."""
    asked = evaluation.asked
    return [
        plan([one.item for one in part], system, seeds, store)
        for system, _ in systems(evaluation, asked)
        for seeds, part in _by_seeds(asked)
    ]


def evaluate(evaluation: Evaluation, *, command: str, tell: Tell | None = None) -> Report:
    """Draw what is missing, judge it, and write report and page; returns the report."""
    asked = evaluation.asked
    judge = SceneJudge()
    evaluation.folder.mkdir(parents=True, exist_ok=True)
    with Store.open(evaluation.folder / "store.sqlite") as store:
        entrants = []
        for system, role in systems(evaluation, asked):
            for seeds, part in _by_seeds(asked):
                items = [one.item for one in part]
                run(plan(items, system, seeds, store), store, tell=tell)
                score(items, system, seeds, judge, store, tell=tell)
                if role == "model":
                    score(items, system, seeds, judge, store, shuffled=True, tell=tell)
            entrants.append(Entrant.of(system, role))
        known = TrainingPictures(evaluation.atlas, codes=taught(evaluation.atlas, evaluation.concepts))
        results = read_results(
            store,
            rows=world_rows(known),
            entrants=entrants,
            judge=(judge.name, judge.version),
            items=[one.item for one in asked],
        )
        title = f"{evaluation.model.info.name} on the drawn world, {evaluation.profile}"
        report = make_report(results, title=title, commands=[command])
        write_text(evaluation.folder / "report.json", report.to_json() + "\n")
        write_page(report, results, evaluation.folder / "report.html")
    return report


def _by_seeds(asked: Sequence[Asked]) -> list[tuple[tuple[int, ...], list[Asked]]]:
    """Divide items by the seeds they are drawn with."""
    parts: dict[tuple[int, ...], list[Asked]] = {}
    for one in asked:
        parts.setdefault(SEEDS.get(one.item.row, (0,)), []).append(one)
    return list(parts.items())
