"""Teach the conditioner to see: first what picture tokens mean, then to make them from pixels.

The language tower learns to read scenes before there are eyes: `SceneTokens` puts the facts of a scene where
the features of a picture will stand, one token for each square of a grid, and is thrown away afterwards.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import accumulate
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from danqing.data.assets import STYLES
from danqing.data.atlas import Atlas
from danqing.data.colours import COLOURS
from danqing.data.fonts import font
from danqing.data.language.nouns import nouns
from danqing.data.language.seen import seen_colour
from danqing.data.world import Scene, Thing, Words
from danqing.data.world.boards import letter_height
from danqing.data.world.portraits import GLASSES, HAIR, HATS, MOUTHS, SKINS
from danqing.data.world.scene import SHAPE, TEXTURES, Item
from danqing.data.world.tiles import extent
from danqing.data.world.vocabulary import all_words, script_of
from danqing.models.vlm import VLM, Prefix, mrope_positions

GRID: Final = (6, 6)
"""Rows and columns of the tokens of a picture as nano sees it: 168 pixels in squares of 28."""
_COVERED: Final = 0.4  # share of a square from which on an item fills it
_SLOTS: Final = (2, 3)  # rows and columns inside a square that letters are told apart by
_LINES: Final = 1.32  # from one written line to the next, in lines
_POST: Final = 0.45  # how far the post of a sign lifts its text, in lines
_FONT_SIZE: Final = 96  # at which letters are measured

_CLASSES: Final[dict[str, Sequence[str | None]]] = {
    "background": COLOURS,
    "backdrop": ("solid", "gradient", "radial", "ground", *TEXTURES),
    "colour": (*COLOURS, None),
    "style": (SHAPE, *(source.style for source in STYLES)),
    "centre": ("centre",),
    "board": ("sign", "poster", "sticker", "none"),
    "board_colour": (*COLOURS, None),
    "ink": COLOURS,
    "skin": SKINS,
    "hair": HAIR,
    "hair_colour": COLOURS,
    "glasses": GLASSES,
    "hat": HATS,
    "hat_colour": COLOURS,
    "beard": ("no", "yes"),
    "mouth": MOUTHS,
    "shirt": COLOURS,
}


class SceneFacts(NamedTuple):
    """What stands in each square of some scenes, as entries of a sparse table; squares count through all."""

    scenes: int
    squares: Tensor
    """(entries,) square of each entry."""
    classes: Tensor
    """(entries,) what is there: a row of the embedding table."""
    lettered: Tensor
    """(letters,) square of each written letter."""
    letters: Tensor
    """(letters,) which letter it is: a row of the embedding table."""
    slots: Tensor
    """(letters,) where inside the square it is."""
    boxes: Tensor
    """(scenes * squares, 4) centre of the item in a square, from the square's centre, and its width and
    height, as fractions of the picture; zeros without one."""


class SceneTokens(nn.Module):
    """Turn facts of scenes into features that stand where a picture's stand.

    A token is the sum of the embeddings of what is in its square: the background; concept, colour, style and
    box of the item on top; whether its middle is here; written letters by their place in the square. So it
    holds what a vision tower can find there. Noise of `noise` times a token's size keeps a
    reader from relying on less than it will be given.
    """

    def __init__(self, dim: int, *, grid: tuple[int, int] = GRID, noise: float = 0.3) -> None:
        super().__init__()
        self.grid, self.noise = grid, noise
        self.table = nn.Embedding(num_classes(), dim)
        self.boxes = nn.Linear(4, dim, bias=False)
        self.slots = nn.Embedding(num_slots(), dim)
        nn.init.normal_(self.table.weight, std=0.02)
        nn.init.normal_(self.boxes.weight, std=0.05)
        nn.init.normal_(self.slots.weight)

    def forward(self, facts: SceneFacts, noise: torch.Generator | None = None) -> Tensor:
        """Return (scenes, rows * columns, dim); with noise from a generator of the CPU, in training."""
        boxes = self.boxes(facts.boxes).to(self.table.weight.dtype)  # autocast makes only these bf16
        tokens = boxes.index_add(0, facts.squares, self.table(facts.classes))
        letters = self.table(facts.letters) * self.slots(facts.slots)
        tokens = tokens.index_add(0, facts.lettered, letters)
        if noise is not None:
            size = tokens.detach().float().square().mean(-1, keepdim=True).sqrt()
            tokens = tokens + self.noise * size * torch.randn(tokens.shape, generator=noise).to(tokens)
        return tokens.unflatten(0, (facts.scenes, -1))


def scene_facts(scenes: Sequence[Scene], atlas: Atlas, grid: tuple[int, int] = GRID) -> SceneFacts:
    """Look up what stands in each square of the scenes; natural colours of things come from the atlas."""
    squares: list[np.ndarray] = []
    classes: list[int] = []
    letters: list[tuple[int, int, int]] = []
    size = grid[0] * grid[1]
    boxes = np.zeros((len(scenes), size, 4), np.float32)
    for index, scene in enumerate(scenes):
        for places, found in _entries(scene, atlas, grid, boxes[index]):
            squares += [places + index * size] * len(found)
            for one in found:
                classes += [one] * len(places)
        if scene.words is not None:
            for square, letter, slot in _letters(scene.words, grid):
                letters.append((square + index * size, letter, slot))
    written = torch.tensor(letters, dtype=torch.long).view(-1, 3)
    return SceneFacts(
        scenes=len(scenes),
        squares=torch.from_numpy(np.concatenate(squares)),
        classes=torch.tensor(classes),
        lettered=written[:, 0],
        letters=written[:, 1],
        slots=written[:, 2],
        boxes=torch.from_numpy(boxes).flatten(0, 1),
    )


def read_pictures(
    vlm: VLM,
    token_ids: Tensor,
    pictures: Tensor,
    *,
    grid: tuple[int, int] = GRID,
    prefix: Prefix | None = None,
) -> Tensor:
    """Return the features of rows that each hold one picture, given as features instead of pixels.

    `token_ids` is (rows, seq) and goes on from `prefix`; `pictures` (rows, tokens, dim) stand in place of the
    image tokens; `grid` is their rows and columns.
    """
    tokens = vlm.model.embed_tokens(token_ids)
    places = token_ids == vlm.config.image_token
    tokens = tokens.masked_scatter(places[..., None], pictures.to(tokens.dtype))
    merge = vlm.config.vision.merge_size
    grids = [(1, grid[0] * merge, grid[1] * merge)] * len(token_ids)
    positions, _ = mrope_positions(token_ids, grids, vlm.config)
    if prefix is not None:
        positions = positions + prefix.length
    features: Tensor = vlm.model(tokens, positions, prefix)
    return features


def num_classes() -> int:
    """Return how many rows the embedding table of the facts has."""
    return letter_rows().stop


@cache
def families() -> dict[str, range]:
    """Return the rows of the table by what they tell apart; a square has at most one of each family."""
    rows, start = {}, 0
    for name, values in _CLASSES.items():
        rows[name] = range(start, start := start + len(values))
    return rows | {"concept": range(start, start + len(nouns()))}


def letter_rows() -> range:
    """Return the rows of written letters, of which a square may have several."""
    return range(families()["concept"].stop, families()["concept"].stop + len(_characters()))


def num_slots() -> int:
    """Return how many places of letters are told apart inside a square."""
    return _SLOTS[0] * _SLOTS[1]


def _entries(
    scene: Scene, atlas: Atlas, grid: tuple[int, int], boxes: np.ndarray
) -> Iterator[tuple[np.ndarray, list[int]]]:
    """Yield squares and the classes found in each of them; fill in `boxes`."""
    background = scene.background
    behind = [_class("background", background.colour), _class("backdrop", background.kind)]
    yield np.arange(grid[0] * grid[1]), behind
    covers = [_covered(item, atlas, grid) for item in scene.items]
    top = np.full(grid[0] * grid[1], -1)
    for index, (inside, centre) in enumerate(covers):
        top[inside if inside.any() else centre] = index
    rows, columns = np.divmod(np.arange(len(top)), grid[1])
    for index, item in enumerate(scene.items):
        own = np.flatnonzero(top == index)
        yield own, _item_classes(item, atlas)
        width, height = (item.size * side for side in extent(item, atlas))
        boxes[own, 0] = item.x - (columns[own] + 0.5) / grid[1]
        boxes[own, 1] = item.y - (rows[own] + 0.5) / grid[0]
        boxes[own, 2:] = width, height
        if top[centre := covers[index][1]] == index:
            yield np.array([centre]), [_class("centre", "centre")]


def _covered(item: Item, atlas: Atlas, grid: tuple[int, int]) -> tuple[np.ndarray, int]:
    """Return which squares an item's box fills, and the square of its middle."""
    shares = []
    for at, side, count in zip((item.y, item.x), extent(item, atlas)[::-1], grid, strict=True):
        low, high = (at - item.size * side / 2) * count, (at + item.size * side / 2) * count
        edges = np.arange(count)
        shares.append(np.clip(np.minimum(high, edges + 1) - np.maximum(low, edges), 0, 1))
    row, column = (
        min(max(int(at * count), 0), count - 1) for at, count in zip((item.y, item.x), grid, strict=True)
    )
    return (np.outer(*shares) >= _COVERED).ravel(), row * grid[1] + column


def _item_classes(item: Item, atlas: Atlas) -> list[int]:
    if isinstance(item, Thing):
        colour, style = _class("colour", seen_colour(item, atlas)), _class("style", item.style)
        return [_concepts()[item.concept], colour, style]
    if isinstance(item, Words):
        board = [_class("board", item.board), _class("board_colour", item.board_colour)]
        return [*board, _class("ink", item.ink)]
    seen = {name: getattr(item, name) for name in ("skin", "hair", "glasses", "hat", "mouth", "shirt")}
    seen["beard"] = "yes" if item.beard else "no"
    if item.hair != "bald":
        seen["hair_colour"] = item.hair_colour
    if item.hat != "none":
        seen["hat_colour"] = item.hat_colour
    return [_class(name, value) for name, value in seen.items()]


def _letters(words: Words, grid: tuple[int, int]) -> Iterator[tuple[int, int, int]]:
    """Yield the square of each letter, which letter it is, and its slot."""
    for character, x, y in letter_places(words):
        row, column = (
            min(max(int(at * count * parts), 0), count * parts - 1)
            for at, count, parts in zip((y, x), grid, _SLOTS, strict=True)
        )
        square = row // _SLOTS[0] * grid[1] + column // _SLOTS[1]
        yield square, _characters()[character], row % _SLOTS[0] * _SLOTS[1] + column % _SLOTS[1]


def letter_places(words: Words) -> list[tuple[str, float, float]]:
    """Return each written character with the middle of its place, x and y as fractions of the picture."""
    face = font(words.font, _FONT_SIZE)
    tallest = face.getbbox("H" if script_of(words.lines[0]) == "latin" else "国", anchor="ls")
    tall = letter_height(words)
    scale = tall / (tallest[3] - tallest[1])
    lift = _POST * tall if words.board == "sign" else 0.0
    places = []
    for index, line in enumerate(words.lines):
        y = words.y - lift + (index - (len(words.lines) - 1) / 2) * _LINES * tall
        ends = list(accumulate((face.getlength(character) for character in line), initial=0.0))
        for character, start, end in zip(line, ends, ends[1:], strict=False):
            places.append((character, words.x + ((start + end) / 2 - ends[-1] / 2) * scale, y))
    return places


def _class(name: str, value: str | None) -> int:
    return _known()[name, value]


@cache
def _known() -> dict[tuple[str, str | None], int]:
    pairs = [(name, value) for name, values in _CLASSES.items() for value in values]
    return {pair: index for index, pair in enumerate(pairs)}


@cache
def _concepts() -> dict[str, int]:
    return dict(zip(nouns(), families()["concept"], strict=True))


@cache
def _characters() -> dict[str, int]:
    written = sorted({*"".join(all_words("latin")), *"".join(all_words("chinese"))})
    return {character: families()["concept"].stop + index for index, character in enumerate(written)}
