"""A captioner without a language model: the judge reads the picture, the grammar of the world words it.

It says what the judge sees: of true pictures about the best that a model which describes the world can do,
and of drawn ones a telling of what any model has drawn.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import permutations
from typing import Any, Final

from PIL import Image

from danqing.data.atlas import Atlas, packaged_atlas
from danqing.data.language.descriptions import description
from danqing.data.world import Background, Relation, Scene, Thing
from danqing.data.world.scene import SHAPE
from danqing.data.world.shapes import shapes
from danqing.errors import RequestError
from danqing.evaluation.digests import atlas_digest
from danqing.evaluation.items import Ability, Item, Made
from danqing.evaluation.world.judge import SceneJudge
from danqing.scoring.reading import Found, Reading, stands

_MOST: Final = 9  # things that the grammar counts
_KINDS: Final = 3
_RELATIONS: Final[tuple[Relation, ...]] = ("inside", "front", "left", "above")
_EMPTY: Final[Mapping[str, str]] = {"en": "nothing on a {} background", "zh": "{}背景上什么都没有"}
_COLOURS_ZH: Final[Mapping[str, str]] = {
    "red": "红色",
    "orange": "橙色",
    "yellow": "黄色",
    "green": "绿色",
    "blue": "蓝色",
    "purple": "紫色",
    "pink": "粉色",
    "brown": "棕色",
    "white": "白色",
    "gray": "灰色",
    "black": "黑色",
}


class WorldCaptioner:
    """Describes pictures of the world in English or Chinese, in the plainest words."""

    name = "world reader"

    def __init__(self, judge: SceneJudge | None = None, atlas: Atlas | None = None) -> None:
        """`atlas` knows which colours things have by nature, so that these are not said."""
        self._judge = judge if judge is not None else SceneJudge()
        self._atlas = atlas if atlas is not None else packaged_atlas()
        self.version = f"{self._judge.version}-{atlas_digest(self._atlas)[:4]}-1"

    def describe(self, picture: Image.Image, language: str) -> str:
        """Return one sentence; raises RequestError for a language other than "en" and "zh"."""
        if language not in _EMPTY:
            raise RequestError(f"expected a caption in {' or '.join(_EMPTY)}, found {language!r}")
        return self.worded(self._judge.read(picture), language)

    def worded(self, reading: Reading, language: str) -> str:
        """Return what was read as one sentence."""
        scene = scene_of(reading, self._atlas)
        if scene is None:
            colour = reading.background
            return _EMPTY[language].format(_COLOURS_ZH[colour] if language == "zh" else colour)
        return description(scene, language, self._atlas)


class CaptionerSystem:
    """Lets the captioner answer items that ask for a description."""

    def __init__(self, captioner: WorldCaptioner, source_of: Callable[[Item], Image.Image]) -> None:
        """`source_of` gives the pictures."""
        self._captioner, self._source_of = captioner, source_of
        self.name, self.version = captioner.name, captioner.version
        self.settings: Mapping[str, Any] = {"reads": "as the judge does", "words": "by grammar"}
        self.abilities: frozenset[Ability] = frozenset({"describe"})

    def request(self, item: Item, seed: int) -> Mapping[str, Any]:
        """Return what decides the answer: picture and language."""
        return {"source": item.source, "language": item.language}

    def answer(self, items: Sequence[Item], seed: int) -> list[Made]:
        """Return the descriptions."""
        return [self._captioner.describe(self._source_of(item), item.language) for item in items]


def scene_of(reading: Reading, atlas: Atlas) -> Scene | None:
    """Return the scene that a reading tells of, as far as the grammar can word it; None without a thing.

    Of more than three kinds the surest are kept, and of nine things as many; two things stand in a relation
    where one holds.
    """
    kinds = Counter((thing.concept, thing.colour) for thing in reading.things)
    kept = [kind for kind, _ in kinds.most_common()][:_KINDS]
    seen = [thing for thing in reading.things if (thing.concept, thing.colour) in kept][:_MOST]
    if not seen:
        return None
    background = Background.plain(reading.background, reading.background_kind)
    order, relation = _related(seen)
    things = tuple(_thing(seen[at], atlas) for at in order)
    if relation is None:
        things = tuple(sorted(things, key=lambda thing: _place(thing, things)))
    return Scene(things, background, relation)


def _thing(found: Found, atlas: Atlas) -> Thing:
    """Return a thing in a style in which it has its colour by nature, or dyed where it has that in none."""
    box = found.box
    size = max(box.width, box.height)
    if found.concept in shapes():
        return Thing(found.concept, SHAPE, found.colour or "gray", size, box.x, box.y)
    styles = atlas.styles_of(found.concept) or atlas.styles
    natural = (style for style in styles if atlas.facts(found.concept, style).colour == found.colour)
    style = next(natural, None)
    colour = found.colour if style is None else None
    return Thing(found.concept, style or styles[0], colour, size, box.x, box.y)


def _related(seen: Sequence[Found]) -> tuple[list[int], Relation | None]:
    """Return things in the order of the relation that holds of them all, where one does."""
    every = list(range(len(seen)))
    if len({thing.concept for thing in seen}) != len(seen):
        return every, None
    if len(seen) == 3:
        for first, second, third in permutations(every):
            if stands("between", seen[first].box, seen[second].box, seen[third].box):
                return [first, second, third], "between"
    if len(seen) == 2:
        for relation in _RELATIONS:
            for first, second in permutations(every):
                if stands(relation, seen[first].box, seen[second].box):
                    return [first, second], relation
    return every, None


def _place(thing: Thing, things: Sequence[Thing]) -> tuple[float, float, float]:
    """Return where a kind of thing begins in reading order, so that things of one kind stay together."""
    same = [one for one in things if (one.concept, one.colour) == (thing.concept, thing.colour)]
    return (*min((round(one.y, 1), one.x) for one in same), thing.y)
