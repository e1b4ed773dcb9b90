"""The names of everything that a scene may hold."""

from functools import cache

from danqing.data.concepts import Concept, concepts
from danqing.data.world.shapes import shapes


@cache
def nouns() -> dict[str, Concept]:
    """Return all concepts and, after them, the plain shapes, by code."""
    return {**concepts(), **shapes()}
