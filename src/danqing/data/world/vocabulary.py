"""The words that signs and posters carry."""

import json
from functools import cache
from importlib import resources


@cache
def vocabulary() -> tuple[str, ...]:
    """Return all words that may stand on a sign: Latin in capitals, then Chinese."""
    table = json.loads((resources.files("danqing.data.world") / "words.json").read_text("utf-8"))
    return (*table["latin"], *table["chinese"])
