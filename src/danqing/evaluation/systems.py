"""What evaluation asks for answers: a checkpoint, and the same one told or shown nothing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from PIL import Image

from danqing.errors import RequestError
from danqing.evaluation.digests import weights_digest
from danqing.evaluation.items import Ability, Item, Made, content_key
from danqing.model import Model
from danqing.pipelines.generate import GenerateRequest, generate
from danqing.pipelines.request import parameters

SourceOf = Callable[[Item], Image.Image]
"""Gives the picture that an edit or a question is about."""

TASKS: Final[Mapping[Ability, str]] = {"draw": "generate", "edit": "edit", "describe": "describe"}
"""Ability -> what a checkpoint calls it."""
NOTHING_SAID: Final = "."
"""The prompt of the baseline that is told nothing; a checkpoint refuses an empty one."""
_MOST_TOKENS: Final = 128  # an answer that is longer went astray
_GREY: Final = (128, 128, 128)


class ModelSystem:
    """A loaded checkpoint that does what each item asks for, all with the same settings."""

    def __init__(
        self,
        model: Model,
        *,
        name: str | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        size: tuple[int, int] | None = None,
        source_of: SourceOf | None = None,
    ) -> None:
        """`source_of` is needed for items about pictures; `size` is of pictures drawn from a prompt alone."""
        self._model, self._steps, self._guidance, self._source_of = model, steps, guidance, source_of
        info = model.info
        request = GenerateRequest(prompt="-", seed=0, steps=steps, guidance=guidance, size=size)
        self._request = request.resolved(info) if TASKS["draw"] in info.tasks else request
        self.name = name or info.name
        told = parameters(self._request)
        own = {key: value for key, value in told.items() if key not in ("prompt", "seed")}
        precision = str(model.components.dtype).removeprefix("torch.")
        self.settings: Mapping[str, Any] = {
            "model": info.name,
            "weights": weights_digest(model),
            "precision": precision,
            "steps": info.steps,
            "guidance": info.guidance,
            **{key: value for key, value in own.items() if value is not None},
        }
        self.version = content_key(self.settings)[:12]

    @property
    def model(self) -> Model:
        """The checkpoint itself."""
        return self._model

    @property
    def abilities(self) -> frozenset[Ability]:
        """What the checkpoint says it can do."""
        return frozenset(ability for ability, task in TASKS.items() if task in self._model.info.tasks)

    def request(self, item: Item, seed: int) -> Mapping[str, Any]:
        """Return what decides the answer: the version holds the settings, so prompt, source and seed."""
        if item.ability == "draw":
            return {"prompt": item.prompt, "seed": seed}
        asked = {"ability": item.ability, "prompt": item.prompt, "source": item.source}
        return {**asked, "seed": seed} if item.ability == "edit" else {**asked, "language": item.language}

    def answer(self, items: Sequence[Item], seed: int) -> list[Made]:
        """Draw, edit or describe for each item."""
        if all(item.ability == "draw" for item in items):
            return self._drawn(items, seed)
        return [self._about(item, seed) for item in items]

    def _drawn(self, items: Sequence[Item], seed: int) -> list[Made]:
        requests = [replace(self._request, prompt=item.prompt, seed=seed) for item in items]
        drawn = [one for step in generate(self._model.components, requests) for one in step.drawn]
        return [one.image for one in sorted(drawn, key=lambda one: one.index)]

    def _about(self, item: Item, seed: int) -> Made:
        if item.ability == "draw":
            return self._drawn([item], seed)[0]
        if self._source_of is None:
            raise RequestError(f"expected an item to draw, found one about a picture: {item.prompt!r}")
        return self.about(self._source_of(item), item, seed)

    def about(self, source: Image.Image, item: Item, seed: int) -> Made:
        """Edit or describe a picture as an item asks."""
        if item.ability == "describe":
            language = None if item.prompt else item.language  # a question is answered in its own
            return self._model.describe(
                source, item.prompt or None, language=language, max_tokens=_MOST_TOKENS
            )
        edited = self._model.edit(source, item.prompt, seed=seed, steps=self._steps, guidance=self._guidance)
        assert isinstance(edited, Image.Image)  # one was asked for
        return edited


class Silent:
    """A checkpoint that is told no prompt, or shown a grey picture: what its answers meet by chance."""

    def __init__(self, system: ModelSystem, source_of: SourceOf) -> None:
        self._system, self._source_of = system, source_of
        self.name, self.version, self.settings = "no prompt", system.version, system.settings

    def request(self, item: Item, seed: int) -> Mapping[str, Any]:
        """Return what decides the answer: item and seed, since the prompt, or the picture, is the same."""
        if item.ability == "describe":
            return {**self._system.request(item, seed), "source": "grey"}
        return {"item": item.id, "seed": seed}

    def answer(self, items: Sequence[Item], seed: int) -> list[Made]:
        """Draw or edit to nothing in particular, each from noise of its own; describe a grey picture."""
        return [self._one(item, seed) for item in items]

    def _one(self, item: Item, seed: int) -> Made:
        if item.ability == "describe":
            grey = Image.new("RGB", self._source_of(item).size, _GREY)
            return self._system.about(grey, item, seed)
        silent = replace(item, prompt=NOTHING_SAID)
        return self._system.answer([silent], (seed + int(item.id, 16)) % 2**32)[0]


class Untouched:
    """Hands every picture back as it came: what an edit must do better than."""

    name, version = "source unchanged", "1"

    def __init__(self, source_of: SourceOf) -> None:
        self._source_of = source_of
        self.settings: Mapping[str, Any] = {}

    def request(self, item: Item, seed: int) -> Mapping[str, Any]:
        """Return what decides the answer: the source."""
        return {"source": item.source}

    def answer(self, items: Sequence[Item], seed: int) -> list[Made]:
        """Return the sources."""
        return [self._source_of(item) for item in items]
