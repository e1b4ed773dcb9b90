"""Answers as a tower learns to say them."""

import re

from danqing.conditioning.tokenizer import Tokenizer
from danqing.data.world import Scene


def answer_ids(tokenizer: Tokenizer, answer: str, scene: Scene) -> list[int]:
    """Return the tokens of an answer about a scene and of its end, what is written there letter by letter.

    Byte-pair encoding cuts a word into whatever is frequent; letters are what can be seen. Their tokens are
    the same text.
    """
    lines = () if scene.words is None else scene.words.lines
    pieces = re.split(f"({'|'.join(map(re.escape, lines))})", answer) if lines else [answer]
    parts = [part for piece in pieces for part in (piece if piece in lines else [piece]) if part]
    return [token for part in parts for token in tokenizer.encode(part)] + [tokenizer.eos]
